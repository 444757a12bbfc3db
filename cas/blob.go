package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// BlobStat describes a published blob.
type BlobStat struct {
	Size    int64 // bytes
	Suspect bool  // a check failed; the blob refuses new uses
}

// Stat looks for a published blob; [ErrNotFound] when there is none. A blob
// that a collector has just taken is put back.
func (s *Store) Stat(d digest.Digest) (BlobStat, error) {
	k, err := keyOf(d)
	if err != nil {
		return BlobStat{}, err
	}
	return s.find(context.Background(), k)
}

// find is Stat; it keeps invariant 8.
func (s *Store) find(ctx context.Context, k key) (BlobStat, error) {
	st, err := s.lstat(k)
	if errors.Is(err, ErrNotFound) {
		back, err2 := s.restore(ctx, k)
		if err2 != nil {
			return BlobStat{}, err2
		}
		if !back {
			return BlobStat{}, err
		}
		st, err = s.lstat(k)
	}
	if err != nil {
		return BlobStat{}, err
	}
	flag, err := s.readSuspect(k)
	return BlobStat{Size: st.Size, Suspect: flag != nil}, err
}

func (s *Store) lstat(k key) (unix.Stat_t, error) {
	var st unix.Stat_t
	path := s.blobPath(k)
	if err := s.fs.parents(path); err != nil {
		return st, err
	}
	switch err := unix.Lstat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return st, fmt.Errorf("%w: %s", ErrNotFound, k.digest())
	case err != nil:
		return st, &fs.PathError{Op: "lstat", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return st, fmt.Errorf("%w: blob %s is not a regular file; remove it and run verify", ErrCorrupt, path)
	}
	return st, nil
}

// restore brings a blob back from the trash, with its map. Each step is one
// rename, so a collector that unlinks at the same time either wins, and the
// blob is gone, or does not find it any more.
//
// It searches under the store lock, and looks at the blob's own place last:
// between the caller's look and the search someone else may have restored it
// and the run's directory may be gone, and "not there" would be an answer that
// was never true.
func (s *Store) restore(ctx context.Context, k key) (bool, error) {
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
			continue // a discarded blob, bad on purpose
		}
		dir := filepath.Join(s.trashPath(), run)
		switch err := s.fs.RenameNew(filepath.Join(dir, "b-"+k.hex()), s.blobPath(k)); {
		case errors.Is(err, fs.ErrExist):
			return true, nil // someone else restored or published it
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return false, err
		}
		err := s.fs.RenameNew(filepath.Join(dir, "m-"+k.hex()), s.mapPath(k))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		// Before a collector removes the directory that it came from.
		guard.unlock()
		return true, s.fs.SyncDir(filepath.Dir(s.blobPath(k)))
	}
	_, err = s.lstat(k)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Blob is an open published blob.
type Blob struct {
	*io.SectionReader
	f durable.File
}

// Close closes the blob.
func (b *Blob) Close() error { return b.f.Close() }

// Fd is the file descriptor of the blob, for copies inside the kernel.
func (b *Blob) Fd() uintptr { return b.f.Fd() }

// Open opens a published blob for reading: [ErrNotFound] when there is none,
// [ErrSuspect] when it failed a check (invariant 4).
func (s *Store) Open(d digest.Digest) (*Blob, error) {
	k, err := keyOf(d)
	if err != nil {
		return nil, err
	}
	st, err := s.find(context.Background(), k)
	if err != nil {
		return nil, err
	}
	if st.Suspect {
		return nil, fmt.Errorf("%w: %s; repair or ingest it again", ErrSuspect, d)
	}
	return s.openBlob(k)
}

// openBlob opens a blob whatever is thought of it.
func (s *Store) openBlob(k key) (*Blob, error) {
	path := s.blobPath(k)
	f, err := s.fs.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s", ErrNotFound, k.digest())
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: blob %s is a symbolic link; remove it and run verify", ErrCorrupt, path)
	case err != nil:
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: blob %s is not a regular file; remove it and run verify", ErrCorrupt, path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Blob{io.NewSectionReader(f, 0, st.Size()), f}, nil
}

// ReadAll reads a small blob, a manifest or a signature, of at most limit
// bytes, and hashes it again. One that fails becomes suspect.
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) {
	b, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are read at once", ErrInvalid, d, b.Size(), limit)
	}
	content := make([]byte, b.Size())
	if _, err := io.ReadFull(b, content); err != nil {
		return nil, fmt.Errorf("read %s: %w", d, err)
	}
	if found := digest.FromBytes(content); found != d {
		mismatch := &MismatchError{Digest: d, Found: found, Size: b.Size()}
		k, _ := keyOf(d)
		return nil, errors.Join(mismatch, s.setSuspect(k, suspicion{Reason: "read: " + mismatch.Error()}))
	}
	return content, nil
}

// Put publishes a small blob that is in memory already. One that is there is
// no error.
func (s *Store) Put(ctx context.Context, l *Lease, d digest.Digest, b []byte) error {
	k, err := keyOf(d)
	if err != nil {
		return err
	}
	// Before the disk is touched: a wrong manifest is the commonest fault.
	if found := sha256.Sum256(b); found != k {
		return &MismatchError{Digest: d, Found: key(found).digest(), Size: int64(len(b))}
	}
	i, err := s.Ingest(ctx, l, d, int64(len(b)), IngestOptions{})
	if errors.Is(err, ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := i.WriteAt(b, 0); err != nil {
		return errors.Join(err, i.Close())
	}
	if err := i.Commit(ctx); err != nil {
		return errors.Join(err, i.Discard())
	}
	return nil
}
