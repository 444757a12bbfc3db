package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// IngestOptions tune an ingest; the zero value is right for a download.
type IngestOptions struct {
	// OnWait is called from time to time while another process (or
	// goroutine) has the ingest, with that one's progress in bytes, as
	// [Store.Partial] counts it.
	OnWait func(done, total int64)
	// CheckpointBytes is how many new bytes cause a checkpoint. Zero: one a
	// second at most, and fewer where they cost much.
	CheckpointBytes int64
}

// Ingest is the one writer of a blob that is not published yet. Its methods
// may be called from several goroutines.
type Ingest struct {
	s     *Store
	k     key
	size  int64
	dir   string
	lock  *flock
	f     durable.File
	every int64

	// checkpointing is held by whoever writes the progress file; taken
	// before mu.
	checkpointing sync.Mutex
	dirSynced     bool // the ingest directory's own name is durable

	// noting is held by whoever writes the note; taken before mu.
	noting sync.Mutex
	notes  durable.File // nil: no note was written
	place  [sha256.Size]byte

	mu        sync.Mutex
	changed   *sync.Cond
	present   rangeSet // bytes written
	busy      []Range  // bytes being written or read by the hasher right now
	h         *hasher  // used by whoever set hashing
	hashed    hashed   // what the hasher has finished, for others to read
	hashing   bool
	recorded  int64         // offset of the checkpoint on disk
	unsynced  int64         // bytes since the last checkpoint began
	noted     rangeSet      // bytes in the note on disk
	unnoted   int64         // bytes since the last note
	since     time.Time     // of the last checkpoint
	pause     time.Duration // from the beginning of one checkpoint to the next
	following bool          // a goroutine makes checkpoints
	work      sync.WaitGroup
	lost      error // a failed write or fsync: the ingest cannot go on
	closed    bool
}

type hashed struct {
	off    int64
	sums   []chunkSum
	states [][]byte
}

// Ingest opens the writer of the blob d of size bytes. The digest is added to
// l first (invariant 7). One writer exists among all processes; others wait
// here. When the blob is published, already or by the one waited for, the
// error is [ErrExists]. What an earlier writer left is taken over:
// [Ingest.Missing] says what is still needed.
//
// A suspect blob may be ingested again; its replacement takes over its name
// and its place in every tree.
func (s *Store) Ingest(ctx context.Context, l *Lease, d digest.Digest, size int64, o IngestOptions) (*Ingest, error) {
	k, err := keyOf(d)
	if err != nil {
		return nil, err
	}
	if size < 0 || size > MaxSize {
		return nil, fmt.Errorf("%w: %s of %d bytes; a blob has at most %d", ErrInvalid, d, size, int64(MaxSize))
	}
	if l == nil {
		return nil, fmt.Errorf("%w: ingest of %s without a lease", ErrInvalid, d)
	}
	if err := l.Add(ctx, d); err != nil {
		return nil, err
	}
	lock, err := s.claimMissing(ctx, k, func() {
		if o.OnWait != nil {
			o.OnWait(s.Partial(d, size), size)
		}
	})
	if err != nil {
		return nil, err
	}
	i, err := s.resume(k, size, lock, o)
	if err != nil {
		lock.unlock()
	}
	return i, err
}

// claimMissing takes the ingest lock of a blob that is not published, or that
// is suspect; [ErrExists] when it is published. It waits for the present
// writer, and calls onWait from time to time.
func (s *Store) claimMissing(ctx context.Context, k key, onWait func()) (*flock, error) {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		published, err := s.settled(ctx, k)
		if errors.Is(err, ErrCorrupt) {
			err = s.removeImpostor(ctx, k)
		}
		if err != nil {
			return nil, err
		}
		if published {
			return nil, fmt.Errorf("%w: %s", ErrExists, k.digest())
		}
		lock, err := s.claim(k)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			// Whoever had the lock until now may have published.
			if st, err := s.find(ctx, k); err == nil && !st.Suspect {
				defer lock.unlock()
				if err := s.fs.SyncDir(filepath.Dir(s.blobPath(k))); err != nil {
					return nil, err
				}
				return nil, errors.Join(fmt.Errorf("%w: %s", ErrExists, k.digest()), s.removeIngest(k))
			}
			return lock, nil
		}
		if onWait != nil {
			onWait()
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// settled reports whether k is published, trusted and durable. A blob whose
// ingest directory still exists may be a name that is not on disk yet
// (invariant 2): its writer is at work, or died there, and then the last step
// is taken for it.
func (s *Store) settled(ctx context.Context, k key) (bool, error) {
	st, err := s.find(ctx, k)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil || st.Suspect {
		return false, err
	}
	if _, err := os.Lstat(s.ingestPath(k)); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	lock, err := s.claim(k)
	if err != nil || lock == nil {
		return false, err
	}
	defer lock.unlock()
	if _, err := s.find(ctx, k); err != nil {
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return false, err
	}
	if err := s.fs.SyncDir(filepath.Dir(s.blobPath(k))); err != nil {
		return false, err
	}
	return true, s.removeIngest(k)
}

// removeImpostor takes away what has a blob's name and is no regular file. The
// flag makes the new blob take its place in the trees.
func (s *Store) removeImpostor(ctx context.Context, k key) error {
	guard, err := s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	// Another may have taken it away, and published.
	if _, err := s.lstat(k); !errors.Is(err, ErrCorrupt) {
		return nil
	}
	if err := s.setSuspect(k, suspicion{Reason: "not a regular file"}); err != nil {
		return err
	}
	err = s.fs.Unlink(s.blobPath(k))
	if errors.Is(err, syscall.EISDIR) {
		return s.fs.condemn(s.blobPath(k))
	}
	return err
}

// claim takes the ingest lock of k, or returns nil when someone has it.
func (s *Store) claim(k key) (*flock, error) {
	dir := s.ingestPath(k)
	path := filepath.Join(dir, "lock")
	for {
		if err := s.fs.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("ingest: %w", noSpace(err))
		}
		lock, err := s.tryLock(path, unix.O_RDWR|unix.O_CREAT, unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its last owner removed the directory
		}
		if errors.Is(err, syscall.EISDIR) { // which nobody can hold
			if err := s.fs.condemn(path); err != nil {
				return nil, fmt.Errorf("ingest: %w", err)
			}
			continue
		}
		if err != nil || lock == nil {
			return nil, noSpace(err)
		}
		same, err := lock.is(path)
		if err == nil && same {
			return lock, nil
		}
		lock.unlock()
		if err != nil {
			return nil, err
		}
	}
}

// removeIngest clears the ingest directory of k; the caller has its lock. The
// lock file goes last: without it the directory belongs to the next claim.
func (s *Store) removeIngest(k key) error {
	dir := s.ingestPath(k)
	names, err := s.readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "lock" {
			continue
		}
		if err := s.removeLeftover(context.Background(), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := s.fs.Unlink(filepath.Join(dir, "lock")); err != nil {
		return err
	}
	err = s.fs.Rmdir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // already the next claim's
	}
	return err
}

// resume opens the ingest whose lock is held, with whatever checkpoint its
// last owner left.
func (s *Store) resume(k key, size int64, lock *flock, o IngestOptions) (*Ingest, error) {
	i := &Ingest{s: s, k: k, size: size, dir: s.ingestPath(k), lock: lock, every: o.CheckpointBytes, h: newHasher(), since: time.Now(), pause: checkpointSoon}
	i.changed = sync.NewCond(&i.mu)
	if err := i.load(); err != nil {
		return nil, err
	}
	if err := i.reserve(); err != nil {
		i.f.Close()
		return nil, err
	}
	i.hashed = hashed{i.h.off, i.h.sums, i.h.states}
	return i, nil
}

// load takes over the partial bytes that a checkpoint or a note vouches for
// (invariant 3), and starts with an empty file when there is neither.
func (i *Ingest) load() error {
	data := filepath.Join(i.dir, "data")
	f, err := i.s.fs.OpenFile(data, os.O_RDWR, 0)
	if err == nil {
		p, err := i.s.readProgress(i.k)
		checkpointed := err == nil && p.size == i.size && i.h.resume(p) == nil
		if checkpointed {
			i.present, i.recorded = p.present(), p.offset
		} else {
			i.h = newHasher()
		}
		i.noted = i.s.readNote(i.k, i.size, f)
		for _, r := range i.noted {
			i.present = i.present.add(r)
		}
		if checkpointed || len(i.noted) > 0 {
			i.f = f
			return nil
		}
		err = f.Close()
		if err != nil {
			return fmt.Errorf("ingest %s: %w", i.k.digest(), err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EISDIR) {
		return fmt.Errorf("ingest %s: %w", i.k.digest(), err)
	}
	for _, name := range []string{"progress", "written", "data"} {
		if err := i.s.removeLeftover(context.Background(), filepath.Join(i.dir, name)); err != nil {
			return fmt.Errorf("ingest %s: %w", i.k.digest(), err)
		}
	}
	i.f, err = i.s.fs.OpenFile(data, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("ingest %s: %w", i.k.digest(), noSpace(err))
	}
	return nil
}

func (s *Store) readProgress(k key) (progress, error) {
	b, err := s.readFile(filepath.Join(s.ingestPath(k), "progress"), int64(maxProgressBytes))
	if err != nil {
		return progress{}, err
	}
	return parseProgress(b)
}

// Partial is how many bytes of the unpublished blob d an ingest would not ask
// for: what its last writer left, or its present writer has.
func (s *Store) Partial(d digest.Digest, size int64) int64 {
	k, err := keyOf(d)
	if err != nil {
		return 0
	}
	f, err := s.fs.OpenFile(filepath.Join(s.ingestPath(k), "data"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	var present rangeSet
	if p, err := s.readProgress(k); err == nil && p.size == size {
		present = p.present()
	}
	for _, r := range s.readNote(k, size, f) {
		present = present.add(r)
	}
	return present.total()
}

// reserve makes a full disk known before the first byte is fetched.
func (i *Ingest) reserve() error {
	st, err := i.f.Stat()
	if err != nil {
		return err
	}
	need := i.size
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		need = max(0, i.size-512*sys.Blocks)
	}
	free, _, err := i.s.free()
	if err != nil {
		return err
	}
	if free -= i.s.minFree; need > max(0, free) {
		return &NoSpaceError{Need: need, Free: max(0, free), Path: i.s.root}
	}
	err = i.f.Allocate(i.size)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &NoSpaceError{Need: need, Free: max(0, free), Path: i.s.root}
	}
	return err
}

// Size is the blob's size in bytes.
func (i *Ingest) Size() int64 { return i.size }

// Done is how many bytes need not be fetched: right after [Store.Ingest], what
// earlier writers checkpointed; later also what was written since.
func (i *Ingest) Done() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.present.total()
}

// Missing is what is still to be written, ascending.
func (i *Ingest) Missing() []Range {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.present.missing(i.size)
}

// Close ends the ingest and keeps what it has for the next one. After Commit
// or Discard it does nothing.
func (i *Ingest) Close() error {
	if !i.stop() {
		return nil
	}
	defer i.lock.unlock()
	if errors.Is(i.lost, ErrNoSpace) {
		return i.closeFiles() // the last checkpoint stands
	}
	if i.lost != nil {
		// A disk that failed once is not to be built on.
		return errors.Join(i.closeFiles(), i.s.removeIngest(i.k))
	}
	var err error
	if i.unsynced > 0 {
		err = i.checkpoint()
	}
	return errors.Join(err, i.closeFiles())
}

// Discard ends the ingest and forgets its bytes.
func (i *Ingest) Discard() error {
	if !i.stop() {
		return nil
	}
	defer i.lock.unlock()
	return errors.Join(i.closeFiles(), i.s.removeIngest(i.k))
}

// closeFiles leaves both files for the next writer.
func (i *Ingest) closeFiles() error {
	err := i.f.Close()
	if i.notes != nil {
		err = errors.Join(err, i.notes.Close())
	}
	return err
}

// stop refuses new calls and waits for those under way; false when the ingest
// was ended before.
func (i *Ingest) stop() bool {
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return false
	}
	i.closed = true
	for len(i.busy) > 0 || i.hashing {
		i.changed.Wait()
	}
	i.mu.Unlock()
	i.work.Wait()
	return true
}
