package runner

import (
	"errors"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// A node refuses what a publisher's check refuses, before it renders a
// template or asks a path.
func TestLaunchRefusesWhatPublishersRefuse(t *testing.T) {
	good := func() Job {
		return Job{Name: "m", ModelDir: t.TempDir(), Runtime: snapshot.Runtime{
			Name: "r", Protocol: "openai-chat", Port: 8080, Health: "/health?full=1", GPU: "none",
			Entrypoint: []string{"/bin/{{ .ModelName }}"}, Args: []string{"{{.Port}}", "{{.ModelDir}}"},
		}}
	}
	l, err := newLaunch(good(), imageFacts{})
	if err != nil {
		t.Fatal(err)
	}
	if l.entrypoint != "/bin/m" || len(l.args) != 2 || l.args[0] != "8080" || l.args[1] != snapshot.ModelTarget {
		t.Errorf("entrypoint %q, args %q", l.entrypoint, l.args)
	}
	for name, change := range map[string]func(*snapshot.Runtime){
		"range in the entrypoint": func(r *snapshot.Runtime) { r.Entrypoint = []string{"{{range 1000000000000}}{{end}}x"} },
		"range in an argument":    func(r *snapshot.Runtime) { r.Args = []string{"{{range 1000000000000}}{{end}}x"} },
		"range in a variable": func(r *snapshot.Runtime) {
			r.Env = map[string]string{"A": "{{range 1000000000000}}{{end}}x"}
		},
		"health of no escape": func(r *snapshot.Runtime) { r.Health = "/%zz" },
		"health of a host":    func(r *snapshot.Runtime) { r.Health = "//evil/x" },
		"health with a tab":   func(r *snapshot.Runtime) { r.Health = "/\t" },
		"health with DEL":     func(r *snapshot.Runtime) { r.Health = "/\x7f" },
	} {
		j := good()
		change(&j.Runtime)
		if _, err := newLaunch(j, imageFacts{}); !errors.Is(err, ErrRuntime) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
