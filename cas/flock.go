package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// flock is an advisory lock of an open file description: it excludes other
// processes and other goroutines alike, and the kernel drops it when its
// owner dies.
type flock struct{ fd int }

// tryLock opens path and takes the lock how (unix.LOCK_SH or LOCK_EX). It
// returns nil without an error when someone else holds it. It waits for no FIFO
// in the file's place.
func tryLock(path string, flags, how int) (*flock, error) {
	fd, err := openRetry(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) { // a link, a socket, a device
		return nil, notALock(path)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	l := &flock{fd}
	if err := l.checkRegular(path); err != nil {
		l.unlock()
		return nil, err
	}
	held, err := l.try(how)
	if err != nil || !held {
		l.unlock()
		return nil, err
	}
	return l, nil
}

func (l *flock) checkRegular(path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return notALock(path)
	}
	return nil
}

func notALock(path string) error {
	return fmt.Errorf("%w: the lock %s is not a regular file; remove it", ErrCorrupt, path)
}

func (l *flock) try(how int) (bool, error) {
	for {
		switch err := unix.Flock(l.fd, how|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("flock: %w", err)
		}
	}
}

// unlock may be called more than once.
func (l *flock) unlock() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
		l.fd = -1
	}
}

// is reports whether path still names the locked inode. A lock on a file that
// its last owner has unlinked protects nothing.
func (l *flock) is(path string) (bool, error) {
	var mine, there unix.Stat_t
	if err := unix.Fstat(l.fd, &mine); err != nil {
		return false, fmt.Errorf("fstat of lock: %w", err)
	}
	if err := unix.Lstat(path, &there); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return mine.Ino == there.Ino && mine.Dev == there.Dev, nil
}

// lockPatience bounds how long anyone waits for the store lock, which nobody
// holds for more than milliseconds.
const lockPatience = 30 * time.Second

// storeLock takes the store lock. It polls, because flock queues no one and
// would leave an exclusive waiter behind a stream of shared holders, and
// because a blocking flock does not end with a context.
func (s *Store) storeLock(ctx context.Context, how int) (*flock, error) {
	path := s.path("lock")
	l, err := tryLock(path, unix.O_RDWR, how)
	if l != nil || err != nil {
		return l, err
	}
	deadline := time.Now().Add(lockPatience)
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 2*time.Millisecond) {
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
		l, err := tryLock(path, unix.O_RDWR, how)
		if l != nil || err != nil {
			return l, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: the lock %s was not free for %v; a stopped process may hold it", ErrBusy, path, lockPatience)
		}
	}
}

func (s *Store) shared(ctx context.Context) (*flock, error) { return s.storeLock(ctx, unix.LOCK_SH) }

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func openRetry(path string, flags int, perm uint32) (int, error) {
	return openRetryAt(unix.AT_FDCWD, path, flags, perm)
}

func openRetryAt(dir int, path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags, perm)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
