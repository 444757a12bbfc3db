package oci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
)

// TestMain lets more tests wait at the same time than there are processors:
// most of them wait for timeouts of a bad network.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// registry is go-containerregistry's registry on loopback, with a place to
// put faults in front of it and a log of what was asked.
type registry struct {
	t      testing.TB
	server *httptest.Server
	name   string // host:port
	inner  http.Handler

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request, next http.Handler)
	requests []string // "GET /v2/… bytes=0-99"
}

func newRegistry(t testing.TB, options ...ggcr.Option) *registry {
	t.Helper()
	r := startRegistry(t, options)
	r.server = httptest.NewServer(r)
	r.finish()
	return r
}

var quiet = log.New(io.Discard, "", 0)

func newTLSRegistry(t testing.TB, options ...ggcr.Option) *registry {
	t.Helper()
	r := startRegistry(t, options)
	r.server = httptest.NewUnstartedServer(r)
	r.server.Config.ErrorLog = quiet
	r.server.StartTLS()
	r.finish()
	return r
}

func startRegistry(t testing.TB, options []ggcr.Option) *registry {
	options = append(options, ggcr.Logger(quiet))
	return &registry{t: t, inner: ggcr.New(options...)}
}

func (r *registry) finish() {
	r.t.Cleanup(r.server.Close)
	_, r.name, _ = strings.Cut(r.server.URL, "://")
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, strings.TrimSpace(req.Method+" "+req.URL.Path+" "+req.Header.Get("Range")))
	fault := r.fault
	r.mu.Unlock()
	if fault != nil {
		fault(w, req, r.inner)
		return
	}
	r.inner.ServeHTTP(w, req)
}

func (r *registry) setFault(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

func (r *registry) count(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, q := range r.requests {
		if strings.Contains(q, part) {
			n++
		}
	}
	return n
}

func (r *registry) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

func (r *registry) put(kind, repository, reference, mediaType string, content []byte) {
	r.t.Helper()
	path := "/v2/" + repository + "/manifests/" + reference
	method := http.MethodPut
	if kind == "blob" {
		path = "/v2/" + repository + "/blobs/uploads/?digest=" + reference
		method = http.MethodPost
	}
	req := httptest.NewRequest(method, path, bytes.NewReader(content))
	req.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	r.inner.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		r.t.Fatalf("put %s %s: %d %s", kind, reference, w.Code, w.Body)
	}
}

func (r *registry) blob(repository, mediaType string, content []byte, annotations ...string) ocispec.Descriptor {
	r.t.Helper()
	d := digest.FromBytes(content)
	r.put("blob", repository, d.String(), "application/octet-stream", content)
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	for i := 0; i+1 < len(annotations); i += 2 {
		if desc.Annotations == nil {
			desc.Annotations = map[string]string{}
		}
		desc.Annotations[annotations[i]] = annotations[i+1]
	}
	return desc
}

// manifest publishes m and returns the reference that pins it.
func (r *registry) manifest(repository string, m ocispec.Manifest) oci.Reference {
	r.t.Helper()
	m.SchemaVersion = 2
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	raw, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.raw(repository, m.MediaType, raw)
}

func (r *registry) raw(repository, mediaType string, raw []byte) oci.Reference {
	r.t.Helper()
	d := digest.FromBytes(raw)
	r.put("manifest", repository, d.String(), mediaType, raw)
	return oci.Reference{Registry: r.name, Repository: repository, Digest: d}
}

// model publishes a ModelPack artifact of files, in the order of their names'
// length and letters, and returns its reference.
func (r *registry) model(repository string, files ...file) oci.Reference {
	r.t.Helper()
	m := ocispec.Manifest{ArtifactType: "application/vnd.cncf.model.manifest.v1+json"}
	m.Config = r.blob(repository, "application/vnd.cncf.model.config.v1+json", []byte(`{"descriptor":{}}`))
	for _, f := range files {
		m.Layers = append(m.Layers, r.blob(repository, "application/vnd.cncf.model.weight.v1.raw", f.content, "org.cncf.model.filepath", f.path))
	}
	return r.manifest(repository, m)
}

type file struct {
	path    string
	content []byte
}

// noise is n bytes that compress badly and are the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = rng.Read(b)
	return b
}

func newClient(t testing.TB, o oci.Options, plain ...*registry) *oci.Client {
	t.Helper()
	if o.Hosts == nil {
		o.Hosts = map[string]oci.Host{}
	}
	for _, r := range plain {
		o.Hosts[r.name] = oci.Host{PlainHTTP: true}
	}
	if o.DockerConfig == "" {
		o.DockerConfig = t.TempDir() + "/config.json" // never the machine's own
	}
	c, err := oci.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}

func (r *registry) repository(name string) string { return fmt.Sprintf("%s/%s", r.name, name) }
