package interop

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
)

// programs are the other clients and the registry, by name.
var programs = map[string]string{}

func TestMain(m *testing.M) {
	dir := os.Getenv("RMODELS_TEST_PEERS")
	for _, name := range []string{"oras", "crane", "registry", "skopeo"} {
		at := filepath.Join(dir, name)
		if name == "skopeo" {
			at, _ = exec.LookPath(name)
		}
		if _, err := os.Stat(at); err != nil || dir == "" {
			fmt.Fprintf(os.Stderr, "interop: %s is missing: run this package with make test, or make deps tools and set RMODELS_TEST_PEERS to bin/\n", name)
			os.Exit(1)
		}
		programs[name] = at
	}
	os.Exit(m.Run())
}

// peer runs another client and returns what it printed.
func peer(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), programs[name], args...)
	c.Dir = dir
	// Nobody's own credentials or policies.
	c.Env = append(os.Environ(), "HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir())
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String())
}

// registry is one that runs for a test, without TLS and passwords.
type registry struct {
	name     string // host:port
	requests func() []request
}

type request struct {
	Method, Kind, Range string
	Status              int
}

// registries are the kinds that artifacts are pushed to.
var registries = map[string]func(*testing.T) registry{
	"distribution":                func(t *testing.T) registry { return distribution(t) },
	"distribution with referrers": func(t *testing.T) registry { return distribution(t, "-referrers") },
	"go-containerregistry":        inProcess,
}

func everywhere(t *testing.T, test func(*testing.T, registry)) {
	for _, kind := range slices.Sorted(maps.Keys(registries)) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // mostly they wait for a disk
			test(t, registries[kind](t))
		})
	}
}

// distribution starts the development registry.
func distribution(t *testing.T, flags ...string) registry {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command(programs["registry"], append([]string{"serve", "-dir", dir, "-plain-http", "-no-auth"}, flags...)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	})
	var ready struct{ Address, Requests string }
	for end := time.Now().Add(30 * time.Second); ready.Address == ""; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(dir, "registry.json"))
		if err == nil {
			err = json.Unmarshal(b, &ready)
		}
		if err != nil && time.Now().After(end) {
			t.Fatalf("the registry does not start: %v\n%s", err, stderr.Bytes())
		}
	}
	return registry{ready.Address, func() []request {
		b, err := os.ReadFile(filepath.Join(dir, "requests.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		var all []request
		for line := range bytes.Lines(b) {
			var q request
			if json.Unmarshal(line, &q) == nil {
				all = append(all, q)
			}
		}
		return all
	}}
}

// inProcess starts go-containerregistry's registry, which has the referrers
// API and answers 416 to a range without an end.
func inProcess(t *testing.T) registry {
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	var mu sync.Mutex
	var all []request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := ""
		if strings.Contains(r.URL.Path, "/blobs/sha256:") {
			kind = "blob"
		}
		mu.Lock()
		all = append(all, request{r.Method, kind, r.Header.Get("Range"), 0})
		mu.Unlock()
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return registry{strings.TrimPrefix(s.URL, "http://"), func() []request {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}}
}

func newClient(t *testing.T, plain ...registry) *oci.Client {
	t.Helper()
	o := oci.Options{Hosts: map[string]oci.Host{}, DockerConfig: filepath.Join(t.TempDir(), "config.json")}
	for _, r := range plain {
		o.Hosts[r.name] = oci.Host{PlainHTTP: true}
	}
	c, err := oci.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newStore(t *testing.T) (*cas.Store, *cas.Lease) {
	t.Helper()
	st, err := cas.Open(t.TempDir(), cas.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	l, err := st.Lease(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
	return st, l
}

// pull fetches an artifact into a new store.
func pull(t *testing.T, c *oci.Client, reference string, mirrors ...string) (*oci.Artifact, *cas.Store) {
	t.Helper()
	ref, err := oci.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Resolve(t.Context(), ref, mirrors)
	if err != nil {
		t.Fatal(err)
	}
	st, l := newStore(t)
	if _, err := c.Fetch(t.Context(), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	return a, st
}

// holds fails unless the artifact's files are exactly these.
func holds(t *testing.T, a *oci.Artifact, st *cas.Store, want files) {
	t.Helper()
	entries, err := a.Entries(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]digest.Digest{}
	for _, e := range entries {
		b, err := st.Open(e.Blob)
		if err != nil {
			t.Fatal(err)
		}
		got[e.Path], err = digest.SHA256.FromReader(b)
		b.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(got, want.digests()) {
		t.Errorf("%s: got %v, want %v", a.Format, got, want.digests())
	}
}

// files are contents by path.
type files map[string][]byte

func (f files) digests() map[string]digest.Digest {
	out := map[string]digest.Digest{}
	for name, b := range f {
		out[name] = digest.FromBytes(b)
	}
	return out
}

// write puts the files into a new directory.
func (f files) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range f {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read is the files of a directory.
func read(t *testing.T, dir string) files {
	t.Helper()
	out := files{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err == nil {
			out[name], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// archive writes the files as a tar below a directory.
func (f files) archive(t *testing.T, under string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := w.WriteHeader(&tar.Header{Name: under + name, Size: int64(len(f[name])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// noise is n bytes that compress badly.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// model is large enough for several ranges.
func model() files {
	return files{
		"model.gguf":           noise(1, 9<<20),
		"tokenizer/vocab.json": []byte(`{"a":1}`),
		"tokenizer/copy.json":  []byte(`{"a":1}`),
		"LICENSE":              []byte("Apache-2.0\n"),
	}
}
