package cas_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// A tree that is put back because someone has a file of it open comes back with
// every file.
func TestGCKeepsFilesOfOpenTree(t *testing.T) {
	s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{})
	l := lease(t, s)
	var entries []cas.TreeEntry
	for n := range 3 {
		b, _ := content(uint64(1000+n), 10_000)
		entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("f%d", n), Blob: put(t, s, l, b)})
	}
	tree, err := s.BuildTree(t.Context(), l, name(51), entries)
	must(t, err)
	reader, err := os.Open(filepath.Join(tree.Path, "f1"))
	must(t, err)
	defer reader.Close()
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	must(t, s.CheckTree(t.Context(), name(51)))
	found, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
	if err != nil || len(found) > 0 {
		t.Errorf("fsck found %+v, %v", found, err)
	}
	must(t, reader.Close())
	gc(t, s, cas.GCOptions{})
	assertEmpty(t, s)
}

// Trees of the same files are probed many at once, and no probe is taken for a
// reader.
func TestGCOfTreesThatShareFiles(t *testing.T) {
	s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{})
	l := lease(t, s)
	var entries []cas.TreeEntry
	for n := range 6 {
		b, _ := content(uint64(1100+n), 10_000)
		entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("f%d", n), Blob: put(t, s, l, b)})
	}
	for n := range 200 {
		_, err := s.BuildTree(t.Context(), l, digest.FromString(fmt.Sprint(n)), entries)
		must(t, err)
	}
	must(t, l.Release())
	if r := gc(t, s, cas.GCOptions{}); r.PutBack != 0 {
		t.Errorf("%d of 200 trees that nobody has open were put back", r.PutBack)
	}
	assertEmpty(t, s)
}

// What is mounted in a tree, or below something in the place of a file, is not
// the store's.
func TestMountsInTheStore(t *testing.T) {
	s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{})
	l := lease(t, s)
	b, d := content(1200, 10_000)
	put(t, s, l, b)
	tree, err := s.BuildTree(t.Context(), l, name(50), []cas.TreeEntry{{Path: "sub/f", Blob: d}, {Path: "g", Blob: d}})
	must(t, err)
	must(t, l.Release())
	victim, unchanged := outside(t, d.Encoded())
	at := filepath.Join(tree.Path, "sub")
	must(t, unix.Mount(victim, at, "", unix.MS_BIND, ""))
	defer unix.Unmount(at, unix.MNT_DETACH)
	for range 2 {
		r := gc(t, s, cas.GCOptions{})
		if i := item(t, r, "tree", string(name(50))); i.Action != cas.Keep || i.Reason != "mounted" {
			t.Errorf("%+v", i)
		}
		unchanged()
	}
	must(t, unix.Unmount(at, 0))

	other, missing := content(1201, 300)
	under := filepath.Join(s.Root(), "ingest", "sha256-"+missing.Encoded(), "data", "in")
	must(t, os.MkdirAll(under, 0o755))
	must(t, unix.Mount(victim, under, "", unix.MS_BIND, ""))
	defer unix.Unmount(under, unix.MNT_DETACH)
	l = lease(t, s)
	if err := s.Put(t.Context(), l, missing, other); !errors.Is(err, cas.ErrFileSystem) || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("a pull past a mount: %v", err)
	}
	unchanged()
	must(t, unix.Unmount(under, 0))
	must(t, s.Put(t.Context(), l, missing, other))
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	assertEmpty(t, s)
}

// A collection frees a disk without a single free block, whoever filled it.
func TestGCOnFullDisk(t *testing.T) {
	_, at := disk(t, 48<<20, "loop")
	s := open(t, filepath.Join(at, "store"), cas.Options{})
	gc(t, s, cas.GCOptions{}) // cron's, before
	l := lease(t, s)
	for n := range 300 { // more names than a block of a directory has room for
		b, _ := content(uint64(2000+n), 5000)
		put(t, s, l, b)
	}
	must(t, l.Release())
	for n, step := range []int{1 << 20, 4096, 1} {
		f, err := os.Create(filepath.Join(at, fmt.Sprintf("fill-%d", n)))
		must(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, step))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		must(t, f.Close())
	}
	if err := os.Mkdir(filepath.Join(at, "more"), 0o755); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	r := gc(t, s, cas.GCOptions{})
	if r.Freed < 300*5000 {
		t.Errorf("freed %d bytes of %d", r.Freed, 300*5000)
	}
	assertEmpty(t, s)
}

// renameFS calls before a rename.
type renameFS struct {
	durable.FS
	before func(from, to string)
}

func (h *renameFS) Rename(from, to string) error {
	h.before(from, to)
	return h.FS.Rename(from, to)
}

// Of two that find a directory in the place of a lock, the slower takes nothing
// from the faster, who is at work there by then.
func TestLockMendedByAnother(t *testing.T) {
	root := filepath.Join(fastDir(t), "store")
	b, d := content(901, 3<<20)
	faster := open(t, root, cas.Options{})
	l := lease(t, faster)
	must(t, os.MkdirAll(filepath.Join(root, "ingest", "sha256-"+d.Encoded(), "lock"), 0o755))
	var i *cas.Ingest
	writing := make(chan struct{})
	h := &renameFS{FS: durable.OS, before: func(_, to string) {
		if i != nil || !strings.Contains(to, "/trash/x-") {
			return
		}
		var err error
		if i, err = faster.Ingest(t.Context(), l, d, int64(len(b)), cas.IngestOptions{}); err == nil {
			_, err = i.WriteAt(b, 0)
		}
		if err != nil {
			t.Error(err)
		}
		close(writing)
	}}
	slower := open(t, root, cas.Options{FS: h})
	l2 := lease(t, slower)
	ended := make(chan error, 1)
	go func() {
		_, err := slower.Ingest(t.Context(), l2, d, int64(len(b)), cas.IngestOptions{})
		ended <- err
	}()
	<-writing
	must(t, i.Commit(t.Context()))
	if err := <-ended; !errors.Is(err, cas.ErrExists) {
		t.Errorf("the slower: %v", err)
	}
	if got := digest.FromBytes(read(t, slower, d)); got != d {
		t.Errorf("published %s under %s", got, d)
	}
}

// An ingest directory that was moved away under its writer publishes nothing:
// what was hashed is an open file, and the name may be another's by now.
func TestIngestMovedAway(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, d := content(902, 3<<20)
	i, err := s.Ingest(t.Context(), l, d, int64(len(b)), cas.IngestOptions{})
	must(t, err)
	_, err = i.WriteAt(b, 0)
	must(t, err)
	dir := filepath.Join(s.Root(), "ingest", "sha256-"+d.Encoded())
	must(t, os.Rename(dir, filepath.Join(t.TempDir(), "away")))
	other, err := s.Ingest(t.Context(), l, d, int64(len(b)), cas.IngestOptions{})
	must(t, err)
	wantError(t, i.Commit(t.Context()), cas.ErrIncomplete)
	if has(t, s, d) {
		t.Error("an empty file was published")
	}
	_, err = other.WriteAt(b, 0)
	must(t, err)
	must(t, other.Commit(t.Context()))
	if digest.FromBytes(read(t, s, d)) != d {
		t.Error("wrong bytes were published")
	}
}

// vanishFS loses a file at the moment that it is opened for the n-th time.
type vanishFS struct {
	durable.FS
	path  string
	opens int
	n     int
}

func (v *vanishFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if name == v.path {
		if v.opens++; v.opens == v.n {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	return v.FS.OpenFile(name, flag, perm)
}

// A blob that is collected at any moment of a scrub is no finding, and the
// scrub goes on.
func TestScrubOfWhatIsCollected(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		for n := 1; ; n++ {
			root := filepath.Join(fastDir(t), "store")
			b, d := content(903, 3<<20)
			path := filepath.Join(root, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
			s := open(t, root, cas.Options{})
			put(t, s, lease(t, s), b)
			if !mapped {
				must(t, os.Remove(filepath.Join(root, "maps", "sha256", d.Encoded()[:2], d.Encoded())))
			}
			v := &vanishFS{FS: durable.OS, path: path, n: n}
			r, err := open(t, root, cas.Options{FS: v}).Scrub(t.Context(), cas.ScrubOptions{})
			if err != nil || len(r.Findings) > 0 {
				t.Errorf("collected when opened for the %d. time, map %t: %+v, %v", n, mapped, r.Findings, err)
			}
			if v.opens < n {
				if n == 1 {
					t.Error("the scrub opened nothing")
				}
				break
			}
		}
	}
}
