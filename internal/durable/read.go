package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is met where a file is looked for and a directory, a symbolic
// link, a FIFO, a socket or a device is found.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLong is a file longer than its reader allows.
var ErrTooLong = errors.New("file is too long")

// Open opens a regular file for reading that others may have put there: it
// follows no final symbolic link and waits for no FIFO. Anything else is
// [ErrNotRegular].
func Open(path string) (*os.File, error) { return openRegular(path, unix.O_NOFOLLOW) }

// OpenLink is [Open] for a path that a person named: links are followed.
func OpenLink(path string) (*os.File, error) { return openRegular(path, 0) }

func openRegular(path string, flag int) (*os.File, error) {
	f, err := openPatiently(path, os.O_RDONLY|unix.O_NONBLOCK|flag, 0)
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV): // a link, a socket, a device
		return nil, fmt.Errorf("%w: %w", ErrNotRegular, err)
	case err != nil:
		return nil, err
	}
	if err := checkRegular(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func checkRegular(f interface{ Stat() (fs.FileInfo, error) }, path string) error {
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	return err
}

// ReadFile reads the file that [Open] opens; more than limit bytes are
// [ErrTooLong].
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, path, limit)
}

// ReadLink reads the file that [OpenLink] opens; more than limit bytes are
// [ErrTooLong].
func ReadLink(path string, limit int64) ([]byte, error) {
	f, err := OpenLink(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, path, limit)
}
