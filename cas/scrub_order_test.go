package cas_test

import (
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// readOrder notes the blobs that are read past the page cache, in order.
type readOrder struct {
	durable.FS
	read *[]string
}

func (f readOrder) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	if flag&unix.O_DIRECT != 0 {
		*f.read = append(*f.read, filepath.Base(name))
	}
	return f.FS.OpenFile(name, flag, perm)
}

// A cursor that goes round the store in the order of digests is oldest first:
// whatever comes and goes between runs, and wherever their budgets end, no
// blob is read again while one waits that was there at its last reading and
// was not read since. A blob that is new was verified when it was published,
// and is read within one round.
func TestScrubOldestFirst(t *testing.T) {
	var read []string
	s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{FS: readOrder{durable.OS, &read}})
	l := lease(t, s)
	rng := rand.New(rand.NewPCG(1, 2))
	const size = 70 << 10 // more than [cas.MapThreshold]
	var there []digest.Digest
	since := map[string]int{}  // when it was published, or read last; counted in reads and changes
	known := map[string]bool{} // read before
	now, seed, again := 0, uint64(700), 0
	for run := range 120 {
		for range rng.IntN(4) {
			now++
			if len(there) > 12 && rng.IntN(2) == 0 {
				n := rng.IntN(len(there))
				must(t, s.Discard(t.Context(), there[n], "to make room"))
				delete(since, there[n].Encoded())
				delete(known, there[n].Encoded())
				there = slices.Delete(there, n, n+1)
				continue
			}
			seed++
			b, _ := content(seed, size)
			d := put(t, s, l, b)
			there, since[d.Encoded()] = append(there, d), now
		}
		read = nil
		_, err := s.Scrub(t.Context(), cas.ScrubOptions{Budget: int64(1 + rng.IntN(5*size)), Parallel: 1})
		must(t, err)
		for _, h := range read {
			now++
			for other, at := range since {
				if known[h] && at < since[h] {
					t.Fatalf("run %d: %s is read again, and %s waits for longer", run, h, other)
				}
			}
			if known[h] {
				again++
			}
			since[h], known[h] = now, true
		}
	}
	if again < 100 {
		t.Errorf("only %d second readings", again)
	}
}

// crowdFS holds direct reads up until a number of them has come together.
type crowdFS struct {
	durable.FS
	want int

	mu           *sync.Mutex
	inside, most *int
	met          chan struct{}
}

func (f crowdFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || flag&unix.O_DIRECT == 0 {
		return file, err
	}
	return crowdFile{file, f}, nil
}

type crowdFile struct {
	durable.File
	f crowdFS
}

func (c crowdFile) ReadAt(p []byte, off int64) (int, error) {
	c.f.mu.Lock()
	*c.f.inside++
	*c.f.most = max(*c.f.most, *c.f.inside)
	if *c.f.inside == c.f.want {
		select {
		case <-c.f.met:
		default:
			close(c.f.met)
		}
	}
	c.f.mu.Unlock()
	select {
	case <-c.f.met:
	case <-time.After(10 * time.Second): // the test fails by most
	}
	n, err := c.File.ReadAt(p, off)
	c.f.mu.Lock()
	*c.f.inside--
	c.f.mu.Unlock()
	return n, err
}

// A disk is asked for several chunks at once, of one blob or of many, and for
// no more than fit into the memory that a scrub may take.
func TestScrubKeepsTheDiskBusy(t *testing.T) {
	for _, tt := range []struct {
		name            string
		blobs, size     int
		parallel, reads int
	}{
		{"many blobs", 40, 100 << 10, 1000, 12},
		{"one blob", 1, 33 << 20, 0, min(12, 2*runtime.GOMAXPROCS(0), 9)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := crowdFS{FS: durable.OS, want: tt.reads, mu: new(sync.Mutex), inside: new(int), most: new(int), met: make(chan struct{})}
			s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{FS: f})
			l := lease(t, s)
			for n := range tt.blobs {
				b, _ := content(uint64(500+n), tt.size)
				put(t, s, l, b)
			}
			r, err := s.Scrub(t.Context(), cas.ScrubOptions{Parallel: tt.parallel})
			must(t, err)
			if !r.Whole || len(r.Findings) > 0 || *f.most != tt.reads {
				t.Errorf("%d reads at a time, want %d: %+v", *f.most, tt.reads, r)
			}
		})
	}
}
