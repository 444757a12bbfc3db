package durable

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := openPatiently(name, flag|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func openPatiently(name string, flag int, perm fs.FileMode) (*os.File, error) {
	for began := time.Now(); ; time.Sleep(100 * time.Microsecond) {
		f, err := os.OpenFile(name, flag, perm)
		if !errors.Is(err, unix.EAGAIN) || time.Since(began) > leasePatience {
			return f, err
		}
	}
}

// leasePatience is how long a file is waited for whose opening is held up by
// a lease (fcntl(2), F_SETLEASE). A collector has one for microseconds. The
// kernel itself waits only without O_NONBLOCK, which keeps a FIFO in a file's
// place from being waited for.
const leasePatience = 10 * time.Second

func (osFS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }
func (osFS) Link(oldName, newName string) error        { return os.Link(oldName, newName) }
func (osFS) Chmod(name string, perm fs.FileMode) error { return os.Chmod(name, perm) }

func (osFS) Rename(oldName, newName string) error {
	return renameat2("rename", oldName, newName, 0)
}

func (osFS) RenameNew(oldName, newName string) error {
	return renameat2("rename", oldName, newName, unix.RENAME_NOREPLACE)
}

func (osFS) Exchange(a, b string) error {
	return renameat2("exchange", a, b, unix.RENAME_EXCHANGE)
}

func renameat2(op, oldName, newName string, flags uint) error {
	err := retry(func() error { return unix.Renameat2(unix.AT_FDCWD, oldName, unix.AT_FDCWD, newName, flags) })
	if err != nil {
		return &os.LinkError{Op: op, Old: oldName, New: newName, Err: err}
	}
	return nil
}

func (osFS) Unlink(name string) error {
	if err := retry(func() error { return unix.Unlink(name) }); err != nil {
		return &fs.PathError{Op: "unlink", Path: name, Err: err}
	}
	return nil
}

func (osFS) Rmdir(name string) error {
	if err := retry(func() error { return unix.Rmdir(name) }); err != nil {
		return &fs.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

func (osFS) ReadNames(dir string) ([]string, error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

func (osFS) SyncDir(name string) error {
	d, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type osFile struct{ f *os.File }

func (o osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o osFile) Close() error                             { return o.f.Close() }
func (o osFile) Name() string                             { return o.f.Name() }
func (o osFile) Fd() uintptr                              { return o.f.Fd() }
func (o osFile) Stat() (fs.FileInfo, error)               { return o.f.Stat() }
func (o osFile) Truncate(size int64) error                { return o.f.Truncate(size) }
func (o osFile) Chmod(perm fs.FileMode) error             { return o.f.Chmod(perm) }
func (o osFile) Sync() error                              { return o.f.Sync() }

func (o osFile) Append(p []byte) error {
	_, err := o.f.Write(p)
	return err
}

func (o osFile) SetModTime(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return o.wrap("futimes", unix.Futimes(int(o.f.Fd()), []unix.Timeval{tv, tv}))
}

func (o osFile) Allocate(size int64) error {
	if size == 0 {
		return nil
	}
	err := retry(func() error { return unix.Fallocate(int(o.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil // an optimisation that this file system lacks; writes report ENOSPC then
	}
	return o.wrap("fallocate", err)
}

func (o osFile) StartWriteback(off, n int64) error {
	err := unix.SyncFileRange(int(o.f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
	return o.wrap("sync_file_range", err)
}

func (o osFile) Datasync() error {
	return o.wrap("fdatasync", retry(func() error { return unix.Fdatasync(int(o.f.Fd())) }))
}

func (o osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: o.f.Name(), Err: err}
}

// retry repeats a call that a signal interrupted before it had an effect.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
