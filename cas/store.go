package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Options say how a store is opened. The zero value opens an existing store.
type Options struct {
	Create  bool             // make the store when there is none
	FS      durable.FS       // nil: the operating system
	Now     func() time.Time // nil: time.Now; for leases, grace and least-recently-used order
	MinFree int64            // bytes of the file system that no ingest may take
}

// Store is an open store. Its methods may be called from any goroutine, and
// any number of processes may have the same store open.
type Store struct {
	root    string
	fs      linkless
	now     func() time.Time
	minFree int64
	gen     *generation
	fans    sync.Map // directories of blobs and maps that are durable, by path
}

// Open opens the store at root after trying out the file system under it
// (invariant 6). It fails with [ErrNoStore], [ErrVersion], [ErrFileSystem],
// [ErrNotOwner], [ErrWritable] or [ErrReadOnly].
func Open(root string, o Options) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, fs: linkless{o.FS, root}, now: o.Now, minFree: o.MinFree}
	if s.fs.FS == nil {
		s.fs.FS = durable.OS
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.checkFileSystem(); err != nil {
		return nil, err
	}
	if o.Create {
		if err := s.create(); err != nil {
			return nil, err
		}
	}
	if err := s.checkVersion(); err != nil {
		return nil, err
	}
	if err := s.checkOwners(); err != nil {
		return nil, err
	}
	if err := s.checkLocks(); err != nil {
		return nil, err
	}
	if s.gen, err = openGeneration(s.path("generation")); err != nil {
		return nil, err
	}
	return s, nil
}

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

// Close ends the use of the store by this Store. Leases and ingests taken
// from it have to be released and closed by their owners.
func (s *Store) Close() error { return s.gen.close() }

func (s *Store) path(name string) string { return filepath.Join(s.root, name) }

// create makes the layout. VERSION comes last: a directory that has it is a
// whole store, and an interrupted create is repeated.
func (s *Store) create() error {
	if _, err := os.Lstat(s.path("VERSION")); err == nil {
		return nil
	}
	if err := durable.MkdirAllFS(s.fs, s.root, 0o755); err != nil {
		return fmt.Errorf("create store: %w", readOnly(err))
	}
	if err := checkOwner(s.root, 0); err != nil {
		return err
	}
	if err := s.refuseForeignFiles(); err != nil {
		return err
	}
	parents := map[string]bool{s.root: true}
	for _, dir := range directories() {
		path := s.path(dir)
		if err := s.fs.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create store: %w", readOnly(err))
		}
		parents[filepath.Dir(path)] = true
	}
	if err := s.fs.Mkdir(s.sparePath(), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create store: %w", readOnly(err))
	}
	for _, name := range []string{"lock", "gc.lock", "generation"} {
		f, err := s.fs.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("create store: %w", readOnly(err))
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("create store: %w", err)
		}
	}
	for dir := range parents {
		if err := s.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("create store: %w", err)
		}
	}
	return durable.WriteFileFS(s.fs, s.path("VERSION"), []byte(version), 0o444)
}

// refuseForeignFiles keeps create out of a directory that holds something else.
func (s *Store) refuseForeignFiles() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("create store: %w", err)
	}
	ours := map[string]bool{"lock": true, "gc.lock": true, "generation": true, "layers": true, "lost+found": true}
	for _, dir := range directories() {
		ours[dir] = true
	}
	for _, e := range entries {
		if !ours[e.Name()] && e.Name()[0] != '.' {
			return fmt.Errorf("%w: %s holds %q, which is not part of a store; choose an empty directory", ErrInvalid, s.root, e.Name())
		}
	}
	return nil
}

func (s *Store) checkVersion() error {
	b, err := s.readFile(s.path("VERSION"), 64)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s; create one with rmodels init", ErrNoStore, s.root)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s; run as its owner", ErrNotOwner, s.root)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return parseVersion(b)
}

func parseVersion(b []byte) error {
	if string(b) != version {
		return fmt.Errorf("%w: VERSION says %q, this program knows %q; use the release that wrote it", ErrVersion, b, version)
	}
	return nil
}

func readOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w: %w; remount its file system read-write", ErrReadOnly, err)
	}
	return err
}

// free is what the file system has left for the store, in bytes.
func (s *Store) free() (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: s.root, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// removeAll deletes a directory of the store through the seam. Directories of
// trees are read-only and must be made writable for anyone but root.
//
// What is mounted there is somebody else's.
func (s *Store) removeAll(ctx context.Context, path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return fmt.Errorf("%w: something is mounted at %s; unmount it", ErrFileSystem, path)
	}
	names, err := s.readNames(path)
	if err != nil {
		return err
	}
	if err := s.fs.Chmod(path, 0o755); err != nil {
		return err
	}
	here, err := s.fs.among(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.removeFrom(ctx, here, filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return s.fs.Rmdir(path)
}
