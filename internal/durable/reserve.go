package durable

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// reservePrefix begins the names of files that hold space and inodes for the
// writes that must work on a full disk.
const reservePrefix = ".reserve-"

// IsReserve reports whether a name is that of a file which [KeepReserve] keeps.
func IsReserve(name string) bool { return strings.HasPrefix(name, reservePrefix) }

// isFull reports whether an error says that no block or inode is free.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// KeepReserve sees to it that a directory holds files, each of size bytes that
// are allocated, for later calls of [WriteFile] in that directory. It is called
// while there is space, and again whenever some may be free: what is there
// already costs a look at each file. The first error is returned; what could
// be kept is.
func KeepReserve(dir string, files int, size int64) error {
	made := false
	var first error
	for n := range files {
		path := filepath.Join(dir, reservePrefix+strconv.Itoa(n))
		fi, err := os.Lstat(path)
		if err == nil && fi.Mode().IsRegular() && allocated(fi) >= size {
			continue
		}
		made = made || errors.Is(err, fs.ErrNotExist)
		first = cmp.Or(first, topUp(OS, path, size))
	}
	if made {
		first = cmp.Or(first, OS.SyncDir(dir))
	}
	return first
}

func allocated(fi fs.FileInfo) int64 { return fi.Sys().(*syscall.Stat_t).Blocks * 512 }

// topUp allocates what a file of the reserve lacks; its bytes are of no
// interest.
func topUp(fsys FS, path string, size int64) error {
	f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	err = checkRegular(f, path)
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err == nil {
		err = f.Allocate(size)
	}
	return errors.Join(err, f.Close())
}

// useReserve writes a file with what the reserve of its directory holds. The
// blocks and the inode are there, and so are both names where the file exists:
// the two are exchanged, so that nothing becomes free that somebody else could
// take, and the old file is the reserve from then on. Full is the error that
// led here, and is returned where the reserve does not do.
func useReserve(fsys FS, path string, data []byte, perm fs.FileMode, full error) error {
	dir := filepath.Dir(path)
	for _, spare := range spares(fsys, dir) {
		err := overwrite(fsys, spare, data, perm)
		if isFull(err) {
			continue
		}
		if err != nil {
			return errors.Join(full, err)
		}
		err = fsys.Exchange(spare, path)
		if errors.Is(err, fs.ErrNotExist) {
			err = fsys.RenameNew(spare, path)
		} else if err == nil {
			// Best effort: the next call of KeepReserve does it, too.
			_ = topUp(fsys, spare, max(minSpare, 2*int64(len(data))))
		}
		if err != nil {
			return errors.Join(full, err)
		}
		return fsys.SyncDir(dir)
	}
	return full
}

// minSpare is what a used file of the reserve is topped up to at least.
const minSpare = 16 << 10

// spares are the files of a directory's reserve, the largest first.
func spares(fsys FS, dir string) []string {
	names, err := fsys.ReadNames(dir)
	if err != nil {
		return nil
	}
	size := map[string]int64{}
	var out []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		if fi, err := os.Lstat(path); IsReserve(name) && err == nil && fi.Mode().IsRegular() {
			size[path] = allocated(fi)
			out = append(out, path)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(size[b], size[a]) })
	return out
}

// overwrite puts data into a file of the reserve, durably.
func overwrite(fsys FS, path string, data []byte, perm fs.FileMode) error {
	f, err := fsys.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	if err = checkRegular(f, path); err == nil {
		if _, err = f.WriteAt(data, 0); err == nil {
			err = f.Truncate(int64(len(data)))
		}
	}
	if err == nil {
		if err = f.Chmod(perm); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}
