package durable

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// MaxLine is the longest line that [AppendLine] takes, newline included: one
// page, which Linux file systems write in one piece.
const MaxLine = 4096

// Temporary is a name beside path that no other writer uses, this process and
// those before it with the same number included. Names of this form
// (".<base>.tmp-<random>") are leftovers of a crash when found later.
func Temporary(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-"+rand.Text())
}

var temporary = regexp.MustCompile(`^\..+\.tmp-([A-Z2-7]{26}|[0-9]+-[0-9a-z]+)$|^\.(export|new)-[0-9]+$`)

// IsTemporary reports whether a file's name has the form of [Temporary], or one
// that earlier releases used.
func IsTemporary(name string) bool { return temporary.MatchString(name) }

// RemoveTemporary removes what writers that were killed left in a directory, with
// bases only that of the files of these names. The caller holds a lock without
// which nobody writes them. Only regular files with names of our form go; what
// cannot be removed stays.
func RemoveTemporary(dir string, bases ...string) error {
	names, err := OS.ReadNames(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		if !IsTemporary(name) || len(bases) > 0 && !slices.ContainsFunc(bases, func(base string) bool { return strings.HasPrefix(name, "."+base+".tmp-") }) {
			continue
		}
		path := filepath.Join(dir, name)
		if fi, err := os.Lstat(path); err == nil && fi.Mode().IsRegular() {
			_ = OS.Unlink(path)
		}
	}
	return err
}

// WriteFile replaces path by a file with the given bytes. After it returns nil
// the file is on disk; after an error or a crash the old one still is. On a
// full disk it uses what [KeepReserve] keeps in the directory, if anything.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFileFS(OS, path, data, perm)
}

// WriteFileFS is [WriteFile] on fsys.
func WriteFileFS(fsys FS, path string, data []byte, perm fs.FileMode) error {
	tmp := Temporary(path)
	err := CreateFS(fsys, tmp, data, perm)
	if isFull(err) {
		return useReserve(fsys, path, data, perm, err)
	}
	if err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		err = errors.Join(err, fsys.Unlink(tmp))
		if isFull(err) { // the directory cannot grow
			return useReserve(fsys, path, data, perm, err)
		}
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// CreateFS makes a new file and its bytes durable, but not yet its name; it
// leaves nothing behind when it fails.
func CreateFS(fsys FS, path string, data []byte, perm fs.FileMode) error {
	f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(data, 0); err == nil {
		if err = f.Chmod(perm); err == nil { // perm, whatever the umask
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, fsys.Unlink(path))
	}
	return nil
}

// AppendLine appends line and a newline to path with one write and makes them
// durable. The file is created with perm. A line may not contain a newline.
//
// Appenders exclude each other by a lock that the caller holds. It is not this
// file that they lock: who may read a file may also lock it.
func AppendLine(path string, line []byte, perm fs.FileMode) error {
	return AppendLineFS(OS, path, line, perm)
}

// AppendLineFS is [AppendLine] on fsys.
func AppendLineFS(fsys FS, path string, line []byte, perm fs.FileMode) error {
	return AppendAfterFS(fsys, path, perm, func([]byte) ([]byte, error) { return line, nil })
}

// AppendAfter is [AppendLine] for a line that depends on the one before it:
// next is given the last line, without its newline and perhaps torn by a
// crash, or nil where there is none.
func AppendAfter(path string, perm fs.FileMode, next func(last []byte) ([]byte, error)) error {
	return AppendAfterFS(OS, path, perm, next)
}

// AppendAfterFS is [AppendAfter] on fsys.
func AppendAfterFS(fsys FS, path string, perm fs.FileMode, next func(last []byte) ([]byte, error)) (err error) {
	created := false
	const flag = os.O_RDWR | os.O_APPEND | syscall.O_NONBLOCK // a FIFO is not waited for
	f, err := fsys.OpenFile(path, flag, perm)
	if errors.Is(err, fs.ErrNotExist) {
		created = true
		f, err = fsys.OpenFile(path, flag|os.O_CREATE, perm)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := checkRegular(f, path); err != nil {
		return err
	}
	last, torn, err := lastLine(f)
	if err != nil {
		return err
	}
	line, err := next(last)
	if err != nil {
		return err
	}
	// One byte is kept for the newline that may have to come first.
	if len(line) > MaxLine-2 {
		return fmt.Errorf("append to %s: line of %d bytes is longer than %d", path, len(line), MaxLine-2)
	}
	if bytes.IndexByte(line, '\n') >= 0 {
		return fmt.Errorf("append to %s: line contains a newline", path)
	}
	record := make([]byte, 0, len(line)+2)
	if torn {
		record = append(record, '\n')
	}
	record = append(append(record, line...), '\n')
	if err := f.Append(record); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if created {
		return fsys.SyncDir(filepath.Dir(path))
	}
	return nil
}

// lastLine reads the end of f; torn tells that the newline is missing.
func lastLine(f File) (last []byte, torn bool, err error) {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return nil, false, err
	}
	tail := make([]byte, min(st.Size(), MaxLine+1))
	if _, err := f.ReadAt(tail, st.Size()-int64(len(tail))); err != nil {
		return nil, false, err
	}
	last, whole := bytes.CutSuffix(tail, []byte{'\n'})
	return last[bytes.LastIndexByte(last, '\n')+1:], !whole, nil
}

// MkdirAll makes path and its missing parents, each durable in its parent.
// Existing directories are left as they are.
func MkdirAll(path string, perm fs.FileMode) error { return MkdirAllFS(OS, path, perm) }

// MkdirAllFS is [MkdirAll] on fsys.
func MkdirAllFS(fsys FS, path string, perm fs.FileMode) error {
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAllFS(fsys, parent, perm); err != nil {
			return err
		}
	}
	// Another process may make it at the same time; its name still has to be
	// durable before we return, so the parent is synced either way.
	if err := fsys.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(parent)
}
