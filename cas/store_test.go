package cas_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func list(t *testing.T, s *cas.Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Root(), dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if dir != "trash" || e.Name() != ".spare" { // which a collection leaves for the next
			names = append(names, e.Name())
		}
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

// name is a digest of nothing in particular, for trees.
func name(n int) digest.Digest { return digest.FromString("tree " + string(rune('0'+n))) }
