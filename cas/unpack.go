package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Unpacking is the one writer of what a packed blob unfolds to. It takes two
// streams: the packed bytes, to hash them ([Unpacking.Write]), and the files
// that they unfold to ([Unpacking.Spool]), which nobody sees before the packed
// bytes have proved to be those of the name. It cannot be resumed.
type Unpacking struct {
	s       *Store
	l       *Lease
	k       key
	size    int64
	reading string
	lock    *flock

	sha hash.Hash // of the packed bytes; for one goroutine
	off int64

	spooled atomic.Int64 // bytes of all its files

	mu     sync.Mutex
	files  []sealedFile // durable, without a name
	have   map[key]bool // of files
	closed bool
}

// sealedFile is a spooled file whose bytes are on disk.
type sealedFile struct {
	k    key
	path string
	m    chunkMap
}

// Unpack opens the writer of the packed blob d of size bytes, understood by
// the caller as reading says (see [Store.Layer]). The digest is added to l
// first (invariant 7). One writer exists among all processes; others wait here,
// and call onWait from time to time. When d is unpacked already, or by the one
// waited for, the error is [ErrExists], and l keeps its files.
func (s *Store) Unpack(ctx context.Context, l *Lease, d digest.Digest, size int64, reading string, onWait func()) (*Unpacking, error) {
	k, err := keyOf(d)
	if err != nil {
		return nil, err
	}
	if size < 0 || size > MaxSize || reading == "" || len(reading) > maxReading {
		return nil, fmt.Errorf("%w: unpacking %s of %d bytes as %q", ErrInvalid, d, size, reading)
	}
	if l == nil {
		return nil, fmt.Errorf("%w: unpacking %s without a lease", ErrInvalid, d)
	}
	if err := l.Add(ctx, d); err != nil {
		return nil, err
	}
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		if err := s.lacksLayer(ctx, l, d, reading); err != nil {
			return nil, err
		}
		lock, err := s.claim(k)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			u := &Unpacking{s: s, l: l, k: k, size: size, reading: reading, lock: lock, sha: sha256.New(), have: map[key]bool{}}
			// Whoever had the lock until now may have published.
			if err := s.lacksLayer(ctx, l, d, reading); err != nil {
				return nil, errors.Join(err, u.Close())
			}
			return u, nil
		}
		if onWait != nil {
			onWait()
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// lacksLayer is nil when a layer is to be unpacked, [ErrExists] when it need
// not be. Its files are announced before the look that counts (invariant 7): a
// lease on the layer alone keeps none of them once another reading has taken
// the place of the record.
func (s *Store) lacksLayer(ctx context.Context, l *Lease, d digest.Digest, reading string) error {
	for range 2 {
		entries, err := s.Layer(ctx, d, reading)
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrSuspect), errors.Is(err, ErrCorrupt):
			return nil
		case err != nil:
			return err
		}
		if err := l.Add(ctx, filesOf(entries)...); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: layer %s", ErrExists, d)
}

// filesOf is every file of a layer, once.
func filesOf(entries []LayerEntry) []digest.Digest {
	var files []digest.Digest
	for _, e := range entries {
		if e.Kind == EntryFile {
			files = append(files, e.Blob)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// Write hashes the next packed bytes; it keeps none. It may run beside the
// writers of the files.
func (u *Unpacking) Write(b []byte) (int, error) {
	if int64(len(b)) > u.size-u.off {
		return 0, fmt.Errorf("%w: more than the %d bytes of %s", ErrInvalid, u.size, u.k.digest())
	}
	u.sha.Write(b)
	u.off += int64(len(b))
	return len(b), nil
}

// Check compares the packed bytes with the name (invariant 1):
// [*MismatchError] when they are others, [ErrIncomplete] when some are missing.
func (u *Unpacking) Check() error {
	if u.off != u.size {
		return fmt.Errorf("%w: %d of the %d bytes of %s were read", ErrIncomplete, u.off, u.size, u.k.digest())
	}
	if found := digest.NewDigest(digest.SHA256, u.sha); found != u.k.digest() {
		return &MismatchError{Digest: u.k.digest(), Found: found, Size: u.size}
	}
	return nil
}

// Commit publishes the files and then the record of them, if the packed bytes
// are those of the name; otherwise nothing of it. Each file that an entry names
// has been spooled here. The unpacking is closed in any case.
func (u *Unpacking) Commit(ctx context.Context, entries []LayerEntry) (err error) {
	defer func() { err = errors.Join(err, u.Close()) }()
	if u.closed {
		return fmt.Errorf("%w: unpacking %s", ErrClosed, u.k.digest())
	}
	if err := u.Check(); err != nil {
		return err
	}
	record, err := u.record(entries)
	if err != nil {
		return fmt.Errorf("layer %s: %w", u.k.digest(), err)
	}
	if err := u.publishFiles(ctx); err != nil {
		return fmt.Errorf("layer %s: %w", u.k.digest(), err)
	}
	if err := u.s.publishLayer(ctx, u.k, record); err != nil {
		return fmt.Errorf("layer %s: %w", u.k.digest(), err)
	}
	return nil
}

func (u *Unpacking) record(entries []LayerEntry) ([]byte, error) {
	// Packed bytes can be made that unfold to themselves. Publishing such a
	// file would wait for the writer of that digest: for this one.
	if u.have[u.k] {
		return nil, fmt.Errorf("%w: the layer is one of its own files", ErrInvalid)
	}
	if entries == nil {
		entries = []LayerEntry{}
	}
	rec := layer{Name: u.k.digest(), Reading: u.reading, Entries: entries}
	if err := rec.check(u.k); err != nil {
		return nil, err
	}
	sizes := make(map[digest.Digest]int64, len(u.files))
	for _, f := range u.files {
		sizes[f.k.digest()] = f.m.size
	}
	for _, e := range entries {
		if n, ok := sizes[e.Blob]; e.Kind == EntryFile && (!ok || n != e.Size) {
			return nil, fmt.Errorf("%w: %q is %s of %d bytes, which was not spooled", ErrInvalid, e.Path, e.Blob, e.Size)
		}
	}
	return seal(rec)
}

// publishFiles gives the spooled files their names, all in one section under
// the store lock, after the lease has announced every one: a collector has no
// moment in which it could take one of them. When it returns, the names are
// durable.
func (u *Unpacking) publishFiles(ctx context.Context) error {
	names := make([]digest.Digest, len(u.files))
	for n, f := range u.files {
		names[n] = f.k.digest()
	}
	if err := u.l.Add(ctx, names...); err != nil {
		return err
	}
	fresh := make([]sealedFile, 0, len(u.files))
	for _, f := range u.files {
		mended, err := u.s.prepare(ctx, f)
		if err != nil {
			return fmt.Errorf("file %s: %w", f.k.digest(), err)
		}
		if !mended {
			fresh = append(fresh, f)
		}
	}
	if err := u.s.underLock(ctx, func() error {
		for _, f := range fresh {
			// One that has the name already has the bytes, too.
			if err := u.s.fs.RenameNew(f.path, u.s.blobPath(f.k)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(settleParallel)
	for _, f := range fresh {
		group.Go(func() error { return u.s.findDurable(gctx, f.k) })
	}
	return group.Wait()
}

// settleParallel is how many files are looked at once.
const settleParallel = 16

// prepare makes a file ready to be published. An ingest directory tells
// everyone who finds the name that it may not be durable yet, and to take that
// step (invariant 2). A file whose blob is there and not trusted is mended at
// once, with what was spooled as the source.
func (s *Store) prepare(ctx context.Context, f sealedFile) (mended bool, err error) {
	if f.m.size > MapThreshold {
		if err := s.writeMap(f.k, f.m); err != nil {
			return false, err
		}
	}
	if err := s.makeFan(s.blobPath(f.k)); err != nil {
		return false, err
	}
	if _, err := s.lstat(f.k); errors.Is(err, ErrCorrupt) {
		if err := s.removeImpostor(ctx, f.k); err != nil {
			return false, err
		}
	}
	flag, err := s.readSuspect(f.k)
	if err != nil {
		return false, err
	}
	if flag == nil {
		err := s.fs.Mkdir(s.ingestPath(f.k), 0o755)
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
		return false, noSpace(err)
	}
	return true, s.mend(ctx, f)
}

// mend puts good bytes in the place of suspect ones: into the same file where
// that can be written, which heals every reader, else as a new one.
func (s *Store) mend(ctx context.Context, f sealedFile) error {
	good, err := s.fs.OpenFile(f.path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer good.Close()
	err = s.Repair(ctx, f.k.digest(), func(ctx context.Context, off, n int64, w io.WriterAt) error {
		_, err := io.Copy(io.NewOffsetWriter(w, off), io.NewSectionReader(good, off, n))
		return err
	})
	if err == nil || ctx.Err() != nil {
		return err
	}
	lock, err := s.claimRepair(ctx, f.k)
	if err != nil {
		return err
	}
	defer lock.unlock()
	return errors.Join(s.publish(ctx, f.k, f.path, f.m), s.removeIngest(f.k))
}

// Close forgets what was not committed. It may be called more than once; no
// spool may be in use.
func (u *Unpacking) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil
	}
	u.closed = true
	defer u.lock.unlock()
	var errs []error
	for _, f := range u.files {
		if err := u.s.fs.Unlink(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, u.s.removeIngest(u.k))...)
}

// keep takes a spooled file over; of two with the same bytes one is enough.
func (u *Unpacking) keep(f sealedFile) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.have[f.k] {
		return u.s.fs.Unlink(f.path)
	}
	u.have[f.k] = true
	u.files = append(u.files, f)
	return nil
}
