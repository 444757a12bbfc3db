package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy says that another process works on the same thing.
var ErrBusy = errors.New("busy")

// lock is an advisory file lock. The kernel drops it when the process ends,
// however it ends, so there is no stale lock to clean up.
type lock struct{ f *os.File }

// takeLock takes the lock at path for itself alone, waiting at most wait for
// another holder. The file carries the holder's pid for the message only.
func takeLock(ctx context.Context, path, what string, wait time.Duration) (*lock, error) {
	return acquire(ctx, path, what, unix.LOCK_EX, wait)
}

// shareLock takes the lock at path together with others who share it.
func shareLock(ctx context.Context, path, what string, wait time.Duration) (*lock, error) {
	return acquire(ctx, path, what, unix.LOCK_SH, wait)
}

func acquire(ctx context.Context, path, what string, how int, wait time.Duration) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: the node's state belongs to another user: %w; run as its owner", what, err)
	}
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wait)
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || !time.Now().Before(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := ""
		b := make([]byte, 16)
		if n, _ := f.ReadAt(b, 0); n > 0 {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
				holder = fmt.Sprintf(" (process %d)", pid)
			}
		}
		f.Close()
		return nil, fmt.Errorf("%s: another rmodels is at work on it%s: %w", what, holder, ErrBusy)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if how == unix.LOCK_SH {
		return &lock{f}, nil
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return &lock{f}, nil
}

// release drops the lock. The file stays: removing it would let two holders
// lock two inodes of one name.
func (l *lock) release() { l.f.Close() }
