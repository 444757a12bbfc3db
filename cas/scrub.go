package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// ScrubOptions tune [Store.Scrub].
type ScrubOptions struct {
	// Budget is how many bytes one run reads; zero: all. Runs go round the
	// store in the order of digests, each from where the last one ended. That
	// is oldest first: between two readings of a blob, every other one that
	// was there is read. One that is new, and was verified when it was
	// published, is met within that round. What a run has to remember is one
	// place, not a time for each blob.
	Budget int64
	// Parallel is how many chunks are read and compared at a time, up to
	// 12. Zero: two for each processor, so that the disk reads while
	// they compute.
	Parallel int
	// OnProgress is called from several goroutines with bytes read.
	OnProgress func(done, total int64)
}

// chunksInMemory bounds what a scrub reads at a time: 48 MiB.
const chunksInMemory = 12

// ScrubResult is what a scrub looked at and found.
type ScrubResult struct {
	Blobs    int       `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Whole    bool      `json:"whole"` // the run came round to where it began
	Findings []Finding `json:"findings"`
}

// scrubCursor is where the next scrub begins.
type scrubCursor struct {
	Next  string    `json:"next"`  // hex of the blob
	Chunk int       `json:"chunk"` // of that blob
	At    time.Time `json:"at"`
}

// Scrub reads published blobs from the disk, past the page cache, and compares
// them with their chunk maps: a tenth of the work of [Store.Verify]. What does
// not match is read once more, to tell the disk from the memory, and becomes
// suspect. Blobs without a map are hashed, and get one. [ErrBusy] when another
// scrub runs.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (ScrubResult, error) {
	lock, err := tryLock(s.path("scrub.lock"), unix.O_RDWR|unix.O_CREAT, unix.LOCK_EX)
	if err != nil {
		return ScrubResult{}, noSpace(err)
	}
	if lock == nil {
		return ScrubResult{}, fmt.Errorf("%w: another scrub is running", ErrBusy)
	}
	defer lock.unlock()
	blobs, err := s.Blobs(ctx)
	if err != nil {
		return ScrubResult{}, err
	}
	slices.Sort(blobs)
	from, err := s.readCursor()
	if err != nil {
		return ScrubResult{}, err
	}
	keys, err := keysOf(blobs)
	if err != nil {
		return ScrubResult{}, err
	}
	return s.scrub(ctx, keys, from, o)
}

// readCursor takes a cursor that cannot be read for none: it only says where
// to begin.
func (s *Store) readCursor() (scrubCursor, error) {
	var c scrubCursor
	err := s.readRecord(s.path("scrub"), &c)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		return scrubCursor{}, nil
	}
	return c, err
}

func (s *Store) scrub(ctx context.Context, keys []key, from scrubCursor, o ScrubOptions) (r ScrubResult, err error) {
	if o.Parallel <= 0 {
		o.Parallel = 2 * runtime.GOMAXPROCS(0)
	}
	o.Parallel = min(o.Parallel, chunksInMemory)
	start, found := slices.BinarySearchFunc(keys, from.Next, func(k key, h string) int { return strings.Compare(k.hex(), h) })
	if !found {
		from.Chunk = 0
	}
	run := &scrubRun{s: s, o: o, buffers: make(chan *directBuffer, o.Parallel)}
	for range o.Parallel {
		run.buffers <- nil // made when first used
	}
	defer run.freeBuffers()
	next := scrubCursor{}
	done := 0
	for n := 0; n <= len(keys); n++ {
		if n == len(keys) && (from.Chunk == 0 || len(keys) == 0) {
			break
		}
		if o.Budget > 0 && run.bytes() >= o.Budget {
			break
		}
		k := keys[(start+n)%len(keys)]
		if n > 0 || from.Chunk == 0 {
			small, smallErr := run.smallBlobs(ctx, keys, start+n, len(keys)-n)
			if smallErr != nil {
				err, next = smallErr, scrubCursor{Next: k.hex()}
				break
			}
			if small > 0 {
				done += small
				n += small - 1
				next = scrubCursor{Next: keys[(start+n+1)%len(keys)].hex()}
				continue
			}
		}
		first, last := 0, -1
		if n == 0 {
			first = from.Chunk
		}
		if n == len(keys) {
			last = from.Chunk // the part of the first blob that was left out
		}
		var reached int
		if reached, err = run.blob(ctx, k, first, last); err != nil {
			next = scrubCursor{Next: k.hex(), Chunk: reached}
			break
		}
		if reached > 0 { // the budget ended inside
			next = scrubCursor{Next: k.hex(), Chunk: reached}
			break
		}
		done++
		next = scrubCursor{Next: keys[(start+n+1)%len(keys)].hex()}
	}
	r = ScrubResult{Blobs: done, Bytes: run.bytes(), Whole: done >= len(keys), Findings: run.findings}
	slices.SortFunc(r.Findings, func(a, b Finding) int { return strings.Compare(a.Name, b.Name) })
	next.At = s.now().UTC()
	b, sealErr := seal(next)
	if sealErr == nil {
		sealErr = durable.WriteFileFS(s.fs, s.path("scrub"), b, 0o644)
	}
	return r, errors.Join(err, sealErr)
}

// scrubRun is one scrub under way.
type scrubRun struct {
	s       *Store
	o       ScrubOptions
	buffers chan *directBuffer // a token for each chunk at a time, with its buffer

	mu       sync.Mutex
	read     int64
	total    int64
	findings []Finding
}

// freeBuffers comes when every chunk is done with.
func (r *scrubRun) freeBuffers() {
	for range r.o.Parallel {
		if buf := <-r.buffers; buf != nil {
			buf.free()
		}
	}
}

func (r *scrubRun) bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.read
}

func (r *scrubRun) count(n int64) {
	r.mu.Lock()
	r.read += n
	done, total := r.read, r.total
	r.mu.Unlock()
	if r.o.OnProgress != nil {
		r.o.OnProgress(done, max(total, done))
	}
}

// smallBlobs checks those of the next most blobs that have one chunk, several
// at a time; it stops ahead of a larger one, whose chunks are as many.
func (r *scrubRun) smallBlobs(ctx context.Context, keys []key, from, most int) (n int, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Parallel)
	for planned := int64(0); n < most && gctx.Err() == nil; n++ {
		k := keys[(from+n)%len(keys)]
		st, err := r.s.lstat(k)
		if err == nil && st.Size > ChunkSize || r.o.Budget > 0 && r.bytes() >= r.o.Budget || planned > smallBatch {
			break
		}
		planned += st.Size
		g.Go(func() error {
			_, err := r.blob(gctx, k, 0, -1)
			return err
		})
	}
	return n, errors.Join(g.Wait(), context.Cause(ctx))
}

// smallBatch bounds what is read again when a scrub is interrupted among
// small blobs, in bytes.
const smallBatch = 256 << 20

// blob checks the chunks [first, last) of a blob; last -1 means all. It
// returns the chunk at which the budget ended, or 0.
func (r *scrubRun) blob(ctx context.Context, k key, first, last int) (reached int, err error) {
	s := r.s
	st, err := s.lstat(k)
	if errors.Is(err, ErrNotFound) {
		return 0, nil // collected meanwhile
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return 0, err
	}
	r.mu.Lock()
	r.total += st.Size
	r.mu.Unlock()
	m, have, mapErr := s.readAnyMap(k)
	if mapErr != nil {
		return 0, mapErr
	}
	if err != nil || !have {
		return 0, r.hash(ctx, k, st.Size)
	}
	if flag, err := s.readSuspect(k); err != nil || flag != nil {
		if flag != nil {
			r.add(k, Finding{Problem: "known to be bad: " + flag.Reason, Remedy: remedyRepair})
		}
		return 0, err // nothing new to learn before its repair
	}
	if last < 0 || last > len(m.chunks) {
		last = len(m.chunks)
	}
	if st.Size != m.size {
		return 0, r.bad(k, Finding{
			Problem: fmt.Sprintf("it has %d bytes instead of %d", st.Size, m.size), Cause: CauseDisk,
		}, m, st.Size)
	}
	disk, err := s.openDisk(s.blobPath(k))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer disk.close()
	var bad, memory []Range
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	n := first
	for ; n < last && gctx.Err() == nil; n++ {
		if r.o.Budget > 0 && n > first && r.bytes() >= r.o.Budget {
			break
		}
		c := m.chunks[n]
		buf := <-r.buffers
		r.count(c.len)
		g.Go(func() error {
			defer func() { r.buffers <- buf }()
			if buf == nil {
				var err error
				if buf, err = newDirectBuffer(ChunkSize); err != nil {
					return err
				}
			}
			cause, err := disk.checkChunk(buf, c)
			mu.Lock()
			defer mu.Unlock()
			switch cause {
			case CauseDisk:
				bad = append(bad, Range{c.off, c.len})
			case CauseMemory:
				memory = append(memory, Range{c.off, c.len})
			}
			return err
		})
	}
	if err := errors.Join(g.Wait(), context.Cause(ctx)); err != nil {
		return first, err
	}
	if len(memory) > 0 {
		r.add(k, Finding{
			Problem: "a read returned bytes that the disk does not have", Cause: CauseMemory,
			Ranges: merge(memory), Remedy: "test the memory of this machine; the blob is good",
		})
	}
	if len(bad) > 0 {
		if err := r.bad(k, Finding{Problem: "bytes rotted", Cause: CauseDisk, Ranges: merge(bad)}, m, st.Size); err != nil {
			return first, err
		}
	}
	if n < last {
		return n, nil
	}
	return 0, nil
}

// checkChunk reads a chunk and, when it does not match, once more.
func (r *diskReader) checkChunk(buf *directBuffer, c chunk) (cause string, err error) {
	good := func() (bool, error) {
		b, err := r.read(buf, c.off, c.len)
		if errors.Is(err, unix.EIO) {
			return false, nil // a sector that cannot be read is a bad one
		}
		return err == nil && int64(len(b)) == c.len && xxh3.Hash128(b) == c.sum, err
	}
	if ok, err := good(); ok || err != nil {
		return "", err
	}
	ok, err := good()
	switch {
	case err != nil:
		return "", err
	case ok:
		return CauseMemory, nil
	}
	return CauseDisk, nil
}

func (r *scrubRun) add(k key, f Finding) {
	f.Kind, f.Name = "blob", string(k.digest())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, f)
}

// bad makes a blob suspect and reports it.
func (r *scrubRun) bad(k key, f Finding, m chunkMap, size int64) error {
	if f.Ranges == nil && size < m.size {
		f.Ranges = []Range{{size, m.size - size}}
	}
	f.Remedy = remedyRepair
	r.add(k, f)
	return r.s.setSuspect(k, suspicion{Reason: "scrub: " + f.Problem})
}

// hash checks a blob without a usable map by its digest; that writes the map.
func (r *scrubRun) hash(ctx context.Context, k key, size int64) error {
	r.count(size)
	f, err := r.s.verify(ctx, k, nil)
	if err == nil && f != nil && f.Problem != "missing" { // or it was collected meanwhile
		r.add(k, *f)
	}
	return err
}

// readAnyMap is the map of a blob, whatever size the blob has now.
func (s *Store) readAnyMap(k key) (chunkMap, bool, error) {
	b, err := s.readFile(s.mapPath(k), int64(maxMapBytes))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) || errors.Is(err, unix.ELOOP) {
		return chunkMap{}, false, nil
	}
	if err != nil {
		return chunkMap{}, false, err
	}
	m, err := parseChunkMap(b)
	return m, err == nil, nil
}

// merge sorts ranges and joins those that touch.
func merge(ranges []Range) []Range {
	var set rangeSet
	for _, r := range ranges {
		set = set.add(r)
	}
	return set
}
