package cas_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

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
