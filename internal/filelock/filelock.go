// Package filelock holds advisory locks between processes, each a file of its
// own.
//
// A lock file holds no data that anybody reads but to say who holds it, and
// belongs to its owner alone (mode 0600): flock(2) needs no more than an open
// file, so that whatever a stranger may read he may also lock. The kernel drops
// a lock when its holder ends, however it ends, and the file stays: removing
// it would let two holders lock two inodes of one name.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says who else may hold a lock at the same time.
type Mode int

// The modes.
const (
	Exclusive Mode = unix.LOCK_EX // nobody
	Shared    Mode = unix.LOCK_SH // others that share it
)

// ErrBusy says that another process holds the lock.
var ErrBusy = errors.New("busy")

// BusyError is an [ErrBusy] with what the holder wrote of itself.
type BusyError struct {
	Path   string
	Holder string // one line, as the holder wrote it; empty where it says nothing
}

func (e *BusyError) Error() string {
	if e.Holder == "" {
		return e.Path + " is locked by another process"
	}
	return e.Path + " is locked by " + e.Holder
}

// Is makes every BusyError an [ErrBusy].
func (*BusyError) Is(target error) bool { return target == ErrBusy }

// Lock is a lock that is held. Its methods may be called by one goroutine.
type Lock struct{ f *os.File }

// pause is how often a held lock is tried again.
const pause = 20 * time.Millisecond

// Take locks the file at path, which it makes where there is none, and waits
// at most wait for another holder, less where ctx ends before. It never blocks
// in the kernel: a stopped holder costs no more than wait. A holder that is in
// the way is a [BusyError]. An existing file that others may open is
// replaced: who has it open could keep it busy for as long as he likes.
func Take(ctx context.Context, path string, how Mode, wait time.Duration) (*Lock, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	l := &Lock{f}
	for deadline := time.Now().Add(wait); ; {
		if again, err := stale(f, path); err != nil {
			return nil, errors.Join(err, f.Close())
		} else if again {
			if err := f.Close(); err != nil {
				return nil, err
			}
			if f, err = open(path); err != nil {
				return nil, err
			}
			l = &Lock{f}
		}
		err := unix.Flock(int(f.Fd()), int(how)|unix.LOCK_NB)
		switch {
		case err == nil:
			if again, err := stale(f, path); err != nil {
				return nil, errors.Join(err, f.Close())
			} else if again { // a lock on an inode that has lost its name protects nothing
				continue
			}
			return l, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
		case !time.Now().Before(deadline):
			busy := &BusyError{path, l.holder()}
			return nil, errors.Join(busy, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", path, context.Cause(ctx)), f.Close())
		case <-time.After(min(pause, max(time.Until(deadline), time.Millisecond))):
		}
	}
}

// Try is [Take] without waiting.
func Try(path string, how Mode) (*Lock, error) { return Take(context.Background(), path, how, 0) }

func open(path string) (*os.File, error) {
	// A FIFO in its place is not waited for.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("the lock %s is not a regular file; remove it", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// holderMax bounds what is read of a holder's own words.
const holderMax = 256

func (l *Lock) holder() string {
	b, _ := io.ReadAll(io.NewSectionReader(l.f, 0, holderMax))
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// Say writes who holds the lock, for the message of those in whose way it is.
// It is a courtesy: a disk that does not take it changes nothing.
func (l *Lock) Say(who string) {
	_ = l.f.Truncate(0)
	_, _ = l.f.WriteAt([]byte(who+"\n"), 0)
}

// File is the locked file: a child process that inherits it keeps the lock.
func (l *Lock) File() *os.File { return l.f }

// Unlock drops the lock.
func (l *Lock) Unlock() { l.f.Close() }
