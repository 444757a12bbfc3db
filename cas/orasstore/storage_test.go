package orasstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/cas/orasstore"
)

func newStorage(t *testing.T) (orasstore.Storage, *cas.Store) {
	t.Helper()
	s, err := cas.Open(filepath.Join(t.TempDir(), "store"), cas.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(l.Release(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	return orasstore.New(s, l), s
}

func blob(b []byte) ocispec.Descriptor { return content.NewDescriptorFromBytes("", b) }

// oras-go copies an artifact into a store and on into another, which has all
// of it then; what is there is not pushed twice.
func TestCopyGraph(t *testing.T) {
	origin := memory.New()
	layer := bytes.Repeat([]byte("weights "), 100_000)
	file, err := oras.PushBytes(t.Context(), origin, "application/octet-stream", layer)
	if err != nil {
		t.Fatal(err)
	}
	root, err := oras.PackManifest(t.Context(), origin, oras.PackManifestVersion1_1, "application/vnd.test", oras.PackManifestOptions{Layers: []ocispec.Descriptor{file}})
	if err != nil {
		t.Fatal(err)
	}
	first, store := newStorage(t)
	second, _ := newStorage(t)
	for range 2 {
		if err := oras.CopyGraph(t.Context(), origin, first, root, oras.DefaultCopyGraphOptions); err != nil {
			t.Fatal(err)
		}
		if err := oras.CopyGraph(t.Context(), first, second, root, oras.DefaultCopyGraphOptions); err != nil {
			t.Fatal(err)
		}
	}
	got, err := content.FetchAll(t.Context(), second, file)
	if err != nil || !bytes.Equal(got, layer) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if blobs, err := store.Blobs(t.Context()); err != nil || len(blobs) != 3 {
		t.Errorf("%v, %v", blobs, err)
	}
	if err := first.Push(t.Context(), file, bytes.NewReader(layer)); !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Errorf("pushed again: %v", err)
	}
}

// Bytes that are not the descriptor's are never there to be fetched.
func TestPushRefuses(t *testing.T) {
	good := []byte(strings.Repeat("good", 1000))
	for name, sent := range map[string][]byte{
		"other bytes": []byte(strings.Repeat("evil", 1000)),
		"too few":     good[:3999],
		"too many":    append(bytes.Clone(good), '!'),
		"none":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newStorage(t)
			if err := s.Push(t.Context(), blob(good), bytes.NewReader(sent)); err == nil {
				t.Fatal("pushed")
			}
			if there, err := s.Exists(t.Context(), blob(good)); there || err != nil {
				t.Errorf("exists: %v, %v", there, err)
			}
			if _, err := s.Fetch(t.Context(), blob(good)); !errors.Is(err, errdef.ErrNotFound) {
				t.Errorf("fetched: %v", err)
			}
			if err := s.Push(t.Context(), blob(good), bytes.NewReader(good)); err != nil {
				t.Errorf("the good bytes afterwards: %v", err)
			}
		})
	}
}

// A push that was cut off goes on with what it had.
func TestPushResumes(t *testing.T) {
	s, store := newStorage(t)
	good := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	cut := io.MultiReader(bytes.NewReader(good[:9<<20]), &broken{})
	if err := s.Push(t.Context(), blob(good), cut); !errors.Is(err, errCut) {
		t.Fatalf("error %v", err)
	}
	if err := s.Push(context.Background(), blob(good), bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	findings, err := store.Verify(t.Context(), []digest.Digest{blob(good).Digest}, cas.VerifyOptions{})
	if err != nil || len(findings) > 0 {
		t.Errorf("%+v, %v", findings, err)
	}
}

var errCut = errors.New("cut off")

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, errCut }

// A descriptor of another size, and a blob that failed a check, are refused.
func TestFetchRefuses(t *testing.T) {
	s, store := newStorage(t)
	good := []byte(strings.Repeat("good", 1000))
	d := blob(good)
	if err := s.Push(t.Context(), d, bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	other := d
	other.Size++
	if _, err := s.Fetch(t.Context(), other); !errors.Is(err, cas.ErrInvalid) {
		t.Errorf("of another size: %v", err)
	}
	if _, err := s.Exists(t.Context(), other); !errors.Is(err, cas.ErrInvalid) {
		t.Errorf("existence at another size: %v", err)
	}
	path := filepath.Join(store.Root(), "blobs", "sha256", d.Digest.Encoded()[:2], d.Digest.Encoded())
	if err := os.WriteFile(path, []byte(strings.Repeat("evil", 1000)), 0); err != nil {
		t.Fatal(err)
	}
	if found, err := store.Verify(t.Context(), []digest.Digest{d.Digest}, cas.VerifyOptions{}); err != nil || len(found) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	if _, err := s.Fetch(t.Context(), d); !errors.Is(err, cas.ErrSuspect) {
		t.Errorf("after a failed check: %v", err)
	}
	if there, err := s.Exists(t.Context(), d); there || err != nil {
		t.Errorf("exists after a failed check: %v, %v", there, err)
	}
	if err := s.Push(t.Context(), d, bytes.NewReader(good)); err != nil {
		t.Errorf("pushed again: %v", err)
	}
	if got, err := content.FetchAll(t.Context(), s, d); err != nil || !bytes.Equal(got, good) {
		t.Errorf("%q, %v", got, err)
	}
}
