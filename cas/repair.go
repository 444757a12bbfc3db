package cas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Fetch brings the bytes [off, off+n) of a blob and writes them to w at their
// offsets in the blob. It is called once for each bad range, in order.
type Fetch func(ctx context.Context, off, n int64, w io.WriterAt) error

// Repair makes a blob good again with as few bytes as possible. The chunk map
// says which are bad; only these are fetched, into a side file. Then the whole
// blob is hashed with them in place, and only if that is its digest are they
// written into it, which heals every tree and every mapping at once: a checksum
// never admits bytes. When the file cannot be written, a new one takes its
// place, also in the trees. A good blob is left alone and loses its suspect
// flag.
//
// The error is a [*MismatchError] when what was fetched does not make the blob
// good, and then nothing has changed; [ErrCorrupt] when nothing is left that
// says how long the blob is, or it is no regular file: ingest it again.
func (s *Store) Repair(ctx context.Context, d digest.Digest, fetch func(ctx context.Context, off, n int64, w io.WriterAt) error) error {
	k, err := keyOf(d)
	if err != nil {
		return err
	}
	if _, err := s.find(ctx, k); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	lock, err := s.claimRepair(ctx, k)
	if err != nil {
		return err
	}
	defer lock.unlock()
	if err := s.repair(ctx, k, fetch); err != nil {
		return fmt.Errorf("repair %s: %w", d, err)
	}
	return s.removeIngest(k)
}

func (s *Store) claimRepair(ctx context.Context, k key) (*flock, error) {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		lock, err := s.claim(k)
		if lock != nil || err != nil {
			return lock, err
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func (s *Store) repair(ctx context.Context, k key, fetch Fetch) error {
	st, err := s.lstat(k)
	if err != nil {
		return err
	}
	m, mapped, err := s.readAnyMap(k)
	if err != nil {
		return err
	}
	size := st.Size
	if mapped {
		size = m.size
	}
	disk, err := s.openDisk(s.blobPath(k))
	if err != nil {
		return err
	}
	defer disk.close()
	var bad rangeSet
	if mapped {
		if bad, err = disk.badRanges(ctx, m); err != nil {
			return err
		}
	}
	side := filepath.Join(s.ingestPath(k), "repair")
	if err := s.removeLeftover(ctx, side); err != nil {
		return err
	}
	f, err := s.fs.OpenFile(side, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return noSpace(err)
	}
	defer f.Close()
	p := &patch{disk: disk, side: f, size: size}
	found, fresh, err := p.try(ctx, bad, fetch)
	if err != nil {
		return err
	}
	if found != k.digest() && p.have.total() < size {
		// The map does not know all that is bad, or there is none: rot that
		// its checksums happen to miss, or bytes that someone chose.
		whole := rangeSet{{0, size}}
		for _, r := range p.have {
			whole = whole.remove(r)
		}
		if found, fresh, err = p.try(ctx, whole, fetch); err != nil {
			return err
		}
	}
	if found != k.digest() {
		return &MismatchError{Digest: k.digest(), Found: found, Size: size}
	}
	return s.apply(ctx, k, p, fresh, m, mapped, st.Size)
}

// badRanges compares the disk with the map.
func (r *diskReader) badRanges(ctx context.Context, m chunkMap) (rangeSet, error) {
	var bad rangeSet
	buf, err := newDirectBuffer(ChunkSize)
	if err != nil {
		return nil, err
	}
	defer buf.free()
	for _, c := range m.chunks {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		cause, err := r.checkChunk(buf, c)
		if err != nil {
			return nil, err
		}
		if cause == CauseDisk {
			bad = bad.add(Range{c.off, c.len})
		}
	}
	return bad, nil
}

// patch is the bytes that a repair has fetched, over those on the disk.
type patch struct {
	disk *diskReader
	side durable.File
	size int64
	have rangeSet // fetched
}

// try fetches more ranges and hashes the blob as it would be with them.
func (p *patch) try(ctx context.Context, ranges rangeSet, fetch Fetch) (digest.Digest, chunkMap, error) {
	for _, r := range ranges {
		w := &window{f: p.side, r: r}
		if err := fetch(ctx, r.Off, r.Len, w); err != nil {
			return "", chunkMap{}, fmt.Errorf("fetch %d bytes at %d: %w", r.Len, r.Off, err)
		}
		if w.written.total() != r.Len {
			return "", chunkMap{}, fmt.Errorf("%w: the source wrote %d of %d bytes at %d", ErrIncomplete, w.written.total(), r.Len, r.Off)
		}
		p.have = p.have.add(r)
	}
	h := newHasher()
	buf, err := newDirectBuffer(readBack)
	if err != nil {
		return "", chunkMap{}, err
	}
	defer buf.free()
	for h.off < p.size {
		if err := context.Cause(ctx); err != nil {
			return "", chunkMap{}, err
		}
		b, err := p.read(buf, h.off)
		if err != nil {
			return "", chunkMap{}, err
		}
		h.sumBytes(b)
		h.mapBytes(b)
		h.advance(len(b))
	}
	return h.digest(), h.finish(), nil
}

// read returns some bytes from off on. What the disk no longer has reads as
// zeros, which will not hash to the right digest.
func (p *patch) read(buf *directBuffer, off int64) ([]byte, error) {
	n := min(readBack, p.size-off)
	if end := p.have.endFrom(off); end > off {
		n = min(n, end-off)
		return readFull(p.side, buf.b[:n], off)
	}
	for _, r := range p.have {
		if r.Off > off {
			n = min(n, r.Off-off)
			break
		}
	}
	b, err := p.disk.read(buf, off, n)
	if errors.Is(err, unix.EIO) {
		b, err = nil, nil
	}
	if err != nil || len(b) > 0 {
		return b, err
	}
	clear(buf.b[:n])
	return buf.b[:n], nil
}

// window lets a fetch write its range and nothing else.
type window struct {
	f       durable.File
	r       Range
	written rangeSet
}

func (w *window) WriteAt(b []byte, off int64) (int, error) {
	r := Range{off, int64(len(b))}
	if off < w.r.Off || r.end() > w.r.end() {
		return 0, fmt.Errorf("%w: write of %d bytes at %d outside of the %d at %d", ErrInvalid, len(b), off, w.r.Len, w.r.Off)
	}
	n, err := w.f.WriteAt(b, off)
	w.written = w.written.add(Range{off, int64(n)})
	return n, noSpace(err)
}

// apply writes verified bytes into the blob. From before the first byte until
// after the last fsync the blob is suspect, so that a crash in between leaves
// one that will be repaired again.
func (s *Store) apply(ctx context.Context, k key, p *patch, fresh chunkMap, old chunkMap, mapped bool, size int64) error {
	if len(p.have) > 0 || size != p.size {
		if flag, err := s.readSuspect(k); err != nil {
			return err
		} else if flag == nil {
			if err := s.setSuspect(k, suspicion{Reason: "being repaired"}); err != nil {
				return err
			}
		}
		another, err := s.isAnother(ctx, k, p)
		if err != nil {
			return err
		}
		if another || s.writePatch(k, p) != nil {
			return s.replace(ctx, k, p, fresh)
		}
		// What the disk returns now is what counts; its cache would say yes.
		if ok, err := s.patchHolds(ctx, k, p, fresh); err != nil || !ok {
			return errors.Join(err, s.replace(ctx, k, p, fresh))
		}
	} else if err := s.settle(k); err != nil {
		return err
	}
	if p.size > MapThreshold && (!mapped || old.size != p.size || !slices.Equal(old.chunks, fresh.chunks)) {
		if err := s.writeMap(k, fresh); err != nil {
			return err
		}
	}
	return s.clearSuspect(k)
}

// isAnother reports whether the file under the name of k is some other blob's,
// by its bytes or by a tree that shows it as that: then it may not be written
// to, because its readers are that one's.
func (s *Store) isAnother(ctx context.Context, k key, p *patch) (bool, error) {
	if p.have.total() < p.size {
		return false, nil // it has chunks of k, and rotted
	}
	found, _, err := s.hashBlob(ctx, k, nil)
	if err == nil && found != k.digest() {
		if other, err := keyOf(found); err == nil {
			if _, err := s.lstat(other); err == nil {
				return true, nil
			}
		}
	}
	st, err := s.lstat(k)
	if err != nil || st.Nlink == 1 {
		return false, err
	}
	trees, err := s.treeNames()
	if err != nil {
		return false, err
	}
	for _, t := range trees {
		index, err := s.readTree(t)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, e := range index.Entries {
			var of unix.Stat_t
			path := filepath.Join(s.treePath(t), "tree", filepath.FromSlash(e.Path))
			if e.Blob != k.digest() && unix.Lstat(path, &of) == nil && of.Ino == st.Ino {
				return true, nil
			}
		}
	}
	return false, nil
}

// settle gives a good blob back the owner, mode and time of one.
func (s *Store) settle(k key) error {
	if err := unix.Lchown(s.blobPath(k), os.Geteuid(), -1); err != nil {
		return &fs.PathError{Op: "lchown", Path: s.blobPath(k), Err: err}
	}
	f, err := s.fs.OpenFile(s.blobPath(k), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(finishBlob(f), f.Close())
}

func finishBlob(f durable.File) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.SetModTime(Epoch); err != nil {
		return err
	}
	return f.Sync()
}

func (s *Store) writePatch(k key, p *patch) (err error) {
	path := s.blobPath(k)
	f, err := s.fs.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		// Read-only for its owner too, unless that is root.
		if err := s.fs.Chmod(path, 0o644); err != nil {
			return err
		}
		f, err = s.fs.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > p.size {
		if err := f.Truncate(p.size); err != nil {
			return err
		}
	}
	buf := make([]byte, readBack)
	for _, r := range p.have {
		for off := r.Off; off < r.end(); {
			b, err := readFull(p.side, buf[:min(int64(len(buf)), r.end()-off)], off)
			if err != nil || len(b) == 0 {
				return errors.Join(err, io.ErrUnexpectedEOF)
			}
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
			off += int64(len(b))
		}
	}
	return finishBlob(f)
}

// patchHolds reads the repaired ranges from the disk again.
func (s *Store) patchHolds(ctx context.Context, k key, p *patch, fresh chunkMap) (bool, error) {
	disk, err := s.openDisk(s.blobPath(k))
	if err != nil {
		return false, err
	}
	defer disk.close()
	buf, err := newDirectBuffer(ChunkSize)
	if err != nil {
		return false, err
	}
	defer buf.free()
	for _, c := range fresh.chunks {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		touched := false
		for _, r := range p.have {
			touched = touched || r.overlaps(Range{c.off, c.len})
		}
		if !touched {
			continue
		}
		cause, err := disk.checkChunk(buf, c)
		if err != nil || cause == CauseDisk {
			return false, err
		}
	}
	return true, nil
}

// replace publishes the patched bytes as a new file, for a blob whose own
// blocks cannot be written any more.
func (s *Store) replace(ctx context.Context, k key, p *patch, fresh chunkMap) error {
	data := filepath.Join(s.ingestPath(k), "data")
	if err := s.fs.Unlink(data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	buf, err := newDirectBuffer(readBack)
	if err != nil {
		return err
	}
	defer buf.free()
	f, err := s.fs.OpenFile(data, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return noSpace(err)
	}
	h := newHasher()
	for h.off < p.size && err == nil {
		if err = context.Cause(ctx); err != nil {
			break
		}
		var b []byte
		if b, err = p.read(buf, h.off); err != nil {
			break
		}
		if _, err = f.WriteAt(b, h.off); err != nil {
			break
		}
		h.sumBytes(b)
		h.advance(len(b))
	}
	if err == nil {
		// Read a second time, so hashed a second time (invariant 1).
		if found := h.digest(); found != k.digest() {
			err = &MismatchError{Digest: k.digest(), Found: found, Size: p.size}
		}
	}
	if err == nil {
		err = finishBlob(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return noSpace(err)
	}
	return s.publish(ctx, k, data, fresh)
}
