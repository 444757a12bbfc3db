package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
)

func pushImage(t *testing.T, r *registry, arch string) (oci.Reference, *oci.Packed) {
	t.Helper()
	rootfs := writeTree(t, file{"bin/engine", noise(1, 100_000)}, file{"etc/hosts", nil})
	p, err := oci.PackImage(background(t), rootfs, oci.ImageOptions{Entrypoint: []string{"/bin/engine"}, Architecture: arch})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := newClient(t, oci.Options{}, r).Push(background(t), p, r.repository("org/engine"))
	if err != nil {
		t.Fatal(err)
	}
	return ref, p
}

func TestImage(t *testing.T) {
	r := newRegistry(t)
	ref, p := pushImage(t, r, "")
	foreign, other := pushImage(t, r, "s390x")
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		{MediaType: other.MediaType, Digest: other.Digest, Size: int64(len(other.Raw)), Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}},
		{MediaType: p.MediaType, Digest: p.Digest, Size: int64(len(p.Raw)), Platform: &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	}}
	index.SchemaVersion = 2
	raw, _ := json.Marshal(index)
	indexRef := r.raw("org/engine", index.MediaType, raw)
	c := newClient(t, oci.Options{}, r)
	for name, tc := range map[string]struct {
		ref  oci.Reference
		want error
	}{
		"manifest":          {ref, nil},
		"index":             {indexRef, nil},
		"another platform":  {foreign, oci.ErrFormat},
		"a model, no image": {r.model("org/engine", file{"a", []byte("a")}), oci.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			st, l := newStore(t)
			if _, err := oci.StoredImage(st, tc.ref, ""); !errors.Is(err, cas.ErrNotFound) {
				t.Errorf("an empty store holds it: %v", err)
			}
			im, err := c.Image(background(t), st, l, tc.ref, nil, "")
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			if im.ManifestDigest != p.Digest || im.ConfigDigest != p.Manifest.Config.Digest || im.Config.Config.Entrypoint[0] != "/bin/engine" || im.Size != p.Size() {
				t.Errorf("image %+v", im)
			}
			stored, err := oci.StoredImage(st, tc.ref, "")
			if err != nil || stored.ManifestDigest != im.ManifestDigest || fmt.Sprint(stored.Blobs) != fmt.Sprint(im.Blobs) {
				t.Errorf("stored: %+v, %v", stored, err)
			}
			var archive, twice bytes.Buffer
			if err := im.WriteArchive(&archive); err != nil {
				t.Fatal(err)
			}
			if err := stored.WriteArchive(&twice); err != nil || !bytes.Equal(archive.Bytes(), twice.Bytes()) {
				t.Errorf("a second archive differs, %v", err)
			}
			path := filepath.Join(t.TempDir(), "image.tar")
			if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			loaded, err := tarball.ImageFromPath(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			layers, err := loaded.Layers()
			if err != nil || len(layers) != 1 {
				t.Fatalf("%d layers, %v", len(layers), err)
			}
			if d, err := layers[0].DiffID(); err != nil || d.String() != im.Config.RootFS.DiffIDs[0].String() {
				t.Errorf("layer %s, %v", d, err)
			}
			if d, err := loaded.ConfigName(); err != nil || d.String() != im.ConfigDigest.String() {
				t.Errorf("config %s, %v", d, err)
			}
		})
	}
}
