package snapshot

import (
	"bytes"
	_ "embed"
	"fmt"
)

// Schema is the JSON Schema (draft 2020-12) of the document, generated from
// its types by the tests (go test -run TestSchema -update ./snapshot). An
// editor completes a draft with it; what a node believes is decided by [Parse]
// alone, which checks more.
//
//go:embed schema.json
var Schema []byte

// schemaEntries are the parts of a document that publishers write as files of
// their own, and their definitions in the schema.
var schemaEntries = map[string]string{"model": "Model", "runtime": "Runtime", "policy": "Policy"}

// EntrySchema is the JSON Schema of one model, runtime or policy.
func EntrySchema(entry string) ([]byte, error) {
	name, ok := schemaEntries[entry]
	if !ok {
		return nil, fmt.Errorf("no schema for %q: there is model, runtime and policy, and the document", entry)
	}
	s := bytes.Replace(Schema, []byte(`"$ref": "#/$defs/Snapshot"`), []byte(`"$ref": "#/$defs/`+name+`"`), 1)
	s = bytes.Replace(s, []byte("/snapshot.v1.schema.json"), []byte("/"+entry+".v1.schema.json"), 1)
	return bytes.Replace(s, []byte(`"title": "rmodels configuration snapshot"`), []byte(`"title": "rmodels `+entry+`"`), 1), nil
}
