package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// collect runs gc until nothing more goes: what one run moves to the trash
// the next deletes.
func (w *network) collect(n *Node) *cas.Store {
	w.t.Helper()
	st, err := n.Store()
	w.must(err)
	for range 2 {
		_, err := st.GC(context.Background(), cas.GCOptions{})
		w.must(err)
	}
	return st
}

func TestArchiveAndRestore(t *testing.T) {
	for _, kind := range []string{"directory", "registry"} {
		t.Run(kind, func(t *testing.T) {
			w := newNetwork(t)
			w.list("tiny", "v1", w.push("tiny", w.key, "first"))
			w.publish()
			target := filepath.Join(t.TempDir(), "cold")
			if kind == "registry" {
				target = "oci://" + w.host + "/cold"
			}
			n := w.node(func(o *Options) { o.Archive = target })
			w.sync(n)
			hot := w.state(n, "tiny@v1", Pending)

			if _, err := n.Archive(context.Background(), "tiny"); AsFailure(err) == nil || AsFailure(err).Cause != CauseListing {
				t.Errorf("archiving what the snapshot enables: %v", err)
			}
			w.must(w.repo.SetEnabled("tiny", "v1", false))
			w.publish()
			w.sync(n)
			w.state(n, "tiny@v1", Inactive)
			r, err := n.Archive(context.Background(), "tiny@v1")
			w.must(err)
			if r.State != Archived || r.Tree != "" {
				t.Errorf("got %+v", r)
			}
			st := w.collect(n)
			if _, err := st.Stat(hot.Manifest); !errors.Is(err, cas.ErrNotFound) {
				t.Errorf("the hot copy is still there: %v", err)
			}
			if es, err := n.Explain(context.Background(), "tiny@v1"); err != nil || len(es) != 1 || es[0].State != Archived || es[0].Admission != nil {
				t.Errorf("explained: %+v, %v", es, err) // its evidence is in the archive
			}
			w.sync(n)
			w.state(n, "tiny@v1", Archived)

			// It comes back from the archive alone: the registry has lost it.
			w.faults(func(r *http.Request) int {
				if strings.Contains(r.URL.Path, "/v2/acme/") {
					return http.StatusNotFound
				}
				return 0
			}, nil)
			w.must(w.repo.SetEnabled("tiny", "v1", true))
			w.publish()
			if o := w.sync(n)["tiny@v1"]; o.After != Pending {
				t.Fatalf("restored: %+v, %+v", o, o.Failure)
			}
			back := w.state(n, "tiny@v1", Pending)
			if b, err := os.ReadFile(filepath.Join(back.Tree, "README.md")); err != nil || string(b) != "# tiny\n" {
				t.Errorf("tree: %q, %v", b, err)
			}
		})
	}
}

func TestOutdatedVersionIsArchivedByRetention(t *testing.T) {
	w := newNetwork(t)
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		d.Settings.Retention = snapshot.Retention{Outdated: "archive"}
		return nil
	}))
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	cold := filepath.Join(t.TempDir(), "cold")
	n := w.node(func(o *Options) { o.Archive = cold })
	w.sync(n)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.list("tiny", "v2", w.push("tiny", w.key, "second"))
	w.publish()
	w.sync(n)
	w.state(n, "tiny@v1", Inactive) // v2 has no engine here, so it is not Active yet
	// The successor becomes Active: what a passed run would have written.
	v2 := w.state(n, "tiny@v2", Pending)
	acc, err := n.Current()
	w.must(err)
	m, _ := acc.Document.Model("tiny", "v2")
	f, err := n.facts(context.Background())
	w.must(err)
	v2.Holds, v2.State = verdictKey(acc.Document, &m, f), Active
	w.must(n.save(v2))
	if o := w.sync(n)["tiny@v1"]; o.Verb != Archive || o.After != Archived {
		t.Fatalf("got %+v, %+v", o, o.Failure)
	}
	there, err := oci.InLayout(context.Background(), cold)
	if err != nil || len(there) != 3 { // the model, its signature, its record
		t.Errorf("the archive names %v, %v", there, err)
	}
	// Retention ends: the archive is freed.
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		d.Settings.Retention.Keep = 1
		return nil
	}))
	w.publish()
	n.o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	w.sync(n)
	w.state(n, "tiny@v1", Absent)
	left, err := filepath.Glob(filepath.Join(cold, "blobs", "sha256", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the archive: %v, %v", left, err)
	}
}

// The archive's copy stays while a model of another network relies on it.
func TestSharedArchive(t *testing.T) {
	w, n := installed(t)
	n.o.Archive = filepath.Join(t.TempDir(), "cold")
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	_, err := n.Archive(context.Background(), "tiny@v1")
	w.must(err)
	r := w.state(n, "tiny@v1", Archived)
	other := records{filepath.Join(filepath.Dir(n.dir), "other", "models")}
	w.must(os.MkdirAll(other.dir, 0o755))
	w.must(other.write(r.ID(), r))
	blobs := func() int {
		all, err := filepath.Glob(filepath.Join(n.o.Archive, "blobs", "sha256", "*"))
		w.must(err)
		return len(all)
	}
	w.must(n.unarchive(context.Background(), r))
	if blobs() == 0 {
		t.Error("the other network's copy is gone")
	}
	w.must(os.WriteFile(other.path(r.ID()), []byte("damaged"), 0o644))
	if err := n.unarchive(context.Background(), r); err == nil || blobs() == 0 {
		t.Errorf("deleted although nobody can tell who relies on it: %v", err)
	}
	w.must(os.Remove(other.path(r.ID())))
	w.must(n.unarchive(context.Background(), r))
	if blobs() != 0 {
		t.Error("kept for nobody")
	}
}

func TestExportAndImport(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	bundle := w.publish()
	a := w.node()
	w.sync(a)
	usb := filepath.Join(t.TempDir(), "usb")
	out, err := a.Export(context.Background(), []string{"tiny"}, usb)
	if err != nil || len(out) != 2 || out[0].Bytes == 0 || !out[1].Runtime || !out[1].Missing {
		t.Fatalf("export: %+v, %v", out, err)
	}
	if again, err := a.Export(context.Background(), []string{"tiny@v1"}, usb); err != nil || again[0].Bytes > 4096 || again[0].Present < out[0].Bytes/2 {
		t.Errorf("export again: %+v, %v", again, err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if _, err := a.Export(context.Background(), []string{"tiny", "nobody"}, other); AsFailure(err) == nil || AsFailure(err).Cause != CauseListing {
		t.Errorf("an unknown name: %v", err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an export that cannot be whole wrote something: %v", err)
	}

	var asked atomic.Int64
	w.faults(func(*http.Request) int { asked.Add(1); return http.StatusServiceUnavailable }, nil)
	gap := func(o *Options) { o.OCI.Offline, o.From = true, []string{"oci-layout://" + usb} }
	b := w.node(gap)
	_, _, err = b.Apply(context.Background(), bundle, "usb")
	w.must(err)
	got, err := b.Sync(context.Background(), SyncOptions{Install: true, Force: true, Only: []string{"tiny@v1"}})
	if err != nil || len(got.Outcomes) != 1 || got.Outcomes[0].After != Pending {
		t.Fatalf("import: %+v, %v", got, err)
	}

	// A flipped bit on the stick is found, and nothing of it stays.
	blobs, err := filepath.Glob(filepath.Join(usb, "blobs", "sha256", "*"))
	w.must(err)
	for _, f := range blobs {
		if i, _ := os.Stat(f); i.Size() > 1<<20 {
			c, err := os.ReadFile(f)
			w.must(err)
			c[len(c)/2] ^= 4
			w.must(os.WriteFile(f, c, 0o600))
		}
	}
	c := w.node(gap)
	_, _, err = c.Apply(context.Background(), bundle, "usb")
	w.must(err)
	got, err = c.Sync(context.Background(), SyncOptions{Install: true, Only: []string{"tiny@v1"}})
	if err != nil || got.Outcomes[0].After != Failed || got.Outcomes[0].Failure.Cause != CauseHash {
		t.Errorf("a bad stick: %+v, %v", got.Outcomes, err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the registry got %d requests from nodes that are offline", n)
	}
}

// A model that gc freed cannot be archived, which is not the archive's fault.
func TestArchiveOfEvicted(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node(func(o *Options) { o.Archive = filepath.Join(t.TempDir(), "cold") })
	w.sync(n)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	_, err := n.GC(context.Background(), cas.GCOptions{MinFree: 1 << 60})
	w.must(err)
	for range 2 { // also once the record says it
		_, err = n.Archive(context.Background(), "tiny@v1")
		if f := AsFailure(err); f == nil || f.Cause != CauseListing || !strings.Contains(f.Reason, "freed by gc") || strings.Contains(f.Hint, "disk") {
			t.Errorf("got %+v", f)
		}
		w.state(n, "tiny@v1", Absent)
	}
	if ins, _ := n.Incidents("", 0); len(ins) > 0 {
		t.Errorf("incidents: %+v", ins)
	}
}
