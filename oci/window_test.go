package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/resultity/rmodels/cas"
)

// Bytes that arrived while the window was narrow stay where they lie.
func TestWindowWidens(t *testing.T) {
	whole := make([]byte, 3*windowBytes+12345)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(whole)
	w := newWindow(int64(len(whole)), windowBytes, func() {})
	if w.limit() != narrow(windowBytes) {
		t.Fatalf("room for %d bytes at first", w.limit())
	}
	bring := func(off, end int64) {
		for end = min(end, int64(len(whole))); off < end; off += bufferSize {
			if _, err := w.WriteAt(whole[off:min(end, off+bufferSize)], off); err != nil {
				t.Fatal(err)
			}
		}
	}
	bring(narrow(windowBytes)/2, narrow(windowBytes)) // before what comes first
	bring(0, narrow(windowBytes)/2)
	head, err := windowReader{w, 0}.head(zstd.HeaderMaxSize)
	if err != nil || !bytes.Equal(head, whole[:zstd.HeaderMaxSize]) {
		t.Fatalf("the head is %x, %v", head, err)
	}
	var got [2]bytes.Buffer
	read := func(n int, until int64) {
		for r := (windowReader{w, n}); int64(got[n].Len()) < until; {
			b, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			b = b[:min(int64(len(b)), until-int64(got[n].Len()))]
			got[n].Write(b)
			r.advance(int64(len(b)))
		}
	}
	read(1, narrow(windowBytes)) // the other reader may have passed
	w.widen()
	if w.limit() != windowBytes {
		t.Fatalf("room for %d bytes when wide", w.limit())
	}
	for off := narrow(windowBytes); off < w.size; {
		end := w.limit()
		bring(off, end)
		read(0, end)
		read(1, end)
		off = end
	}
	for n := range got {
		if !bytes.Equal(got[n].Bytes(), whole) {
			t.Errorf("reader %d read something else", n)
		}
		if _, err := (windowReader{w, n}).next(); !errors.Is(err, io.EOF) {
			t.Errorf("reader %d at the end: %v", n, err)
		}
	}
}

// A stream that asks for more than has room gives away no more than that.
func TestCedeWithinWindow(t *testing.T) {
	const size = 8 * windowBytes
	w := newWindow(size, windowBytes, func() {})
	w.widen()
	tr := &transfer{window: w}
	s := newSegment(context.Background(), tr, nil, w.clock)
	s.todo = []cas.Range{{Off: 1 << 20, Len: size / 2}}
	if s.within() != windowBytes-1<<20 {
		t.Errorf("%d bytes of it may be kept now", s.within())
	}
	away := tr.cede(s)
	end := s.todo[0].Off + s.todo[0].Len
	if away.Off != end || away.Off+away.Len != windowBytes || away.Len < windowBytes/4 || s.todo[0].Len < windowBytes/4 {
		t.Errorf("keeps %v and gives away %v", s.todo, away)
	}
	if rest := (cas.Range{Off: windowBytes, Len: size/2 + 1<<20 - windowBytes}); len(tr.pending) != 1 || tr.pending[0] != rest {
		t.Errorf("pending is %v, want %v", tr.pending, rest)
	}
}

// A decoder that needs much memory leaves less to the window.
func TestHistory(t *testing.T) {
	frame := func(window int, content []byte) []byte {
		e, err := zstd.NewWriter(nil, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		e.Reset(&b)
		if _, err := io.Copy(e, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	long := bytes.Repeat([]byte("weights "), 1<<20)
	for name, c := range map[string]struct {
		of   Compression
		head []byte
		want int64
	}{
		"gzip":                {Gzip, []byte{0x1f, 0x8b, 8}, 32 << 10},
		"nothing":             {Plain, []byte("ustar"), 32 << 10},
		"a small window":      {Zstd, frame(1<<20, long), commonWindow},
		"a large one":         {Zstd, frame(32<<20, long), 32 << 20},
		"one that is refused": {Zstd, wide(128 << 20), maxWindow},
		"a skippable frame":   {Zstd, []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, maxWindow},
		"no frame":            {Zstd, []byte("no frame at all"), maxWindow},
		"an empty one":        {Zstd, nil, maxWindow},
	} {
		if got := c.of.history(c.head[:min(len(c.head), zstd.HeaderMaxSize)]); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// wide is the header of a frame with a window of 2^n bytes (RFC 8878,
// 3.1.1.1.2).
func wide(window int) []byte {
	n := byte(0)
	for 1<<n < window {
		n++
	}
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (n - 10) << 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}
