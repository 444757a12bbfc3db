package oci_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
)

// packedModel publishes a ModelPack artifact of one packed layer.
func packedModel(t testing.TB, r *registry, repository string, content []byte) oci.Reference {
	const cncf = "application/vnd.cncf.model."
	return r.layers(repository, cncf+"manifest.v1+json", cncf+"config.v1+json", "", []ocispec.Descriptor{layer(cncf + "weight.v1.tar+zstd")}, [][]byte{content})
}

// unpacked fails unless the store has the layers' files, and not the layers.
func unpacked(t testing.TB, st *cas.Store, a *oci.Artifact, want map[string][]byte) {
	t.Helper()
	entries, err := a.Entries(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("%d files, want %d", len(entries), len(want))
	}
	for _, e := range entries {
		b, err := st.ReadAll(e.Blob, 1<<30)
		if err != nil || !bytes.Equal(b, want[e.Path]) {
			t.Errorf("%s has %d bytes, want %d: %v", e.Path, len(b), len(want[e.Path]), err)
		}
	}
	_, layers := a.Kept()
	for _, d := range layers {
		absent(t, st, d)
	}
}

// nothing fails if anything of a packed layer is in the store.
func nothing(t testing.TB, st *cas.Store, a *oci.Artifact) {
	t.Helper()
	if _, err := a.Entries(t.Context(), st); !errors.Is(err, cas.ErrNotFound) {
		t.Errorf("listed: %v", err)
	}
	blobs, err := st.Blobs(t.Context())
	if err != nil || len(blobs) > 2 { // manifest and config
		t.Errorf("the store holds %v, %v", blobs, err)
	}
	left, err := filepath.Glob(filepath.Join(st.Root(), "ingest", ".spool-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A packed layer comes as one stream over many connections, whatever the
// server makes of ranges.
func TestPackedLayerIsStreamed(t *testing.T) {
	big := noise(3, 24<<20)
	files := map[string][]byte{"w.gguf": big, "a/config.json": []byte("{}"), "a/again.gguf": big}
	content := zstded(t, makeTar(t, entry{name: "w.gguf", body: big}, entry{name: "a/config.json", body: []byte("{}")}, entry{name: "a/again.gguf", body: big}))
	for name, transport := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"ranges":           nil,
		"ignores ranges":   whole(content),
		"refuses ranges":   refuse,
		"short answers":    short,
		"cold cache":       coldCache(content),
		"chunked encoding": chunked,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := packedModel(t, r, "m", content)
			r.setFault(transport)
			c := newClient(t, oci.Options{Segment: 2 << 20}, r)
			st, l := newStore(t)
			a := resolve(t, c, ref)
			var last progress.Event
			var mu sync.Mutex
			sink := func(e progress.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Kind == progress.Bytes && e.Total == int64(len(content)) {
					if e.Done < last.Done {
						t.Errorf("%d bytes after %d", e.Done, last.Done)
					}
					last = e
				}
			}
			res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Progress: sink})
			if err != nil {
				t.Fatal(err)
			}
			unpacked(t, st, a, files)
			// A range that was split may bring a block twice.
			if last.Done != int64(len(content)) || name == "ranges" && (res.Bytes < a.Size() || res.Bytes > a.Size()+1<<20) {
				t.Errorf("%+v at the end, %d bytes received of %d", last, res.Bytes, a.Size())
			}
			// It need not be fetched again.
			r.forget()
			res, err = c.Fetch(background(t), st, l, a, oci.FetchOptions{})
			if err != nil || res.Present != a.Size() || r.count("/blobs/") != 0 {
				t.Errorf("again: %+v, %v", res, err)
			}
		})
	}
}

// Small layers are fetched side by side, whatever large ones are between them.
func TestManyPackedLayers(t *testing.T) {
	const cncf, many, together = "application/vnd.cncf.model.", 120, 3
	r := newRegistry(t)
	files := map[string][]byte{}
	var layers []ocispec.Descriptor
	var contents [][]byte
	for n := range many {
		name, body := fmt.Sprintf("part-%03d.json", n), fmt.Appendf(nil, "%d", n)
		mediaType, pack := cncf+"weight.v1.tar+zstd", zstded
		switch n % 40 {
		case 7: // more than a narrow window
			body = noise(uint64(n), 9<<20)
		case 20: // less, and so much that few have room at once
			body = noise(uint64(n), 5<<20)
		case 30:
			mediaType, pack = cncf+"weight.v1.tar", func(_ testing.TB, b []byte) []byte { return b }
		}
		files[name] = body
		layers = append(layers, layer(mediaType))
		contents = append(contents, pack(t, makeTar(t, entry{name: name, body: body})))
	}
	ref := r.layers("m", cncf+"manifest.v1+json", cncf+"config.v1+json", "", layers, contents)
	var mu sync.Mutex
	waiting, met := 0, make(chan struct{})
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			mu.Lock()
			if waiting++; waiting == together {
				close(met)
			}
			mu.Unlock()
			select {
			case <-met:
			case <-req.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Stall: time.Minute}, r)
	st, l := newStore(t)
	a := resolve(t, c, ref)
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	unpacked(t, st, a, files)
}

// A stream of the whole layer that waits for room is ended when what it waits
// for failed to arrive: what it had in its hands then is asked for again.
func TestWaitingStreamIsEnded(t *testing.T) {
	const cncf = "application/vnd.cncf.model."
	r := newRegistry(t)
	big := noise(1, 40<<20)
	files := map[string][]byte{"w.gguf": big}
	content := makeTar(t, entry{name: "w.gguf", body: big})
	layers, contents := []ocispec.Descriptor{layer(cncf + "weight.v1.tar")}, [][]byte{content}
	for n := range 8 { // small ones, so that a pull begins with several connections
		name := fmt.Sprintf("%d.json", n)
		files[name] = []byte(name)
		layers = append(layers, layer(cncf+"weight.v1.tar"))
		contents = append(contents, makeTar(t, entry{name: name, body: []byte(name)}))
	}
	ref := r.layers("m", cncf+"manifest.v1+json", cncf+"config.v1+json", "", layers, contents)
	var asked atomic.Int32
	runsAhead := make(chan struct{})
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method != http.MethodGet || !strings.HasSuffix(req.URL.Path, "/blobs/"+digest.FromBytes(content).String()) {
			next.ServeHTTP(w, req)
			return
		}
		n := asked.Add(1)
		if n == 3 {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			w.WriteHeader(http.StatusOK)
			if _, err := w.Write(content[:20<<20]); err == nil {
				close(runsAhead)
				_, _ = w.Write(content[20<<20:])
			}
			return
		}
		if n == 2 { // answered in part, or the transport would ask again by itself
			next.ServeHTTP(&firstBytes{w, 1000}, req)
			_ = http.NewResponseController(w).Flush()
		}
		if n > 1 {
			select {
			case <-runsAhead:
			case <-req.Context().Done():
			}
		}
		if n == 2 {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Segment: 2 << 20}, r)
	st, l := newStore(t)
	a := resolve(t, c, ref)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Fetch(ctx, st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	unpacked(t, st, a, files)
}

// firstBytes passes no more than so many bytes of a body on.
type firstBytes struct {
	http.ResponseWriter
	left int
}

func (w *firstBytes) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b[:min(len(b), w.left)])
	w.left -= n
	if err != nil {
		return n, err
	}
	return len(b), nil
}

// instead serves other bytes under a digest.
func instead(d digest.Digest, bad []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(bad))
			return
		}
		next.ServeHTTP(w, r)
	}
}

// The order of judgement: a wrong byte is the source's fault even where it
// makes the format wrong as well; an invalid layer with the right digest is
// the publisher's, and no other source is asked.
func TestPackedLayerBlame(t *testing.T) {
	content := zstded(t, makeTar(t, entry{name: "w.gguf", body: noise(4, 3<<20)}))
	bad := bytes.Clone(content)
	bad[0] ^= 1 // no zstd frame any more
	t.Run("alone", func(t *testing.T) {
		r := newRegistry(t)
		ref := packedModel(t, r, "m", content)
		r.setFault(instead(digest.FromBytes(content), bad))
		c := newClient(t, oci.Options{}, r)
		st, l := newStore(t)
		a := resolve(t, c, ref)
		res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
		var wrong *oci.DigestError
		if !errors.As(err, &wrong) || wrong.Source != r.repository("m") || wrong.Found != digest.FromBytes(bad) || len(res.Mismatches) != 1 {
			t.Errorf("got %+v, %v", res, err)
		}
		nothing(t, st, a)
	})
	t.Run("with a good mirror", func(t *testing.T) {
		r, mirror := newRegistry(t), newRegistry(t)
		ref := packedModel(t, r, "m", content)
		packedModel(t, mirror, "m", content)
		r.setFault(instead(digest.FromBytes(content), bad))
		c := newClient(t, oci.Options{}, r, mirror)
		st, l := newStore(t)
		a := resolve(t, c, ref, mirror.repository("m"))
		res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
		if err != nil || len(res.Mismatches) != 1 || res.Mismatches[0].Source != r.repository("m") {
			t.Fatalf("got %+v, %v", res, err)
		}
		unpacked(t, st, a, map[string][]byte{"w.gguf": noise(4, 3<<20)})
	})
	t.Run("invalid", func(t *testing.T) {
		r, mirror := newRegistry(t), newRegistry(t)
		ref := packedModel(t, r, "m", bad)
		packedModel(t, mirror, "m", bad)
		c := newClient(t, oci.Options{}, r, mirror)
		st, l := newStore(t)
		a := resolve(t, c, ref, mirror.repository("m"))
		res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
		if !errors.Is(err, oci.ErrFormat) || errors.Is(err, oci.ErrDigest) || len(res.Mismatches) != 0 || mirror.count("/blobs/") != 0 {
			t.Errorf("got %+v, %v", res, err)
		}
		nothing(t, st, a)
	})
}

// A mirror that dies in the middle of a layer is replaced inside it.
func TestPackedLayerFailsOver(t *testing.T) {
	body := noise(5, 20<<20)
	content := zstded(t, makeTar(t, entry{name: "w.gguf", body: body}))
	first, second := newRegistry(t), newRegistry(t)
	ref := packedModel(t, first, "m", content)
	packedModel(t, second, "m", content)
	var answered atomic.Int64
	first.setFault(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") && answered.Add(1) > 4 {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	c := newClient(t, oci.Options{Segment: 1 << 20, Attempts: 2, Backoff: time.Millisecond}, first, second)
	st, l := newStore(t)
	a := resolve(t, c, ref, second.repository("m"))
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	unpacked(t, st, a, map[string][]byte{"w.gguf": body})
	if res.Sources[first.repository("m")] == 0 || res.Sources[second.repository("m")] == 0 || res.Bytes > a.Size()+4<<20 {
		t.Errorf("sources %v for %d bytes", res.Sources, a.Size())
	}
}

// A store that kept the packed layer, as earlier versions did, needs no network
// to unpack it; one that rotted is replaced from there, and named.
func TestPackedLayerOfTheStore(t *testing.T) {
	body := noise(6, 3<<20)
	content := zstded(t, makeTar(t, entry{name: "w.gguf", body: body}))
	for _, rotten := range []bool{false, true} {
		r := newRegistry(t)
		ref := packedModel(t, r, "m", content)
		c := newClient(t, oci.Options{}, r)
		st, l := newStore(t)
		a := resolve(t, c, ref)
		d := a.Manifest.Layers[0].Digest
		if err := st.Put(background(t), l, d, content); err != nil {
			t.Fatal(err)
		}
		if rotten {
			f, err := os.OpenFile(filepath.Join(st.Root(), "blobs", "sha256", d.Encoded()[:2], d.Encoded()), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte("rot"), 1<<20)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		r.forget()
		res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if asked := r.count("/blobs/"+d.String()) > 0; asked != rotten || len(res.Mismatches) > 0 != rotten {
			t.Errorf("rotten: %v; asked the registry: %v; mismatches %+v", rotten, asked, res.Mismatches)
		}
		if s, err := st.Stat(d); err == nil && s.Suspect != rotten {
			t.Errorf("rotten: %v; suspect: %v", rotten, s.Suspect)
		}
		if b, err := a.Entries(t.Context(), st); err != nil || len(b) != 1 {
			t.Errorf("%v, %v", b, err)
		}
		// Nothing holds it any more once a ref names the files.
		blobs, layers := a.Kept()
		if err := st.PutRef(background(t), cas.Ref{Name: "m", Blobs: blobs, Layers: layers}); err != nil {
			t.Fatal(err)
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
		if _, err := st.GC(background(t), cas.GCOptions{}); err != nil {
			t.Fatal(err)
		}
		unpacked(t, st, a, map[string][]byte{"w.gguf": body})
	}
}

// A layer that was unpacked for one policy is held to the limits of another;
// and one that is there in one reading is unpacked again for another.
func TestPackedLayerIsJudgedAgain(t *testing.T) {
	r := newRegistry(t)
	ref := packedModel(t, r, "m", zstded(t, makeTar(t, entry{name: "a", body: noise(7, 2000)}, entry{name: "b", body: noise(8, 2000)})))
	c := newClient(t, oci.Options{}, r)
	st, l := newStore(t)
	a := resolve(t, c, ref)
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, limits := range []oci.Limits{{Files: 1}, {FileBytes: 1000}, {TotalBytes: 3000}} {
		if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Limits: limits}); !errors.Is(err, oci.ErrTooLarge) {
			t.Errorf("%+v: %v", limits, err)
		}
	}
	const kit = "application/vnd.kitops.modelkit."
	inner := noise(7, 2000)
	archive := makeTar(t, entry{name: "a", body: inner})
	content := gzipped(t, archive)
	asTar := r.layers("t", "", kit+"config.v1+json", `{"docs":[{"path":"a"}]}`, []ocispec.Descriptor{layer(kit + "docs.v1.tar+gzip")}, [][]byte{content})
	asFile := r.layers("f", "", kit+"config.v1+json", `{"docs":[{"path":"notes.tar"}]}`, []ocispec.Descriptor{layer(kit + "docs.v1.raw+gzip")}, [][]byte{content})
	for _, ref := range []oci.Reference{asTar, asFile, asTar} {
		a := resolve(t, c, ref)
		if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
			t.Fatal(err)
		}
		want := cas.TreeEntry{Path: "notes.tar", Blob: digest.FromBytes(archive)}
		if ref == asTar {
			want = cas.TreeEntry{Path: "a", Blob: digest.FromBytes(inner)}
		}
		if entries, err := a.Entries(t.Context(), st); err != nil || len(entries) != 1 || entries[0] != want {
			t.Errorf("%v: %v, %v, want %v", ref, entries, err, want)
		}
	}
}

// What is exported has the digest that the snapshot pins: the layer is fetched
// again as it was published, and goes with the lease.
func TestPackedLayersAreExported(t *testing.T) {
	r := newRegistry(t)
	body := noise(1, 700_000)
	ref := packedModel(t, r, "m", zstded(t, makeTar(t, entry{name: "w.gguf", body: body})))
	c := newClient(t, oci.Options{}, r)
	a := resolve(t, c, ref)
	st, l := newStore(t)
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	blobs, layers := a.Kept()
	if err := st.PutRef(background(t), cas.Ref{Name: "m", Blobs: blobs, Layers: layers, LastUsed: time.Now()}); err != nil {
		t.Fatal(err)
	}
	p, err := oci.Stored(st, ref.Digest)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := oci.Export(background(t), dir, "m", p, nil); !errors.Is(err, cas.ErrNotFound) {
		t.Fatalf("exported without the layer: %v", err)
	}
	if _, err := c.FetchLayers(background(t), st, l, ref, nil, a.Manifest.Layers, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.Export(background(t), dir, "m", p, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.GC(background(t), cas.GCOptions{}); err != nil {
		t.Fatal(err)
	}
	unpacked(t, st, a, map[string][]byte{"w.gguf": body})
	r.server.Close()
	for _, source := range []string{dir, tarOf(t, dir)} {
		again := resolve(t, c, ref, "oci-layout://"+source)
		other, l2 := newStore(t)
		if _, err := c.Fetch(background(t), other, l2, again, oci.FetchOptions{}); err != nil {
			t.Fatal(err)
		}
		unpacked(t, other, again, map[string][]byte{"w.gguf": body})
	}
}

// tarOf packs a layout directory.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}
