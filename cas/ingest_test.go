package cas_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

func ingest(t *testing.T, s *cas.Store, l *cas.Lease, d digest.Digest, size int) *cas.Ingest {
	t.Helper()
	i, err := s.Ingest(t.Context(), l, d, int64(size), cas.IngestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

// fill writes what an ingest lacks, in pieces of step bytes.
func fill(t *testing.T, i *cas.Ingest, b []byte, step int) (written int64) {
	t.Helper()
	for _, r := range i.Missing() {
		for off := r.Off; off < r.Off+r.Len; {
			n := min(int64(step), r.Off+r.Len-off)
			if _, err := i.WriteAt(b[off:off+n], off); err != nil {
				t.Fatal(err)
			}
			off += n
			written += n
		}
	}
	return written
}

func TestIngestOrders(t *testing.T) {
	const size = 9<<20 + 12345
	b, d := content(7, size)
	orders := map[string]func(t *testing.T, i *cas.Ingest){
		"one stream":   func(t *testing.T, i *cas.Ingest) { fill(t, i, b, 256<<10) },
		"small writes": func(t *testing.T, i *cas.Ingest) { fill(t, i, b, 10_007) },
		"one write":    func(t *testing.T, i *cas.Ingest) { fill(t, i, b, size) },
		"backwards": func(t *testing.T, i *cas.Ingest) {
			for off := size; off > 0; {
				n := min(300_000, off)
				off -= n
				if _, err := i.WriteAt(b[off:off+n], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"four streams": func(t *testing.T, i *cas.Ingest) {
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for off := w * size / 4; off < (w+1)*size/4; {
						n := min(65_537, (w+1)*size/4-off)
						if _, err := i.WriteAt(b[off:off+n], int64(off)); err != nil {
							t.Error(err)
						}
						off += n
					}
				})
			}
			wg.Wait()
		},
		"everything twice, first wrongly": func(t *testing.T, i *cas.Ingest) {
			wrong, _ := content(8, size)
			fill(t, i, wrong, 1<<20)
			for off := 0; off < size; {
				n := min(777_777, size-off)
				if _, err := i.WriteAt(b[off:off+n], int64(off)); err != nil {
					t.Fatal(err)
				}
				off += n
			}
		},
		"racing writers of the same bytes": func(t *testing.T, i *cas.Ingest) {
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					for off := 0; off < size; {
						n := min(200_000, size-off)
						if _, err := i.WriteAt(b[off:off+n], int64(off)); err != nil {
							t.Error(err)
						}
						off += n
					}
				})
			}
			wg.Wait()
		},
	}
	for name, write := range orders {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			i := ingest(t, s, lease(t, s), d, size)
			if i.Size() != size || i.Done() != 0 || !slices.Equal(i.Missing(), []cas.Range{{Len: size}}) {
				t.Fatalf("fresh ingest: size %d, done %d, missing %v", i.Size(), i.Done(), i.Missing())
			}
			write(t, i)
			if i.Done() != size || len(i.Missing()) > 0 {
				t.Fatalf("done %d, missing %v", i.Done(), i.Missing())
			}
			if err := i.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(read(t, s, d), b) {
				t.Error("published something else")
			}
			if f, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{}); err != nil || len(f) > 0 {
				t.Error(f, err)
			}
		})
	}
}

func TestCommitRefuses(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, d := content(1, 5<<20)
	i := ingest(t, s, l, d, len(b))
	wantError(t, i.Commit(t.Context()), cas.ErrIncomplete)
	bad := bytes.Clone(b)
	bad[4<<20+17] ^= 1
	fill(t, i, bad, 1<<20)
	if err := i.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	var mismatch *cas.MismatchError
	if err := i.Commit(t.Context()); !errors.As(err, &mismatch) || mismatch.Found != digest.FromBytes(bad) || mismatch.Size != 5<<20 {
		t.Fatalf("commit of wrong bytes: %v", err)
	}
	_, err := s.Open(d)
	wantError(t, err, cas.ErrNotFound)
	// The same ingest goes on after the bad range is written again.
	if _, err := i.WriteAt(b[4<<20:], 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := i.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, d), b) {
		t.Error("published something else")
	}
	_, err = i.WriteAt(b[:1], 0)
	wantError(t, err, cas.ErrClosed)
	if err := i.Close(); err != nil {
		t.Error(err)
	}
}

func TestWriteAtBounds(t *testing.T) {
	s := newStore(t)
	b, d := content(1, 100)
	i := ingest(t, s, lease(t, s), d, 100)
	for _, off := range []int64{-1, 1, 101, 1 << 62} {
		_, err := i.WriteAt(b, off)
		wantError(t, err, cas.ErrInvalid)
	}
}

func TestResume(t *testing.T) {
	const size = 20 << 20
	b, d := content(3, size)
	s := newStore(t)
	l := lease(t, s)
	i := ingest(t, s, l, d, size)
	writes := []cas.Range{{0, 9<<20 + 5}, {12 << 20, 1 << 20}, {19 << 20, 1 << 20}}
	for _, w := range writes {
		if _, err := i.WriteAt(b[w.Off:w.Off+w.Len], w.Off); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	again := ingest(t, s, l, d, size)
	want := []cas.Range{{9<<20 + 5, 3<<20 - 5}, {13 << 20, 6 << 20}}
	if !slices.Equal(again.Missing(), want) {
		t.Fatalf("missing %v, want %v", again.Missing(), want)
	}
	if again.Done() != 11<<20+5 {
		t.Errorf("done %d", again.Done())
	}
	fill(t, again, b, 1<<20)
	if err := again.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, d), b) {
		t.Error("published something else")
	}

	t.Run("of a rewritten prefix", func(t *testing.T) {
		// Invariant 3: the checkpoint must not vouch for bytes that changed.
		b, d := content(4, size)
		i := ingest(t, s, l, d, size)
		fill(t, i, b, 1<<20)
		if err := i.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		junk, _ := content(5, 1<<20)
		if _, err := i.WriteAt(junk, 5<<20); err != nil {
			t.Fatal(err)
		}
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		again := ingest(t, s, l, d, size)
		fill(t, again, b, 1<<20)
		wantError(t, again.Commit(t.Context()), cas.ErrDigestMismatch)
	})
	t.Run("with a size that changed", func(t *testing.T) {
		_, d := content(6, 100)
		i := ingest(t, s, l, d, 1000)
		i.WriteAt(make([]byte, 1000), 0)
		i.Close()
		if again := ingest(t, s, l, d, 100); again.Done() != 0 {
			t.Errorf("took over %d bytes", again.Done())
		}
	})
	t.Run("after damage to the record", func(t *testing.T) {
		b, d := content(9, 1000)
		i := ingest(t, s, l, d, 1000)
		i.WriteAt(b[:500], 0)
		i.Close()
		record := filepath.Join(s.Root(), "ingest", "sha256-"+d.Encoded(), "progress")
		raw, err := os.ReadFile(record)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 4
		os.WriteFile(record, raw, 0o644)
		again := ingest(t, s, l, d, 1000)
		if again.Done() != 0 {
			t.Errorf("took over %d bytes", again.Done())
		}
		fill(t, again, b, 1000)
		if err := again.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestIngestIsShared(t *testing.T) {
	s := newStore(t)
	b, d := content(1, 8<<20)
	first := ingest(t, s, lease(t, s), d, len(b))
	if _, err := first.WriteAt(b[:4<<20], 0); err != nil {
		t.Fatal(err)
	}
	if err := first.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	l := lease(t, s)
	waiting := make(chan [2]int64, 1000)
	result := make(chan error)
	go func() {
		_, err := s.Ingest(context.Background(), l, d, int64(len(b)), cas.IngestOptions{OnWait: func(done, total int64) {
			select {
			case waiting <- [2]int64{done, total}:
			default:
			}
		}})
		result <- err
	}()
	if got := <-waiting; got != [2]int64{4 << 20, 8 << 20} {
		t.Errorf("the waiter was told %v", got)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	_, err := s.Ingest(ctx, l, d, int64(len(b)), cas.IngestOptions{})
	wantError(t, err, stop)
	if _, err := first.WriteAt(b[4<<20:], 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-result, cas.ErrExists)
}

func TestIngestTakesOverWhenTheWriterGivesUp(t *testing.T) {
	s := newStore(t)
	b, d := content(1, 100)
	first := ingest(t, s, lease(t, s), d, len(b))
	l := lease(t, s)
	var once sync.Once
	second, err := s.Ingest(t.Context(), l, d, 100, cas.IngestOptions{OnWait: func(int64, int64) {
		once.Do(func() { first.Discard() })
	}})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, second, b, 100)
	if err := second.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNoSpace(t *testing.T) {
	mnt := t.TempDir()
	mount(t, "tmpfs", mnt, "size=24m")
	s := open(t, filepath.Join(mnt, "store"), cas.Options{MinFree: 4 << 20})
	l := lease(t, s)
	b, d := content(1, 8<<20)
	_, err := s.Ingest(t.Context(), l, d, 1<<30, cas.IngestOptions{})
	var no *cas.NoSpaceError
	if !errors.As(err, &no) || no.Need != 1<<30 || no.Free > 20<<20 || no.Free < 15<<20 {
		t.Fatalf("ingest of 1 GiB: %v", err)
	}
	wantError(t, err, cas.ErrNoSpace)
	// What is reserved is not there for a second ingest.
	first := ingest(t, s, l, d, len(b))
	_, other := content(2, 12<<20)
	_, err = s.Ingest(t.Context(), l, other, 12<<20, cas.IngestOptions{})
	wantError(t, err, cas.ErrNoSpace)
	fill(t, first, b, 1<<20)
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A partial needs only what it lacks.
	b3, d3 := content(3, 8<<20)
	partial := ingest(t, s, l, d3, len(b3))
	partial.WriteAt(b3[:6<<20], 0)
	partial.Close()
	partial = ingest(t, s, l, d3, len(b3))
	if partial.Done() != 6<<20 {
		t.Errorf("resumed at %d", partial.Done())
	}
	fill(t, partial, b3, 1<<20)
	if err := partial.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}
