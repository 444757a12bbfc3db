package lifecycle

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
)

// pushPacked publishes a signed model whose files come in one tar+zstd layer.
func (w *network) pushPacked(name string) (reference string, files map[string][]byte) {
	w.t.Helper()
	var gguf, archive bytes.Buffer
	w.must(tinygguf.Write(&gguf, tinygguf.Options{Name: name}))
	files = map[string][]byte{"model.gguf": gguf.Bytes(), "README.md": []byte("# " + name + "\n")}
	z, err := zstd.NewWriter(&archive)
	w.must(err)
	tw := tar.NewWriter(z)
	for _, path := range []string{"README.md", "model.gguf"} {
		w.must(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644, Size: int64(len(files[path]))}))
		_, err := tw.Write(files[path])
		w.must(err)
	}
	w.must(errors.Join(tw.Close(), z.Close()))

	const modelpack = "application/vnd.cncf.model."
	st, err := cas.Open(filepath.Join(w.t.TempDir(), "publisher"), cas.Options{Create: true})
	w.must(err)
	defer st.Close()
	l, err := st.Lease(context.Background(), "publish")
	w.must(err)
	defer l.Release()
	put := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		w.must(st.Put(context.Background(), l, d.Digest, b))
		return d
	}
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: modelpack + "manifest.v1+json",
		Config: put(modelpack+"config.v1+json", []byte("{}")), Layers: []ocispec.Descriptor{put(modelpack+"weight.v1.tar+zstd", archive.Bytes())},
	})
	w.must(err)
	p, err := oci.Stored(st, put(ocispec.MediaTypeImageManifest, raw).Digest)
	w.must(err)
	ref, err := w.client.Push(context.Background(), p, w.host+"/acme/"+name)
	w.must(err)
	sig, err := policy.SignBundle(w.key, ref.Digest)
	w.must(err)
	w.must(w.client.AttachBundle(context.Background(), ref, sig))
	return ref.String(), files
}

// shows fails unless the tree of a record shows these files.
func (w *network) shows(r *Record, files map[string][]byte) {
	w.t.Helper()
	for path, want := range files {
		if b, err := os.ReadFile(filepath.Join(r.Tree, path)); err != nil || !bytes.Equal(b, want) {
			w.t.Errorf("%s has %d bytes, want %d: %v", path, len(b), len(want), err)
		}
	}
}

func TestPackedModel(t *testing.T) {
	w := newNetwork(t)
	reference, files := w.pushPacked("tiny")
	w.list("tiny", "v1", reference)
	w.publish()
	n := w.node()
	w.sync(n)
	r := w.state(n, "tiny@v1", Pending)
	w.shows(r, files)

	// The disk holds its files, once.
	st := w.collect(n)
	blobs, err := st.Blobs(context.Background())
	w.must(err)
	var size, small int64
	for _, d := range blobs {
		stat, err := st.Stat(d)
		w.must(err)
		if size += stat.Size; stat.Size < 32<<10 {
			small += stat.Size
		}
	}
	if weights := int64(len(files["model.gguf"])); size-small != weights {
		t.Errorf("%d bytes of blobs for %d of weights", size, weights)
	}

	verify := func() Verification {
		t.Helper()
		out, err := n.Verify(context.Background(), VerifyOptions{})
		if err != nil || len(out) != 1 {
			t.Fatalf("verify: %+v, %v", out, err)
		}
		return out[0]
	}
	// What verify --repair does, but for the test inference.
	repair := func() {
		t.Helper()
		_, err := n.Sync(context.Background(), SyncOptions{Install: true, Force: true, Only: []string{"tiny@v1"}})
		w.must(err)
		w.shows(w.state(n, "tiny@v1", Pending), files)
	}
	if v := verify(); !v.OK {
		t.Fatalf("verify: %+v", v.Failure)
	}

	// A file that rotted is found, and mended from the packed layer.
	gguf := digest.FromBytes(files["model.gguf"])
	path := filepath.Join(st.Root(), "blobs", "sha256", gguf.Encoded()[:2], gguf.Encoded())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	w.must(err)
	_, err = f.WriteAt([]byte("rot"), 5000)
	w.must(errors.Join(err, f.Close()))
	if v := verify(); v.OK || len(v.Findings) != 1 || v.Findings[0].Name != gguf.String() {
		t.Fatalf("rot was not found: %+v", v)
	}
	repair()
	if v := verify(); !v.OK {
		t.Fatalf("after its repair: %+v", v.Failure)
	}

	// What the store notes of the layer is checked, too.
	layers, err := filepath.Glob(filepath.Join(st.Root(), "layers", "sha256", "*"))
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	w.must(os.Remove(layers[0]))
	if v := verify(); v.OK {
		t.Error("a missing record of a layer was not found")
	}
	repair()
	if v := verify(); !v.OK {
		t.Errorf("after its repair: %+v", v.Failure)
	}
}

func TestPackedModelIsCopied(t *testing.T) {
	w := newNetwork(t)
	reference, files := w.pushPacked("tiny")
	w.list("tiny", "v1", reference)
	bundle := w.publish()
	cold := filepath.Join(t.TempDir(), "cold")
	n := w.node(func(o *Options) { o.Archive = cold })
	w.sync(n)
	w.state(n, "tiny@v1", Pending)
	st := w.collect(n)
	before, err := st.Blobs(context.Background())
	w.must(err)

	// Without a source there is no copy, and nothing is written.
	w.faults(func(*http.Request) int { return http.StatusServiceUnavailable }, nil)
	usb := filepath.Join(t.TempDir(), "usb")
	_, err = n.Export(context.Background(), []string{"tiny"}, usb)
	if f := AsFailure(err); f == nil || f.Cause != CauseUnavailable || !strings.Contains(f.Hint, "packed layers") {
		t.Errorf("export without a source: %v", err)
	}
	if _, err := os.Stat(usb); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it wrote something: %v", err)
	}
	w.faults(nil, nil)
	if out, err := n.Export(context.Background(), []string{"tiny"}, usb); err != nil || out[0].Bytes == 0 {
		t.Fatalf("export: %+v, %v", out, err)
	}
	w.collect(n)
	if after, err := st.Blobs(context.Background()); err != nil || len(after) != len(before) {
		t.Errorf("an export left %d blobs of %d, %v", len(after), len(before), err)
	}

	// Into a node that has nothing but the copy.
	w.faults(func(*http.Request) int { return http.StatusServiceUnavailable }, nil)
	b := w.node(func(o *Options) { o.OCI.Offline, o.From = true, []string{"oci-layout://" + usb} })
	_, _, err = b.Apply(context.Background(), bundle, "usb")
	w.must(err)
	got, err := b.Sync(context.Background(), SyncOptions{Install: true, Force: true, Only: []string{"tiny@v1"}})
	if err != nil || len(got.Outcomes) != 1 || got.Outcomes[0].After != Pending {
		t.Fatalf("import: %+v, %v", got, err)
	}
	w.shows(w.state(b, "tiny@v1", Pending), files)

	// To cold storage and back.
	w.faults(nil, nil)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	if r, err := n.Archive(context.Background(), "tiny@v1"); err != nil || r.State != Archived {
		t.Fatalf("archive: %+v, %v", r, err)
	}
	w.collect(n)
	w.faults(func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "/v2/acme/") {
			return http.StatusNotFound
		}
		return 0
	}, nil)
	w.must(w.repo.SetEnabled("tiny", "v1", true))
	w.publish()
	if o := w.sync(n)["tiny@v1"]; o.After != Pending {
		t.Fatalf("restored: %+v, %+v", o, o.Failure)
	}
	w.shows(w.state(n, "tiny@v1", Pending), files)

	// Once more: the archive has the layer that the registry lost.
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	if r, err := n.Archive(context.Background(), "tiny@v1"); err != nil || r.State != Archived {
		t.Errorf("archived again: %+v, %v", r, err)
	}
}
