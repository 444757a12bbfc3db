package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// source serves a blob's good bytes and counts what is asked of it.
type source struct {
	b     []byte
	asked []cas.Range
}

func (s *source) fetch(_ context.Context, off, n int64, w io.WriterAt) error {
	s.asked = append(s.asked, cas.Range{Off: off, Len: n})
	for ; n > 0; n, off = n-min(n, 1<<20), off+min(n, 1<<20) {
		if _, err := w.WriteAt(s.b[off:off+min(n, 1<<20)], off); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) bytes() (n int64) {
	for _, r := range s.asked {
		n += r.Len
	}
	return n
}

// Each kind of rot is found by scrub and by verify, is healed with at most the
// chunks that it touched, and a process that had the file mapped all along
// sees good bytes afterwards.
func TestRot(t *testing.T) {
	const size = 13<<20 + 777
	good, d := content(21, size)
	writeAt := func(t *testing.T, path string, b []byte, off int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(b, off)
		must(t, errors.Join(err, f.Sync(), f.Close()))
	}
	tests := []struct {
		name   string
		harm   func(t *testing.T, s *cas.Store, path string)
		ranges []cas.Range // that are fetched
	}{
		{
			name: "bit flipped", harm: func(t *testing.T, s *cas.Store, path string) { damage(t, path, 5<<20) },
			ranges: []cas.Range{{4 << 20, 4 << 20}},
		},
		{
			name: "last byte flipped", harm: func(t *testing.T, s *cas.Store, path string) { damage(t, path, size-1) },
			ranges: []cas.Range{{12 << 20, 1<<20 + 777}},
		},
		{name: "range zeroed over a chunk boundary", harm: func(t *testing.T, s *cas.Store, path string) {
			writeAt(t, path, make([]byte, 8192), 8<<20-4096)
		}, ranges: []cas.Range{{4 << 20, 8 << 20}}},
		{name: "two distant chunks", harm: func(t *testing.T, s *cas.Store, path string) {
			damage(t, path, 0)
			damage(t, path, 9<<20)
		}, ranges: []cas.Range{{0, 4 << 20}, {8 << 20, 4 << 20}}},
		{
			name: "truncated", harm: func(t *testing.T, s *cas.Store, path string) { must(t, os.Truncate(path, 12<<20)) },
			ranges: []cas.Range{{12 << 20, 1<<20 + 777}},
		},
		{name: "grown", harm: func(t *testing.T, s *cas.Store, path string) { writeAt(t, path, []byte("more"), size) }},
	}
	for _, tt := range tests {
		for _, finder := range []string{"scrub", "verify"} {
			t.Run(tt.name+", found by "+finder, func(t *testing.T) {
				s := newStore(t)
				l := lease(t, s)
				put(t, s, l, good)
				tree, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "m", Blob: d}})
				must(t, err)
				reader, err := os.Open(filepath.Join(tree.Path, "m"))
				must(t, err)
				defer reader.Close()
				view, err := unix.Mmap(int(reader.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
				must(t, err)
				defer unix.Munmap(view)

				tt.harm(t, s, blobPath(s, d))
				var found []cas.Finding
				if finder == "scrub" {
					r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
					must(t, err)
					found = r.Findings
				} else {
					found, err = s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
					must(t, err)
				}
				at := slices.IndexFunc(found, func(f cas.Finding) bool { return f.Name == string(d) })
				if at < 0 {
					t.Fatalf("not found: %+v", found)
				}
				if c := found[at].Cause; c != cas.CauseDisk && !(c == "" && finder == "verify") {
					t.Errorf("cause %q", c)
				}
				_, err = s.Open(d)
				wantError(t, err, cas.ErrSuspect)

				src := &source{b: good}
				must(t, s.Repair(t.Context(), d, src.fetch))
				if !slices.Equal(src.asked, tt.ranges) {
					t.Errorf("fetched %v, want %v", src.asked, tt.ranges)
				}
				if !bytes.Equal(read(t, s, d), good) {
					t.Error("not repaired")
				}
				if !bytes.Equal(view, good) {
					t.Error("the running reader does not see the good bytes")
				}
				must(t, s.CheckTree(t.Context(), name(1)))
				r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
				if err != nil || len(r.Findings) > 0 {
					t.Errorf("after the repair: %+v, %v", r.Findings, err)
				}
			})
		}
	}
}

// Two blobs whose files were swapped: neither repair may write into the file
// that is the other's, since its readers still see the right bytes.
func TestRotSwapped(t *testing.T) {
	for _, size := range []int{100 << 10, 9 << 20} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
			s := newStore(t)
			l := lease(t, s)
			type side struct {
				b    []byte
				d    digest.Digest
				view []byte
			}
			var sides []side
			for n := range 2 {
				b, d := content(uint64(n), size)
				put(t, s, l, b)
				tree, err := s.BuildTree(t.Context(), l, name(n), []cas.TreeEntry{{Path: "m", Blob: d}})
				must(t, err)
				f, err := os.Open(filepath.Join(tree.Path, "m"))
				must(t, err)
				view, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
				must(t, err)
				must(t, f.Close())
				defer unix.Munmap(view)
				sides = append(sides, side{b, d, view})
			}
			must(t, durable.OS.Exchange(blobPath(s, sides[0].d), blobPath(s, sides[1].d)))
			r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
			must(t, err)
			if len(r.Findings) != 2 {
				t.Fatalf("%+v", r.Findings)
			}
			for n, side := range sides {
				must(t, s.Repair(t.Context(), side.d, (&source{b: side.b}).fetch))
				for m, side := range sides {
					if !bytes.Equal(side.view, side.b) {
						t.Fatalf("reader %d lost its bytes to the repair of blob %d", m, n)
					}
				}
			}
			for n, side := range sides {
				if !bytes.Equal(read(t, s, side.d), side.b) {
					t.Error("not repaired")
				}
				must(t, s.CheckTree(t.Context(), name(n)))
			}
		})
	}
}

func TestRotReplacedByALink(t *testing.T) {
	for _, finder := range []string{"scrub", "verify"} {
		t.Run(finder, func(t *testing.T) {
			s := newStore(t)
			l := lease(t, s)
			b, _ := content(1, 300<<10)
			d := put(t, s, l, b)
			entries := []cas.TreeEntry{{Path: "m", Blob: d}}
			_, err := s.BuildTree(t.Context(), l, name(1), entries)
			must(t, err)
			must(t, os.Remove(blobPath(s, d)))
			must(t, os.Symlink("/etc/passwd", blobPath(s, d)))
			var found []cas.Finding
			if finder == "scrub" {
				r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
				must(t, err)
				found = r.Findings
			} else {
				found, err = s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
				must(t, err)
			}
			if len(found) != 1 {
				t.Fatalf("%+v", found)
			}
			wantError(t, s.Repair(t.Context(), d, (&source{b: b}).fetch), cas.ErrCorrupt)
			put(t, s, l, b) // ingested again, in the tree too
			must(t, s.CheckTree(t.Context(), name(1)))
			if !bytes.Equal(read(t, s, d), b) {
				t.Error("read something else")
			}
		})
	}
}

func TestRepairRefusesWrongBytes(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	good, _ := content(1, 9<<20)
	d := put(t, s, l, good)
	damage(t, blobPath(s, d), 5<<20)
	bad, err := os.ReadFile(blobPath(s, d))
	must(t, err)
	wrong, _ := content(2, 9<<20)
	wantError(t, s.Repair(t.Context(), d, (&source{b: wrong}).fetch), cas.ErrDigestMismatch)
	if now, _ := os.ReadFile(blobPath(s, d)); !bytes.Equal(now, bad) {
		t.Error("a failed repair changed the blob")
	}
	stop := errors.New("source down")
	wantError(t, s.Repair(t.Context(), d, func(context.Context, int64, int64, io.WriterAt) error { return stop }), stop)
	wantError(t, s.Repair(t.Context(), d, func(context.Context, int64, int64, io.WriterAt) error { return nil }), cas.ErrIncomplete)
	wantError(t, s.Repair(t.Context(), d, func(_ context.Context, off, n int64, w io.WriterAt) error {
		_, err := w.WriteAt(make([]byte, 1), off-1)
		return err
	}), cas.ErrInvalid)
	// A map that lies costs bytes, never integrity: all is fetched then.
	src := &source{b: good}
	must(t, os.Remove(mapPath(s, d)))
	must(t, s.Repair(t.Context(), d, src.fetch))
	if src.bytes() != 9<<20 || !bytes.Equal(read(t, s, d), good) {
		t.Errorf("fetched %v", src.asked)
	}
	wantError(t, s.Repair(t.Context(), name(3), src.fetch), cas.ErrNotFound)
}

func mapPath(s *cas.Store, d digest.Digest) string {
	return filepath.Join(s.Root(), "maps", "sha256", d.Encoded()[:2], d.Encoded())
}

func TestScrubRebuildsMaps(t *testing.T) {
	s := newStore(t)
	b, _ := content(1, 5<<20)
	d := put(t, s, lease(t, s), b)
	before, err := os.ReadFile(mapPath(s, d))
	must(t, err)
	for _, harm := range []func(){
		func() { must(t, os.Remove(mapPath(s, d))) },
		func() { damage(t, mapPath(s, d), 30) },
	} {
		harm()
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
		if err != nil || len(r.Findings) > 0 {
			t.Fatal(r, err)
		}
		if after, _ := os.ReadFile(mapPath(s, d)); !bytes.Equal(after, before) {
			t.Error("the map was not written again")
		}
	}
}

func TestScrubBudget(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	var total int64
	for n := range 6 {
		b, _ := content(uint64(n), 9<<20)
		put(t, s, l, b)
		total += 9 << 20
	}
	// Runs of 10 MiB go round the store; nothing is read twice before all is
	// read once.
	var read int64
	for range 4 {
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{Budget: 12 << 20})
		must(t, err)
		if r.Bytes < 12<<20 || r.Bytes > 12<<20+2*cas.ChunkSize || r.Whole {
			t.Fatalf("%+v", r)
		}
		read += r.Bytes
	}
	blobs, err := s.Blobs(t.Context())
	must(t, err)
	slices.Sort(blobs)
	last := blobs[len(blobs)-1]
	damage(t, blobPath(s, last), 9<<20-1)
	found := false
	for range 2 {
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{Budget: 12 << 20})
		must(t, err)
		found = found || len(r.Findings) > 0
		read += r.Bytes
	}
	if !found || read < total {
		t.Errorf("read %d of %d bytes, found the rot: %v", read, total, found)
	}
	r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
	if err != nil || !r.Whole {
		t.Errorf("%+v, %v", r, err)
	}
}

// Small blobs are read several at a time, in the same order and under the same
// budget; what is known to be bad is in each report until it is repaired.
func TestScrubSmallBlobs(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	const count, size = 40, 100 << 10
	for n := range uint64(count) {
		b, _ := content(400+n, size)
		put(t, s, l, b)
	}
	good, bad := content(403, size)
	damage(t, blobPath(s, bad), 50<<10)
	for run := range 2 {
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
		must(t, err)
		if r.Blobs != count || !r.Whole || len(r.Findings) != 1 || r.Findings[0].Name != string(bad) || !strings.Contains(r.Findings[0].Remedy, "rmodels verify --repair") {
			t.Fatalf("run %d: %+v", run, r)
		}
	}
	must(t, s.Repair(t.Context(), bad, (&source{b: good}).fetch))
	var blobs int
	for range 4 {
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{Budget: count * size / 4, Parallel: 2})
		must(t, err)
		if r.Blobs < count/4 || r.Blobs > count/4+2 || len(r.Findings) > 0 {
			t.Errorf("a quarter: %+v", r)
		}
		blobs += r.Blobs
	}
	if blobs < count {
		t.Errorf("looked at %d of %d blobs", blobs, count)
	}
}

// flakyFS returns wrong bytes for some reads, as bad memory does.
type flakyFS struct {
	durable.FS
	wrong func(flag int, off int64) bool
}

func (f flakyFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return flakyFile{file, f.wrong, flag}, nil
}

type flakyFile struct {
	durable.File
	wrong func(flag int, off int64) bool
	flag  int
}

func (f flakyFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	if n > 0 && f.wrong(f.flag, off) {
		p[0] ^= 1
	}
	return n, err
}

func TestMemoryIsToldFromDisk(t *testing.T) {
	good, d := content(1, 9<<20)
	newFlaky := func(t *testing.T, wrong func(flag int, off int64) bool) *cas.Store {
		s := open(t, filepath.Join(t.TempDir(), "store"), cas.Options{FS: flakyFS{durable.OS, wrong}})
		put(t, s, lease(t, s), good)
		return s
	}
	t.Run("a read that goes wrong once", func(t *testing.T) {
		reads := 0
		s := newFlaky(t, func(flag int, off int64) bool {
			if flag&unix.O_DIRECT == 0 || off != 4<<20 {
				return false
			}
			reads++
			return reads == 1
		})
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{Parallel: 1})
		must(t, err)
		if len(r.Findings) != 1 || r.Findings[0].Cause != cas.CauseMemory || !slices.Equal(r.Findings[0].Ranges, []cas.Range{{4 << 20, 4 << 20}}) {
			t.Errorf("%+v", r.Findings)
		}
		if _, err := s.Open(d); err != nil {
			t.Errorf("the blob is good, but: %v", err)
		}
	})
	t.Run("a page cache that is bad", func(t *testing.T) {
		cached := 0
		s := newFlaky(t, func(flag int, off int64) bool {
			if flag&unix.O_DIRECT != 0 || off != 3<<20 {
				return false
			}
			cached++
			return cached == 1
		})
		f, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
		must(t, err)
		if len(f) != 1 || f[0].Cause != cas.CauseMemory {
			t.Fatalf("%+v", f)
		}
		if _, err := s.Open(d); err != nil {
			t.Errorf("the disk is good, but: %v", err)
		}
	})
	t.Run("a disk that stays bad", func(t *testing.T) {
		bad := false
		s := newFlaky(t, func(flag int, off int64) bool { return bad && off == 4<<20 })
		bad = true
		r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
		must(t, err)
		if len(r.Findings) != 1 || r.Findings[0].Cause != cas.CauseDisk {
			t.Errorf("%+v", r.Findings)
		}
		_, err = s.Open(d)
		wantError(t, err, cas.ErrSuspect)
	})
}

func TestScrubLeavesThePageCacheAlone(t *testing.T) {
	s := newStore(t)
	b, _ := content(1, 8<<20)
	d := put(t, s, lease(t, s), b)
	f, err := os.Open(blobPath(s, d))
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	view, err := unix.Mmap(int(f.Fd()), 0, len(b), unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(view)
	resident := func() (n int) {
		vec := make([]byte, len(b)/4096)
		must(t, mincore(view, vec))
		for _, v := range vec {
			n += int(v & 1)
		}
		return n
	}
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	cold := resident()
	_, err = s.Scrub(t.Context(), cas.ScrubOptions{})
	must(t, err)
	if now := resident(); now > cold+64 {
		t.Errorf("%d pages cached before the scrub, %d after", cold, now)
	}
	if !bytes.Equal(view, b) { // touches every page
		t.Fatal("the mapping shows something else")
	}
	warm := resident()
	_, err = s.Scrub(t.Context(), cas.ScrubOptions{})
	must(t, err)
	if now := resident(); now < warm {
		t.Errorf("%d pages cached before the scrub, %d after", warm, now)
	}
}
