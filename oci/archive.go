package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteArchive writes the image as one tar that is an OCI image layout and a
// docker archive at once (what docker save writes since version 25): nerdctl,
// docker and podman load it. Its name there is [Image.LocalName].
func (im *Image) WriteArchive(w io.Writer) error {
	if err := im.writeArchive(w); err != nil {
		return fmt.Errorf("archive of %s: %w", im.Ref, err)
	}
	return nil
}

// LocalName is what a container engine calls the loaded image: a tag under a
// domain that no registry has, made from the manifest's digest.
func (im *Image) LocalName() string {
	name := im.Ref.Repository[strings.LastIndexByte(im.Ref.Repository, '/')+1:]
	return "rmodels.invalid/" + name + ":sha256-" + im.ManifestDigest.Encoded()
}

func (im *Image) writeArchive(w io.Writer) error {
	tw := tar.NewWriter(w)
	manifest := ocispec.Descriptor{MediaType: im.manifest.MediaType, Digest: im.ManifestDigest, Size: int64(len(im.raw)), Annotations: map[string]string{
		"io.containerd.image.name": im.LocalName(),
		ocispec.AnnotationRefName:  im.LocalName(),
	}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifest}}
	type dockerImage struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	docker := dockerImage{Config: blobName(im.ConfigDigest), RepoTags: []string{im.LocalName()}, Layers: []string{}}
	for _, l := range im.manifest.Layers {
		docker.Layers = append(docker.Layers, blobName(l.Digest))
	}
	for _, doc := range []struct {
		name  string
		value any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, index},
		{"manifest.json", []dockerImage{docker}},
	} {
		b, err := marshal(doc.value)
		if err != nil {
			return err
		}
		if err := addFile(tw, doc.name, int64(len(b)), bytes.NewReader(b)); err != nil {
			return err
		}
	}
	if err := addFile(tw, blobName(im.ManifestDigest), int64(len(im.raw)), bytes.NewReader(im.raw)); err != nil {
		return err
	}
	for _, d := range uniqueBlobs(append([]ocispec.Descriptor{im.manifest.Config}, im.manifest.Layers...)) {
		blob, err := im.st.Open(d.Digest)
		if err != nil {
			return err
		}
		err = addFile(tw, blobName(d.Digest), d.Size, blob)
		blob.Close()
		if err != nil {
			return err
		}
	}
	return tw.Close()
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// epoch is the time of everything that must be reproducible.
var epoch = time.Unix(0, 0).UTC()

func addFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := io.CopyBuffer(tw, io.LimitReader(r, size), make([]byte, bufferSize))
	return err
}

// marshal writes documents that must be the same to the byte each time.
func marshal(v any) ([]byte, error) { return json.Marshal(v, json.Deterministic(true)) }
