package cas_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

func spool(t *testing.T, s *cas.Store, l *cas.Lease, b []byte) digest.Digest {
	t.Helper()
	p, err := s.Spool(t.Context(), l, int64(len(b)))
	must(t, err)
	_, err = io.CopyBuffer(struct{ io.Writer }{p}, struct{ io.Reader }{bytes.NewReader(b)}, make([]byte, 100<<10))
	must(t, err)
	d, n, err := p.Commit(t.Context())
	must(t, err)
	if n != int64(len(b)) || d != digest.FromBytes(b) {
		t.Fatalf("spooled %d bytes of %s, found %d of %s", len(b), digest.FromBytes(b), n, d)
	}
	must(t, p.Close())
	return d
}

func TestSpool(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	for _, n := range []int{0, 1, 70 << 10, 5 << 20} {
		t.Run(fmt.Sprintf("%d bytes", n), func(t *testing.T) {
			b, _ := content(uint64(300+n), n)
			for range 2 { // the second finds the first
				if d := spool(t, s, l, b); !bytes.Equal(read(t, s, d), b) {
					t.Error("published something else")
				}
			}
			// It has the chunk map of any other blob.
			_, err := os.Stat(mapPath(s, digest.FromBytes(b)))
			if mapped := err == nil; mapped != (n > cas.MapThreshold) {
				t.Errorf("chunk map: %v", mapped)
			}
		})
	}
	findings, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
	if err != nil || len(findings) > 0 {
		t.Error(findings, err)
	}
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	if blobs, err := s.Blobs(t.Context()); err != nil || len(blobs) > 0 {
		t.Errorf("kept without a lease: %v, %v", blobs, err)
	}
}

func TestSpoolGivesUp(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	p, err := s.Spool(t.Context(), l, 10)
	must(t, err)
	_, err = p.Write(make([]byte, 10))
	must(t, err)
	_, err = p.Write([]byte{1})
	wantError(t, err, cas.ErrInvalid)
	_, _, err = p.Commit(t.Context())
	wantError(t, err, cas.ErrInvalid)
	_, err = p.Write(nil)
	wantError(t, err, cas.ErrClosed)
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	_, err = s.Spool(t.Context(), nil, 10)
	wantError(t, err, cas.ErrInvalid)

	// A collection leaves it alone until its owner is dead.
	p, err = s.Spool(t.Context(), l, 10)
	must(t, err)
	_, err = p.Write([]byte("content"))
	must(t, err)
	gc(t, s, cas.GCOptions{})
	if left := list(t, s, "ingest"); len(left) != 1 {
		t.Fatalf("a spool in use was collected: %v", left)
	}
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	must(t, p.Close())
}

// A spool that turns out to be what someone is fetching waits for that one.
func TestSpoolBesideIngest(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, d := content(31, 200<<10)
	for _, finish := range []bool{false, true} {
		i := ingest(t, s, l, d, len(b))
		fill(t, i, b, 64<<10)
		spooled := make(chan digest.Digest)
		go func() {
			defer close(spooled)
			spooled <- spool(t, s, l, b)
		}()
		if finish {
			must(t, i.Commit(t.Context()))
		} else {
			must(t, i.Close())
		}
		if <-spooled != d || !bytes.Equal(read(t, s, d), b) {
			t.Error("published something else")
		}
		must(t, s.Discard(t.Context(), d, "test"))
	}
}
