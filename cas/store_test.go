package cas_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// content is n deterministic bytes and their digest.
func content(seed uint64, n int) ([]byte, digest.Digest) {
	var s [32]byte
	for i := range s {
		s[i] = byte(seed >> (8 * (i % 8)))
	}
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b, digest.FromBytes(b)
}

func open(t *testing.T, root string, o cas.Options) *cas.Store {
	t.Helper()
	o.Create = true
	s, err := cas.Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t *testing.T) *cas.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "store"), cas.Options{})
}

func lease(t *testing.T, s *cas.Store, roots ...digest.Digest) *cas.Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), "test", roots...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	return l
}

func put(t *testing.T, s *cas.Store, l *cas.Lease, b []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(b)
	if err := s.Put(t.Context(), l, d, b); err != nil {
		t.Fatal(err)
	}
	return d
}

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

func read(t *testing.T, s *cas.Store, d digest.Digest) []byte {
	t.Helper()
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func wantError(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v, want %v", err, class)
	}
}

func TestOpen(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	_, err := cas.Open(root, cas.Options{})
	wantError(t, err, cas.ErrNoStore)

	s := open(t, root, cas.Options{})
	if s.Root() != root {
		t.Errorf("root %s, want %s", s.Root(), root)
	}
	for range 2 { // creating it again changes nothing
		open(t, root, cas.Options{})
	}
	if left, _ := filepath.Glob(filepath.Join(root, ".*")); len(left) > 0 {
		t.Errorf("the self-test left %v", left)
	}

	t.Run("unknown version", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "store")
		open(t, other, cas.Options{})
		version := filepath.Join(other, "VERSION")
		os.Remove(version)
		os.WriteFile(version, []byte("rmodels store 2\n"), 0o444)
		_, err := cas.Open(other, cas.Options{})
		wantError(t, err, cas.ErrVersion)
	})
	t.Run("foreign directory", func(t *testing.T) {
		other := t.TempDir()
		os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o600)
		_, err := cas.Open(other, cas.Options{Create: true})
		wantError(t, err, cas.ErrInvalid)
	})
	t.Run("foreign owner", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "store")
		open(t, other, cas.Options{})
		if err := os.Chown(other, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		_, err := cas.Open(other, cas.Options{})
		wantError(t, err, cas.ErrNotOwner)
	})
	t.Run("read-only mount", func(t *testing.T) {
		mnt := t.TempDir()
		store := filepath.Join(mnt, "store")
		mount(t, "tmpfs", mnt, "size=16m")
		open(t, store, cas.Options{}).Close()
		if err := unix.Mount("", mnt, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=16m"); err != nil {
			t.Fatal(err)
		}
		_, err := cas.Open(store, cas.Options{})
		wantError(t, err, cas.ErrReadOnly)
		_, err = cas.Open(filepath.Join(mnt, "other"), cas.Options{Create: true})
		wantError(t, err, cas.ErrReadOnly)
	})
}

func mount(t *testing.T, fstype, at, options string) {
	t.Helper()
	if err := unix.Mount(fstype, at, fstype, 0, options); err != nil {
		t.Fatalf("mount %s (the tests need root): %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestPut(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	for _, n := range []int{0, 1, 4095, 4096, 64 << 10, 64<<10 + 1, 4 << 20, 4<<20 + 1} {
		b, d := content(uint64(n), n)
		_, err := s.Stat(d)
		if n > 0 {
			wantError(t, err, cas.ErrNotFound)
		}
		for range 2 {
			put(t, s, l, b)
		}
		st, err := s.Stat(d)
		if err != nil || st.Size != int64(n) || st.Suspect {
			t.Fatalf("%d bytes: stat %+v, %v", n, st, err)
		}
		if !bytes.Equal(read(t, s, d), b) {
			t.Fatalf("%d bytes: read back something else", n)
		}
		got, err := s.ReadAll(d, int64(n))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes: ReadAll: %v", n, err)
		}
	}
	b, d := content(1, 100)
	_, other := content(2, 100)
	var mismatch *cas.MismatchError
	err := s.Put(t.Context(), l, other, b)
	if !errors.As(err, &mismatch) || mismatch.Found != d || mismatch.Digest != other {
		t.Fatalf("put under a wrong name: %v", err)
	}
	_, err = s.Stat(other)
	wantError(t, err, cas.ErrNotFound)
	_, err = s.ReadAll(put(t, s, l, b), 99)
	wantError(t, err, cas.ErrInvalid)
	if names := list(t, s, "ingest"); len(names) > 0 {
		t.Errorf("ingest directories left: %v", names)
	}
}

func list(t *testing.T, s *cas.Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Root(), dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestInvalidDigests(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	for _, d := range []digest.Digest{
		"", "latest", "sha256:", "sha256:../../../../etc/passwd", "sha512:" + digest.Digest(strings.Repeat("0", 128)),
		digest.Digest("sha256:" + strings.Repeat("A", 64)), digest.Digest("sha256:" + strings.Repeat("0", 63)),
	} {
		_, err := s.Open(d)
		wantError(t, err, cas.ErrInvalid)
		_, err = s.Ingest(t.Context(), l, d, 1, cas.IngestOptions{})
		wantError(t, err, cas.ErrInvalid)
		wantError(t, l.Add(t.Context(), d), cas.ErrInvalid)
	}
	_, d := content(1, 1)
	_, err := s.Ingest(t.Context(), l, d, -1, cas.IngestOptions{})
	wantError(t, err, cas.ErrInvalid)
	_, err = s.Ingest(t.Context(), l, d, cas.MaxSize+1, cas.IngestOptions{})
	wantError(t, err, cas.ErrInvalid)
	_, err = s.Ingest(t.Context(), nil, d, 1, cas.IngestOptions{})
	wantError(t, err, cas.ErrInvalid)
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

func TestSuspect(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 200<<10)
	d := put(t, s, l, b)
	path := blobPath(s, d)
	damage(t, path, 100<<10)
	found, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
	if err != nil || len(found) != 1 || found[0].Expected != string(d) || found[0].Found == "" {
		t.Fatalf("verify of a flipped bit: %+v, %v", found, err)
	}
	_, err = s.Open(d)
	wantError(t, err, cas.ErrSuspect)
	_, err = s.ReadAll(d, 1<<20)
	wantError(t, err, cas.ErrSuspect)
	if st, err := s.Stat(d); err != nil || !st.Suspect {
		t.Errorf("stat %+v, %v", st, err)
	}
	if why, err := s.Suspects(); err != nil || len(why) != 1 || why[d] == "" {
		t.Errorf("suspects %v, %v", why, err)
	}
	_, err = s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: d}})
	wantError(t, err, cas.ErrSuspect)
	// Good again, trusted again.
	damage(t, path, 100<<10)
	if found, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{}); err != nil || len(found) > 0 {
		t.Fatal(found, err)
	}
	if !bytes.Equal(read(t, s, d), b) {
		t.Error("read something else")
	}
	// Missing ones are findings too.
	if found, err := s.Verify(t.Context(), []digest.Digest{name(5)}, cas.VerifyOptions{}); err != nil || len(found) != 1 {
		t.Error(found, err)
	}
}

func blobPath(s *cas.Store, d digest.Digest) string {
	return filepath.Join(s.Root(), "blobs", "sha256", d.Encoded()[:2], d.Encoded())
}

// damage flips a bit at off; twice is none.
func damage(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	f.ReadAt(b[:], off)
	b[0] ^= 0x10
	f.WriteAt(b[:], off)
}

// name is a digest of nothing in particular, for trees.
func name(n int) digest.Digest { return digest.FromString("tree " + string(rune('0'+n))) }

func TestReadAllRehashes(t *testing.T) {
	s := newStore(t)
	b, _ := content(1, 2000)
	d := put(t, s, lease(t, s), b)
	damage(t, blobPath(s, d), 7)
	_, err := s.ReadAll(d, 1<<20)
	wantError(t, err, cas.ErrDigestMismatch)
	_, err = s.Open(d)
	wantError(t, err, cas.ErrSuspect)
}

func TestReplacedByALink(t *testing.T) {
	s := newStore(t)
	b, _ := content(1, 2000)
	d := put(t, s, lease(t, s), b)
	os.Remove(blobPath(s, d))
	if err := os.Symlink("/etc/passwd", blobPath(s, d)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Open(d)
	wantError(t, err, cas.ErrCorrupt)
	if found, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{}); err != nil || len(found) != 1 {
		t.Error(found, err)
	}
}

func TestDiscard(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 100<<10)
	d := put(t, s, l, b)
	if err := s.Discard(t.Context(), d, "signature"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Stat(d)
	wantError(t, err, cas.ErrNotFound)
	wantError(t, s.Discard(t.Context(), d, "again"), cas.ErrNotFound)
	put(t, s, l, b)
	if !bytes.Equal(read(t, s, d), b) {
		t.Error("cannot be read after it came back")
	}

	t.Run("while it is open", func(t *testing.T) {
		reader, err := s.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := s.Discard(t.Context(), d, "test"); err != nil {
			t.Fatal(err)
		}
		if st, err := s.Stat(d); err != nil || !st.Suspect {
			t.Fatalf("stat %+v, %v; want suspect", st, err)
		}
		if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, b) {
			t.Error("the reader lost its bytes")
		}
	})
	t.Run("while a tree links it, then ingested again", func(t *testing.T) {
		b, _ := content(2, 100<<10)
		d := put(t, s, l, b)
		tree, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "sub/model", Blob: d}})
		if err != nil {
			t.Fatal(err)
		}
		damage(t, blobPath(s, d), 5)
		if err := s.Discard(t.Context(), d, "rot"); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.CheckTree(t.Context(), name(1)), cas.ErrSuspect)
		put(t, s, l, b)
		if err := s.CheckTree(t.Context(), name(1)); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(filepath.Join(tree.Path, "sub", "model")); !bytes.Equal(got, b) {
			t.Error("the tree still shows the bad bytes")
		}
	})
}

// A blob that is trusted again while its replacement is fetched keeps its file:
// trees link that one.
func TestAcquittedWhileIngested(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 100<<10)
	d := put(t, s, l, b)
	_, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "model", Blob: d}})
	must(t, err)
	damage(t, blobPath(s, d), 5)
	must(t, s.Discard(t.Context(), d, "rot"))
	i := ingest(t, s, l, d, len(b))
	fill(t, i, b, 10<<10)
	damage(t, blobPath(s, d), 5)
	findings, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
	if err != nil || len(findings) > 0 {
		t.Fatal(findings, err)
	}
	must(t, i.Commit(t.Context()))
	must(t, s.CheckTree(t.Context(), name(1)))
}

func TestLeaseMisuse(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	for range 2 {
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, l.Add(t.Context(), name(1)), cas.ErrReleased)
	_, err := s.Ingest(t.Context(), l, name(1), 1, cas.IngestOptions{})
	wantError(t, err, cas.ErrReleased)
	wantError(t, s.Renew(t.Context(), "t-../../x", time.Hour), cas.ErrInvalid)
	wantError(t, s.Renew(t.Context(), cas.Token("t-"+strings.Repeat("0", 32)), time.Hour), cas.ErrNotFound)
}

func TestRefs(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 100)
	d := put(t, s, l, b)
	used := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	r := cas.Ref{Name: "testnet/llama@v1", Blobs: []digest.Digest{d}, Pinned: true, LastUsed: used}
	if err := s.PutRef(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := s.Ref(r.Name)
	if err != nil || got.Name != r.Name || !slices.Equal(got.Blobs, r.Blobs) || !got.Pinned || !got.LastUsed.Equal(used) {
		t.Fatalf("read back %+v, %v", got, err)
	}
	if err := s.Touch(t.Context(), r.Name, used.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(t.Context(), r.Name, used); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Ref(r.Name); !got.LastUsed.Equal(used.Add(time.Hour)) {
		t.Errorf("last used %v", got.LastUsed)
	}
	wantError(t, s.PutRef(t.Context(), cas.Ref{Name: "x", Blobs: []digest.Digest{name(1)}}), cas.ErrNotFound)
	wantError(t, s.PutRef(t.Context(), cas.Ref{Name: "x", Tree: name(1)}), cas.ErrNotFound)
	for _, bad := range []string{"", ".", "../x", "/x", "a b", "a\x00", strings.Repeat("a", 201), strings.Repeat("a/", 100)} {
		wantError(t, s.PutRef(t.Context(), cas.Ref{Name: bad}), cas.ErrInvalid)
	}
	if err := s.PutRef(t.Context(), cas.Ref{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	refs, err := s.Refs()
	if err != nil || len(refs) != 2 || refs[0].Name != "a" {
		t.Fatalf("refs %+v, %v", refs, err)
	}
	if err := s.DeleteRef(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.DeleteRef(t.Context(), "a"), cas.ErrNotFound)
	_, err = s.Ref("a")
	wantError(t, err, cas.ErrNotFound)
	wantError(t, s.Touch(t.Context(), "a", used), cas.ErrNotFound)
	// Invariant 5.
	os.WriteFile(filepath.Join(s.Root(), "refs", "broken"), []byte("{}"), 0o644)
	_, err = s.Refs()
	wantError(t, err, cas.ErrCorrupt)
}

func TestUsage(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 1<<20)
	d := put(t, s, l, b)
	before, err := s.Usage(t.Context())
	if err != nil || before.Blobs != 1 || before.BlobBytes != 1<<20 {
		t.Fatalf("%+v, %v", before, err)
	}
	if _, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: d}, {Path: "b", Blob: d}}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Usage(t.Context())
	if err != nil || after.Trees != 1 || after.SharedBytes != 2<<20 || after.Total-before.Total > 64<<10 {
		t.Fatalf("before %+v, after %+v, %v", before, after, err)
	}
}
