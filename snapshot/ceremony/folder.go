package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// ErrHostile: an entry of the folder is not what a ceremony holds: a link, a
// device, a file without end. Whoever carried it put it there.
var ErrHostile = errors.New("not an entry of a ceremony")

// folder is all that a ceremony does to a directory. Names are relative, with
// slashes. Each write and each removal is one step that a crash leaves done or
// not begun, which is what the order of the steps relies on.
type folder interface {
	// read returns a regular file of at most max bytes. No link is followed.
	read(name string, max int64) ([]byte, error)
	// write replaces a file, makes the folders on the way, and is durable.
	write(name string, b []byte) error
	// remove takes a file away; one that is not there is fine.
	remove(name string) error
	// list returns the names in a folder; none when it is not there.
	list(dir string) ([]string, error)
	// lock keeps every other process out until unlock.
	lock(ctx context.Context) (unlock func(), err error)
}

// dirFolder is a directory on disk.
type dirFolder string

// maxEntries bounds what is read of one folder.
const maxEntries = 100_000

// in opens the folder that holds name and says by which name. Each component
// must be a directory: through a link the ceremony would write, and remove,
// elsewhere.
func (d dirFolder) in(name string, create bool) (*os.Root, string, error) {
	if !fs.ValidPath(name) {
		return nil, "", fmt.Errorf("%w: %q", ErrHostile, name)
	}
	if create {
		if err := os.MkdirAll(string(d), 0o755); err != nil {
			return nil, "", err
		}
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, "", err
	}
	for rest := name; ; {
		dir, below, ok := strings.Cut(rest, "/")
		if !ok {
			return root, rest, nil
		}
		sub, err := enter(root, dir, create)
		if err != nil {
			return nil, "", errors.Join(fmt.Errorf("%s: %w", path.Join(string(d), name), err), root.Close())
		}
		if err := root.Close(); err != nil {
			return nil, "", errors.Join(err, sub.Close())
		}
		root, rest = sub, below
	}
}

// enter opens a directory of root that is no link.
func enter(root *os.Root, dir string, create bool) (*os.Root, error) {
	if create {
		if err := root.Mkdir(dir, 0o755); err == nil {
			if err := syncDir(root); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	named, err := root.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !named.IsDir() {
		return nil, fmt.Errorf("%w: %s is no directory", ErrHostile, dir)
	}
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	opened, err := sub.Stat(".")
	if err == nil && !os.SameFile(named, opened) { // replaced by a link meanwhile
		err = fmt.Errorf("%w: %s changed while it was opened", ErrHostile, dir)
	}
	if err != nil {
		return nil, errors.Join(err, sub.Close())
	}
	return sub, nil
}

func syncDir(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d dirFolder) read(name string, max int64) ([]byte, error) {
	root, base, err := d.in(name, false)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	named, err := root.Lstat(base)
	if err != nil {
		return nil, err
	}
	f, err := root.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		if !named.Mode().IsRegular() {
			err = fmt.Errorf("%w: %s is no regular file", ErrHostile, path.Join(string(d), name))
		}
		return nil, err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !named.Mode().IsRegular() || !os.SameFile(named, opened) {
		return nil, fmt.Errorf("%w: %s is no regular file", ErrHostile, path.Join(string(d), name))
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", snapshot.ErrTooLarge, path.Join(string(d), name), max)
	}
	return b, nil
}

func (d dirFolder) write(name string, b []byte) error {
	root, base, err := d.in(name, true)
	if err != nil {
		return err
	}
	defer root.Close()
	tmp := durable.Temporary(base)
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		if err = f.Chmod(0o644); err == nil { // whatever the umask: the next holder reads it
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(tmp, base)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path.Join(string(d), name), err), root.Remove(tmp))
	}
	return syncDir(root)
}

func (d dirFolder) remove(name string) error {
	root, base, err := d.in(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	switch err := root.Remove(base); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return syncDir(root)
}

func (d dirFolder) list(dir string) ([]string, error) {
	root, _, err := d.in(path.Join(dir, "x"), false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("%w: %s holds more than %d entries", ErrHostile, path.Join(string(d), dir), maxEntries)
	}
	return names, nil
}

// lock takes the directory itself: a lock file would travel with it, and on a
// memory stick without modes it could not be its owner's alone.
func (d dirFolder) lock(ctx context.Context) (func(), error) {
	f, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", string(d), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s, held by another process: %w", string(d), ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}

// source reads a sub-folder as a node would.
type folderSource struct {
	f   folder
	sub string
}

func (s folderSource) Fetch(_ context.Context, name string, max int64) ([]byte, error) {
	b, err := s.f.read(path.Join(s.sub, name), max)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, snapshot.ErrRejected) {
		err = fmt.Errorf("%w: %w", snapshot.ErrSource, err)
	}
	return b, err
}
