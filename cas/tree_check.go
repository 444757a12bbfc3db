package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// CheckTree is the quick check: each file is the inode of its blob, has the
// blob's size and [Epoch] as its modification time, and nothing else is in the
// tree; copies are hashed again. It reads no large file. A tree that fails is
// [ErrCorrupt], or [ErrSuspect] when a blob of it is; one that was touched, or
// that its owner or mode lets others write to, becomes so.
func (s *Store) CheckTree(ctx context.Context, name digest.Digest) error {
	k, err := keyOf(name)
	if err != nil {
		return err
	}
	index, err := s.findTree(ctx, k)
	if err != nil {
		return err
	}
	top := filepath.Join(s.treePath(k), "tree")
	expected := make(map[string]bool, len(index.Entries))
	for _, e := range index.Entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		expected[e.Path] = true
		if err := s.checkEntry(ctx, top, e); err != nil {
			return fmt.Errorf("tree %s: %s: %w", name, e.Path, err)
		}
	}
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err == nil && !expected[filepath.ToSlash(rel)] {
			err = fmt.Errorf("%w: tree %s holds %q, which is not in its index; build it again", ErrCorrupt, name, rel)
		}
		return err
	})
}

func (s *Store) checkEntry(ctx context.Context, top string, e indexEntry) error {
	k, err := keyOf(e.Blob)
	if err != nil {
		return err
	}
	blob, err := s.find(ctx, k)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: its blob %s is gone; ingest it again", ErrCorrupt, e.Blob)
	}
	if err != nil {
		return err
	}
	if blob.Suspect {
		return fmt.Errorf("%w: %s; repair it", ErrSuspect, e.Blob)
	}
	path := filepath.Join(top, filepath.FromSlash(e.Path))
	if err := s.fs.parents(path); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	var st, of unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("%w: the file is gone; build the tree again", ErrCorrupt)
		}
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: not a regular file; build the tree again", ErrCorrupt)
	}
	if e.Copied {
		if why := touched(st, e.Size); why != "" {
			return fmt.Errorf("%w: %s; build the tree again", ErrCorrupt, why)
		}
		return checkCopy(path, e)
	}
	if err := unix.Lstat(s.blobPath(k), &of); err != nil {
		return &fs.PathError{Op: "lstat", Path: s.blobPath(k), Err: err}
	}
	if st.Ino != of.Ino || st.Dev != of.Dev {
		return fmt.Errorf("%w: not the file of the blob %s; build the tree again", ErrCorrupt, e.Blob)
	}
	if why := touched(st, e.Size); why != "" {
		// Until its bytes are hashed again nobody can tell what they are, and
		// every tree that holds it is meant.
		return errors.Join(fmt.Errorf("%w: %w: %s: %s; repair it", ErrCorrupt, ErrSuspect, e.Blob, why), s.setSuspect(k, suspicion{Reason: why}))
	}
	return nil
}

// touched says what shows that a file of the store was changed from outside,
// or could be at any time.
func touched(st unix.Stat_t, size int64) string {
	switch {
	case st.Size != size:
		return fmt.Sprintf("%d bytes instead of %d", st.Size, size)
	case st.Mtim.Sec != Epoch.Unix() || st.Mtim.Nsec != 0:
		return "it was written to"
	case st.Mode&0o222 != 0:
		return fmt.Sprintf("its mode is %04o", st.Mode&0o7777)
	case int(st.Uid) != os.Geteuid():
		return fmt.Sprintf("it belongs to uid %d", st.Uid)
	}
	return ""
}

func checkCopy(path string, e indexEntry) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	found, err := digest.SHA256.FromReader(f)
	if err != nil {
		return err
	}
	if found != e.Blob {
		return fmt.Errorf("%w: %w; build the tree again", ErrCorrupt, &MismatchError{Digest: e.Blob, Found: found, Size: e.Size})
	}
	return nil
}

// relinkTrees puts the present inode of the blob k into every tree that links
// it, after a new ingest replaced a suspect one. Each file is swapped by one
// rename, so a reader sees the old bytes or the new ones.
func (s *Store) relinkTrees(ctx context.Context, k key) error {
	trees, err := s.treeNames()
	if err != nil {
		return err
	}
	for _, t := range trees {
		index, err := s.readTree(t)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			continue // gone, or to be built again anyway
		}
		if err != nil {
			return err
		}
		for _, e := range index.Entries {
			if e.Blob != k.digest() {
				continue
			}
			if err := s.relink(ctx, filepath.Join(s.treePath(t), "tree", filepath.FromSlash(e.Path)), k, e); err != nil {
				return fmt.Errorf("tree %s: %s: %w", t.digest(), e.Path, err)
			}
		}
	}
	return nil
}

func (s *Store) relink(ctx context.Context, target string, k key, e indexEntry) error {
	dir := filepath.Dir(target)
	if err := s.fs.Chmod(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(s.trashPath()), "trees", ".tmp-relink-"+randomID())
	var err error
	if e.Copied {
		err = s.copyBlob(k, tmp, copyMode(e.Executable))
	} else {
		err = s.fs.Link(s.blobPath(k), tmp)
	}
	if err == nil {
		if err = s.fs.Rename(tmp, target); err != nil {
			err = errors.Join(err, s.fs.Unlink(tmp))
		} else if _, err2 := os.Lstat(tmp); err2 == nil {
			// rename(2) does nothing when both names are the same inode.
			err = s.fs.Unlink(tmp)
		}
	}
	if err != nil {
		return errors.Join(err, s.fs.Chmod(dir, 0o555))
	}
	if err := s.fs.Chmod(dir, 0o555); err != nil {
		return err
	}
	return s.fs.SyncDir(dir)
}

// treeNames lists the published trees.
func (s *Store) treeNames() ([]key, error) {
	dir := s.path("trees/sha256")
	names, err := s.readNames(dir)
	if err != nil {
		return nil, err
	}
	keys := make([]key, 0, len(names))
	for _, name := range names {
		if k, ok := keyOfHex(name); ok { // or it is a stray
			keys = append(keys, k)
		}
	}
	return keys, nil
}
