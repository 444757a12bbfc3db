package runner

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/resultity/rmodels/snapshot"
)

// definition is the schema of one type of the snapshot document.
func definition(t *testing.T, name string) *jsonschema.Resolved {
	t.Helper()
	text := bytes.Replace(snapshot.Schema, []byte(`"#/$defs/Snapshot"`), []byte(`"#/$defs/`+name+`"`), 1)
	var s jsonschema.Schema
	if err := s.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Ref != "#/$defs/"+name {
		t.Fatalf("the schema's root is %q", s.Ref)
	}
	return r
}

func fits(t *testing.T, where string, s *jsonschema.Resolved, raw jsontext.Value) {
	t.Helper()
	var v any
	err := json.Unmarshal(raw, &v)
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil {
		t.Errorf("%s: %v", where, err)
	}
}

// TestExamplesFitTheSchema holds the examples against the schema that
// publishers are given, and a broken one too, so that it says something.
func TestExamplesFitTheSchema(t *testing.T) {
	files, err := filepath.Glob("examples/*.json")
	if err != nil || len(files) < 6 {
		t.Fatalf("%v, %v", files, err)
	}
	rt, test := definition(t, "Runtime"), definition(t, "Validation")
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var x struct{ Runtime, Validation jsontext.Value }
		if err := json.Unmarshal(b, &x, json.MatchCaseInsensitiveNames(true)); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		fits(t, path+": runtime", rt, x.Runtime)
		fits(t, path+": validation", test, x.Validation)
		var broken map[string]any
		if err := json.Unmarshal(x.Runtime, &broken); err != nil {
			t.Fatal(err)
		}
		broken["privileged"] = true
		if rt.Validate(broken) == nil {
			t.Errorf("%s: the schema takes an unknown member", path)
		}
	}
}

func manual(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../docs/runner.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var jsonBlock = regexp.MustCompile("(?s)```json\n(.*?)```")

// TestManualsDefinitions: every definition in the manual fits the schema, and
// the container can hold it.
func TestManualsDefinitions(t *testing.T) {
	blocks := jsonBlock.FindAllStringSubmatch(manual(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the manual shows no definition")
	}
	model := t.TempDir()
	if err := os.Chmod(model, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, m := range blocks {
		fits(t, "docs/runner.md", definition(t, "Runtime"), jsontext.Value(m[1]))
		var rt snapshot.Runtime
		if err := json.Unmarshal([]byte(m[1]), &rt, json.RejectUnknownMembers(true)); err != nil {
			t.Errorf("%v: %s", err, m[1])
			continue
		}
		if _, err := newLaunch(Job{Name: "m", ModelDir: model, Runtime: rt}, imageFacts{}); err != nil {
			t.Errorf("%v: %s", err, m[1])
		}
	}
}

// TestManualIsComplete: each flag that any engine is given, each protocol,
// cause, member of a definition and example has its place in the manual.
func TestManualIsComplete(t *testing.T) {
	text := manual(t)
	table := regexp.MustCompile(`(?m)^\|.*$`).FindAllString(text, -1)
	rows := strings.Join(table, "\n")
	l := &launch{
		cpus: 1, tmpfs: []tmpfs{{path: "/tmp", size: 1}}, env: []string{"A=b"}, devices: []string{"example.com/gpu=0"}, entrypoint: "/x",
		binds: []bind{{"/a", "/b"}},
	}
	for _, e := range engines {
		flags := append(l.flags(e), "--log-driver", "--label", "--name", "--detach")
		for _, f := range append(flags, e.limitFlags...) {
			if strings.HasPrefix(f, "--") {
				name, _, _ := strings.Cut(f, "=")
				if !strings.Contains(rows, "`"+name) {
					t.Errorf("%s: the manual's table lacks %s", e.name, name)
				}
			}
		}
	}
	for name := range protocols {
		if !strings.Contains(rows, "| `"+name+"` |") {
			t.Errorf("the manual lacks protocol %s", name)
		}
	}
	for _, c := range []Cause{CausePassed, CauseIsolation, CauseExit, CauseHealth, CauseTimeout, CauseProtocol, CauseAnswer, CauseSpeed, CauseLoad, CauseMemory} {
		if !strings.Contains(rows, "`"+string(c)+"`") {
			t.Errorf("the manual lacks cause %s", c)
		}
	}
	examples, err := filepath.Glob("examples/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range examples {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		row := ""
		for _, r := range table {
			if strings.Contains(r, "`"+filepath.Base(path)+"`") {
				row = r
			}
		}
		// What the file calls untried, the manual does not call tried.
		untried := bytes.Contains(b, []byte(`"tried": "untried`))
		if row == "" || untried != strings.Contains(row, "untried") {
			t.Errorf("%s: untried %v, the manual's row is %q", path, untried, row)
		}
	}
	members := definition(t, "Runtime").Schema().Defs["Runtime"].Properties
	if len(members) < 15 {
		t.Fatalf("members %v", members)
	}
	for name := range members {
		if !strings.Contains(text, "`"+name+"`") && name != "name" && name != "version" && name != "policy" {
			t.Errorf("the manual lacks member %s", name)
		}
	}
}
