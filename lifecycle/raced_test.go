package lifecycle

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/internal/filelock"
	"github.com/resultity/rmodels/snapshot"
)

// revokeKey revokes the one key by which models are signed.
func (w *network) revokeKey() []byte {
	w.t.Helper()
	var key snapshot.Revocation
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		for _, k := range d.PolicyKeys() {
			key.Key = k.Digest
		}
		d.Revocations = append(d.Revocations, key)
		return nil
	}))
	return w.publish()
}

// A key that is revoked while a model signed by it is installed reaches that
// model when its lock is dropped.
func TestKeyRevokedDuringAnInstall(t *testing.T) {
	w, n := judging(t, "tiny")
	_, _, err := n.Apply(context.Background(), w.publish(), "test")
	w.must(err)
	began, on := make(chan struct{}), make(chan struct{})
	w.faults(func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-began:
			default:
				close(began)
			}
			<-on
		}
		return 0
	}, nil)
	done := make(chan error)
	go func() {
		_, err := n.Sync(context.Background(), SyncOptions{Only: []string{"tiny"}, Install: true, Force: true})
		done <- err
	}()
	<-began
	other, err := Open(n.o)
	w.must(err)
	other.says(true)
	_, _, err = other.Apply(context.Background(), w.revokeKey(), "test")
	w.must(err)
	close(on)
	w.must(<-done)
	if s := w.onDisk(n, "tiny@v1"); s == Pending || s == Active {
		t.Errorf("it is %s on the disk", s)
	}
	if _, err := other.Export(context.Background(), []string{"tiny"}, t.TempDir()); err == nil {
		t.Error("it was exported")
	}
}

// A record that was put back, or written by a process that was stopped, is held
// against the snapshot whatever was looked at before.
func TestMarkIsOfFiles(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	before, err := os.ReadFile(n.models.path("tiny@v1"))
	w.must(err)
	_, _, err = n.Apply(context.Background(), w.revokeKey(), "test")
	if err != nil {
		t.Log(err)
	}
	w.sync(n)
	w.sync(n)
	if r, err := n.Record("tiny"); err != nil || r.State == Active {
		t.Fatalf("%+v, %v", r, err)
	}
	w.must(os.WriteFile(n.models.path("tiny@v1"), before, 0o644))
	if r, err := n.Record("tiny"); err != nil || r.State == Active {
		t.Errorf("put back: %s, %v", r.State, err)
	}
	if _, err := n.Export(context.Background(), []string{"tiny"}, t.TempDir()); err == nil {
		t.Error("it was exported")
	}
}

// Without a snapshot that verifies, no reader shows a model in use.
func TestReadersWithoutASnapshot(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	w.state(n, "tiny@v1", Active)
	w.must(os.WriteFile(filepath.Join(n.trustDir(), "accepted.json"), []byte("{"), 0o600))
	if r := w.state(n, "tiny@v1", Inactive); !strings.Contains(r.Reason, "without a snapshot that verifies") {
		t.Error(r.Reason)
	}
	w.sync(n)
	w.state(n, "tiny@v1", Active)
}

// A record that is damaged or lost costs no bytes of a model that the snapshot
// lists, also where no registry answers and the disk is full.
func TestLostRecordKeepsBytes(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"damaged": func(path string) error { return os.WriteFile(path, []byte("{"), 0o644) },
		"deleted": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.sync(n)
			w.must(harm(n.models.path("tiny@v1")))
			w.faults(func(*http.Request) int { return http.StatusServiceUnavailable }, nil)
			_, err := n.GC(context.Background(), full)
			w.must(err)
			w.sync(n)
			_, err = n.GC(context.Background(), full)
			w.must(err)
			w.faults(nil, nil)
			w.requests()
			w.sync(n, func(o *SyncOptions) { o.Force = true })
			w.state(n, "tiny@v1", Active)
			for _, r := range w.requests() {
				if strings.HasPrefix(r, "GET") && strings.Contains(r, w.weights().Encoded()) {
					t.Errorf("fetched again: %s", r)
				}
			}
		})
	}
}

// A collection leaves the roots of networks alone that its state directory does
// not know, and asks those whose state lies elsewhere.
func TestCollectorOfASharedStore(t *testing.T) {
	ctx := context.Background()
	w, a := judging(t, "tiny")
	w.sync(a)
	st, err := a.Store()
	w.must(err)
	check := func(t *testing.T) {
		t.Helper()
		w.t = t
		if _, err := st.Ref(a.modelRef("tiny@v1")); err != nil {
			t.Error(err)
		}
		if _, err := st.Tree(w.state(a, "tiny@v1", Active).Manifest); err != nil {
			t.Error(err)
		}
	}
	t.Run("another state directory of the network", func(t *testing.T) {
		b := w.node(func(o *Options) { o.StoreDir = a.o.StoreDir })
		w.must(st.Pin(ctx, a.modelRef("tiny@v1"), false))
		_, err := b.GC(ctx, full)
		w.must(err)
		check(t)
	})
	t.Run("another network", func(t *testing.T) {
		o := w.options(t.TempDir())
		o.StoreDir, o.Network = a.o.StoreDir, "other"
		other := newNode(o)
		w.must(os.MkdirAll(other.models.dir, 0o755))
		w.must(st.Pin(ctx, a.modelRef("tiny@v1"), false))
		_, err := other.GC(ctx, full)
		w.must(err)
		check(t)
	})
	t.Run("a link to a network's state", func(t *testing.T) {
		moved := filepath.Join(t.TempDir(), "lab")
		w.must(os.Rename(a.dir, moved))
		w.must(os.Symlink(moved, a.dir))
		o := a.o
		o.Network = "other"
		other := newNode(o)
		w.must(os.MkdirAll(other.models.dir, 0o755))
		w.must(st.Pin(ctx, a.modelRef("tiny@v1"), false))
		_, err := other.GC(ctx, full)
		w.must(err)
		check(t)
		if ref, err := st.Ref(a.modelRef("tiny@v1")); err != nil || !ref.Pinned {
			t.Errorf("%+v, %v", ref, err)
		}
	})
}

// A process that is stopped in the middle of an activation keeps no newer
// snapshot from being accepted, and what it writes later is in use for nobody.
func TestStoppedActivation(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	r := w.state(n, "tiny@v1", Active)
	lk, err := filelock.Try(n.snapshotLock(), filelock.Shared)
	w.must(err)
	defer lk.Unlock()
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: r.Manifest}))
	began := time.Now()
	acc, _, err := n.Apply(context.Background(), w.publish(), "test")
	if acc == nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > acceptWait+3*time.Second {
		t.Errorf("it took %s", took)
	}
	w.must(n.models.write(r.ID(), r)) // it goes on
	if r, err := n.Record("tiny"); err != nil || r.State != Failed {
		t.Errorf("%s, %v", r.State, err)
	}
}

// A root that cannot be read costs its own model one pass, and others nothing.
func TestDamagedRootIsWrittenAnew(t *testing.T) {
	w, n := judging(t, "tiny", "other")
	w.sync(n)
	w.must(os.WriteFile(filepath.Join(n.o.StoreDir, "refs", "model%2Flab%2Ftiny@v1"), []byte("junk"), 0o644))
	w.list("late", "v1", w.push("late", w.key, "late"))
	w.publish()
	w.requests()
	w.sync(n, func(o *SyncOptions) { o.Force = true })
	for _, id := range []string{"tiny@v1", "other@v1", "late@v1"} {
		w.state(n, id, Active)
	}
	for _, r := range w.requests() {
		if strings.HasPrefix(r, "GET") && strings.Contains(r, w.weights().Encoded()) {
			t.Errorf("fetched again: %s", r)
		}
	}
	_, err := n.GC(context.Background(), full)
	w.must(err)
	w.whole(n, "after a collection")
}
