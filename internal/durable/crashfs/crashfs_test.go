package crashfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/durable/crashfs"
)

// outcomes is what every possible crash of a program leaves of one file: its
// bytes, or "-" when it is not there.
func outcomes(t *testing.T, name string, program func(fsys durable.FS, dir string) error) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	r, err := crashfs.Record(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := program(r, dir); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	p := r.Replay()
	for {
		for _, loss := range crashfs.Losses() {
			for seed := range uint64(8) {
				state := t.TempDir()
				if err := p.Rebuild(state, loss, seed); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(state, name))
				if err != nil {
					b = []byte("-")
				}
				seen[string(b)] = true
			}
		}
		if _, _, ok := p.Next(); !ok {
			return seen
		}
	}
}

// The model has to allow what goes wrong when a step is left out, and nothing
// else: otherwise a suite that runs on it proves nothing.
func TestOutcomes(t *testing.T) {
	write := func(fsys durable.FS, path, content string, sync bool) error {
		f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(content), 0); err != nil {
			return err
		}
		if sync {
			return f.Sync()
		}
		return nil
	}
	tests := []struct {
		name    string
		program func(fsys durable.FS, dir string) error
		want    []string
	}{
		{"WriteFile is all or nothing", func(fsys durable.FS, dir string) error {
			return durable.WriteFileFS(fsys, filepath.Join(dir, "x"), []byte("new"), 0o600)
		}, []string{"-", "new"}},
		{"rename before fsync leaves an empty or zeroed file", func(fsys durable.FS, dir string) error {
			if err := write(fsys, filepath.Join(dir, "tmp"), "new", false); err != nil {
				return err
			}
			return fsys.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "x"))
		}, []string{"-", "new", "", "\x00\x00\x00"}},
		{"fsync of a file does not keep its name", func(fsys durable.FS, dir string) error {
			return write(fsys, filepath.Join(dir, "x"), "new", true)
		}, []string{"-", "new", "", "\x00\x00\x00"}},
		{"a replaced file is the old one or the new one", func(fsys durable.FS, dir string) error {
			path := filepath.Join(dir, "x")
			if err := durable.WriteFileFS(fsys, path, []byte("old"), 0o600); err != nil {
				return err
			}
			return durable.WriteFileFS(fsys, path, []byte("new"), 0o600)
		}, []string{"-", "old", "new"}},
		{"a name in a directory that is not durable is lost with it", func(fsys durable.FS, dir string) error {
			sub := filepath.Join(dir, "d")
			if err := fsys.Mkdir(sub, 0o755); err != nil {
				return err
			}
			return durable.WriteFileFS(fsys, filepath.Join(sub, "x"), []byte("new"), 0o600)
		}, []string{"-", "new"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := "x"
			if tt.name[:6] == "a name" {
				file = "d/x"
			}
			got := outcomes(t, file, tt.program)
			for _, w := range tt.want {
				if !got[w] {
					t.Errorf("%q did not happen", w)
				}
				delete(got, w)
			}
			for g := range got {
				t.Errorf("%q happened", g)
			}
		})
	}
}

func TestDurableOnceReturned(t *testing.T) {
	dir := t.TempDir()
	r, err := crashfs.Record(dir)
	if err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "a", "b")
	if err := durable.MkdirAllFS(r, deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFileFS(r, filepath.Join(deep, "x"), []byte("kept"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := durable.AppendLineFS(r, filepath.Join(deep, "log"), []byte("line"), 0o640); err != nil {
		t.Fatal(err)
	}
	p := r.Replay()
	for {
		if _, _, ok := p.Next(); !ok {
			break
		}
	}
	for _, loss := range crashfs.Losses() {
		state := t.TempDir()
		if err := p.Rebuild(state, loss, 1); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"x": "kept", "log": "line\n"} {
			if b, err := os.ReadFile(filepath.Join(state, "a", "b", name)); err != nil || string(b) != want {
				t.Errorf("%v lost: %s is %q, %v", loss, name, b, err)
			}
		}
	}
}

// full is a file system without an inode for a new file.
type full struct{ durable.FS }

func (f full) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&os.O_EXCL != 0 {
		return nil, unix.ENOSPC
	}
	return f.FS.OpenFile(name, flag, perm)
}

// A file that is replaced out of the reserve is the old one or the new one,
// whenever the power fails.
func TestReserveOutcomes(t *testing.T) {
	got := outcomes(t, "record", func(fsys durable.FS, dir string) error {
		path := filepath.Join(dir, "record")
		if err := durable.WriteFileFS(fsys, path, []byte("old"), 0o600); err != nil {
			return err
		}
		spare, err := fsys.OpenFile(filepath.Join(dir, ".reserve-0"), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(spare.Sync(), spare.Close(), fsys.SyncDir(dir)); err != nil {
			return err
		}
		return durable.WriteFileFS(full{fsys}, path, []byte("new"), 0o600)
	})
	for content := range got {
		if content != "-" && content != "old" && content != "new" { // "-": before the old one was there
			t.Errorf("%q happened", content)
		}
	}
	if !got["old"] || !got["new"] {
		t.Errorf("happened: %v", got)
	}
}
