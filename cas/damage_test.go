package cas_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// What cannot be read and is in use keeps every blob, is named, and ends
// nothing: trees and leftovers that nobody needs go. Once it is whole again,
// so do the blobs.
func TestGCGoesOnBesideDamage(t *testing.T) {
	index := func(m model) string { return filepath.Join(filepath.Dir(m.tree.Path), "index") }
	away := func(t *testing.T, path string) func() {
		must(t, os.Rename(path, path+".away"))
		return func() { must(t, os.Rename(path+".away", path)) }
	}
	for label, c := range map[string]struct {
		kind string
		harm func(t *testing.T, s *cas.Store, m model, layer digest.Digest) (undo func())
	}{
		"index of a tree": {"tree", func(t *testing.T, _ *cas.Store, m model, _ digest.Digest) func() {
			damage(t, index(m), 70)
			return func() { damage(t, index(m), 70) }
		}},
		"index of a tree that is gone": {"tree", func(t *testing.T, _ *cas.Store, m model, _ digest.Digest) func() { return away(t, index(m)) }},
		"tree that is gone": {"tree", func(t *testing.T, s *cas.Store, m model, _ digest.Digest) func() {
			path, to := filepath.Dir(m.tree.Path), filepath.Join(filepath.Dir(s.Root()), "away")
			must(t, os.Rename(path, to))
			return func() { must(t, os.Rename(to, path)) }
		}},
		"index that is a directory": {"tree", func(t *testing.T, _ *cas.Store, m model, _ digest.Digest) func() {
			undo := away(t, index(m))
			must(t, os.Mkdir(index(m), 0o755))
			return func() { must(t, os.Remove(index(m))); undo() }
		}},
		"record of a layer": {"layer", func(t *testing.T, s *cas.Store, _ model, layer digest.Digest) func() {
			path := filepath.Join(s.Root(), "layers", "sha256", layer.Encoded())
			damage(t, path, 70)
			return func() { damage(t, path, 70) }
		}},
		"record of a layer that is gone": {"layer", func(t *testing.T, s *cas.Store, _ model, layer digest.Digest) func() {
			path, to := filepath.Join(s.Root(), "layers", "sha256", layer.Encoded()), filepath.Join(filepath.Dir(s.Root()), "away")
			must(t, os.Rename(path, to))
			return func() { must(t, os.Rename(to, path)) }
		}},
	} {
		t.Run(label, func(t *testing.T) {
			s := newStore(t)
			l := lease(t, s)
			used, spare, garbage := install(t, s, l, 1), install(t, s, l, 2), install(t, s, l, 3)
			must(t, unpackSmall(s, "packed"))
			_, layer := packed()
			r := used.ref("used")
			r.Layers, r.Pinned = []digest.Digest{layer}, true
			must(t, s.PutRef(t.Context(), r))
			must(t, s.PutRef(t.Context(), spare.ref("spare")))
			must(t, s.DeleteRef(t.Context(), "packed"))
			must(t, l.Release())
			before, err := s.Blobs(t.Context())
			must(t, err)
			undo := c.harm(t, s, used, layer)
			for range 2 {
				res := gc(t, s, cas.GCOptions{MinFree: everything})
				if len(res.Damaged) != 1 || res.Damaged[0].Kind != c.kind || res.Damaged[0].Remedy == "" {
					t.Fatalf("damaged: %+v", res.Damaged)
				}
				after, err := s.Blobs(t.Context())
				must(t, err)
				if len(after) != len(before) {
					t.Errorf("%d blobs of %d are left", len(after), len(before))
				}
				if _, err := s.Ref("spare"); err != nil {
					t.Errorf("a root was deleted, which frees nothing: %v", err)
				}
				if i := item(t, res, "blob", string(garbage.big)); i.Action != cas.Keep || !strings.Contains(i.Reason, c.kind+" ") {
					t.Errorf("%+v", i)
				}
			}
			if _, err := os.Lstat(garbage.tree.Path); !os.IsNotExist(err) {
				t.Errorf("a tree that nobody needs is left: %v", err)
			}
			undo()
			if res := gc(t, s, cas.GCOptions{}); len(res.Damaged) > 0 || has(t, s, garbage.big) || !used.present(t, s) || !spare.present(t, s) {
				t.Errorf("once whole: damaged %v, garbage %v, used %v, spare %v", res.Damaged, has(t, s, garbage.big), used.present(t, s), spare.present(t, s))
			}
		})
	}
}

// A root that is damaged, and that nobody needs, goes first when space is
// short: while it is there no blob can go.
func TestGCEvictsWhatIsDamagedFirst(t *testing.T) {
	at := t.TempDir()
	mount(t, "tmpfs", at, "size=16m") // what others write does not make space short
	s := open(t, filepath.Join(at, "store"), cas.Options{})
	l := lease(t, s)
	broken, older := install(t, s, l, 1), install(t, s, l, 2)
	must(t, s.PutRef(t.Context(), broken.ref("broken")))
	r := older.ref("older")
	r.LastUsed = time.Now().Add(-time.Hour)
	must(t, s.PutRef(t.Context(), r))
	must(t, l.Release())
	damage(t, filepath.Join(filepath.Dir(broken.tree.Path), "index"), 70)
	usage, err := s.Usage(t.Context())
	must(t, err)
	res := gc(t, s, cas.GCOptions{MinFree: usage.DiskFree + 100<<10}) // the older one's are enough
	if len(res.Damaged) > 0 || has(t, s, broken.big) {
		t.Errorf("damaged %v, broken %v", res.Damaged, broken.present(t, s))
	}
}

// Damage of what nobody uses is only garbage.
func TestGCFreesWhatIsDamagedAndUnused(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	must(t, unpackSmall(s, "packed"))
	must(t, s.DeleteRef(t.Context(), "packed"))
	must(t, l.Release())
	_, layer := packed()
	damage(t, filepath.Join(filepath.Dir(m.tree.Path), "index"), 70)
	damage(t, filepath.Join(s.Root(), "layers", "sha256", layer.Encoded()), 70)
	if r := gc(t, s, cas.GCOptions{}); len(r.Damaged) > 0 {
		t.Errorf("%+v", r.Damaged)
	}
	assertEmpty(t, s)
}

// Names that nothing of a store has are left alone, and end nothing.
func TestGCGoesOnBesideStrays(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	garbage := install(t, s, l, 1)
	must(t, l.Release())
	gc(t, s, cas.GCOptions{Grace: time.Hour}) // makes a run
	runs := list(t, s, "trash")
	strays := []string{"blobs/sha256/notes", "maps/sha256/notes", "trees/sha256/notes", "trash/notes"}
	for _, run := range runs {
		if strings.HasPrefix(run, "r-") {
			strays = append(strays, "trash/"+run+"/notes")
		}
	}
	if len(strays) != 5 {
		t.Fatalf("runs %v", runs)
	}
	for _, path := range strays {
		must(t, os.WriteFile(filepath.Join(s.Root(), path), nil, 0o600))
	}
	r := gc(t, s, cas.GCOptions{})
	if garbage.present(t, s) {
		t.Error("garbage is left")
	}
	found, err := s.Fsck(t.Context(), cas.FsckOptions{})
	must(t, err)
	told := ""
	for _, f := range found {
		told += f.Name + "\n"
	}
	for _, path := range strays {
		if _, err := os.Lstat(filepath.Join(s.Root(), path)); err != nil || !strings.Contains(told, path) {
			t.Errorf("%s: %v; fsck tells %q", path, err, told)
		}
		hit := false
		for _, i := range r.Items {
			hit = hit || i.Name == path && i.Action == cas.Keep
		}
		if !hit {
			t.Errorf("gc does not tell of %s", path)
		}
	}
}
