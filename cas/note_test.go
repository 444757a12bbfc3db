package cas_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// A process that is killed loses one MiB at most, though nothing was
// checkpointed; whoever finds its note beside another file, as after a power
// loss or in a copy, starts from nothing.
func TestNoteOfAKilledWriter(t *testing.T) {
	const size, piece = 32 << 20, 256 << 10
	const before = 6<<20 + piece
	b, d := content(21, size)
	killed := func(t *testing.T) *cas.Store {
		s := newStore(t)
		p := start(t, s, "ingest", "21", strconv.Itoa(size), strconv.Itoa(piece), strconv.Itoa(1<<40), strconv.Itoa(before))
		p.until("wrote")
		p.kill()
		return s
	}
	t.Run("in its place", func(t *testing.T) {
		s := killed(t)
		if got := s.Partial(d, size); got < before-1<<20 || got > before {
			t.Errorf("%d bytes are left of %d", got, before)
		}
		i := ingest(t, s, lease(t, s), d, size)
		if got, want := i.Done(), s.Partial(d, size); got != want {
			t.Errorf("resumes with %d bytes, %d were promised", got, want)
		}
		if n := fill(t, i, b, piece); n > size-before+1<<20 {
			t.Errorf("%d of %d bytes were written again", n, size)
		}
		if err := i.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, s, d), b) {
			t.Error("published something else")
		}
		if left := list(t, s, "ingest"); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
	t.Run("for a blob of another size", func(t *testing.T) {
		s := killed(t)
		if got := s.Partial(d, size-1); got != 0 {
			t.Errorf("%d bytes count", got)
		}
	})
	t.Run("beside another file", func(t *testing.T) {
		s := killed(t)
		data := filepath.Join(s.Root(), "ingest", "sha256-"+d.Encoded(), "data")
		must(t, os.Remove(data))
		must(t, os.WriteFile(data, make([]byte, before), 0o644))
		if got := s.Partial(d, size); got != 0 {
			t.Errorf("%d bytes count", got)
		}
		if i := ingest(t, s, lease(t, s), d, size); i.Done() != 0 {
			t.Errorf("took over %d bytes", i.Done())
		}
	})
}

// seenFS calls seen before each write to a file of partial bytes.
type seenFS struct {
	durable.FS
	seen func(off int64)
}

func (f seenFS) OpenFile(name string, flag int, perm os.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Base(name) != "data" {
		return file, err
	}
	return seenFile{file, f.seen}, nil
}

type seenFile struct {
	durable.File
	seen func(off int64)
}

func (f seenFile) WriteAt(p []byte, off int64) (int, error) {
	f.seen(off)
	return f.File.WriteAt(p, off)
}

// Invariant 3: the note does not vouch for bytes while they are rewritten.
func TestNoteIsLowered(t *testing.T) {
	const size = 8 << 20
	b, d := content(22, size)
	var s *cas.Store
	var rewriting atomic.Bool
	during := int64(-1)
	s = open(t, t.TempDir(), cas.Options{Create: true, FS: seenFS{durable.OS, func(off int64) {
		if rewriting.Load() {
			during = s.Partial(d, size)
		}
	}}})
	i := ingest(t, s, lease(t, s), d, size)
	for off := 0; off < 4<<20; off += 1 << 20 {
		if _, err := i.WriteAt(b[off:off+1<<20], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Partial(d, size); got != 4<<20 {
		t.Fatalf("%d bytes are noted, want 4 MiB", got)
	}
	rewriting.Store(true)
	if _, err := i.WriteAt(b[2<<20:2<<20+64<<10], 2<<20); err != nil {
		t.Fatal(err)
	}
	rewriting.Store(false)
	if during != 4<<20-64<<10 {
		t.Errorf("%d bytes count while 64 KiB of 4 MiB are rewritten", during)
	}
	fill(t, i, b, 1<<20)
	if err := i.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}
