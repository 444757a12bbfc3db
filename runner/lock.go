package runner

import (
	"errors"
	"fmt"
	"os"

	"github.com/resultity/rmodels/internal/filelock"
)

// lockFile takes an exclusive lock on path without waiting. What the holder
// wrote into it tells who is in the way. The lock ends with the process.
func lockFile(path, purpose string, busy error) (*filelock.Lock, error) {
	l, err := filelock.Try(path, filelock.Exclusive)
	if held, ok := errors.AsType[*filelock.BusyError](err); ok {
		holder := held.Holder
		if holder == "" {
			holder = "it does not say by whom"
		}
		return nil, fmt.Errorf("%w: %s is locked: %s", busy, path, oneLine(holder))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	l.Say(fmt.Sprintf("%s, process %d", purpose, os.Getpid()))
	return l, nil
}

// unlock empties the file, so that nobody reads of a run that is over.
func unlock(l *filelock.Lock) {
	l.Say("")
	l.Unlock()
}
