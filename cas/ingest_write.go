package cas

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	// writebackBytes is the block that the kernel is told to write out once
	// all of it is there, so that the fsync of Commit finds little left to do.
	// Blocks, not runs of writes: sixteen writers in one blob make runs as
	// short as their buffers.
	writebackBytes = 8 << 20
	// handOver is the shortest write worth hashing in a second goroutine.
	handOver = 32 << 10
	// readBack is how much the hasher reads at once behind the writers.
	readBack = 1 << 20
)

// WriteAt stores p at off. Any number of goroutines may write, in any order,
// and a range may be written again until Commit. A write at the position that
// the hash has reached is hashed from p while it goes to the file; what
// arrives ahead of that is hashed later from the page cache.
//
// It fails for good when the disk does: the ingest can then only be closed,
// and starts from nothing the next time.
func (i *Ingest) WriteAt(p []byte, off int64) (int, error) {
	r := Range{off, int64(len(p))}
	if off < 0 || r.Len > i.size-off {
		return 0, fmt.Errorf("%w: %d bytes at %d of %s, which has %d", ErrInvalid, len(p), off, i.k.digest(), i.size)
	}
	if r.Len == 0 {
		return 0, nil
	}
	inOrder, noted, err := i.begin(r)
	if err != nil {
		return 0, err
	}
	if noted {
		// The note must not vouch for bytes that change.
		err = i.note()
	}
	switch {
	case err != nil:
		err = i.lose(err)
	case inOrder:
		err = i.h.hashWhile(p, func() error { return i.write(p, off) })
	default:
		err = i.write(p, off)
	}
	due := i.end(r, inOrder, err)
	if err == nil && due.note {
		err = i.note()
	}
	if err == nil && due.writeback.Len > 0 {
		err = i.f.StartWriteback(due.writeback.Off, due.writeback.Len)
	}
	if err != nil {
		return 0, i.lose(err)
	}
	return len(p), nil
}

// due is what a write has made due.
type due struct {
	note      bool
	writeback Range
}

// begin waits until nobody else is at r and reserves it. It reports whether
// the caller is to hash r as it writes, and whether the note names bytes of r.
func (i *Ingest) begin(r Range) (inOrder, noted bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		if err := i.usable(); err != nil {
			return false, false, err
		}
		if !slices.ContainsFunc(i.busy, r.overlaps) {
			if r.Off >= max(i.hashed.off, i.recorded) || i.size == 0 {
				break
			}
			if err := i.unhash(r.Off); err != nil {
				return false, false, err
			}
			continue // the lock was given up meanwhile
		}
		i.changed.Wait()
	}
	i.busy = append(i.busy, r)
	// Until the new bytes are in, the range is neither old nor new.
	i.present = i.present.remove(r)
	if r.Off == i.hashed.off && !i.hashing {
		i.hashing, inOrder = true, true
	}
	return inOrder, slices.ContainsFunc(i.noted, r.overlaps), nil
}

// unhash takes the hash back to before off, because bytes there are about to
// change, and lowers the checkpoint on disk first (invariant 3): a crash would
// otherwise join the hash of the old bytes to the new ones. Called and left
// with mu held, which it gives up in between.
func (i *Ingest) unhash(off int64) error {
	for i.hashing {
		i.changed.Wait()
	}
	if err := i.usable(); err != nil {
		return err
	}
	i.hashing = true
	i.mu.Unlock()
	i.checkpointing.Lock() // a checkpoint under way still has the old hash
	err := i.h.back(off)
	i.mu.Lock()
	i.hashed = hashed{i.h.off, i.h.sums, i.h.states}
	lower := i.recorded > i.h.off
	i.mu.Unlock()
	if err == nil && lower {
		err = i.recordProgress()
	}
	i.checkpointing.Unlock()
	i.mu.Lock()
	i.hashing = false
	i.changed.Broadcast()
	if err != nil {
		i.lost = errors.Join(i.lost, err)
	}
	return err
}

func (i *Ingest) write(p []byte, off int64) error {
	if _, err := i.f.WriteAt(p, off); err != nil {
		return i.lose(err)
	}
	return nil
}

// end gives r back and sets the hasher to work on what has become contiguous.
func (i *Ingest) end(r Range, inOrder bool, failed error) due {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer i.changed.Broadcast()
	i.release(r)
	if inOrder {
		i.hashing = false
		i.hashed = hashed{i.h.off, i.h.sums, i.h.states}
	}
	if failed != nil {
		return due{}
	}
	i.present = i.present.add(r)
	i.hashBehind()
	i.unsynced += r.Len
	if !i.following && i.checkpointDue() {
		i.following = true
		i.work.Go(i.follow)
	}
	d := due{writeback: i.filled(r)}
	if i.unnoted += r.Len; i.unnoted >= noteBytes {
		i.unnoted, d.note = 0, true
	}
	return d
}

// filled is the blocks of writeback that r has completed.
func (i *Ingest) filled(r Range) Range {
	from := r.Off / writebackBytes * writebackBytes
	to := min((r.end()+writebackBytes-1)/writebackBytes*writebackBytes, i.size)
	run := i.present.around(r.Off)
	if run.Off > from {
		from += writebackBytes
	}
	if run.end() < to {
		to = to - 1 - (to-1)%writebackBytes
	}
	return Range{from, max(0, to-from)}
}

func (i *Ingest) release(r Range) {
	n := slices.Index(i.busy, r)
	i.busy = slices.Delete(i.busy, n, n+1)
}

// hashBehind starts the hasher when bytes wait for it and nobody hashes.
// Called with mu held.
func (i *Ingest) hashBehind() {
	if i.hashing || i.closed || i.lost != nil || i.present.endFrom(i.h.off) == i.h.off {
		return
	}
	i.hashing = true
	i.work.Go(func() { i.report(i.catchUp()) })
}

// catchUp hashes from the file until no contiguous bytes are left.
func (i *Ingest) catchUp() error {
	buf := make([]byte, min(readBack, i.size))
	i.mu.Lock()
	defer i.mu.Unlock()
	defer func() {
		i.hashing = false
		i.changed.Broadcast()
	}()
	for {
		n := min(i.present.endFrom(i.h.off)-i.h.off, int64(len(buf)))
		if n == 0 || i.closed || i.lost != nil {
			return nil
		}
		r := Range{i.h.off, n}
		i.busy = append(i.busy, r)
		i.mu.Unlock()
		_, err := i.f.ReadAt(buf[:n], r.Off)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			i.h.mapBytes(buf[:n])
			i.h.sumBytes(buf[:n])
			i.h.advance(int(n))
		}
		i.mu.Lock()
		i.release(r)
		i.hashed = hashed{i.h.off, i.h.sums, i.h.states}
		i.changed.Broadcast()
		if err != nil {
			return err
		}
	}
}

func (i *Ingest) usable() error {
	if i.lost != nil {
		return i.lost
	}
	if i.closed {
		return fmt.Errorf("%w: %s", ErrClosed, i.k.digest())
	}
	return nil
}

// lose ends the ingest for good: after a failed write or fsync nobody knows
// which bytes are on disk, and asking again would be answered with success.
func (i *Ingest) lose(err error) error {
	i.report(err)
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lost
}

func (i *Ingest) report(err error) {
	if err == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.lost == nil {
		i.lost = fmt.Errorf("ingest of %s lost: %w", i.k.digest(), noSpace(err))
	}
	i.changed.Broadcast()
}
