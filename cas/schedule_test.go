package cas_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// actor does something with a store of its own, on the same directory as the
// other actor's, and can be stopped ahead of one of its operations.
type actor struct {
	do    func(*cas.Store) error
	store *cas.Store
	free  func() bool // nothing is held that the other actor would wait for

	mu      sync.Mutex
	ops     int
	stop    int // ahead of which operation; zero: none
	stopped chan struct{}
	resume  chan struct{}
	ended   chan error
}

func newActor(t *testing.T, root string, free func() bool, do func(*cas.Store) error) *actor {
	a := &actor{do: do, free: free}
	a.store = open(t, root, cas.Options{FS: hookFS{durable.OS, a.before}})
	return a
}

func (a *actor) before() {
	a.mu.Lock()
	a.ops++
	if a.stop == 0 || a.ops < a.stop || !a.free() {
		a.mu.Unlock()
		return
	}
	a.stop = 0
	a.mu.Unlock()
	close(a.stopped)
	<-a.resume
}

// run lets the actor work until it is ahead of operation stop; false when it
// has ended instead.
func (a *actor) run(stop int) bool {
	a.ops, a.stop = 0, stop
	a.stopped, a.resume, a.ended = make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { a.ended <- a.do(a.store) }()
	select {
	case <-a.stopped:
		return true
	case err := <-a.ended:
		a.ended <- err
		return false
	}
}

// finish lets it work to its end.
func (a *actor) finish() error {
	close(a.resume)
	return <-a.ended
}

// schedules runs a and b in every order with at most three changes between
// them: a up to an operation, b up to one, the rest of a, the rest of b; each
// time from the state that prepare makes. It calls check afterwards.
func schedules(t *testing.T, a, b *actor, stride int, prepare func(), check func() error) (n int) {
	t.Helper()
	for i := 1; ; i++ {
		for j := 1 + i%stride; ; j += stride {
			prepare()
			began := a.run(i)
			inside := false
			if began {
				inside = b.run(j)
			}
			errA := a.finish()
			var errB error
			if began {
				errB = b.finish()
			}
			if err := errors.Join(errA, errB, check()); err != nil {
				t.Errorf("one up to its operation %d, the other up to %d: %v", i, j, err)
				return n
			}
			n++
			if !began {
				return n
			}
			if !inside {
				break
			}
		}
	}
}

// TestSchedules goes through the orders in which a pull and a collection, or
// two pulls, can take their steps, and does not wait for a race to find the
// bad one.
func TestSchedules(t *testing.T) {
	stride := 3
	if os.Getenv(soakEnv) != "" {
		stride = 1
	}
	root := filepath.Join(fastDir(t), "store")
	s := open(t, root, cas.Options{})
	proc := quietProc(t)
	collect := func(s *cas.Store) error {
		_, err := s.GC(context.Background(), cas.GCOptions{Proc: proc})
		return err
	}
	pull := func(name string) func(*cas.Store) error {
		return func(s *cas.Store) error { return pullSmall(s, name) }
	}
	nothing := func() {
		drop(t, s)
		must(t, collect(s))
	}
	// The model was installed before; what it left is in the store or the trash.
	dead := func() {
		must(t, pullSmall(s, "first"))
		drop(t, s)
	}
	unpacked := func(name string) func(*cas.Store) error {
		return func(s *cas.Store) error { return unpackSmall(s, name) }
	}
	deadLayer := func() {
		must(t, unpackSmall(s, "first"))
		drop(t, s)
	}
	trashedLayer := func() {
		deadLayer()
		_, err := s.GC(t.Context(), cas.GCOptions{Grace: time.Hour, Proc: proc})
		must(t, err)
	}
	// The file is there, and belongs to nothing.
	loose := func() {
		nothing()
		l, err := s.Lease(t.Context(), "loose")
		must(t, err)
		must(t, s.Put(t.Context(), l, digest.FromBytes(smallPart()), smallPart()))
		must(t, l.Release())
	}
	trashed := func() {
		dead()
		_, err := s.GC(t.Context(), cas.GCOptions{Grace: time.Hour, Proc: proc})
		must(t, err)
	}
	// hold is a pull whose lease goes on.
	var held *cas.Lease
	hold := func(s *cas.Store) (err error) {
		held, err = fetchSmall(s)
		return err
	}
	kept := func() error {
		if err := collect(s); err != nil {
			return err
		}
		if held != nil {
			md := digest.FromBytes(smallManifest())
			if err := errors.Join(checkBlob(s, md), checkBlob(s, digest.FromBytes(smallPart())), s.CheckTree(t.Context(), md), held.Release()); err != nil {
				return fmt.Errorf("what is leased: %w", err)
			}
			held = nil
		}
		refs, err := s.Refs()
		if err != nil {
			return err
		}
		for _, r := range refs {
			for _, d := range r.Blobs {
				if err := checkBlob(s, d); err != nil {
					return fmt.Errorf("a blob of the ref %s: %w", r.Name, err)
				}
			}
			for _, d := range r.Layers {
				if _, err := s.Layer(t.Context(), d, ""); err != nil {
					return fmt.Errorf("a layer of the ref %s: %w", r.Name, err)
				}
			}
			if r.Tree == "" {
				continue
			}
			if err := s.CheckTree(t.Context(), r.Tree); err != nil {
				return fmt.Errorf("the tree of the ref %s: %w", r.Name, err)
			}
		}
		drop(t, s)
		return nil
	}
	unlocked := func(names ...string) func() bool {
		return func() bool {
			for _, name := range names {
				if locked(t, filepath.Join(root, name)) {
					return false
				}
			}
			return true
		}
	}
	// A collection does not wait for an ingest, but a pull does.
	lock := unlocked("lock")
	locks := unlocked("lock", "refs/.lock", ingestLock(smallPart()), ingestLock(smallManifest()))
	layer, _ := packed()
	unpacking := unlocked("lock", "refs/.lock", ingestLock(smallPart()), ingestLock(smallManifest()), ingestLock(layer))
	for _, c := range []struct {
		name    string
		a, b    *actor
		prepare func()
	}{
		{"collection in an unpacking", newActor(t, root, lock, unpacked("a")), newActor(t, root, locks, collect), nothing},
		{"unpacking in a collection", newActor(t, root, unpacking, collect), newActor(t, root, lock, unpacked("a")), deadLayer},
		{"collection in an unpacking of what is there", newActor(t, root, lock, unpacked("a")), newActor(t, root, locks, collect), loose},
		{"collection in an unpacking from the trash", newActor(t, root, lock, unpacked("a")), newActor(t, root, locks, collect), trashedLayer},
		{"two unpackings", newActor(t, root, unpacking, unpacked("a")), newActor(t, root, unpacking, func(s *cas.Store) error {
			return errors.Join(unpackSmall(s, "b"), collect(s))
		}), nothing},
		{"pull in an unpacking", newActor(t, root, unpacking, unpacked("a")), newActor(t, root, locks, pull("b")), nothing},
		{"first pull in a collection", newActor(t, root, locks, collect), newActor(t, root, lock, pull("a")), nothing},
		{"collection in a first pull", newActor(t, root, lock, pull("a")), newActor(t, root, locks, collect), nothing},
		{"pull in a collection", newActor(t, root, locks, collect), newActor(t, root, lock, pull("a")), dead},
		{"collection in a pull", newActor(t, root, lock, pull("a")), newActor(t, root, locks, collect), dead},
		{"collection in a pull of what is there", newActor(t, root, lock, pull("a")), newActor(t, root, locks, collect), loose},
		{"collection in a pull from the trash", newActor(t, root, lock, pull("a")), newActor(t, root, locks, collect), trashed},
		{"two pulls from the trash", newActor(t, root, locks, pull("a")), newActor(t, root, locks, func(s *cas.Store) error {
			return errors.Join(pullSmall(s, "b"), collect(s))
		}), trashed},
		{"a look at a pull from the trash", newActor(t, root, locks, look), newActor(t, root, locks, func(s *cas.Store) error {
			return errors.Join(pullSmall(s, "b"), collect(s))
		}), trashed},
		{"collection in a pull without a ref", newActor(t, root, lock, hold), newActor(t, root, locks, collect), nothing},
		{"collection in a ref without a lease", newActor(t, root, lock, refer(true)), newActor(t, root, locks, collect), dead},
		{"collection in a ref to blobs alone", newActor(t, root, lock, refer(false)), newActor(t, root, locks, collect), dead},
		{"pull without a ref in a collection", newActor(t, root, locks, collect), newActor(t, root, lock, hold), dead},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := schedules(t, c.a, c.b, stride, c.prepare, kept)
			t.Logf("%d schedules", n)
			if n < 10 {
				t.Errorf("only %d schedules", n)
			}
		})
	}
}

func smallManifest() []byte { b, _ := content(7001, 500); return b }
func smallPart() []byte     { b, _ := content(7002, 5000); return b }

// pullSmall is a pull of a model of one file, and what a caller relies on at
// its end.
func pullSmall(s *cas.Store, name string) error {
	ctx := context.Background()
	md, pd := digest.FromBytes(smallManifest()), digest.FromBytes(smallPart())
	l, err := fetchSmall(s)
	if err != nil {
		return err
	}
	err = s.CheckTree(ctx, md)
	if err == nil {
		err = s.PutRef(ctx, cas.Ref{Name: name, Tree: md, Blobs: []digest.Digest{md, pd}})
	}
	return errors.Join(err, l.Release())
}

// fetchSmall makes the blobs and the tree; the lease keeps them.
func fetchSmall(s *cas.Store) (*cas.Lease, error) {
	ctx := context.Background()
	manifest, part := smallManifest(), smallPart()
	md, pd := digest.FromBytes(manifest), digest.FromBytes(part)
	l, err := s.Lease(ctx, "small", md)
	if err != nil {
		return nil, err
	}
	for _, b := range [][]byte{manifest, part} {
		if err := s.Put(ctx, l, digest.FromBytes(b), b); err != nil {
			return nil, errors.Join(err, l.Release())
		}
	}
	if _, err := s.BuildTree(ctx, l, md, []cas.TreeEntry{{Path: "part", Blob: pd}}); err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return l, nil
}

// refer puts a ref to what nothing protects: it may fail, but not name what is
// gone.
func refer(tree bool) func(*cas.Store) error {
	return func(s *cas.Store) error {
		md, pd := digest.FromBytes(smallManifest()), digest.FromBytes(smallPart())
		for _, name := range []string{"bare", "bare-too"} {
			r := cas.Ref{Name: name, Blobs: []digest.Digest{md, pd}}
			if tree {
				r.Tree = md
			}
			if err := s.PutRef(context.Background(), r); err != nil && !errors.Is(err, cas.ErrNotFound) {
				return err
			}
		}
		return nil
	}
}

// look leases the model, and then asks for what is known to be restorable.
func look(s *cas.Store) error {
	ctx := context.Background()
	md, pd := digest.FromBytes(smallManifest()), digest.FromBytes(smallPart())
	l, err := s.Lease(ctx, "look", md, pd)
	if err != nil {
		return err
	}
	_, manifestErr := s.Stat(md)
	_, partErr := s.Stat(pd)
	_, treeErr := s.Tree(md)
	return errors.Join(manifestErr, partErr, treeErr, l.Release())
}

// drop deletes all refs.
func drop(t *testing.T, s *cas.Store) {
	t.Helper()
	refs, err := s.Refs()
	must(t, err)
	for _, r := range refs {
		must(t, s.DeleteRef(t.Context(), r.Name))
	}
}

func ingestLock(b []byte) string {
	return filepath.Join("ingest", "sha256-"+digest.FromBytes(b).Encoded(), "lock")
}

func locked(t *testing.T, path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Error(err)
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// quietProc makes the /proc of a host on which nothing is mounted, which is
// faster to read than this one's.
func quietProc(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	must(t, os.Mkdir(filepath.Join(proc, "1"), 0o755))
	must(t, os.WriteFile(filepath.Join(proc, "1", "mountinfo"), []byte("1 0 8:1 / / rw - ext4 /dev/root rw\n"), 0o644))
	return proc
}
