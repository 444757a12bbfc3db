package cas_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

func gc(t *testing.T, s *cas.Store, o cas.GCOptions) *cas.GCResult {
	t.Helper()
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	plan, err := s.PlanGC(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.GC(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	// What a dry run says is what a run does.
	if !slices.Equal(plan.Items, r.Items) {
		for _, i := range plan.Items {
			i.Bytes = 0
			if !slices.ContainsFunc(r.Items, func(j cas.GCItem) bool { j.Bytes = 0; return i == j }) {
				t.Errorf("the plan says %+v, which is not what was done", i)
			}
		}
	}
	for _, i := range append(plan.Items, r.Items...) {
		if i.Reason == "" || i.Kind == "" || i.Name == "" {
			t.Errorf("item without a reason, kind or name: %+v", i)
		}
	}
	return r
}

func item(t *testing.T, r *cas.GCResult, kind, name string) cas.GCItem {
	t.Helper()
	for _, i := range r.Items {
		if i.Kind == kind && i.Name == name {
			return i
		}
	}
	t.Fatalf("no %s %s in %+v", kind, name, r.Items)
	return cas.GCItem{}
}

func has(t *testing.T, s *cas.Store, d digest.Digest) bool {
	t.Helper()
	_, err := os.Lstat(blobPath(s, d))
	return err == nil
}

// model is three blobs and a tree of two of them.
type model struct {
	manifest, big, small digest.Digest
	tree                 cas.Tree
}

func install(t *testing.T, s *cas.Store, l *cas.Lease, seed uint64) model {
	t.Helper()
	big, _ := content(seed, 200<<10)
	manifest, _ := content(seed+1000, 700)
	small, _ := content(seed+2000, 300)
	m := model{manifest: put(t, s, l, manifest), big: put(t, s, l, big), small: put(t, s, l, small)}
	var err error
	m.tree, err = s.BuildTree(t.Context(), l, m.manifest, []cas.TreeEntry{{Path: "big", Blob: m.big}, {Path: "small", Blob: m.small}})
	must(t, err)
	return m
}

func (m model) ref(name string) cas.Ref {
	return cas.Ref{Name: name, Tree: m.manifest, Blobs: []digest.Digest{m.manifest}, LastUsed: time.Now()}
}

func (m model) present(t *testing.T, s *cas.Store) bool {
	t.Helper()
	n := 0
	for _, d := range []digest.Digest{m.manifest, m.big, m.small} {
		if has(t, s, d) {
			n++
		}
	}
	if _, err := os.Lstat(m.tree.Path); err == nil {
		n++
	}
	if n != 0 && n != 4 {
		t.Fatalf("%d of the 4 parts of the model are there", n)
	}
	return n == 4
}

func TestGCKeepsRootsOnly(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	kept, dropped, leased := install(t, s, l, 1), install(t, s, l, 2), install(t, s, l, 3)
	must(t, s.PutRef(t.Context(), kept.ref("net/kept")))
	held := lease(t, s, leased.manifest) // the tree's name alone
	if r := gc(t, s, cas.GCOptions{}); r.Dropped != 0 || r.Freed != 0 {
		t.Fatalf("collected under a lease: %+v", r)
	}
	must(t, l.Release())
	plan, err := s.PlanGC(t.Context(), cas.GCOptions{Proc: "/proc"})
	must(t, err)
	if !dropped.present(t, s) {
		t.Fatal("a plan deleted something")
	}
	r := gc(t, s, cas.GCOptions{})
	if !kept.present(t, s) || !leased.present(t, s) || dropped.present(t, s) {
		t.Fatal("the wrong ones are left")
	}
	if plan.FreeBytes < 200<<10 || r.Freed < plan.FreeBytes || plan.Dropped != r.Dropped {
		t.Errorf("planned %d bytes of %d items, freed %d of %d", plan.FreeBytes, plan.Dropped, r.Freed, r.Dropped)
	}
	if i := item(t, r, "blob", string(kept.big)); i.Action != cas.Keep || i.Reason != "ref net/kept" {
		t.Errorf("kept blob: %+v", i)
	}
	if i := item(t, r, "tree", string(dropped.manifest)); i.Action != cas.Drop {
		t.Errorf("dropped tree: %+v", i)
	}
	must(t, held.Release())
	gc(t, s, cas.GCOptions{})
	if leased.present(t, s) {
		t.Error("kept without a lease")
	}
	must(t, s.DeleteRef(t.Context(), "net/kept"))
	gc(t, s, cas.GCOptions{})
	u, err := s.Usage(t.Context())
	must(t, err)
	if kept.present(t, s) || u.Blobs != 0 || u.Trees != 0 || u.TrashBytes > 16<<10 {
		t.Errorf("left over: %+v", u)
	}
	if left := list(t, s, "trash"); len(left) > 0 {
		t.Errorf("trash: %v", left)
	}
}

func TestGCTokenLease(t *testing.T) {
	now := time.Now()
	s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{Now: func() time.Time { return now }})
	l := lease(t, s)
	m := install(t, s, l, 1)
	token, err := s.TokenLease(t.Context(), "job 7", time.Hour, m.manifest)
	must(t, err)
	must(t, l.Release())
	now = now.Add(59 * time.Minute)
	must(t, s.Renew(t.Context(), token, time.Hour))
	now = now.Add(59 * time.Minute)
	r := gc(t, s, cas.GCOptions{})
	if !m.present(t, s) {
		t.Fatal("a renewed token did not protect")
	}
	if i := item(t, r, "tree", string(m.manifest)); i.Reason != "lease "+string(token)+": job 7" {
		t.Errorf("reason %q", i.Reason)
	}
	now = now.Add(time.Minute)
	wantError(t, s.Renew(t.Context(), token, time.Hour), cas.ErrNotFound)
	gc(t, s, cas.GCOptions{})
	if m.present(t, s) || len(list(t, s, "leases")) != 0 {
		t.Error("an expired token protects")
	}
	other, err := s.TokenLease(t.Context(), "job 8", time.Hour)
	must(t, err)
	for range 2 {
		must(t, s.ReleaseToken(t.Context(), other))
	}
}

func TestGCGrace(t *testing.T) {
	now := time.Now()
	s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{Now: func() time.Time { return now }})
	l := lease(t, s)
	a, b := install(t, s, l, 1), install(t, s, l, 2)
	must(t, l.Release())
	grace := cas.GCOptions{Grace: time.Hour}
	gc(t, s, grace)
	if has(t, s, a.big) {
		t.Fatal("not taken")
	}
	// Looking for it brings it back, with its tree and its map.
	back := lease(t, s, a.manifest)
	if _, err := s.Tree(a.manifest); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{a.manifest, a.big, a.small} {
		if _, err := s.Stat(d); err != nil {
			t.Fatal(err)
		}
	}
	must(t, s.CheckTree(t.Context(), a.manifest))
	if _, err := os.Lstat(filepath.Join(s.Root(), "maps", "sha256", a.big.Encoded()[:2], a.big.Encoded())); err != nil {
		t.Error("its chunk map stayed behind")
	}
	now = now.Add(59 * time.Minute)
	if r := gc(t, s, grace); item(t, r, "trash", string(b.big)).Action != cas.Keep {
		t.Error("dropped within its grace")
	}
	now = now.Add(time.Minute)
	if r := gc(t, s, grace); r.Freed < 200<<10 {
		t.Errorf("freed %d after the grace", r.Freed)
	}
	_, err := s.Stat(b.big)
	wantError(t, err, cas.ErrNotFound)
	if !a.present(t, s) {
		t.Error("the one that came back is gone")
	}
	must(t, back.Release())
}

func TestGCPutsBackWhatBecameLive(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	must(t, l.Release())
	gc(t, s, cas.GCOptions{Grace: time.Hour})
	lease(t, s, m.manifest, m.big, m.small)
	if r := gc(t, s, cas.GCOptions{Grace: time.Hour}); r.PutBack != 4 || !m.present(t, s) {
		t.Errorf("put back %d", r.PutBack)
	}
}

func TestGCFailsClosed(t *testing.T) {
	tests := map[string]func(t *testing.T, s *cas.Store, m model) (undo func()){
		"ref": func(t *testing.T, s *cas.Store, m model) func() {
			path := filepath.Join(s.Root(), "refs", "net%2Fkept")
			damage(t, path, 70)
			return func() { damage(t, path, 70) }
		},
		"empty ref": func(t *testing.T, s *cas.Store, m model) func() {
			path := filepath.Join(s.Root(), "refs", "zero")
			must(t, os.WriteFile(path, nil, 0o644))
			return func() { os.Remove(path) }
		},
		"token lease": func(t *testing.T, s *cas.Store, m model) func() {
			token, err := s.TokenLease(t.Context(), "x", time.Hour, m.big)
			must(t, err)
			path := filepath.Join(s.Root(), "leases", string(token))
			damage(t, path, 50)
			return func() { os.Remove(path) }
		},
		"live lease": func(t *testing.T, s *cas.Store, m model) func() {
			l := lease(t, s, m.big)
			damage(t, filepath.Join(s.Root(), "leases", l.ID()), 50)
			return func() { l.Release() }
		},
		"stranger among the leases": func(t *testing.T, s *cas.Store, m model) func() {
			path := filepath.Join(s.Root(), "leases", "note")
			must(t, os.WriteFile(path, nil, 0o644))
			return func() { os.Remove(path) }
		},
	}
	for label, harm := range tests {
		t.Run(label, func(t *testing.T) {
			s := newStore(t)
			l := lease(t, s)
			kept, dropped := install(t, s, l, 1), install(t, s, l, 2)
			must(t, s.PutRef(t.Context(), kept.ref("net/kept")))
			must(t, l.Release())
			undo := harm(t, s, kept)
			_, err := s.GC(t.Context(), cas.GCOptions{Proc: "/proc"})
			wantError(t, err, cas.ErrCorrupt)
			if !kept.present(t, s) || !dropped.present(t, s) {
				t.Fatal("collected with roots that cannot be read")
			}
			undo()
			gc(t, s, cas.GCOptions{})
			if !kept.present(t, s) || dropped.present(t, s) {
				t.Error("the wrong ones are left")
			}
		})
	}
	t.Run("mount tables", func(t *testing.T) {
		s := newStore(t)
		l := lease(t, s)
		m := install(t, s, l, 1)
		must(t, l.Release())
		_, err := s.GC(t.Context(), cas.GCOptions{Proc: t.TempDir()})
		wantError(t, err, cas.ErrCorrupt)
		if !m.present(t, s) {
			t.Error("collected without mount tables")
		}
	})
}

func TestGCKeepsMountedTrees(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	must(t, l.Release())
	at := t.TempDir()
	must(t, unix.Mount(m.tree.Path, at, "", unix.MS_BIND, ""))
	defer unix.Unmount(at, unix.MNT_DETACH)
	r := gc(t, s, cas.GCOptions{})
	if !m.present(t, s) && !has(t, s, m.big) {
		t.Fatal("a mounted tree was collected")
	}
	if i := item(t, r, "tree", string(m.manifest)); i.Action != cas.Keep || i.Reason != "mounted" {
		t.Errorf("%+v", i)
	}
	must(t, unix.Unmount(at, 0))
	gc(t, s, cas.GCOptions{})
	if m.present(t, s) {
		t.Error("kept after it was unmounted")
	}
}

func TestGCKeepsTreesBelowOverlays(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m, other := install(t, s, l, 1), install(t, s, l, 2)
	must(t, l.Release())
	at := t.TempDir()
	must(t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+t.TempDir()+":"+m.tree.Path))
	defer unix.Unmount(at, unix.MNT_DETACH)
	r := gc(t, s, cas.GCOptions{})
	if i := item(t, r, "tree", string(m.manifest)); i.Action != cas.Keep || i.Reason != "mounted" {
		t.Errorf("%+v", i)
	}
	if b, err := os.ReadFile(filepath.Join(at, "big")); err != nil || len(b) != 200<<10 {
		t.Errorf("the overlay shows %d bytes; %v", len(b), err)
	}
	if other.present(t, s) {
		t.Error("what nobody shows was kept")
	}
	must(t, unix.Unmount(at, 0))
	gc(t, s, cas.GCOptions{})
	if m.present(t, s) {
		t.Error("kept after it was unmounted")
	}
}

// What is named after no lease is nobody's.
func TestGCLeftoverOfNoLease(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(s.Root(), "ingest", ".spool-..-x")
	must(t, os.WriteFile(path, []byte("x"), 0o644))
	gc(t, s, cas.GCOptions{})
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after a collection: %v", err)
	}
}

func TestGCKeepsWhatIsOpen(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 100<<10)
	opened, mapped, idle := put(t, s, l, b), put(t, s, l, b[1:]), put(t, s, l, b[2:])
	must(t, l.Release())
	reader, err := s.Open(opened)
	must(t, err)
	f, err := os.Open(blobPath(s, mapped))
	must(t, err)
	view, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	f.Close()
	r := gc(t, s, cas.GCOptions{})
	if !has(t, s, opened) || !has(t, s, mapped) || has(t, s, idle) {
		t.Fatalf("open %v, mapped %v, idle %v", has(t, s, opened), has(t, s, mapped), has(t, s, idle))
	}
	if i := item(t, r, "blob", string(opened)); i.Action != cas.Keep || r.PutBack != 2 {
		t.Errorf("%+v, put back %d", i, r.PutBack)
	}
	if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, b) {
		t.Error("the reader lost its bytes")
	}
	reader.Close()
	must(t, unix.Munmap(view))
	gc(t, s, cas.GCOptions{})
	if has(t, s, opened) || has(t, s, mapped) {
		t.Error("kept after it was closed")
	}
}

func TestGCPartials(t *testing.T) {
	now := time.Now()
	s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{Now: func() time.Time { return now }})
	l := lease(t, s)
	b, d := content(1, 1<<20)
	i := ingest(t, s, l, d, len(b))
	fill(t, i, b[:1<<19], 1<<19)
	must(t, i.Close())
	_, busyDigest := content(2, 1<<20)
	busy := ingest(t, s, l, busyDigest, 1<<20)
	must(t, l.Release())
	r := gc(t, s, cas.GCOptions{})
	if item(t, r, "partial", string(d)).Action != cas.Keep {
		t.Error("a fresh partial was dropped")
	}
	now = now.Add(8 * 24 * time.Hour)
	r = gc(t, s, cas.GCOptions{})
	if item(t, r, "partial", string(d)).Action != cas.Drop || item(t, r, "partial", string(busyDigest)).Action != cas.Keep {
		t.Errorf("%+v", r.Items)
	}
	if r.Freed < 1<<20 {
		t.Errorf("freed %d", r.Freed)
	}
	must(t, busy.Close())
	now = now.Add(-8 * 24 * time.Hour)
	if left := list(t, s, "ingest"); len(left) != 1 {
		t.Errorf("left %v", left)
	}
	// Short of space, it goes whatever its age.
	gc(t, s, cas.GCOptions{MinFree: 1 << 60})
	if left := list(t, s, "ingest"); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestGCEvicts(t *testing.T) {
	// A disk of its own: what others write does not make space short.
	disk := t.TempDir()
	mount(t, "tmpfs", disk, "size=64m")
	s := open(t, filepath.Join(disk, "store"), cas.Options{})
	l := lease(t, s)
	var models []model
	for n := range 4 {
		m := install(t, s, l, uint64(n+1))
		models = append(models, m)
		r := m.ref([]string{"a", "b", "c", "d"}[n])
		r.LastUsed = time.Now().Add(time.Duration(-n) * time.Hour) // d is the oldest
		r.Pinned = n == 3
		must(t, s.PutRef(t.Context(), r))
	}
	must(t, l.Release())
	if r := gc(t, s, cas.GCOptions{}); r.Dropped != 0 {
		t.Fatalf("evicted without a need: %+v", r.Items)
	}
	usage, err := s.Usage(t.Context())
	must(t, err)
	// One byte more than is free: the least recently used unpinned one goes.
	r := gc(t, s, cas.GCOptions{MinFree: usage.DiskFree + 100<<10})
	if i := item(t, r, "ref", "c"); i.Action != cas.Drop {
		t.Errorf("%+v", i)
	}
	if models[2].present(t, s) || !models[3].present(t, s) {
		t.Error("the wrong model was evicted")
	}
	held := lease(t, s, models[1].manifest)
	gc(t, s, cas.GCOptions{MinFree: 1 << 60})
	if models[0].present(t, s) || !models[1].present(t, s) || !models[3].present(t, s) {
		t.Error("evicted what is leased or pinned, or kept what is neither")
	}
	must(t, held.Release())
}

func TestGCIsAlone(t *testing.T) {
	s := newStore(t)
	f, err := os.Open(filepath.Join(s.Root(), "gc.lock"))
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	_, err = s.GC(t.Context(), cas.GCOptions{Proc: "/proc"})
	wantError(t, err, cas.ErrBusy)
}

func TestGCSweepsLeftovers(t *testing.T) {
	now := time.Now()
	s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{Now: func() time.Time { return now }})
	file := func(path string) {
		t.Helper()
		path = filepath.Join(s.Root(), path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	hex := name(1).Encoded()
	file("leases/p-" + hex[:32])
	file("leases/.p-" + hex[:32])
	file("refs/.x.tmp-1-1")
	file(".probe.tmp-1-1")
	file("trees/.tmp-p-" + hex[:32] + "-" + hex[:32] + "/tree/a")
	file("trees/.tmp-relink-" + hex[:32])
	file("maps/sha256/" + hex[:2] + "/" + hex)
	file("suspect/sha256-" + hex)
	file("trash/x-" + hex + "-1")
	gc(t, s, cas.GCOptions{})
	now = now.Add(2 * time.Hour)
	gc(t, s, cas.GCOptions{})
	for _, dir := range []string{"leases", "trash", "suspect", "maps/sha256/" + hex[:2]} {
		if left := list(t, s, dir); len(left) > 0 {
			t.Errorf("%s: left %v", dir, left)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "*", ".*tmp*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), ".probe*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
