package oci_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
)

func writeTree(t testing.TB, files ...file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPackIsReproducible(t *testing.T) {
	files := []file{
		{"model-00002-of-00002.safetensors", noise(1, 3000)},
		{"model-00001-of-00002.safetensors", noise(2, 70000)},
		{"config.json", []byte("{}")},
		{"tokenizer/vocab.txt", []byte("a\nb\n")},
		{"README.md", []byte("# hello")},
		{"run.sh", []byte("#!/bin/sh\n")},
		{"empty", nil},
	}
	o := oci.PackOptions{Name: "m", Version: "1", Annotations: map[string]string{"b": "2", "a": "1", "c": "3"}}
	var first *oci.Packed
	for i := range 3 {
		dir := writeTree(t, files...)
		if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o700|fsMode(i)); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "config.json"), old, old); err != nil {
			t.Fatal(err)
		}
		p, err := oci.Pack(background(t), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = p
		}
		if p.Digest != first.Digest || !bytes.Equal(p.Raw, first.Raw) || !bytes.Equal(p.Config, first.Config) {
			t.Fatalf("pass %d gives %s, the first gave %s", i, p.Digest, first.Digest)
		}
	}
	var kinds []string
	for _, l := range first.Manifest.Layers {
		kinds = append(kinds, l.Annotations["org.cncf.model.filepath"]+" "+strings.TrimSuffix(strings.TrimPrefix(l.MediaType, "application/vnd.cncf.model."), ".v1.raw"))
	}
	want := "README.md doc, config.json weight.config, empty weight.config, model-00001-of-00002.safetensors weight, model-00002-of-00002.safetensors weight, run.sh code, tokenizer/vocab.txt weight.config"
	if got := strings.Join(kinds, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var config struct {
		Config  struct{ Format string }
		ModelFS struct{ DiffIDs []digest.Digest }
	}
	if err := json.Unmarshal(first.Config, &config); err != nil || config.Config.Format != "safetensors" || len(config.ModelFS.DiffIDs) != len(files) {
		t.Errorf("config %s: %v", first.Config, err)
	}
}

func fsMode(bits int) os.FileMode { return os.FileMode(bits & 0o7) }

func TestPackRefuses(t *testing.T) {
	for name, prepare := range map[string]func(dir string) error{
		"symlink":         func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "x")) },
		"fifo":            func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "x"), 0o644) },
		"backslash":       func(dir string) error { return os.WriteFile(filepath.Join(dir, `a\b`), nil, 0o644) },
		"nothing to pack": func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeTree(t, file{"a", []byte("a")})
			if err := prepare(dir); err != nil {
				t.Fatal(err)
			}
			if p, err := oci.Pack(background(t), dir, oci.PackOptions{}); err == nil {
				t.Errorf("packed as %s", p.Digest)
			}
		})
	}
}

func TestPushSendsWhatIsMissing(t *testing.T) {
	r := newRegistry(t)
	dir := writeTree(t, file{"a.gguf", noise(1, 300_000)}, file{"b.gguf", noise(2, 300_000)}, file{"c.json", []byte("{}")})
	p, err := oci.Pack(background(t), dir, oci.PackOptions{Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, oci.Options{}, r)
	var failed atomic.Bool
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/blobs/") && failed.CompareAndSwap(false, true) {
			w.WriteHeader(http.StatusServiceUnavailable) // one upload must be repeated
			return
		}
		next.ServeHTTP(w, req)
	})
	ref, err := c.Push(background(t), p, r.repository("org/m"))
	if err != nil {
		t.Fatal(err)
	}
	if ref.Digest != p.Digest {
		t.Errorf("pushed %s, packed %s", ref.Digest, p.Digest)
	}
	r.setFault(nil)
	r.forget()
	if _, err := c.Push(background(t), p, r.repository("org/m")); err != nil {
		t.Fatal(err)
	}
	if n := r.count("PUT /v2/org/m/blobs"); n != 0 {
		t.Errorf("a second push sent %d blobs again", n)
	}
	a, err := c.Resolve(background(t), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Format != oci.FormatModelPack || len(a.Files) != 3 || a.Size() != p.Size() {
		t.Errorf("resolved as %s with %d files and %d bytes, packed %d", a.Format, len(a.Files), a.Size(), p.Size())
	}
	if err := os.WriteFile(filepath.Join(dir, "a.gguf"), noise(9, 300_000), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh := newRegistry(t)
	if _, err := newClient(t, oci.Options{}, fresh).Push(background(t), p, fresh.repository("org/m")); err == nil {
		t.Error("a file that changed after packing was pushed")
	}
}

// An upload that is cut off goes on where the registry says, and one whose
// session is gone starts anew.
func TestPushResumes(t *testing.T) {
	const cut = 1 << 20
	for name, tc := range map[string]struct {
		status int   // of the question how far it came
		sent   int64 // in all, about
	}{
		"goes on":      {http.StatusNoContent, 3 << 20},
		"session gone": {http.StatusNotFound, 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			p, err := oci.Pack(background(t), writeTree(t, file{"a.gguf", noise(1, 3<<20)}), oci.PackOptions{Name: "m"})
			if err != nil {
				t.Fatal(err)
			}
			var once atomic.Bool
			var sent atomic.Int64
			r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				switch {
				case req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/uploads/"):
					w.Header().Set("Range", fmt.Sprintf("0-%d", cut-1))
					w.Header().Set("Location", req.URL.Path)
					w.WriteHeader(tc.status)
					return
				case req.Method == http.MethodPatch && req.ContentLength > cut && once.CompareAndSwap(false, true):
					b := make([]byte, cut)
					_, _ = io.ReadFull(req.Body, b)
					sent.Add(cut)
					part := req.Clone(req.Context())
					part.Body, part.ContentLength = io.NopCloser(bytes.NewReader(b)), cut
					part.Header.Set("Content-Range", fmt.Sprintf("0-%d", cut-1))
					next.ServeHTTP(httptest.NewRecorder(), part)
					panic(http.ErrAbortHandler)
				case req.Method == http.MethodPatch:
					sent.Add(req.ContentLength)
				}
				next.ServeHTTP(w, req)
			})
			c := newClient(t, oci.Options{Backoff: time.Millisecond}, r)
			ref, err := c.Push(background(t), p, r.repository("org/m"))
			if err != nil {
				t.Fatal(err)
			}
			if n := sent.Load(); n < tc.sent || n > tc.sent+4096 {
				t.Errorf("%d bytes were sent, want about %d", n, tc.sent)
			}
			r.setFault(nil)
			a := resolve(t, c, ref)
			st, l := newStore(t)
			if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
		})
	}
}

// An upload carries credentials: it does not go on elsewhere.
func TestPushStaysOnItsHost(t *testing.T) {
	r := newRegistry(t)
	p, err := oci.Pack(background(t), writeTree(t, file{"a.gguf", noise(1, 3000)}), oci.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		t.Errorf("%s %s came to another host", req.Method, req.URL)
	}))
	t.Cleanup(other.Close)
	_, name, _ := strings.Cut(other.URL, "://")
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPost {
			w.Header().Set("Location", other.URL+"/v2/org/m/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Hosts: map[string]oci.Host{r.name: {PlainHTTP: true}, name: {PlainHTTP: true}}})
	if _, err := c.Push(background(t), p, r.repository("org/m")); !errors.Is(err, oci.ErrRedirect) {
		t.Errorf("got %v", err)
	}
}

func TestPackImage(t *testing.T) {
	rootfs := writeTree(t, file{"bin/tool", []byte("#!/bin/sh\n")}, file{"etc/passwd", []byte("root:x:0:0::/:/bin/sh\n")})
	for _, err := range []error{
		os.Chmod(filepath.Join(rootfs, "bin/tool"), 0o755|os.ModeSetuid),
		os.Link(filepath.Join(rootfs, "bin/tool"), filepath.Join(rootfs, "bin/tool2")),
		os.Symlink("../etc/passwd", filepath.Join(rootfs, "bin/link")),
		os.Mkdir(filepath.Join(rootfs, "tmp"), 0o777),
		os.Chmod(filepath.Join(rootfs, "tmp"), 0o777|os.ModeSticky),
		syscall.Mkfifo(filepath.Join(rootfs, "fifo"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o := oci.ImageOptions{Entrypoint: []string{"/bin/tool"}, Env: []string{"A=b"}, User: "65532:65532", Labels: map[string]string{"x": "y"}}
	p, err := oci.PackImage(background(t), rootfs, o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := oci.PackImage(background(t), rootfs, o)
	if err != nil || again.Digest != p.Digest {
		t.Fatalf("a second pass gives %v, %v", again, err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(p.Config, &config); err != nil {
		t.Fatal(err)
	}
	if len(config.History) != 1 || config.History[0].Created == nil || config.OS != "linux" || config.Config.User != o.User || len(config.RootFS.DiffIDs) != 1 {
		t.Errorf("config: %s", p.Config)
	}
	layer, err := p.Open(p.Manifest.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	var got []string
	tr := tar.NewReader(layer)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %c %o %s", h.Name, h.Typeflag, h.Mode, h.Linkname))
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: owner %d:%d, time %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
	}
	want := []string{"bin/ 5 755 ", "bin/link 2 777 ../etc/passwd", "bin/tool 0 755 ", "bin/tool2 1 755 bin/tool", "etc/ 5 755 ", "etc/passwd 0 644 ", "tmp/ 5 1777 "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s", strings.Join(got, "\n"))
	}
}

func someBundle(t testing.TB, predicate string) []byte {
	t.Helper()
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","predicateType":%q}`, predicate)
	return []byte(fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[]}}`,
		base64.StdEncoding.EncodeToString([]byte(statement))))
}

func TestEvidence(t *testing.T) {
	const predicate = "https://sigstore.dev/cosign/sign/v1"
	for name, options := range map[string][]ggcr.Option{"with the API": {ggcr.WithReferrersSupport(true)}, "by the fallback tag": nil} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, options...)
			c := newClient(t, oci.Options{}, r)
			ref := r.model("org/m", file{"a", []byte("a")})
			if ev, err := c.Evidence(background(t), ref, nil); err != nil || len(ev) != 0 {
				t.Fatalf("an unsigned artifact has evidence %v, %v", ev, err)
			}
			bundle := someBundle(t, predicate)
			if err := c.AttachBundle(background(t), ref, bundle); err != nil {
				t.Fatal(err)
			}
			if err := c.AttachBundle(background(t), ref, someBundle(t, "https://other")); err != nil {
				t.Fatal(err)
			}
			// Cosign's tag, and the same payload as a referrer.
			payload := []byte(`{"critical":{}}`)
			simple := r.blob("org/m", "application/vnd.dev.cosign.simplesigning.v1+json", payload, "dev.cosignproject.cosign/signature", "c2ln")
			config := r.blob("org/m", "application/vnd.oci.image.config.v1+json", []byte("{}"))
			m := ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{simple}, MediaType: ocispec.MediaTypeImageManifest}
			m.SchemaVersion = 2
			raw, _ := json.Marshal(m)
			r.put("manifest", "org/m", strings.Replace(ref.Digest.String(), ":", "-", 1)+".sig", m.MediaType, raw)
			ev, err := c.Evidence(background(t), ref, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(ev) != 3 {
				t.Fatalf("%d pieces of evidence: %v", len(ev), ev)
			}
			found := map[string]bool{}
			for _, e := range ev {
				found[e.MediaType+" "+e.Annotations["dev.sigstore.bundle.predicateType"]+e.Annotations["dev.cosignproject.cosign/signature"]] = true
				if e.Source != r.repository("org/m") {
					t.Errorf("source %q", e.Source)
				}
			}
			for _, want := range []string{
				"application/vnd.dev.sigstore.bundle.v0.3+json " + predicate,
				"application/vnd.dev.sigstore.bundle.v0.3+json https://other",
				"application/vnd.dev.cosign.simplesigning.v1+json c2ln",
			} {
				if !found[want] {
					t.Errorf("%q is missing in %v", want, found)
				}
			}
			// A mirror without signatures, and one that is down, do not hide them.
			empty := newRegistry(t)
			down := newRegistry(t)
			down.server.Close()
			c = newClient(t, oci.Options{}, r, empty, down)
			ev, err = c.Evidence(background(t), oci.Reference{Registry: empty.name, Repository: "org/m", Digest: ref.Digest}, []string{down.repository("org/m"), r.repository("org/m")})
			if err != nil || len(ev) != 3 {
				t.Errorf("through mirrors: %d, %v", len(ev), err)
			}
			_, err = c.Evidence(background(t), oci.Reference{Registry: empty.name, Repository: "org/m", Digest: ref.Digest}, []string{down.repository("org/m")})
			if !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("nothing found and one source down: %v", err)
			}
		})
	}
}

func TestEvidenceOfHostileRegistries(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	other := r.model("m", file{"b", []byte("b")})
	bundle := someBundle(t, "x")
	layer := r.blob("m", "application/vnd.dev.sigstore.bundle.v0.3+json", bundle)
	empty := r.blob("m", "application/vnd.oci.empty.v1+json", []byte("{}"))
	var list []ocispec.Descriptor
	add := func(subject digest.Digest, layers ...ocispec.Descriptor) {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: empty, Layers: layers, Subject: &ocispec.Descriptor{Digest: subject, Size: 1, MediaType: "x"}, Annotations: map[string]string{"n": fmt.Sprint(len(list))}}
		m.SchemaVersion = 2
		raw, _ := json.Marshal(m)
		r.raw("m", m.MediaType, raw)
		list = append(list, ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))})
	}
	add(other.Digest, layer) // moved from another artifact
	big := layer
	big.Size = 1 << 40
	add(ref.Digest, big)
	gone := layer
	gone.Digest = digest.FromString("gone")
	for range 100 {
		add(ref.Digest, layer)
	}
	list = append(list, ocispec.Descriptor{MediaType: "x", Digest: "sha256:../../x", Size: 3}, ocispec.Descriptor{MediaType: "x", Digest: gone.Digest, Size: -3})
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	index.SchemaVersion = 2
	raw, _ := json.Marshal(index)
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.HasSuffix(req.URL.Path, "/"+strings.Replace(ref.Digest.String(), ":", "-", 1)) {
			w.Header().Set("Content-Type", index.MediaType)
			_, _ = w.Write(raw)
			return
		}
		next.ServeHTTP(w, req)
	})
	ev, err := newClient(t, oci.Options{}, r).Evidence(background(t), ref, nil)
	if err != nil || len(ev) == 0 || len(ev) > 64 {
		t.Errorf("%d pieces, %v", len(ev), err)
	}
	for _, e := range ev {
		if e.Annotations["n"] == "0" {
			t.Error("evidence of another artifact was handed out")
		}
	}
}

func TestAttachRefusesWhatIsNoBundle(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	for _, b := range []string{"", "{}", "[]", `{"dsseEnvelope":{"payload":"!"}}`, `{"dsseEnvelope":{"payload":"e30="}} x`} {
		if err := newClient(t, oci.Options{}, r).AttachBundle(background(t), ref, []byte(b)); err == nil {
			t.Errorf("%q was attached", b)
		}
	}
}
