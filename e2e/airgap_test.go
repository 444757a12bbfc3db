package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/resultity/rmodels/internal/tinygguf"
)

// A node that reaches nobody becomes Active from a directory alone: model,
// runtime image, signatures and snapshot.
func TestAirGap(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	bundle := n.publish()
	a := n.startNode()
	a.pass(0, "sync")
	usb := filepath.Join(t.TempDir(), "usb")
	var out []struct {
		Name    string `json:"name"`
		Runtime bool   `json:"runtime"`
		Missing bool   `json:"missing"`
		Bytes   int64  `json:"bytes"`
	}
	a.run("export", "tiny", usb).ok().json(&out)
	if len(out) != 2 || out[0].Name != "tiny" || !out[1].Runtime || out[1].Missing || out[1].Bytes < 1<<20 {
		t.Errorf("exported %+v", out)
	}

	b := n.startNode(func(s *settings) { s.hosts = "" })
	b.run("snapshot", "apply", bundle).ok()
	mark := len(n.registry.log())
	b.run("import", t.TempDir()).exits(2)
	b.pass(0, "import", usb)
	b.expect(map[string]string{"tiny@v1": "Active"})
	if asked := n.registry.log()[mark:]; len(asked) != 0 {
		t.Errorf("asked for: %+v", asked)
	}
}

// What rots on the disk is mended by the pass that meets it.
func TestRotIsMendedInOnePass(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	d.pass(0, "sync")
	var r record
	d.run("show", "tiny").ok().json(&r)
	if err := os.RemoveAll(r.Tree); err != nil {
		t.Fatal(err)
	}
	p := d.pass(0, "sync")
	if o := p.outcome(t, "tiny@v1"); o.Verb != "install" || o.After != "Active" {
		t.Errorf("the pass after the damage: %+v", o)
	}
	if in := d.incidents(); len(in) != 1 || in[0].Kind != "hash" {
		t.Errorf("incidents %+v", in)
	}
	d.expect(map[string]string{"tiny@v1": "Active"})
}
