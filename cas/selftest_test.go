package cas

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Each lie that a file system can tell about locks and names is found, and the
// probe leaves nothing behind.
func TestProbe(t *testing.T) {
	private := func(path string, flags, how int) (*flock, error) { // each opener has a file of its own
		return tryLock(path+"-"+randomID(), flags|unix.O_CREAT, how)
	}
	copied := func(from, to string) error {
		in, err := os.Open(from)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(to)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	}
	stuck := map[string]bool{}
	for _, tt := range []struct {
		lie string
		do  primitives
	}{
		{"two exclusive owners", primitives{private, os.Link, durable.OS.RenameNew}},
		{"a shared owner beside an exclusive one", primitives{func(path string, flags, how int) (*flock, error) {
			if how == unix.LOCK_SH {
				return private(path, flags, how)
			}
			return tryLock(path, flags, how)
		}, os.Link, durable.OS.RenameNew}},
		{"a lock that outlives its owner", primitives{func(path string, flags, how int) (*flock, error) {
			if stuck[path] {
				return nil, nil
			}
			stuck[path] = true
			return tryLock(path, flags, how)
		}, os.Link, durable.OS.RenameNew}},
		{"a lock that nobody gets", primitives{func(string, int, int) (*flock, error) { return nil, nil }, os.Link, durable.OS.RenameNew}},
		{"no links", primitives{tryLock, func(string, string) error { return unix.EPERM }, durable.OS.RenameNew}},
		{"links that are copies", primitives{tryLock, copied, durable.OS.RenameNew}},
		{"a rename that replaces", primitives{tryLock, os.Link, os.Rename}},
		{"a rename that does nothing", primitives{tryLock, os.Link, func(string, string) error { return nil }}},
	} {
		t.Run(tt.lie, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "probe")
			if err := probe(path, tt.do); !errors.Is(err, ErrFileSystem) {
				t.Errorf("error %v", err)
			}
		})
	}
	dir := t.TempDir()
	if err := probe(filepath.Join(dir, "probe"), kernel); err != nil {
		t.Errorf("an honest file system: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Every type that is refused, and the usual local ones that are not.
func TestRefusedFileSystems(t *testing.T) {
	for magic, name := range networkFileSystems {
		if err := refusedFileSystem(magic, "/store"); !errors.Is(err, ErrFileSystem) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, magic := range []uint32{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC} {
		if err := refusedFileSystem(magic, "/store"); err != nil {
			t.Errorf("%#x: %v", magic, err)
		}
	}
}
