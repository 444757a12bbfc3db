package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// LinkThreshold is the size below which a file is copied into a tree: tiny
// files with the same content are common enough to reach the file system's
// limit of links (65,000 on ext4).
const LinkThreshold = 4096

// TreeEntry is a file of a tree.
type TreeEntry struct {
	Path       string // slash-separated, relative
	Blob       digest.Digest
	Executable bool
}

// Tree is a read-only directory of a store, made of links to blobs.
type Tree struct {
	Name    digest.Digest
	Path    string // of the directory
	Entries []TreeEntry
	Size    int64 // bytes of all files
}

// treeIndex says what a tree holds; it lies beside the directory.
type treeIndex struct {
	Name    digest.Digest `json:"name"`
	Entries []indexEntry  `json:"entries"`
}

type indexEntry struct {
	Path       string        `json:"path"`
	Blob       digest.Digest `json:"blob"`
	Size       int64         `json:"size"`
	Executable bool          `json:"executable,omitzero"`
	Copied     bool          `json:"copied,omitzero"` // a file of its own, not a link
}

// maxTreeEntries bounds a tree.
const maxTreeEntries = 100_000

// BuildTree makes the tree called name (a manifest's digest) durable and
// returns it. Its blobs are added to l. A tree that is there, has these
// entries and passes [Store.CheckTree] is returned as it is; any other is
// replaced at once, so that no one ever sees half of it.
//
// Files are hard links to their blobs. Small ones and executables, whose mode
// differs, are copies.
func (s *Store) BuildTree(ctx context.Context, l *Lease, name digest.Digest, entries []TreeEntry) (Tree, error) {
	k, err := keyOf(name)
	if err != nil {
		return Tree{}, err
	}
	if l == nil {
		return Tree{}, fmt.Errorf("%w: tree %s without a lease", ErrInvalid, name)
	}
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b TreeEntry) int { return strings.Compare(a.Path, b.Path) })
	if err := checkPaths(entries); err != nil {
		return Tree{}, fmt.Errorf("tree %s: %w", name, err)
	}
	announce := []digest.Digest{name}
	for _, e := range entries {
		announce = append(announce, e.Blob)
	}
	if err := l.Add(ctx, announce...); err != nil {
		return Tree{}, err
	}
	switch t, err := s.Tree(name); {
	case err == nil && slices.Equal(t.Entries, entries) && s.CheckTree(ctx, name) == nil:
		return t, nil
	case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt):
		return Tree{}, err
	}
	tmp := filepath.Join(s.path("trees"), ".tmp-"+l.ID()+"-"+randomID())
	if err := s.assemble(ctx, tmp, name, entries); err != nil {
		return Tree{}, errors.Join(fmt.Errorf("tree %s: %w", name, err), s.removeTemporary(tmp))
	}
	if err := s.publishTree(ctx, tmp, k); err != nil {
		return Tree{}, errors.Join(fmt.Errorf("tree %s: %w", name, err), s.removeTemporary(tmp))
	}
	return s.Tree(name)
}

func (s *Store) removeTemporary(path string) error {
	err := s.removeAll(context.Background(), path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// checkPaths refuses paths that could leave the tree or shadow each other.
// Entries are sorted by path.
func checkPaths(entries []TreeEntry) error {
	if len(entries) > maxTreeEntries {
		return fmt.Errorf("%w: %d files, at most %d", ErrInvalid, len(entries), maxTreeEntries)
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		p := e.Path
		if err := checkPath(p); err != nil {
			return err
		}
		if files[p] {
			return fmt.Errorf("%w: path %q twice", ErrInvalid, p)
		}
		files[p] = true
	}
	for p := range files {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if files[dir] {
				return fmt.Errorf("%w: path %q is a file and a directory", ErrInvalid, dir)
			}
		}
	}
	return nil
}

func checkPath(p string) error {
	if !fs.ValidPath(p) || p == "." || len(p) > 1024 || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return fmt.Errorf("%w: unsafe path %q", ErrInvalid, p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > 255 {
			return fmt.Errorf("%w: path with a name of %d bytes", ErrInvalid, len(part))
		}
	}
	return nil
}

// assemble builds the tree and its index in tmp, durable but for tmp's name.
func (s *Store) assemble(ctx context.Context, tmp string, name digest.Digest, entries []TreeEntry) error {
	if err := s.fs.Mkdir(tmp, 0o755); err != nil {
		return noSpace(err)
	}
	top := filepath.Join(tmp, "tree")
	if err := s.fs.Mkdir(top, 0o755); err != nil {
		return noSpace(err)
	}
	dirs := []string{top} // parents before children
	made := map[string]bool{".": true}
	index := treeIndex{Name: name, Entries: make([]indexEntry, len(entries))}
	for n, e := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := s.makeParents(top, path.Dir(e.Path), made, &dirs); err != nil {
			return err
		}
		var err error
		if index.Entries[n], err = s.place(ctx, filepath.Join(top, filepath.FromSlash(e.Path)), e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, noSpace(err))
		}
	}
	for _, dir := range slices.Backward(dirs) {
		if err := s.fs.Chmod(dir, 0o555); err != nil {
			return err
		}
		if err := s.fs.SyncDir(dir); err != nil {
			return err
		}
	}
	b, err := seal(index)
	if err != nil {
		return err
	}
	if err := durable.CreateFS(s.fs, filepath.Join(tmp, "index"), b, 0o444); err != nil {
		return noSpace(err)
	}
	return s.fs.SyncDir(tmp)
}

func (s *Store) makeParents(top, dir string, made map[string]bool, dirs *[]string) error {
	if made[dir] {
		return nil
	}
	if err := s.makeParents(top, path.Dir(dir), made, dirs); err != nil {
		return err
	}
	full := filepath.Join(top, filepath.FromSlash(dir))
	if err := s.fs.Mkdir(full, 0o755); err != nil {
		return noSpace(err)
	}
	made[dir] = true
	*dirs = append(*dirs, full)
	return nil
}

// place links or copies one blob to target.
func (s *Store) place(ctx context.Context, target string, e TreeEntry) (indexEntry, error) {
	k, err := keyOf(e.Blob)
	if err != nil {
		return indexEntry{}, err
	}
	st, err := s.find(ctx, k)
	if err != nil {
		return indexEntry{}, err
	}
	if st.Suspect {
		return indexEntry{}, fmt.Errorf("%w: %s; repair it first", ErrSuspect, e.Blob)
	}
	entry := indexEntry{Path: e.Path, Blob: e.Blob, Size: st.Size, Executable: e.Executable}
	if st.Size >= LinkThreshold && !e.Executable {
		err := s.fs.Link(s.blobPath(k), target)
		if err == nil {
			return entry, nil
		}
		if errors.Is(err, unix.EXDEV) {
			return entry, fmt.Errorf("%w: blobs and trees are on two mounts; put the whole store on one: %w", ErrFileSystem, err)
		}
		if !errors.Is(err, unix.EMLINK) {
			return entry, err
		}
	}
	entry.Copied = true
	return entry, s.copyBlob(k, target, copyMode(e.Executable))
}

func copyMode(executable bool) fs.FileMode {
	if executable {
		return 0o555
	}
	return 0o444
}

// copyBlob writes the bytes of a blob to a new file and hashes them on the way.
func (s *Store) copyBlob(k key, target string, mode fs.FileMode) error {
	b, err := s.openBlob(k)
	if err != nil {
		return err
	}
	defer b.Close()
	f, err := s.fs.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	sha := sha256.New()
	if _, err = io.Copy(io.NewOffsetWriter(f, 0), io.TeeReader(b, sha)); err == nil {
		if found := digest.NewDigest(digest.SHA256, sha); found != k.digest() {
			mismatch := &MismatchError{Digest: k.digest(), Found: found, Size: b.Size()}
			err = errors.Join(mismatch, s.setSuspect(k, suspicion{Reason: "copy: " + mismatch.Error()}))
		}
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.SetModTime(Epoch)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// publishTree gives the tree in tmp its name; a tree that has it goes to the
// trash, where a mount of it keeps working.
func (s *Store) publishTree(ctx context.Context, tmp string, k key) error {
	if err := s.renameTree(ctx, tmp, k); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(s.treePath(k)))
}

func (s *Store) renameTree(ctx context.Context, tmp string, k key) error {
	guard, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	err = s.fs.RenameNew(tmp, s.treePath(k))
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.fs.Exchange(tmp, s.treePath(k)); err != nil {
		return err
	}
	return s.fs.Rename(tmp, filepath.Join(s.trashPath(), "x-"+k.hex()+"-"+randomID()))
}

// Tree describes a tree; [ErrNotFound] when there is none. One that a
// collector has just taken is put back.
func (s *Store) Tree(name digest.Digest) (Tree, error) {
	k, err := keyOf(name)
	if err != nil {
		return Tree{}, err
	}
	index, err := s.findTree(context.Background(), k)
	if err != nil {
		return Tree{}, err
	}
	t := Tree{Name: name, Path: filepath.Join(s.treePath(k), "tree"), Entries: make([]TreeEntry, len(index.Entries))}
	for n, e := range index.Entries {
		t.Entries[n] = TreeEntry{Path: e.Path, Blob: e.Blob, Executable: e.Executable}
		t.Size += e.Size
	}
	return t, nil
}

// findTree is readTree for a tree that a collector may have taken (invariant 8).
func (s *Store) findTree(ctx context.Context, k key) (treeIndex, error) {
	index, err := s.readTree(k)
	if !errors.Is(err, ErrNotFound) {
		return index, err
	}
	back, restoreErr := s.restoreNamed(ctx, "t-"+k.hex(), s.treePath(k))
	if restoreErr != nil {
		return index, restoreErr
	}
	if !back {
		return index, err
	}
	return s.readTree(k)
}

// readTree reads the index of a tree and holds it to what BuildTree writes.
func (s *Store) readTree(k key) (treeIndex, error) {
	return s.readIndex(s.treePath(k), k)
}

func (s *Store) readIndex(dir string, k key) (treeIndex, error) {
	var index treeIndex
	if err := s.fs.inside(dir); err != nil {
		return index, fmt.Errorf("%w: tree %s: %w", ErrCorrupt, k.digest(), err)
	}
	err := s.readRecord(filepath.Join(dir, "index"), &index)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return index, fmt.Errorf("%w: tree %s has no index; build it again", ErrCorrupt, k.digest())
		}
		return index, fmt.Errorf("%w: tree %s", ErrNotFound, k.digest())
	}
	if err != nil {
		return index, err
	}
	return index, index.check(k)
}

func (x treeIndex) check(k key) error {
	if x.Name != k.digest() {
		return fmt.Errorf("%w: tree %s has the index of %q", ErrCorrupt, k.digest(), x.Name)
	}
	entries := make([]TreeEntry, len(x.Entries))
	for n, e := range x.Entries {
		if _, err := keyOf(e.Blob); err != nil || e.Size < 0 || e.Size > MaxSize {
			return fmt.Errorf("%w: tree %s: impossible entry %q", ErrCorrupt, k.digest(), e.Path)
		}
		entries[n].Path = e.Path
	}
	if err := checkPaths(entries); err != nil {
		return fmt.Errorf("%w: tree %s: %w", ErrCorrupt, k.digest(), err)
	}
	return nil
}

// restoreNamed brings a tree or a layer record back from the trash, as
// [Store.restore] does a blob.
func (s *Store) restoreNamed(ctx context.Context, name, home string) (bool, error) {
	guard, err := s.shared(ctx)
	if err != nil {
		return false, err
	}
	defer guard.unlock()
	runs, err := s.trashNames()
	if err != nil {
		return false, err
	}
	for _, run := range runs {
		if !strings.HasPrefix(run, "r-") {
			continue
		}
		err := s.fs.RenameNew(filepath.Join(s.trashPath(), run, name), home)
		if errors.Is(err, fs.ErrExist) {
			return true, nil
		}
		if err == nil {
			guard.unlock()
			return true, s.fs.SyncDir(filepath.Dir(home))
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	_, err = os.Lstat(home)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
