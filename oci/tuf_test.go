package oci_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

func TestTUF(t *testing.T) {
	r := newRegistry(t)
	c := newClient(t, oci.Options{Attempts: 1}, r)
	first := map[string][]byte{"1.root.json": []byte("root"), "timestamp.json": []byte("one"), "targets/ab.snapshot.v1.json": []byte("{}")}
	second := map[string][]byte{"1.root.json": []byte("root"), "timestamp.json": []byte("two"), "2.root.json": []byte("root two")}
	name := r.repository("net/snapshots:stable")
	if _, err := c.PushTUF(background(t), first, name); err != nil {
		t.Fatal(err)
	}
	before, err := c.TUF(name)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(s *oci.TUF, file string) string {
		t.Helper()
		b, err := s.Fetch(background(t), file, 100)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := fetch(before, "targets/ab.snapshot.v1.json"); got != "{}" {
		t.Errorf("%q", got)
	}
	if _, err := before.Fetch(background(t), "2.root.json", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a root that does not exist yet: %v", err)
	}
	if _, err := before.Fetch(background(t), "timestamp.json", 2); !errors.Is(err, oci.ErrTooLarge) {
		t.Errorf("more than asked for: %v", err)
	}
	if _, err := c.PushTUF(background(t), second, name); err != nil {
		t.Fatal(err)
	}
	after, err := c.TUF(name)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fetch(before, "timestamp.json"), fetch(after, "timestamp.json"); a != "one" || b != "two" {
		t.Errorf("one reader sees %q and the next %q", a, b)
	}
}

// TestTUFMissing: a repository that is not there is never mistaken for one
// that has no further root.
func TestTUFMissing(t *testing.T) {
	r := newRegistry(t)
	c := newClient(t, oci.Options{Attempts: 1}, r)
	for _, name := range []string{r.repository("net/none"), r.repository("net/none:stable")} {
		s, err := c.TUF(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Fetch(background(t), "2.root.json", 100); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "registry.example", "registry.example/a:", "registry.example/a:b c", "registry.example/../a", "registry.example/a@sha256:" + strings.Repeat("0", 64)} {
		if _, err := c.TUF(name); !errors.Is(err, oci.ErrReference) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Files that two layers claim, and bytes that are not those of the layer, are
// refused.
func TestTUFRefuses(t *testing.T) {
	files := map[string][]byte{"timestamp.json": []byte("one"), "1.root.json": []byte("two")}
	for name, change := range map[string]func(path string, body []byte) []byte{
		"two layers of one name": func(path string, b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), "timestamp.json", "1.root.json"))
		},
		"another kind of artifact": func(path string, b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), "application/vnd.tuf.repository.v1", "application/vnd.other"))
		},
		"other bytes": func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") {
				return []byte(strings.ToUpper(string(b)))
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			c := newClient(t, oci.Options{Attempts: 1}, r)
			if _, err := c.PushTUF(background(t), files, r.repository("net/snapshots")); err != nil {
				t.Fatal(err)
			}
			r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				w.WriteHeader(rec.Code)
				_, _ = w.Write(change(req.URL.Path, rec.Body.Bytes()))
			})
			s, err := c.TUF(r.repository("net/snapshots"))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := s.Fetch(background(t), "timestamp.json", 100); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}
