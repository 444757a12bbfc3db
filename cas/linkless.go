package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// linkless is a file system on which no path leads from a store's root through
// a symbolic link: one in the place of a directory would have a collection
// delete, and a pull write, what is not the store's. The root itself may be
// given as a link. Only the owner of the store can make names in it (invariant
// 6), so a look before each call is enough. A directory in the place of a file
// makes way for it.
type linkless struct {
	durable.FS
	root string
}

// inside fails when dir, or a directory between it and the root, is a symbolic
// link. What is missing is left to the caller to find out.
func (l linkless) inside(dir string) error {
	root := strings.TrimSuffix(l.root, "/")
	if !strings.HasPrefix(dir, root+"/") {
		return nil
	}
	for end := len(root); end < len(dir); {
		part, _, _ := strings.Cut(dir[end+1:], "/")
		end += 1 + len(part)
		var st unix.Stat_t
		if unix.Lstat(dir[:end], &st) != nil {
			return nil
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return fmt.Errorf("%w: %s is a symbolic link in the place of a directory, and is not followed; remove it, or run gc", errLink, dir[:end])
		}
	}
	return nil
}

// errLink is [ErrFileSystem] for a link in the place of a directory.
var errLink = fmt.Errorf("%w", ErrFileSystem)

// parents is inside for the directories that hold these names.
func (l linkless) parents(names ...string) error {
	for _, name := range names {
		if err := l.inside(filepath.Dir(name)); err != nil {
			return err
		}
	}
	return nil
}

// among is for many calls on names that are right in these directories: one look
// is enough for all.
func (l linkless) among(dirs ...string) (durable.FS, error) {
	for _, dir := range dirs {
		if err := l.inside(dir); err != nil {
			return nil, err
		}
	}
	return l.FS, nil
}

func (l linkless) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if err := l.parents(name); err != nil {
		return nil, err
	}
	return l.FS.OpenFile(name, flag, perm)
}

func (l linkless) Mkdir(name string, perm fs.FileMode) error {
	if err := l.parents(name); err != nil {
		return err
	}
	return l.FS.Mkdir(name, perm)
}

func (l linkless) Rename(from, to string) error {
	if err := l.parents(from, to); err != nil {
		return err
	}
	err := l.FS.Rename(from, to)
	if errors.Is(err, unix.EISDIR) {
		err = errors.Join(l.condemn(to), l.FS.Rename(from, to))
	}
	return err
}

// condemn moves a directory that has the place of a file to where a collection
// deletes it. The slash keeps it from a file that took the place meanwhile.
func (l linkless) condemn(path string) error {
	to := filepath.Join(l.root, "trash", "x-"+randomID())
	if err := l.parents(path, to); err != nil {
		return err
	}
	err := l.FS.Rename(path+"/", to)
	if errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, gone := os.Lstat(path); gone != nil {
			return nil
		}
	}
	return err
}

func (l linkless) RenameNew(from, to string) error {
	if err := l.parents(from, to); err != nil {
		return err
	}
	return l.FS.RenameNew(from, to)
}

func (l linkless) Exchange(a, b string) error {
	if err := l.parents(a, b); err != nil {
		return err
	}
	return l.FS.Exchange(a, b)
}

func (l linkless) Link(from, to string) error {
	if err := l.parents(from, to); err != nil {
		return err
	}
	return l.FS.Link(from, to)
}

func (l linkless) Unlink(name string) error {
	if err := l.parents(name); err != nil {
		return err
	}
	return l.FS.Unlink(name)
}

func (l linkless) Rmdir(name string) error {
	if err := l.parents(name); err != nil {
		return err
	}
	return l.FS.Rmdir(name)
}

func (l linkless) Chmod(name string, perm fs.FileMode) error {
	if err := l.inside(name); err != nil {
		return err
	}
	return l.FS.Chmod(name, perm)
}

func (l linkless) ReadNames(dir string) ([]string, error) {
	if err := l.inside(dir); err != nil {
		return nil, err
	}
	if dir == l.root {
		dir += "/."
	}
	return l.FS.ReadNames(dir)
}

func (l linkless) SyncDir(name string) error {
	if err := l.inside(name); err != nil {
		return err
	}
	return l.FS.SyncDir(name)
}

// tryLock is the function of that name for a lock file of the store.
func (s *Store) tryLock(path string, flags, how int) (*flock, error) {
	if err := s.fs.parents(path); err != nil {
		return nil, err
	}
	return tryLock(path, flags, how)
}

// split lists a directory of directories. Impostors, by path, are what has the
// place of one and is none: a link, or a file whose name is ours. Hidden names
// and those of discarded entries stand for files, too.
func (s *Store) split(dir string, ours func(name string) bool) (names, impostors []string, err error) {
	if names, err = s.readNames(dir); err != nil {
		return nil, nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		if name[0] == '.' || strings.HasPrefix(name, "x-") {
			return false
		}
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return false
		}
		kind := st.Mode & unix.S_IFMT
		impostor := kind == unix.S_IFLNK || kind != unix.S_IFDIR && ours(name)
		if impostor {
			impostors = append(impostors, path)
		}
		return impostor
	})
	return names, impostors, nil
}

func isFan(name string) bool { return len(name) == 2 && strings.Trim(name, "0123456789abcdef") == "" }

func isIngest(name string) bool {
	h, ok := strings.CutPrefix(name, "sha256-")
	_, valid := keyOfHex(h)
	return ok && valid
}

func isRun(name string) bool { return strings.HasPrefix(name, "r-") }

func (s *Store) ingestNames() ([]string, error) {
	names, _, err := s.split(s.path("ingest"), isIngest)
	return names, err
}

func (s *Store) trashNames() ([]string, error) {
	names, _, err := s.split(s.trashPath(), isRun)
	return slices.DeleteFunc(names, func(name string) bool { return name == filepath.Base(s.sparePath()) }), err
}

// impostors lists what has the place of a directory of blobs, maps, an ingest
// or a collection. None of them holds anything of the store.
func (s *Store) impostors() (all []string, err error) {
	for _, of := range []struct {
		dir  string
		ours func(string) bool
	}{{"blobs/sha256", isFan}, {"maps/sha256", isFan}, {"ingest", isIngest}, {"trash", isRun}} {
		_, some, err := s.split(s.path(of.dir), of.ours)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}
