package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrExposed is a file or a directory that other users may write to, or a
// secret that they may read.
var ErrExposed = errors.New("other users may write to it")

// errReadable is an [ErrExposed] of a secret.
var errReadable = fmt.Errorf("%w or read it, and it is a secret", ErrExposed)

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
	return CheckWritable(dir, fi)
}

// CheckWritable fails with [ErrExposed] unless what fi describes belongs to
// root or to this process' user, and neither its group nor others may write to
// it. fi is that of an open file, or of a name in an unexposed directory.
func CheckWritable(path string, fi fs.FileInfo) error {
	if !ours(fi) {
		return fmt.Errorf("%s belongs to uid %d: %w; chown it to %s", path, owner(fi), ErrExposed, self())
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o: %w; chmod go-w it", path, fi.Mode().Perm(), ErrExposed)
	}
	return nil
}

// CheckParents fails with [ErrExposed] when other users can put something else
// in the place of path: it looks at every directory above it, and above what
// links on the way lead to. In a directory with the sticky bit, as /tmp, an
// entry stays what it is when it is root's or this user's. It begins at the
// top, so what was found stays true while it goes on.
func CheckParents(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	dir, rest, links := "/", names(path), 0
	for len(rest) > 0 {
		var name string
		name, rest = rest[0], rest[1:]
		if name == ".." {
			dir = filepath.Dir(dir)
			continue
		}
		entry := filepath.Join(dir, name)
		fi, err := os.Lstat(entry)
		if err != nil {
			return err
		}
		if err := checkParent(dir, fi); err != nil {
			return fmt.Errorf("%s can be replaced: %w", path, err)
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			dir = entry
			continue
		}
		target, err := os.Readlink(entry)
		if err != nil {
			return err
		}
		if links++; links > 40 {
			return &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		if filepath.IsAbs(target) {
			dir = "/"
		}
		rest = append(names(target), rest...)
	}
	return nil
}

// CheckPlace is [CheckParents] for what may not be there yet: other users can
// neither put something else in its place nor make it, or what is missing above
// it, first.
func CheckPlace(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	there := path
	for err = CheckParents(there); errors.Is(err, fs.ErrNotExist) && there != "/"; err = CheckParents(there) {
		there = filepath.Dir(there)
	}
	if err != nil || there == path {
		return err
	}
	fi, err := os.Stat(there)
	if err != nil || ours(fi) && fi.Mode()&fs.ModeSticky != 0 { // what is made there stays this user's
		return err
	}
	if err := CheckWritable(there, fi); err != nil {
		return fmt.Errorf("%s can be replaced: %w", path, err)
	}
	return nil
}

func names(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// checkParent tells whether dir keeps its entry.
func checkParent(dir string, entry fs.FileInfo) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if ours(fi) && fi.Mode()&fs.ModeSticky != 0 {
		if ours(entry) {
			return nil
		}
		return fmt.Errorf("%s belongs to uid %d: %w; chown it to %s", filepath.Join(dir, entry.Name()), owner(entry), ErrExposed, self())
	}
	return CheckWritable(dir, fi)
}

// OpenOwn opens a file that a person or the configuration named, and whose
// content is obeyed: links are followed, a FIFO is not waited for, and what
// other users can write or replace is [ErrExposed].
func OpenOwn(path string) (*os.File, error) {
	if err := CheckParents(path); err != nil {
		return nil, err
	}
	f, err := OpenLink(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = CheckWritable(path, fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadOwn reads what [OpenOwn] opens; more than limit bytes are [ErrTooLong].
func ReadOwn(path string, limit int64) ([]byte, error) {
	f, err := OpenOwn(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, path, limit)
}

// ReadSecret is [ReadOwn] for a password or a private key, which other users
// may not read either; see [CheckSecret].
func ReadSecret(path string, limit int64) ([]byte, error) {
	f, err := OpenOwn(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil {
		err = CheckSecret(path, fi)
	}
	if err != nil {
		return nil, err
	}
	return readLimited(f, path, limit)
}

// CheckSecret fails with [ErrExposed] when other users may read a file. As for
// ssh, the group counts as others, unless root owns the file and another user
// reads it: there is no other way to give it to that user alone.
func CheckSecret(path string, fi fs.FileInfo) error {
	others := fs.FileMode(0o077)
	if os.Geteuid() != 0 && owner(fi) == 0 {
		others = 0o007
	}
	if fi.Mode().Perm()&others != 0 {
		return fmt.Errorf("%s has mode %04o: %w; chmod 0600 it", path, fi.Mode().Perm(), errReadable)
	}
	return nil
}

func readLimited(f io.Reader, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: %w: more than %d bytes", path, ErrTooLong, limit)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func owner(fi fs.FileInfo) int { return int(fi.Sys().(*syscall.Stat_t).Uid) }

// ours tells whether root or this process' user owns it.
func ours(fi fs.FileInfo) bool { return owner(fi) == 0 || owner(fi) == os.Geteuid() }

// self names the user to whom things should belong.
func self() string {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Sprintf("uid %d", uid)
	}
	return "root"
}

// CheckProgram fails with [ErrExposed] when other users decide what runs under
// the name path.
func CheckProgram(path string) error {
	if err := CheckParents(path); err != nil {
		return err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return CheckWritable(path, fi)
}

// CheckEntries is [CheckUnexposed] for a directory that links may lead to, for
// what is above it, and for the regular files in it, and those that links in it
// lead to, for which it is asked.
func CheckEntries(dir string, asked func(name string) bool) error {
	if err := CheckParents(dir); err != nil {
		return err
	}
	if err := CheckUnexposed(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) { // who may not list it is told so by what reads it
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path, link := filepath.Join(dir, e.Name()), e.Type()&fs.ModeSymlink != 0
		if !link && !e.Type().IsRegular() || !asked(e.Name()) {
			continue
		}
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || link && (err != nil || !fi.Mode().IsRegular()) { // what reads it meets the same
			continue
		}
		if err == nil && link {
			err = CheckParents(path)
		}
		if err == nil {
			err = CheckWritable(path, fi)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
