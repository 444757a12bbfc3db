package cas_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// outside is a directory that is not the store's, with names that are.
func outside(t *testing.T, hex string) (dir string, unchanged func()) {
	t.Helper()
	dir = t.TempDir()
	names := []string{"a", "b", "lock", "data", "progress", "index", hex, "b-" + hex, "sha256-" + hex, "r-1-x"}
	for _, n := range names {
		must(t, os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644))
	}
	must(t, os.MkdirAll(filepath.Join(dir, "tree", "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "tree", "big"), []byte("big"), 0o644))
	return dir, func() {
		t.Helper()
		entries, err := os.ReadDir(dir)
		must(t, err)
		if len(entries) != len(names)+1 {
			t.Errorf("the directory outside holds %v", entries)
		}
		for _, n := range names {
			if b, err := os.ReadFile(filepath.Join(dir, n)); err != nil || string(b) != n {
				t.Errorf("%s outside: %q, %v", n, b, err)
			}
		}
		inner, err := os.ReadDir(filepath.Join(dir, "tree"))
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(dir, "tree", "big")); err != nil || string(b) != "big" || len(inner) != 2 {
			t.Errorf("the tree outside holds %v; %q, %v", inner, b, err)
		}
	}
}

// A symbolic link in the place of a directory leads nobody out of the store:
// pulls are refused or unaffected, fsck names it, and a collection takes the
// link away; where it stands for a tree in use, no blob goes before that root does.
func TestLinksInPlaceOfDirectories(t *testing.T) {
	b, stray := content(77, 300)
	tests := map[string]struct {
		at   func(m model, dead cas.Tree) string
		ours func(m model) digest.Digest // whose ingest meets the link; empty: nobody's
		stop bool                        // a collection stops
	}{
		"ingest of a published blob": {func(m model, _ cas.Tree) string { return "ingest/sha256-" + m.big.Encoded() }, func(m model) digest.Digest { return m.big }, false},
		"ingest of a missing blob":   {func(model, cas.Tree) string { return "ingest/sha256-" + stray.Encoded() }, func(model) digest.Digest { return stray }, false},
		"ingest of nobody":           {func(model, cas.Tree) string { return "ingest/sha256-" + name(5).Encoded() }, nil, false},
		"blobs of a byte":            {func(model, cas.Tree) string { return "blobs/sha256/" + stray.Encoded()[:2] }, func(model) digest.Digest { return stray }, false},
		"maps of a byte":             {func(model, cas.Tree) string { return "maps/sha256/" + stray.Encoded()[:2] }, nil, false},
		"layers":                     {func(model, cas.Tree) string { return "layers/sha256" }, nil, true},
		"tree that nobody uses":      {func(_ model, dead cas.Tree) string { return "trees/sha256/" + dead.Name.Encoded() }, nil, false},
		"tree of a ref":              {func(m model, _ cas.Tree) string { return "trees/sha256/" + m.manifest.Encoded() }, nil, false},
		"files of a tree":            {func(m model, _ cas.Tree) string { return "trees/sha256/" + m.manifest.Encoded() + "/tree" }, nil, false},
		"stranger in the trash":      {func(model, cas.Tree) string { return "trash/x" }, nil, false},
		"collection":                 {func(model, cas.Tree) string { return "trash/r-1-x" }, nil, false},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{Now: func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }})
			l := lease(t, s)
			m := install(t, s, l, 1)
			must(t, s.PutRef(t.Context(), m.ref("net/a")))
			dead, err := s.BuildTree(t.Context(), l, name(6), []cas.TreeEntry{{Path: "big", Blob: m.big}})
			must(t, err)
			must(t, l.Release())
			victim, unchanged := outside(t, stray.Encoded())
			link := filepath.Join(s.Root(), tt.at(m, dead))
			must(t, os.RemoveAll(link))
			must(t, os.MkdirAll(filepath.Dir(link), 0o755))
			must(t, os.Symlink(victim, link))

			found, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
			must(t, err)
			named := false
			for _, f := range found {
				named = named || strings.Contains(f.Name+f.Problem, filepath.Base(link))
			}
			if !named {
				t.Errorf("fsck does not name the link: %+v", found)
			}
			unchanged()

			if tt.ours != nil {
				d := tt.ours(m)
				again := lease(t, s)
				i, err := s.Ingest(t.Context(), again, d, 300, cas.IngestOptions{})
				if err == nil {
					must(t, i.Close())
				}
				if !errors.Is(err, cas.ErrFileSystem) || !strings.Contains(err.Error(), link) {
					t.Errorf("ingest past a link: %v", err)
				}
				unchanged()
				must(t, again.Release())
			}
			_ = s.CheckTree(t.Context(), m.manifest)
			_, err = s.Scrub(t.Context(), cas.ScrubOptions{})
			must(t, err)
			unchanged()

			r, err := s.GC(t.Context(), cas.GCOptions{Proc: "/proc"})
			if label == "tree of a ref" && len(r.Damaged) != 1 {
				t.Errorf("damaged: %+v", r.Damaged)
			}
			if tt.stop != (err != nil) {
				t.Errorf("gc: %v", err)
			}
			unchanged()
			if tt.stop {
				return
			}
			_, err = s.GC(t.Context(), cas.GCOptions{Proc: "/proc", MinFree: 1 << 60, PartialAge: time.Nanosecond})
			must(t, err) // short of space, it evicts the ref
			unchanged()
			if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the link after a collection: %v", err)
			}
			l = lease(t, s)
			must(t, s.Put(t.Context(), l, stray, b))
			unchanged()
		})
	}
}

// A pull mends a tree that a link stands for, and nothing of it goes where the
// link leads.
func TestTreeBuiltOverLink(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	victim, unchanged := outside(t, m.big.Encoded())
	link := filepath.Dir(m.tree.Path)
	must(t, os.RemoveAll(link))
	must(t, os.Symlink(victim, link))
	if err := s.CheckTree(t.Context(), m.manifest); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("a link for a tree: %v", err)
	}
	_, err := s.BuildTree(t.Context(), l, m.manifest, m.tree.Entries)
	must(t, err)
	must(t, s.CheckTree(t.Context(), m.manifest))
	unchanged()
}

// A store whose directory of layers is a link is not opened, as for the other
// directories.
func TestOpenRefusesLinkedLayers(t *testing.T) {
	s := newStore(t)
	victim, unchanged := outside(t, name(1).Encoded())
	must(t, os.Symlink(victim, filepath.Join(s.Root(), "layers")))
	if _, err := cas.Open(s.Root(), cas.Options{}); !errors.Is(err, cas.ErrFileSystem) {
		t.Errorf("open: %v", err)
	}
	unchanged()
}

// A FIFO in the place of a lease holds nobody up.
func TestLeaseThatIsFIFO(t *testing.T) {
	s := newStore(t)
	fifo := filepath.Join(s.Root(), "leases", "p-"+name(1).Encoded()[:32])
	must(t, unix.Mkfifo(fifo, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 2)
	go func() {
		found, err := s.Fsck(ctx, cas.FsckOptions{})
		if err == nil && (len(found) != 1 || found[0].Kind != "lease" || !strings.Contains(found[0].Problem, "not a regular file")) {
			t.Errorf("fsck found %+v", found)
		}
		done <- err
		_, err = s.GC(ctx, cas.GCOptions{Proc: "/proc"})
		done <- err
	}()
	for _, want := range []error{nil, cas.ErrCorrupt} {
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("%v instead of %v", err, want)
			}
		case <-ctx.Done():
			t.Fatal("held up by a FIFO")
		}
	}
}

// A directory in the place of a file is in nobody's way: fsck names it, and a
// pull or a collection moves it.
func TestDirectoriesInPlaceOfFiles(t *testing.T) {
	b, stray := content(78, 2<<20) // has a map
	_, layer := packed()
	put := func(s *cas.Store, l *cas.Lease) error { return s.Put(t.Context(), l, stray, b) }
	pack := func(s *cas.Store, l *cas.Lease) error { _, err := unpack(s, l, b); return err }
	partial := "ingest/sha256-" + stray.Encoded()
	tests := map[string]struct {
		at   string
		pull func(*cas.Store, *cas.Lease) error
	}{
		"blob":              {"blobs/sha256/" + stray.Encoded()[:2] + "/" + stray.Encoded(), put},
		"file of a layer":   {"blobs/sha256/" + stray.Encoded()[:2] + "/" + stray.Encoded(), pack},
		"map":               {"maps/sha256/" + stray.Encoded()[:2] + "/" + stray.Encoded(), put},
		"flag":              {"suspect/sha256-" + stray.Encoded(), put},
		"flag, of a layer":  {"suspect/sha256-" + stray.Encoded(), pack},
		"lock":              {partial + "/lock", put},
		"partial bytes":     {partial + "/data", put},
		"checkpoint":        {partial + "/progress", put},
		"note":              {partial + "/written", put},
		"record of a layer": {"layers/sha256/" + layer.Encoded(), pack},
		"ingest of a layer": {"ingest/sha256-" + layer.Encoded() + "/lock", pack},
	}
	for label, tt := range tests {
		for _, pull := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, pull %t", label, pull), func(t *testing.T) {
				s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{Now: func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }})
				l := lease(t, s)
				dir := filepath.Join(s.Root(), tt.at)
				must(t, os.MkdirAll(filepath.Join(dir, "inner"), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, "inner", "file"), b, 0o644))

				found, err := s.Fsck(t.Context(), cas.FsckOptions{})
				must(t, err)
				if len(found) == 0 {
					t.Error("fsck finds nothing")
				}
				if pull {
					must(t, tt.pull(s, l))
				}
				must(t, l.Release())
				gc(t, s, cas.GCOptions{Proc: "/proc"})
				gc(t, s, cas.GCOptions{Proc: "/proc"})
				assertEmpty(t, s)
			})
		}
	}
}
