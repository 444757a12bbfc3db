package snapshot

import _ "embed"

// Schema is the JSON Schema (draft 2020-12) of the document, generated from
// its types by the tests (go test -run TestSchema -update ./snapshot). An
// editor completes a draft with it; what a node believes is decided by [Parse]
// alone, which checks more.
//
//go:embed schema.json
var Schema []byte
