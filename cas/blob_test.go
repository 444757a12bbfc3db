package cas_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

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

func blobPath(s *cas.Store, d digest.Digest) string {
	return filepath.Join(s.Root(), "blobs", "sha256", d.Encoded()[:2], d.Encoded())
}

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
