package cas_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

func TestBuildTree(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	big, _ := content(1, 100<<10)
	entries := []cas.TreeEntry{
		{Path: "weights/model.gguf", Blob: put(t, s, l, big)},
		{Path: "config.json", Blob: put(t, s, l, []byte(`{"a":1}`))},
		{Path: "empty", Blob: put(t, s, l, nil)},
		{Path: "weights/again.gguf", Blob: put(t, s, l, big)},
		{Path: "bin/run", Blob: put(t, s, l, big), Executable: true},
	}
	tree, err := s.BuildTree(t.Context(), l, name(1), entries)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Name != name(1) || len(tree.Entries) != 5 || tree.Size != 3*100<<10+7 {
		t.Errorf("tree %+v", tree)
	}
	stat := func(path string) *syscall.Stat_t {
		t.Helper()
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Sys().(*syscall.Stat_t)
	}
	blob := stat(blobPath(s, entries[0].Blob))
	for path, want := range map[string]struct {
		mode   uint32
		linked bool
	}{
		"weights/model.gguf": {0o444, true},
		"weights/again.gguf": {0o444, true},
		"config.json":        {0o444, false},
		"empty":              {0o444, false},
		"bin/run":            {0o555, false},
	} {
		st := stat(filepath.Join(tree.Path, path))
		if st.Mode&0o7777 != want.mode || (st.Ino == blob.Ino) != want.linked || st.Mtim.Sec != cas.Epoch.Unix() {
			t.Errorf("%s: mode %o, linked %v, mtime %d", path, st.Mode&0o7777, st.Ino == blob.Ino, st.Mtim.Sec)
		}
	}
	for _, dir := range []string{"", "weights", "bin"} {
		if st := stat(filepath.Join(tree.Path, dir)); st.Mode&0o7777 != 0o555 {
			t.Errorf("directory %q has mode %o", dir, st.Mode&0o7777)
		}
	}
	if err := s.CheckTree(t.Context(), name(1)); err != nil {
		t.Error(err)
	}
	before := stat(tree.Path).Ino
	slices.Reverse(entries)
	if _, err := s.BuildTree(t.Context(), l, name(1), entries); err != nil {
		t.Fatal(err)
	}
	if stat(tree.Path).Ino != before {
		t.Error("a tree that was right was built again")
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "trees", ".tmp*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	_, err = s.Tree(name(2))
	wantError(t, err, cas.ErrNotFound)
	wantError(t, s.CheckTree(t.Context(), name(2)), cas.ErrNotFound)
}

func TestBuildTreeRefuses(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	d := put(t, s, l, []byte("x"))
	tests := map[string][]string{
		"parent":          {"../x"},
		"inner parent":    {"a/../../x"},
		"absolute":        {"/etc/passwd"},
		"empty":           {""},
		"dot":             {"."},
		"dot component":   {"a/./b"},
		"trailing slash":  {"a/"},
		"double slash":    {"a//b"},
		"backslash":       {`a\b`},
		"newline":         {"a\nb"},
		"nul":             {"a\x00b"},
		"invalid UTF-8":   {"a\xff"},
		"long name":       {strings.Repeat("a", 256)},
		"twice":           {"a", "a"},
		"file and parent": {"a", "a/b"},
		"far parent":      {"a", "a/b/c/d"},
	}
	for label, paths := range tests {
		t.Run(label, func(t *testing.T) {
			var entries []cas.TreeEntry
			for _, p := range paths {
				entries = append(entries, cas.TreeEntry{Path: p, Blob: d})
			}
			_, err := s.BuildTree(t.Context(), l, name(1), entries)
			wantError(t, err, cas.ErrInvalid)
		})
	}
	_, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: name(9)}})
	wantError(t, err, cas.ErrNotFound)
	if names := list(t, s, "trees"); len(names) != 1 {
		t.Errorf("left %v", names)
	}
	if _, err := s.BuildTree(t.Context(), l, name(1), nil); err != nil {
		t.Errorf("an empty tree: %v", err)
	}
}

// Each kind of damage to a tree is found by the quick check and healed by
// building it again, except for bytes that the blob itself lost.
func TestCheckTreeFinds(t *testing.T) {
	big, _ := content(1, 100<<10)
	tests := map[string]struct {
		harm   func(t *testing.T, dir string)
		unmade bool // building it again cannot help
	}{
		"file removed": {harm: func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "sub/big"))) }},
		"file added":   {harm: func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, "extra"), nil, 0o644)) }},
		"link to elsewhere": {harm: func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "sub/big")))
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "sub/big")))
		}},
		"same bytes in another file": {harm: func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, "sub/big")))
			must(t, os.WriteFile(filepath.Join(dir, "sub/big"), big, 0o444))
			must(t, os.Chtimes(filepath.Join(dir, "sub/big"), cas.Epoch, cas.Epoch))
		}},
		"small copy changed": {harm: func(t *testing.T, dir string) {
			damage(t, filepath.Join(dir, "small"), 1)
			must(t, os.Chtimes(filepath.Join(dir, "small"), cas.Epoch, cas.Epoch))
		}},
		"directory replaced": {harm: func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "sub")))
			must(t, os.WriteFile(filepath.Join(dir, "sub"), nil, 0o444))
		}},
		"index damaged":         {harm: func(t *testing.T, dir string) { damage(t, filepath.Join(dir, "..", "index"), 60) }},
		"index removed":         {harm: func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "..", "index"))) }},
		"large file written to": {harm: func(t *testing.T, dir string) { damage(t, filepath.Join(dir, "sub/big"), 5) }, unmade: true},
	}
	for label, tt := range tests {
		t.Run(label, func(t *testing.T) {
			s := newStore(t)
			l := lease(t, s)
			entries := []cas.TreeEntry{{Path: "sub/big", Blob: put(t, s, l, big)}, {Path: "small", Blob: put(t, s, l, []byte("small"))}}
			tree, err := s.BuildTree(t.Context(), l, name(1), entries)
			if err != nil {
				t.Fatal(err)
			}
			tt.harm(t, tree.Path)
			wantError(t, s.CheckTree(t.Context(), name(1)), cas.ErrCorrupt)
			_, err = s.BuildTree(t.Context(), l, name(1), entries)
			if tt.unmade {
				wantError(t, err, cas.ErrSuspect)
			} else if err != nil {
				t.Fatal(err)
			}
			if err := s.CheckTree(t.Context(), name(1)); (err != nil) != tt.unmade {
				t.Errorf("after building it again: %v", err)
			}
			if got, _ := os.ReadFile(filepath.Join(tree.Path, "sub/big")); !tt.unmade && !bytes.Equal(got, big) {
				t.Error("the tree shows something else")
			}
		})
	}
}

// What was touched is not used until its bytes were hashed again; then it is
// as good as before.
func TestTouchedFile(t *testing.T) {
	for label, touch := range map[string]func(path string) error{
		"time":  func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) },
		"mode":  func(path string) error { return os.Chmod(path, 0o646) },
		"owner": func(path string) error { return os.Chown(path, 65534, -1) },
	} {
		t.Run(label, func(t *testing.T) {
			if label == "owner" && os.Geteuid() != 0 {
				return // nobody else can give a file away
			}
			s := newStore(t)
			l := lease(t, s)
			big, _ := content(1, 100<<10)
			blob := put(t, s, l, big)
			entries := []cas.TreeEntry{{Path: "big", Blob: blob}}
			if _, err := s.BuildTree(t.Context(), l, name(1), entries); err != nil {
				t.Fatal(err)
			}
			for _, mend := range []func() error{
				func() error {
					_, err := s.Verify(t.Context(), []digest.Digest{blob}, cas.VerifyOptions{})
					return err
				},
				func() error {
					return s.Repair(t.Context(), blob, func(context.Context, int64, int64, io.WriterAt) error {
						return errors.New("nothing is to be fetched")
					})
				},
			} {
				must(t, touch(blobPath(s, blob)))
				wantError(t, s.CheckTree(t.Context(), name(1)), cas.ErrSuspect)
				_, err := s.Open(blob)
				wantError(t, err, cas.ErrSuspect)
				must(t, mend())
				must(t, s.CheckTree(t.Context(), name(1)))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBuildTreeConcurrently(t *testing.T) {
	s := newStore(t)
	big, _ := content(1, 100<<10)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			l, err := s.Lease(t.Context(), "race")
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Release()
			d := put(t, s, l, big)
			if _, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: d}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.CheckTree(t.Context(), name(1)); err != nil {
		t.Error(err)
	}
}

func TestTreeOnAnotherMount(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	big, _ := content(1, 100<<10)
	d := put(t, s, l, big)
	mount(t, "tmpfs", filepath.Join(s.Root(), "trees"), "size=1m")
	must(t, os.Mkdir(filepath.Join(s.Root(), "trees", "sha256"), 0o755))
	_, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: d}})
	if !errors.Is(err, cas.ErrFileSystem) {
		t.Errorf("links across mounts: %v", err)
	}
}
