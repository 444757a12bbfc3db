package snapshot_test

import (
	"bytes"
	stdjson "encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	validator "github.com/google/jsonschema-go/jsonschema"
	generator "github.com/invopop/jsonschema"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

var update = flag.Bool("update", false, "write schema.json anew")

// schemaEnums are the values that the types cannot say, by type and member.
var schemaEnums = map[string]map[string][]any{
	"Snapshot":  {"apiVersion": {snapshot.APIVersion}, "kind": {snapshot.Kind}, "default": {"reject"}},
	"Settings":  {"expired": {"hold", "stop"}},
	"Retention": {"outdated": {"remove", "archive"}},
	"Authority": {"signatureFormat": {snapshot.FormatBundle, snapshot.FormatLegacy}},
	"Content":   {"chatTemplates": {"pinned", "any"}, "remoteCode": {"refuse", "ignore"}},
	"Runtime": {"gpu": {"required", "optional", "none"}, "protocol": {
		"openai-chat", "openai-completions", "openai-embeddings", "ollama", "exec",
	}},
	"Revocation": {"action": {"stop"}},
}

func generateSchema(t *testing.T) []byte {
	t.Helper()
	pattern := func(p, about string) *generator.Schema {
		return &generator.Schema{Type: "string", Pattern: p, Description: about}
	}
	r := &generator.Reflector{Mapper: func(rt reflect.Type) *generator.Schema {
		switch rt {
		case reflect.TypeFor[snapshot.Duration]():
			return pattern(`^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`, "a time span: 90s, 24h, 1h30m")
		case reflect.TypeFor[snapshot.Bytes]():
			return pattern(`^[0-9]+(B|KiB|MiB|GiB|TiB)$`, "an amount: 16GiB, 512MiB, 100B")
		case reflect.TypeFor[digest.Digest]():
			return pattern(`^sha256:[0-9a-f]{64}$`, "a SHA-256 digest")
		case reflect.TypeFor[time.Time]():
			return &generator.Schema{Type: "string", Format: "date-time"}
		case reflect.TypeFor[jsontext.Value]():
			return &generator.Schema{Description: "any JSON"}
		}
		return nil
	}}
	check(t, r.AddGoComments("github.com/resultity/rmodels/snapshot", "./"))
	for k, v := range r.CommentMap {
		// Links of Go comments are noise in an editor.
		r.CommentMap[k] = strings.NewReplacer("[", "", "]", "", "\n", " ").Replace(v)
	}
	s := r.Reflect(&snapshot.Snapshot{})
	s.ID = "https://github.com/resultity/rmodels/snapshot.v1.schema.json"
	s.Title = "rmodels configuration snapshot"
	for name, members := range schemaEnums {
		for member, values := range members {
			p, ok := s.Definitions[name].Properties.Get(member)
			if !ok {
				t.Fatalf("%s has no member %s", name, member)
			}
			p.Enum = values
		}
	}
	b, err := stdjson.MarshalIndent(s, "", "  ")
	check(t, err)
	return append(b, '\n')
}

// TestSchema: the embedded schema is the one that the types give.
func TestSchema(t *testing.T) {
	want := generateSchema(t)
	if *update {
		check(t, os.WriteFile("schema.json", want, 0o644))
		return
	}
	if !bytes.Equal(want, snapshot.Schema) {
		t.Error("schema.json is not what the types give: go test -run TestSchema -update ./snapshot")
	}
}

// TestSchemaAgrees: what the schema and Parse both can tell, they tell alike.
func TestSchemaAgrees(t *testing.T) {
	schema := compile(t, snapshot.Schema)
	doc := string(mustJSON(t, validSnapshot()))
	if err := schema.Validate(decode(t, doc)); err != nil {
		t.Errorf("a valid document: %v", err)
	}
	for name, bad := range map[string]string{
		"unknown member": strings.Replace(doc, `"default"`, `"surprise":1,"default"`, 1),
		"default":        strings.Replace(doc, `"reject"`, `"accept"`, 1),
		"digest":         strings.Replace(doc, `"digest":"sha256:`, `"digest":"sha255:`, 1),
		"grace":          strings.Replace(doc, `"offlineGrace":"336h0m0s"`, `"offlineGrace":"soon"`, 1),
		"no kind":        strings.Replace(doc, `"kind":"Snapshot",`, ``, 1),
		"protocol":       strings.Replace(doc, `"openai-chat"`, `"telnet"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if bad == doc {
				t.Fatal("the case changes nothing")
			}
			if err := schema.Validate(decode(t, bad)); err == nil {
				t.Error("the schema takes it")
			}
			if _, err := snapshot.Parse([]byte(bad)); err == nil {
				t.Error("Parse takes it")
			}
		})
	}
}

// TestEntrySchema: what publishers write as files of their own.
func TestEntrySchema(t *testing.T) {
	for entry, v := range map[string]any{"model": testModel("tiny", "v1"), "runtime": testRuntime(), "policy": testPolicy()} {
		schema := compile(t, must1(snapshot.EntrySchema(entry))(t))
		text := string(mustJSON(t, v))
		if err := schema.Validate(decode(t, text)); err != nil {
			t.Errorf("%s: %v", entry, err)
		}
		if err := schema.Validate(decode(t, strings.Replace(text, `"name"`, `"nome"`, 1))); err == nil {
			t.Errorf("%s: an unknown member is taken", entry)
		}
		if err := schema.Validate(decode(t, string(mustJSON(t, validSnapshot())))); err == nil {
			t.Errorf("%s: a whole document is taken", entry)
		}
	}
	if _, err := snapshot.EntrySchema("network"); err == nil {
		t.Error("a schema of nothing")
	}
}

func compile(t *testing.T, schema []byte) *validator.Resolved {
	t.Helper()
	var s validator.Schema
	check(t, s.UnmarshalJSON(schema))
	return must1(s.Resolve(nil))(t)
}

func decode(t *testing.T, s string) any {
	t.Helper()
	var v any
	check(t, stdjson.Unmarshal([]byte(s), &v))
	return v
}
