package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/tinygguf"
)

// A source that cannot be reached is a circumstance: exit code 7, no incident,
// and what is installed stays.
func TestUnreachableSources(t *testing.T) {
	for _, c := range []struct {
		name  string
		upset func(n *network, d *node)
		mend  func(n *network, d *node)
		says  string
	}{
		{
			"registry down",
			func(n *network, _ *node) { n.registry.stop() },
			func(n *network, _ *node) { n.registry.start() },
			"",
		},
		{
			"wrong password",
			func(n *network, d *node) {
				r := n.registry
				d.configure(func(s *settings) { s.hosts = sharedHosts() + hosts(r.Address, r.CA, r.Username, "wrong") })
			},
			func(n *network, d *node) {
				d.configure(func(s *settings) { s.hosts = sharedHosts() + n.registry.hosts() })
			},
			"password",
		},
		{
			"unknown certificate authority",
			func(n *network, d *node) {
				r := n.registry
				d.configure(func(s *settings) { s.hosts = sharedHosts() + hosts(r.Address, "", r.Username, r.Password) })
			},
			func(n *network, d *node) {
				d.configure(func(s *settings) { s.hosts = sharedHosts() + n.registry.hosts() })
			},
			"authority",
		},
		{
			"registry answers 503 to everything",
			func(n *network, _ *node) { n.registry.fault(`{"repository":"models/*","status":503}`) },
			func(n *network, _ *node) { n.registry.fault() },
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t)
			n.list("first", "v1", tinygguf.Options{}, nil)
			n.list("second", "v1", tinygguf.Options{Seed: 2}, nil)
			bundle := n.publish()
			d := n.startNode()
			d.apply(bundle).ok()
			d.pass(0, "pull", "first")
			c.upset(n, d)
			p := d.pass(7, "pull", "second")
			f := p.outcome(t, "second@v1").Failure
			if f == nil || f.Cause != "unavailable" || f.Hint == "" || !strings.Contains(f.Hint+f.Reason, c.says) {
				t.Errorf("failure %+v", f)
			}
			d.expect(map[string]string{"first@v1": "Pending", "second@v1": "Absent"})
			if in := d.incidents(); len(in) != 0 {
				t.Errorf("an unreachable source is no incident: %+v", in)
			}
			c.mend(n, d)
			d.pass(0, "pull", "second")
			d.expect(map[string]string{"first@v1": "Pending", "second@v1": "Pending"})
		})
	}
}

// When the snapshot's source is gone the node goes on with what it has.
func TestSnapshotSourceGone(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	d.pass(0, "sync")
	if err := os.Rename(n.site, n.site+".gone"); err != nil {
		t.Fatal(err)
	}
	p := d.pass(7, "sync")
	if p.SnapshotFailure == nil || p.SnapshotFailure.Cause != "unavailable" || p.SnapshotFailure.Hint == "" {
		t.Errorf("snapshot failure %+v", p.SnapshotFailure)
	}
	d.expect(map[string]string{"tiny@v1": "Active"})
	d.pass(0, "sync", "--offline")
}

func TestNoContainerEngine(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode(func(s *settings) { s.engine = "/nonexistent/nerdctl" })
	p := d.pass(5, "sync")
	f := p.outcome(t, "tiny@v1").Failure
	if f == nil || f.Cause != "engine" || !strings.Contains(f.Hint, "nerdctl") {
		t.Errorf("failure %+v", f)
	}
	if in := d.incidents(); len(in) != 0 {
		t.Errorf("a missing engine is no incident: %+v", in)
	}
	// With the engine back nothing is fetched a second time.
	d.configure(func(s *settings) { s.engine = bed.Nerdctl })
	d.pass(0, "sync", "--force")
	d.expect(map[string]string{"tiny@v1": "Active"})
}

// A test inference that fails quarantines the model and keeps its bytes.
func TestFailedTestInference(t *testing.T) {
	for _, c := range []struct {
		name    string
		runtime object
		model   object
		says    string
	}{
		{"wrong answer", nil, object{"validation": object{
			"request": object{"messages": []object{{"role": "user", "content": "ping"}}, "temperature": 0, "max_tokens": 32},
			"expect":  object{"exact": "pong"}, "timeout": "30s",
		}}, "sealed box"},
		{"engine that never gets healthy", object{"health": "/no/such/page", "startTimeout": "3s"}, nil, ""},
		{"engine that dies at once", object{"args": []string{"--no-such-flag"}, "startTimeout": "20s"}, nil, ""},
		{"too slow", nil, object{"validation": object{
			"request": object{"messages": []object{{"role": "user", "content": "ping"}}, "temperature": 0, "max_tokens": 32},
			"expect":  object{"contains": "sealed"}, "minTokensPerSecond": 1e9, "timeout": "30s",
		}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t)
			if c.runtime != nil {
				n.addRuntime(c.runtime)
			}
			a := n.list("tiny", "v1", tinygguf.Options{}, c.model)
			n.publish()
			d := n.startNode()
			p := d.pass(6, "sync")
			f := p.outcome(t, "tiny@v1").Failure
			if f == nil || f.Cause != "validation" || f.Hint == "" {
				t.Errorf("failure %+v", f)
			}
			d.expect(map[string]string{"tiny@v1": "Failed"})
			in := d.onlyIncident("validation")
			if !strings.Contains(in.Found, c.says) {
				t.Errorf("incident found %q, want it to hold %q", in.Found, c.says)
			}
			if !d.storeHas(a.weights) {
				t.Error("the bytes are gone: a retry would fetch them again")
			}
			// Mended by the network, it comes up without a fetch.
			n.addRuntime(nil)
			n.add("model", n.model("tiny", "v1", a, nil))
			n.publish()
			mark := len(n.registry.log())
			d.pass(0, "sync", "--force")
			d.expect(map[string]string{"tiny@v1": "Active"})
			if sent := n.registry.blobBytes(mark, a.weights); sent != 0 {
				t.Errorf("%d bytes of the weights were fetched again", sent)
			}
		})
	}
}

// smallDisk is a file system of its own, so that it can be full.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	n := startNetwork(t)
	n.list("small", "v1", tinygguf.Options{}, nil)
	big := n.list("big", "v1", tinygguf.Options{MinSize: 96 << 20}, nil)
	n.publish()

	t.Run("said before the first byte", func(t *testing.T) {
		disk := smallDisk(t, 96<<20)
		d := n.startNode(func(s *settings) { s.store = filepath.Join(disk, "store") })
		mark := len(n.registry.log())
		d.apply(filepath.Join(n.dir, "snapshot-1.json")).ok()
		d.pass(11, "pull", "small", "big")
		d.expect(map[string]string{"small@v1": "Pending", "big@v1": "Absent"})
		d.pass(9, "pull", "big")
		if sent := n.registry.blobBytes(mark, big.weights); sent != 0 {
			t.Errorf("%d bytes of big were fetched for a disk that cannot take it", sent)
		}
		if r := d.show("big"); !strings.Contains(r.Reason, "disk") {
			t.Errorf("reason %q does not speak of the disk", r.Reason)
		}
	})
	t.Run("filled by another while it is fetched", func(t *testing.T) {
		disk := smallDisk(t, 224<<20)
		d := n.startNode(func(s *settings) { s.store = filepath.Join(disk, "store") })
		d.apply(filepath.Join(n.dir, "snapshot-1.json")).ok()
		n.registry.fault(`{"kind":"blob","digest":"` + big.weights + `","rate":20000000}`)
		defer n.registry.fault()
		c := d.command("pull", "big")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the fetch begins", func() bool { return len(n.registry.faulted()) > 0 })
		fill(t, filepath.Join(disk, "filler"))
		_ = c.Wait()
		if code := c.ProcessState.ExitCode(); code != 9 {
			t.Errorf("exit code %d, want 9", code)
		}
		if in := d.incidents(); len(in) != 0 {
			t.Errorf("a full disk is no incident: %+v", in)
		}
		if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
			t.Fatal(err)
		}
		n.registry.fault()
		d.pass(0, "pull", "big")
		d.expect(map[string]string{"big@v1": "Pending"})
	})
}

// fill takes every byte that is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// faulted is the requests that a fault has hit and that have ended.
func (r *registry) faulted() []request {
	var all []request
	for _, q := range r.log() {
		if len(q.Faults) > 0 {
			all = append(all, q)
		}
	}
	return all
}
