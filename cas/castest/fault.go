package castest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// Faults runs the scenario again and again, each time with another operation
// failing with errno (EIO, ENOSPC): the first, the one step later, and so on.
// Whatever the store did about it, a store opened afterwards has to keep every
// promise made up to then. It returns how many faults were tried.
func Faults(t *testing.T, open Open, dir string, errno unix.Errno, step int) (faults int) {
	t.Helper()
	for at := 1; ; at += step {
		root := filepath.Join(dir, "fault")
		fsys := &faultFS{FS: durable.OS, errno: errno, at: at}
		known := newTruth()
		err := scenario(open, root, fsys, known.learn)
		if fsys.n < at {
			if err != nil {
				t.Errorf("without a fault: %v", err)
			}
			return faults
		}
		faults++
		if err != nil && !errors.Is(err, errno) && !errors.Is(err, cas.ErrNoSpace) && !errors.Is(err, cas.ErrClosed) {
			t.Errorf("operation %d (%s) fails with %v, and the store says: %v", at, fsys.what, errno, err)
		}
		if errno == unix.EIO {
			clear(known.checkpointed) // a disk that failed is not built on
		}
		if err := known.check(open, root); err != nil {
			t.Errorf("after operation %d (%s) failed with %v: %v", at, fsys.what, errno, err)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
	}
}

// faultFS fails one operation.
type faultFS struct {
	durable.FS
	errno unix.Errno
	at    int

	mu   sync.Mutex
	n    int
	what string
}

func (f *faultFS) fail(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n != f.at {
		return nil
	}
	f.what = op + " " + filepath.Base(path)
	return &fs.PathError{Op: op, Path: path, Err: f.errno}
}

func (f *faultFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&os.O_CREATE != 0 {
		if err := f.fail("create", name); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f}, nil
}

// unless performs an operation when it is not the one to fail.
func (f *faultFS) unless(op, path string, perform func() error) error {
	if err := f.fail(op, path); err != nil {
		return err
	}
	return perform()
}

func (f *faultFS) Mkdir(name string, perm fs.FileMode) error {
	return f.unless("mkdir", name, func() error { return f.FS.Mkdir(name, perm) })
}

func (f *faultFS) Rename(a, b string) error {
	return f.unless("rename", b, func() error { return f.FS.Rename(a, b) })
}

func (f *faultFS) RenameNew(a, b string) error {
	return f.unless("rename", b, func() error { return f.FS.RenameNew(a, b) })
}

func (f *faultFS) Link(a, b string) error {
	return f.unless("link", b, func() error { return f.FS.Link(a, b) })
}

func (f *faultFS) SyncDir(name string) error {
	return f.unless("syncdir", name, func() error { return f.FS.SyncDir(name) })
}

// faultFile fails what its file system is to fail.
type faultFile struct {
	durable.File
	fs *faultFS
}

func (f *faultFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.unless("write", f.Name(), func() error { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *faultFile) Append(p []byte) error {
	return f.fs.unless("append", f.Name(), func() error { return f.File.Append(p) })
}

func (f *faultFile) Datasync() error {
	return f.fs.unless("fdatasync", f.Name(), f.File.Datasync)
}

func (f *faultFile) Sync() error { return f.fs.unless("fsync", f.Name(), f.File.Sync) }

func (f *faultFile) Allocate(size int64) error {
	return f.fs.unless("fallocate", f.Name(), func() error { return f.File.Allocate(size) })
}
