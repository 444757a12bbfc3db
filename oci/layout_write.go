package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
)

// layoutDir is a layout that is written to. It may lie where others can write,
// on a disk that is carried around: every step is relative to the directory
// that a person named, so that no link in it leads out of it.
type layoutDir struct {
	top, blobs *os.Root // blobs is top's blobs/sha256
	lock       *filelock.Lock
}

// layoutWait bounds how long a writer waits for another one of the same
// directory, which may copy models of hundreds of gigabytes.
const layoutWait = 10 * time.Minute

// lockLayout makes the directory where there is none, keeps other writers out
// of it and removes what a writer that was killed left in it.
func lockLayout(ctx context.Context, dir string) (_ *layoutDir, err error) {
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	d := new(layoutDir)
	defer func() {
		if err != nil {
			d.unlock()
		}
	}()
	if d.top, err = os.OpenRoot(dir); err != nil {
		return nil, err
	}
	if d.lock, err = filelock.Take(ctx, filepath.Join(dir, ".lock"), filelock.Exclusive, layoutWait); err != nil {
		return nil, err
	}
	if d.blobs, err = subdirectory(d.top, "blobs", "sha256"); err != nil {
		return nil, err
	}
	for _, r := range []*os.Root{d.top, d.blobs} {
		if err := removeTemporary(r); err != nil {
			return nil, err
		}
	}
	if _, err := d.top.Lstat(ocispec.ImageLayoutFile); errors.Is(err, fs.ErrNotExist) {
		b, err := marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err != nil {
			return nil, err
		}
		return d, writeIn(d.top, ocispec.ImageLayoutFile, b)
	} else if err != nil {
		return nil, err
	}
	return d, nil
}

// unlock may be called at any stage of [lockLayout].
func (d *layoutDir) unlock() {
	for _, r := range []*os.Root{d.blobs, d.top} {
		if r != nil {
			r.Close()
		}
	}
	if d.lock != nil {
		d.lock.Unlock()
	}
}

// subdirectory opens a directory below root, which it makes where there is
// none. A link in the place of one is refused, wherever it leads.
func subdirectory(root *os.Root, names ...string) (*os.Root, error) {
	at := root
	for _, name := range names {
		made := at.Mkdir(name, 0o755)
		if made != nil && !errors.Is(made, fs.ErrExist) {
			return nil, made
		}
		if fi, err := at.Lstat(name); err != nil {
			return nil, err
		} else if !fi.IsDir() {
			return nil, &fs.PathError{Op: "open", Path: filepath.Join(at.Name(), name), Err: syscall.ENOTDIR}
		}
		next, err := at.OpenRoot(name)
		if err == nil && made == nil {
			err = syncIn(at)
		}
		if at != root {
			err = errors.Join(err, at.Close())
		}
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// removeTemporary is [durable.RemoveTemporary] in root.
func removeTemporary(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	err = errors.Join(err, d.Close())
	for _, name := range names {
		if fi, serr := root.Lstat(name); durable.IsTemporary(name) && serr == nil && fi.Mode().IsRegular() {
			if rerr := root.Remove(name); !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}
	return err
}

// createIn makes a new file under a temporary name.
func createIn(root *os.Root, name string) (*os.File, string, error) {
	tmp := durable.Temporary(name)
	f, err := root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, tmp, err
}

// writeIn replaces a file durably.
func writeIn(root *os.Root, name string, b []byte) error {
	f, tmp, err := createIn(root, name)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		if err = f.Chmod(0o644); err == nil {
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(tmp))
	}
	return syncIn(root)
}

func syncIn(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openIn opens a regular file for reading; a link or a FIFO in its place is
// neither followed nor waited for.
func openIn(root *os.Root, name string) (*os.File, error) {
	fi, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	irregular := &fs.PathError{Op: "open", Path: filepath.Join(root.Name(), name), Err: durable.ErrNotRegular}
	if !fi.Mode().IsRegular() {
		return nil, irregular
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if there, err := f.Stat(); err != nil || !os.SameFile(fi, there) { // replaced meanwhile
		return nil, errors.Join(irregular, err, f.Close())
	}
	return f, nil
}

// removeBlob removes a blob; its algorithm is that of every digest here.
func (d *layoutDir) removeBlob(of digest.Digest) error { return d.blobs.Remove(of.Encoded()) }

// editIndex changes index.json in one step.
func (d *layoutDir) editIndex(change func([]ocispec.Descriptor) []ocispec.Descriptor) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	f, err := openIn(d.top, ocispec.ImageIndexFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
		switch err = errors.Join(err, f.Close()); {
		case err != nil:
			return err
		case len(b) > maxManifest:
			return fmt.Errorf("%w: %s: more than %d bytes", ErrTooLarge, filepath.Join(d.top.Name(), ocispec.ImageIndexFile), maxManifest)
		}
		if err := json.Unmarshal(b, &index); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(d.top.Name(), ocispec.ImageIndexFile), err)
		}
	}
	index.Manifests = change(index.Manifests)
	b, err := marshal(index)
	if err != nil {
		return err
	}
	return writeIn(d.top, ocispec.ImageIndexFile, b)
}
