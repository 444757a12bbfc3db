package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/resultity/rmodels/internal/filelock"
)

// ErrBusy says that another process works on the same thing.
var ErrBusy = filelock.ErrBusy

// takeLock takes the lock at path for itself alone, waiting at most wait for
// another holder. The file carries the holder's pid for the message only.
func takeLock(ctx context.Context, path, what string, wait time.Duration) (*filelock.Lock, error) {
	l, err := acquire(ctx, path, what, filelock.Exclusive, wait)
	if err == nil {
		l.Say(strconv.Itoa(os.Getpid()))
	}
	return l, err
}

// shareLock takes the lock at path together with others who share it.
func shareLock(ctx context.Context, path, what string, wait time.Duration) (*filelock.Lock, error) {
	return acquire(ctx, path, what, filelock.Shared, wait)
}

func acquire(ctx context.Context, path, what string, how filelock.Mode, wait time.Duration) (*filelock.Lock, error) {
	l, err := filelock.Take(ctx, path, how, wait)
	if busy, ok := errors.AsType[*filelock.BusyError](err); ok {
		holder := ""
		if pid, err := strconv.Atoi(busy.Holder); err == nil {
			holder = fmt.Sprintf(" (process %d)", pid)
		}
		return nil, fmt.Errorf("%s: another rmodels is at work on it%s: %w", what, holder, ErrBusy)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: the node's state belongs to another user: %w; run as its owner", what, err)
	}
	return l, err
}
