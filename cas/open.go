package cas

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// isOpen asks the kernel whether any process has the inode at path open or
// mapped, through whatever name or mount: it grants a write lease only to the
// sole opener (fcntl(2), F_SETLEASE). The lease is given back at once; whoever
// opens the file in between is held up that long.
func isOpen(path string) (bool, error) { return isOpenAt(unix.AT_FDCWD, path) }

// isOpenAt is isOpen for a path below the directory dir.
func isOpenAt(dir int, path string) (bool, error) {
	fd, err := openRetryAt(dir, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EAGAIN) {
		return true, nil // another probe, or an opener of it, has it
	}
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true, nil
	case err != nil:
		return false, &fs.PathError{Op: "fcntl F_SETLEASE", Path: path, Err: err}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return false, &fs.PathError{Op: "fcntl F_SETLEASE", Path: path, Err: err}
	}
	return false, nil
}
