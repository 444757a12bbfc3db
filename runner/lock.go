package runner

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes an exclusive lock on path without waiting. What the holder
// wrote into it tells who is in the way. The lock ends with the process.
func lockFile(path, purpose string, busy error) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s: %w", ErrStateDir, path, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 256))
		if len(holder) == 0 {
			holder = []byte("it does not say by whom")
		}
		return nil, fmt.Errorf("%w: %s is locked: %s", busy, path, oneLine(string(holder)))
	}
	text := fmt.Sprintf("%s, process %d\n", purpose, os.Getpid())
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(text), 0)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
		}
	}
	return f, nil
}

// unlock empties the file, so that nobody reads of a run that is over.
func unlock(f *os.File) {
	f.Truncate(0)
	f.Close()
}
