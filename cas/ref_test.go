package cas_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

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
	for _, pinned := range []bool{true, false, false, true} {
		if err := s.Pin(t.Context(), r.Name, pinned); err != nil {
			t.Fatal(err)
		}
		got, err := s.Ref(r.Name)
		if err != nil || got.Pinned != pinned || !slices.Equal(got.Blobs, r.Blobs) || !got.LastUsed.Equal(used.Add(time.Hour)) {
			t.Errorf("pinned %t: %+v, %v", pinned, got, err)
		}
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
	wantError(t, s.Pin(t.Context(), "a", true), cas.ErrNotFound)
	// Invariant 5.
	os.WriteFile(filepath.Join(s.Root(), "refs", "broken"), []byte("{}"), 0o644)
	_, err = s.Refs()
	wantError(t, err, cas.ErrCorrupt)
}

// A ref finds what a collector has taken, and takes the last step of a
// publisher that died before it.
func TestPutRefSettles(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	must(t, l.Release())
	gc(t, s, cas.GCOptions{Grace: time.Hour})
	lease(t, s, m.ref("m").Blobs...)
	half := filepath.Join(s.Root(), "ingest", "sha256-"+m.manifest.Encoded())
	must(t, os.Mkdir(half, 0o755))
	must(t, s.PutRef(t.Context(), m.ref("m")))
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ingest of a published blob is left: %v", err)
	}
	gc(t, s, cas.GCOptions{})
	if !m.present(t, s) {
		t.Error("what the ref names is gone")
	}
}
