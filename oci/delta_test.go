package oci_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
)

func publishMapped(t *testing.T, r *registry, content []byte) oci.Reference {
	t.Helper()
	p, err := oci.Pack(background(t), writeTree(t, file{"model.gguf", content}, file{"config.json", []byte("{}")}), oci.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, oci.Options{}, r)
	ref, err := c.Push(background(t), p, r.repository("m"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AttachChunkMaps(background(t), ref, p); err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestDeltaPull(t *testing.T) {
	old := noise(1, 32<<20)
	template := append(append(append([]byte(nil), old[:100_000]...), noise(2, 777)...), old[100_300:]...)
	tensors := append([]byte(nil), old...)
	copy(tensors[10<<20:], noise(3, 480<<10))
	copy(tensors[21<<20:], noise(4, 480<<10))
	for name, tc := range map[string]struct {
		content []byte
		most    float64 // of the bytes
	}{
		"template changed":          {template, 0.01},
		"3 % of tensors changed":    {tensors, 0.045},
		"nothing changed but a tag": {append(append([]byte(nil), old...), 1), 0.01},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			c := newClient(t, oci.Options{}, r)
			st, l := newStore(t)
			first := resolve(t, c, publishMapped(t, r, old))
			if _, err := c.Fetch(background(t), st, l, first, oci.FetchOptions{}); err != nil {
				t.Fatal(err)
			}
			second := resolve(t, c, publishMapped(t, r, tc.content))
			var bases []digest.Digest
			for _, b := range first.Blobs() {
				bases = append(bases, b.Digest)
			}
			res, err := c.Fetch(background(t), st, l, second, oci.FetchOptions{Bases: bases})
			if err != nil {
				t.Fatal(err)
			}
			complete(t, st, second)
			if float64(res.Bytes) > tc.most*float64(second.Size()) || res.Bytes+res.Copied+res.Present != second.Size() {
				t.Errorf("%+v of %d bytes: %.2f %%", res, second.Size(), 100*float64(res.Bytes)/float64(second.Size()))
			}
		})
	}
}

// A map that lies costs bandwidth, never integrity, and nobody is blamed.
func TestLyingChunkMap(t *testing.T) {
	old := noise(1, 12<<20)
	next := append([]byte(nil), old...)
	copy(next[6<<20:], noise(2, 2<<20))
	copy(next[10<<20:], noise(3, 2<<20))
	r, mirror := newRegistry(t), newRegistry(t)
	c := newClient(t, oci.Options{}, r, mirror)
	st, l := newStore(t)
	oldRef := publishMapped(t, r, old)
	first := resolve(t, c, oldRef)
	if _, err := c.Fetch(background(t), st, l, first, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	// A map, under the new blob's name, of what is the old one at first: some
	// of it is copied wrongly, the rest comes from one source.
	ref := r.model("m", file{"model.gguf", next})
	mirror.model("m", file{"model.gguf", next})
	second := resolve(t, c, ref, mirror.repository("m"))
	lie := oci.EncodeChunkMap(t, slices.Concat(old[:9<<20], next[9<<20:]), second.Files[0].Desc.Digest)
	layer := r.blob("m", "application/vnd.rmodels.chunkmap.v1", lie, "org.rmodels.chunkmap.blob", second.Files[0].Desc.Digest.String())
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.rmodels.chunkmap.v1", Config: r.blob("m", "application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers: []ocispec.Descriptor{layer}, Subject: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: ref.Digest, Size: int64(len(second.Raw))},
	}
	m.SchemaVersion = 2
	raw, _ := json.Marshal(m)
	lying := r.raw("m", m.MediaType, raw)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: lying.Digest, Size: int64(len(raw))}}}
	index.SchemaVersion = 2
	rawIndex, _ := json.Marshal(index)
	r.put("manifest", "m", "sha256-"+ref.Digest.Encoded(), index.MediaType, rawIndex)
	res, err := c.Fetch(background(t), st, l, second, oci.FetchOptions{Bases: []digest.Digest{first.Files[0].Desc.Digest, first.Files[1].Desc.Digest}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, second)
	if len(res.Mismatches) != 0 || res.Copied != 0 || res.Bytes < second.Size() {
		t.Errorf("%+v of %d bytes", res, second.Size())
	}
}

func FuzzChunkMap(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("rmcdc\x00\x00\x01"))
	f.Add(oci.EncodeChunkMap(f, noise(1, 5<<20), digest.FromString("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, ok := oci.ReencodeChunkMap(b); ok && !bytes.Equal(again, b) {
			t.Fatal("a map that was accepted reads back as another")
		}
	})
}
