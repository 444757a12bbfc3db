package cas_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/resultity/rmodels/cas"
)

// Each violation is found, under the kind that it belongs to, with a remedy.
func TestFsckFinds(t *testing.T) {
	hex := name(9).Encoded()
	write := func(t *testing.T, path string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte("x"), 0o444))
	}
	tests := map[string]struct {
		kind string
		harm func(t *testing.T, s *cas.Store, m model)
		hash bool
	}{
		"stranger at the top": {"store", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "notes")) }, false},
		"directory gone": {"store", func(t *testing.T, s *cas.Store, m model) {
			must(t, os.Remove(filepath.Join(s.Root(), "suspect")))
			must(t, os.Symlink(t.TempDir(), filepath.Join(s.Root(), "suspect")))
		}, false},
		"blob in the wrong place": {"blob", func(t *testing.T, s *cas.Store, m model) {
			write(t, filepath.Join(s.Root(), "blobs", "sha256", "00", "ff"+hex[2:]))
		}, false},
		"blob with another mode": {"blob", func(t *testing.T, s *cas.Store, m model) { must(t, os.Chmod(blobPath(s, m.manifest), 0o644)) }, false},
		"blob written to":        {"blob", func(t *testing.T, s *cas.Store, m model) { damage(t, blobPath(s, m.manifest), 3) }, false},
		"blob of another owner":  {"blob", func(t *testing.T, s *cas.Store, m model) { must(t, os.Chown(blobPath(s, m.manifest), 1234, 0)) }, false},
		"blob that is a link": {"blob", func(t *testing.T, s *cas.Store, m model) {
			must(t, os.Remove(blobPath(s, m.manifest)))
			must(t, os.Symlink("/etc/passwd", blobPath(s, m.manifest)))
		}, false},
		"blob with other bytes": {"blob", func(t *testing.T, s *cas.Store, m model) {
			damage(t, blobPath(s, m.big), 3)
			must(t, os.Chtimes(blobPath(s, m.big), cas.Epoch, cas.Epoch))
		}, true},
		"blob of another size": {"blob", func(t *testing.T, s *cas.Store, m model) { must(t, os.Truncate(blobPath(s, m.big), 70<<10)) }, false},
		"map damaged":          {"map", func(t *testing.T, s *cas.Store, m model) { damage(t, mapPath(s, m.big), 9) }, false},
		"map without a blob": {"map", func(t *testing.T, s *cas.Store, m model) {
			write(t, filepath.Join(s.Root(), "maps", "sha256", hex[:2], hex))
		}, false},
		"suspect blob":              {"blob", func(t *testing.T, s *cas.Store, m model) { must(t, s.Discard(t.Context(), m.big, "test")) }, false},
		"flag without a blob":       {"flag", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "suspect", "sha256-"+hex)) }, false},
		"tree with a file too many": {"tree", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(m.tree.Path, "extra")) }, false},
		"tree without an index": {"tree", func(t *testing.T, s *cas.Store, m model) {
			must(t, os.Remove(filepath.Join(m.tree.Path, "..", "index")))
		}, false},
		"unfinished tree":            {"tree", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "trees", ".tmp-x", "y")) }, false},
		"ref damaged":                {"ref", func(t *testing.T, s *cas.Store, m model) { damage(t, filepath.Join(s.Root(), "refs", "net%2Fa"), 66) }, false},
		"ref to a blob that is gone": {"ref", func(t *testing.T, s *cas.Store, m model) { must(t, os.Remove(blobPath(s, m.manifest))) }, false},
		"ref to a tree that is gone": {"ref", func(t *testing.T, s *cas.Store, m model) { must(t, os.RemoveAll(filepath.Dir(m.tree.Path))) }, false},
		"dead lease":                 {"lease", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "leases", "p-"+hex[:32])) }, false},
		"damaged token":              {"lease", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "leases", "t-"+hex[:32])) }, false},
		"stranger among the ingests": {"partial", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "ingest", "x")) }, false},
		"damaged checkpoint": {"partial", func(t *testing.T, s *cas.Store, m model) {
			write(t, filepath.Join(s.Root(), "ingest", "sha256-"+hex, "progress"))
		}, false},
		"stranger in the trash": {"trash", func(t *testing.T, s *cas.Store, m model) { write(t, filepath.Join(s.Root(), "trash", "y")) }, false},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{Now: time.Now})
			l := lease(t, s)
			m := install(t, s, l, 1)
			must(t, s.PutRef(t.Context(), m.ref("net/a")))
			must(t, l.Release())
			if clean, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true}); err != nil || len(clean) > 0 {
				t.Fatalf("before the harm: %+v, %v", clean, err)
			}
			tt.harm(t, s, m)
			found, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: tt.hash})
			must(t, err)
			hit := false
			for _, f := range found {
				hit = hit || f.Kind == tt.kind
				if f.Remedy == "" || f.Problem == "" || f.Name == "" {
					t.Errorf("finding without a name, problem or remedy: %+v", f)
				}
			}
			if !hit {
				t.Errorf("no finding of kind %s: %+v", tt.kind, found)
			}
		})
	}
}
