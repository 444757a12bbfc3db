package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/snapshot"
)

// fsck reports every way in which a record, its root and its tree can differ,
// and nothing about a node on which they agree.
func TestFsckComparesRecordsWithRoots(t *testing.T) {
	ctx := context.Background()
	const id = "tiny@v1"
	for name, c := range map[string]struct {
		harm func(w *network, n *Node, st *cas.Store)
		want string
		only bool // a pass sets it right
	}{
		"nothing":      {harm: func(*network, *Node, *cas.Store) {}},
		"unpinned":     {func(w *network, n *Node, st *cas.Store) { w.must(st.Pin(ctx, n.modelRef(id), false)) }, "pinned: false", true},
		"root missing": {func(w *network, n *Node, st *cas.Store) { w.must(st.DeleteRef(ctx, n.modelRef(id))) }, "no root keeps its bytes", true},
		"no record":    {func(w *network, n *Node, _ *cas.Store) { w.must(os.Remove(n.models.path(id))) }, "no record of network", true},
		"damaged record": {func(w *network, n *Node, _ *cas.Store) {
			w.must(os.WriteFile(n.models.path(id), []byte("{"), 0o600))
		}, "damaged", true},
		"record says it is gone": {func(w *network, n *Node, _ *cas.Store) {
			w.forge(n, id, func(r *Record) { r.State = Absent })
		}, "a root keeps bytes for it", true},
		"other content": {func(w *network, n *Node, st *cas.Store) {
			ref, err := st.Ref(n.modelRef(id))
			w.must(err)
			ref.Tree = ""
			w.must(st.PutRef(ctx, ref))
		}, "its root keeps", true},
		"tree missing": {func(w *network, n *Node, _ *cas.Store) {
			w.must(os.Rename(filepath.Dir(w.state(n, id, Active).Tree), filepath.Join(n.o.StateDir, "away")))
		}, "its tree is not in the store", true},
	} {
		t.Run(name, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.sync(n)
			w.state(n, id, Active)
			st, err := n.Store()
			w.must(err)
			c.harm(w, n, st)
			ours := func() (out []string) {
				fs, err := n.Fsck(ctx, cas.FsckOptions{})
				w.must(err)
				for _, f := range fs {
					if strings.Contains(f.Problem, "tiny") || f.Kind == "root" || f.Kind == "record" || f.Kind == "tree" {
						out = append(out, f.Kind+" "+f.Name+": "+f.Problem+"; "+f.Remedy)
					}
				}
				return out
			}
			found := strings.Join(ours(), "\n")
			if c.want == "" && found != "" || !strings.Contains(found, c.want) {
				t.Errorf("want %q, found:\n%s", c.want, found)
			}
			if !c.only {
				return
			}
			w.sync(n, func(o *SyncOptions) { o.Force = true })
			w.sync(n, func(o *SyncOptions) { o.Force = true })
			w.state(n, id, Active)
			if left := ours(); len(left) > 0 {
				t.Errorf("after a pass: %q", left)
			}
		})
	}
}

// Rot that fsck --hash finds is an incident, and takes the model out of use.
func TestFsckHashTakesDamagedModelsOutOfUse(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	hex := w.weights().Encoded()
	path := filepath.Join(n.o.StoreDir, "blobs", "sha256", hex[:2], hex)
	before, err := os.Stat(path)
	w.must(err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt([]byte("rot"), 1000)
	w.must(err)
	w.must(f.Close())
	w.must(os.Chtimes(path, before.ModTime(), before.ModTime())) // as a disk does it
	if _, err := n.Fsck(context.Background(), cas.FsckOptions{Hash: true}); err != nil {
		t.Fatal(err)
	}
	if r := w.state(n, "tiny@v1", Failed); r.Cause != CauseHash {
		t.Errorf("%+v", r)
	}
	if ins, _ := n.Incidents("tiny@v1", 0); len(ins) != 1 || ins[0].Kind != CauseHash {
		t.Errorf("incidents: %+v", ins)
	}
}

// A collection keeps, pins and reports what a record wants, of whichever
// network of the state directory, and of a record that cannot be read.
func TestCollectorCrossChecks(t *testing.T) {
	ctx := context.Background()
	w, n := judging(t, "tiny", "other")
	w.sync(n)
	const id = "tiny@v1"
	st, err := n.Store()
	w.must(err)
	t.Run("a root that somebody forgot to pin", func(t *testing.T) {
		w.must(st.Pin(ctx, n.modelRef(id), false))
		p, err := n.PlanGC(ctx, full)
		w.must(err)
		r, err := n.GC(ctx, full)
		w.must(err)
		if len(p.Unpinned) != 1 || len(r.Unpinned) != 1 || r.Unpinned[0] != n.modelRef(id) {
			t.Errorf("planned %q, found %q", p.Unpinned, r.Unpinned)
		}
		w.whole(n, "after a collection")
		if ins, _ := n.Incidents(id, 0); len(ins) != 1 || ins[0].Kind != CauseState || !strings.Contains(ins[0].Reason, "not pinned") {
			t.Errorf("incidents: %+v", ins)
		}
	})
	t.Run("of another network", func(t *testing.T) {
		o := n.o
		o.Network = "second"
		second := newNode(o)
		w.must(os.MkdirAll(second.models.dir, 0o755))
		var r Record
		w.must(n.models.read(id, &r))
		w.must(second.models.write(id, &r))
		ref, err := st.Ref(n.modelRef(id))
		w.must(err)
		ref.Name, ref.Pinned = second.modelRef(id), false
		w.must(st.PutRef(ctx, ref))
		_, err = n.GC(ctx, full)
		w.must(err)
		if ref, err := st.Ref(second.modelRef(id)); err != nil || !ref.Pinned {
			t.Errorf("%+v, %v", ref, err)
		}
	})
	t.Run("of a record that cannot be read", func(t *testing.T) {
		w.must(os.WriteFile(n.models.path("other@v1"), []byte("{"), 0o600))
		w.must(st.Pin(ctx, n.modelRef("other@v1"), false))
		_, err := n.GC(ctx, full)
		if _, rerr := st.Ref(n.modelRef("other@v1")); rerr != nil {
			t.Errorf("its root went: %v, %v", rerr, err)
		}
	})
}

// A model whose root went does not become Active, and the pass brings it anew.
func TestActiveNeedsItsRoot(t *testing.T) {
	ctx := context.Background()
	w, n := judging(t, "tiny")
	w.sync(n)
	st, err := n.Store()
	w.must(err)
	acc, err := n.Current()
	w.must(err)
	r := w.state(n, "tiny@v1", Active)
	w.must(st.DeleteRef(ctx, n.modelRef("tiny@v1")))
	r.State = Pending
	w.must(n.models.write(r.ID(), r))
	w.must(r.move(Active, "test", "as if it had passed", acc.Digest, n.now()))
	if err := n.settle(ctx, acc, r, nil); AsFailure(err) == nil || AsFailure(err).Cause != CauseHash {
		t.Errorf("activated without a root: %v", err)
	}
	if s := w.onDisk(n, "tiny@v1"); s != Failed {
		t.Errorf("it is %s", s)
	}
	w.sync(n, func(o *SyncOptions) { o.Force = true })
	w.state(n, "tiny@v1", Active)
	w.whole(n, "after the next pass")
}

// Bytes in quarantine for the next attempt stay on a full disk; what is
// disabled or revoked makes way, and says so at once.
func TestQuarantinedBytesStay(t *testing.T) {
	ctx := context.Background()
	w, n := judging(t, "failed", "disabled", "revoked")
	w.sync(n)
	n.says(false)
	w.sync(n, func(o *SyncOptions) { o.Only, o.Retest, o.Force = []string{"failed"}, true, true })
	w.state(n, "failed@v1", Failed)
	w.must(w.repo.SetEnabled("disabled", "v1", false))
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "revoked@v1", Active).Manifest}))
	_, _, err := n.Apply(ctx, w.publish(), "test")
	w.must(err)
	st, err := n.Store()
	w.must(err)
	for id, want := range map[string]bool{"failed@v1": true, "disabled@v1": false, "revoked@v1": false} {
		if ref, err := st.Ref(n.modelRef(id)); err != nil || ref.Pinned != want {
			t.Errorf("%s: pinned %t, %v", id, ref.Pinned, err)
		}
	}
	_, err = n.GC(ctx, full)
	w.must(err)
	w.whole(n, "after a collection")
	if r := w.state(n, "failed@v1", Failed); r.Tree == "" || r.rooting() != pinned {
		t.Errorf("%+v", r)
	}
	w.state(n, "disabled@v1", Absent)
	if r := w.state(n, "revoked@v1", Failed); r.Tree != "" {
		t.Errorf("%+v", r)
	}
}

// Verify says why a model is in quarantine, and changes nothing of it.
func TestVerifyOfAQuarantine(t *testing.T) {
	ctx := context.Background()
	w, n := judging(t, "tiny")
	w.sync(n)
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "tiny@v1", Active).Manifest, Reason: "stolen"}))
	w.publish()
	w.sync(n)
	before := w.state(n, "tiny@v1", Failed)
	for range 2 {
		vs, err := n.Verify(ctx, VerifyOptions{})
		w.must(err)
		if len(vs) != 1 || vs[0].OK || vs[0].Failure == nil || vs[0].Failure.Cause != CauseRevoked {
			t.Errorf("%+v", vs)
		}
	}
	if r := w.state(n, "tiny@v1", Failed); r.Failures != before.Failures || r.Tree != before.Tree || !r.RetryAfter.Equal(before.RetryAfter) {
		t.Errorf("before %+v\nafter %+v", before, r)
	}
	if ins, _ := n.Incidents("", 0); len(ins) != 1 {
		t.Errorf("incidents: %+v", ins)
	}
}
