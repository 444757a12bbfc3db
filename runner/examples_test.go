package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// TestExamples reads every example strictly and lays its box down.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.json")
	if err != nil || len(files) < 6 {
		t.Fatalf("%v, %v", files, err)
	}
	readme, err := os.ReadFile("examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	model := t.TempDir()
	if err := os.Chmod(model, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(model, "weights.gguf"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var x struct {
			Title      string              `json:"title"`
			Tried      string              `json:"tried"`
			Notes      []string            `json:"notes"`
			Runtime    snapshot.Runtime    `json:"runtime"`
			Validation snapshot.Validation `json:"validation"`
		}
		if err := json.Unmarshal(b, &x, json.RejectUnknownMembers(true)); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if x.Title == "" || x.Tried == "" || len(x.Notes) == 0 || !strings.Contains(string(readme), "`"+filepath.Base(path)+"`") {
			t.Errorf("%s: a title, what was tried, notes and a line in README.md are needed", path)
		}
		j := Job{Name: "example", Version: "1", Manifest: digest.FromString("x"), ModelDir: model, Runtime: x.Runtime, Validation: x.Validation}
		if x.Runtime.GPU == "required" {
			j.Devices = []string{"nvidia.com/gpu=all"}
		}
		l, err := newLaunch(j, imageFacts{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if strings.Contains(strings.Join(append(l.args, l.env...), " "), "{{") {
			t.Errorf("%s: a template is left: %q %q", path, l.args, l.env)
		}
		if _, err := newExpectation(x.Validation, x.Runtime.Protocol); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		p := protocols[x.Runtime.Protocol]
		if p.health == "" {
			err = (&run{launch: l}).setExecArgs(x.Validation.Request)
		} else {
			_, err = p.buildRequest(x.Validation.Request, j.Name)
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestRefusedDefinitions: what the box could not hold is refused before an
// engine is asked.
func TestRefusedDefinitions(t *testing.T) {
	model := t.TempDir()
	if err := os.Chmod(model, 0o755); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	comma := filepath.Join(t.TempDir(), "a,b")
	if err := os.Mkdir(comma, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Job){
		"root":                  func(j *Job) { j.Runtime.User = "0" },
		"root's group":          func(j *Job) { j.Runtime.User = "1000:0" },
		"a user's name":         func(j *Job) { j.Runtime.User = "root" },
		"unknown protocol":      func(j *Job) { j.Runtime.Protocol = "grpc" },
		"no port":               func(j *Job) { j.Runtime.Port = 0 },
		"health elsewhere":      func(j *Job) { j.Runtime.Health = "http://192.0.2.1/" },
		"health with a break":   func(j *Job) { j.Runtime.Health = "/x\r\nHost: y" },
		"LD_PRELOAD":            func(j *Job) { j.Runtime.Env = map[string]string{"LD_PRELOAD": "/x"} },
		"NVIDIA_VISIBLE":        func(j *Job) { j.Runtime.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"} },
		"a name with =":         func(j *Job) { j.Runtime.Env = map[string]string{"A=B": "x"} },
		"a broken template":     func(j *Job) { j.Runtime.Args = []string{"{{.Model"} },
		"an unknown template":   func(j *Job) { j.Runtime.Args = []string{"{{.Secret}}"} },
		"a template that grows": func(j *Job) { j.Runtime.Args = []string{`{{printf "%100000d" 1}}`} },
		"scratch over /proc":    func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/proc/x", Size: 1 << 20}} },
		"scratch over models":   func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/models", Size: 1 << 20}} },
		"scratch with options":  func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/a:exec", Size: 1 << 20}} },
		"scratch without size":  func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/a"}} },
		"scratch twice":         func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/a", Size: 1}, {Path: "/a", Size: 2}} },
		"scratch climbs":        func(j *Job) { j.Runtime.Scratch = []snapshot.Scratch{{Path: "/a/../etc", Size: 1}} },
		"negative pids":         func(j *Job) { j.Runtime.Pids = -1 },
		"too little memory":     func(j *Job) { j.Runtime.Memory = 1 << 20 },
		"relative home":         func(j *Job) { j.Runtime.Home = "home" },
		"relative model":        func(j *Job) { j.ModelDir = "model" },
		"absent model":          func(j *Job) { j.ModelDir = "/nonexistent/model" },
		"model with a comma":    func(j *Job) { j.ModelDir = comma },
		"model nobody can read": func(j *Job) { j.ModelDir = private },
	} {
		j := Job{Name: "m", ModelDir: model, Runtime: snapshot.Runtime{Name: "r", Protocol: "openai-chat", Port: 80}}
		if _, err := newLaunch(j, imageFacts{}); err != nil {
			t.Fatalf("the plain definition: %v", err)
		}
		change(&j)
		if l, err := newLaunch(j, imageFacts{}); err == nil {
			t.Errorf("%s: accepted: %q", name, l.flags(engines["nerdctl"]))
		}
	}
}
