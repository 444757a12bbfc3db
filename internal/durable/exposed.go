package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrExposed is a directory that other users may write to.
var ErrExposed = errors.New("other users may write to it")

// CheckUnexposed fails with [ErrExposed] unless a directory belongs to root or
// to this process' user, and neither its group nor others may write to it:
// whoever writes to it decides what is read from it.
func CheckUnexposed(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d: %w; chown it to root", dir, st.Uid, ErrExposed)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o: %w; chmod go-w it", dir, fi.Mode().Perm(), ErrExposed)
	}
	return nil
}
