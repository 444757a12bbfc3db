package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// checkOwners makes sure that nobody else can put names into the store: who
// may rename a blob can put other bytes in its place, whatever they hash to,
// and who may write below refs/ or leases/ says what is kept. One that is
// missing is left to fsck.
func (s *Store) checkOwners() error {
	if err := durable.CheckParents(s.root); err != nil {
		return fmt.Errorf("%w: %w, then run rmodels fsck --hash", ErrWritable, err)
	}
	if err := checkOwner(s.root, 0); err != nil { // the root may be given as a link
		return err
	}
	for _, dir := range append(directories(), "layers", "layers/sha256") {
		if err := checkOwner(s.path(dir), unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkOwner refuses a directory of the store that belongs to someone else or
// that others can write to. A sticky bit does not help: it keeps others from
// taking names away, and lets them add some.
func checkOwner(dir string, flags int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, dir, &st, flags); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	uid := os.Geteuid()
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%w: %s is not a directory, and links are not followed; put it in its place", ErrFileSystem, dir)
	case int(st.Uid) != uid:
		return fmt.Errorf("%w: %s belongs to uid %d and this is uid %d; run as its owner, or chown -R the store", ErrNotOwner, dir, st.Uid, uid)
	}
	if err := durable.CheckUnexposed(dir); err != nil {
		return fmt.Errorf("%w: %w, then run rmodels fsck --hash", ErrWritable, err)
	}
	return nil
}
