package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/internal/terminal"
)

// Image is a container image whose manifest, config and layers are in the
// store.
type Image struct {
	Ref            Reference
	ManifestDigest digest.Digest // of the platform's manifest
	ConfigDigest   digest.Digest
	IndexDigest    digest.Digest // "" unless the reference pins an index
	Config         ocispec.Image
	Blobs          []digest.Digest // everything that a ref must keep: index, manifest, config, layers
	Size           int64           // of the layers, in bytes

	st       *cas.Store
	manifest ocispec.Manifest
	raw      []byte
}

// Image brings a runtime image into the store. ref pins a manifest, or an
// index of which the child for platform (os/arch[/variant]; "" is this
// machine's) is taken and recorded. Sources and errors are those of
// [Client.Resolve] and [Client.Fetch].
func (c *Client) Image(ctx context.Context, st *cas.Store, l *cas.Lease, ref Reference, mirrors []string, platform string) (*Image, error) {
	im, err := c.image(ctx, st, l, ref, mirrors, platform, nil)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return im, nil
}

// ImageWithProgress is [Client.Image] that reports bytes to a sink.
func (c *Client) ImageWithProgress(ctx context.Context, st *cas.Store, l *cas.Lease, ref Reference, mirrors []string, platform string, sink progress.Sink) (*Image, error) {
	im, err := c.image(ctx, st, l, ref, mirrors, platform, sink)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return im, nil
}

func (c *Client) image(ctx context.Context, st *cas.Store, l *cas.Lease, ref Reference, mirrors []string, platform string, sink progress.Sink) (*Image, error) {
	sources, err := c.sources(ref, mirrors)
	if err != nil {
		return nil, err
	}
	if err := l.Add(ctx, ref.Digest); err != nil {
		return nil, err
	}
	documents, booked := c.metering(ctx)
	defer booked()
	got, err := c.pinned(documents, sources, ref.Digest)
	if err != nil {
		return nil, err
	}
	if err := put(ctx, st, l, ref.Digest, got.content); err != nil {
		return nil, err
	}
	im := &Image{Ref: ref, ManifestDigest: ref.Digest, raw: got.content, st: st}
	mediaType := got.mediaType
	if isIndex(got.content) {
		child, err := platformChild(got.content, platform)
		if err != nil {
			return nil, err
		}
		if err := l.Add(ctx, child.Digest); err != nil {
			return nil, err
		}
		sources = prefer(sources, got.from)
		if got, err = c.pinned(documents, sources, child.Digest); err != nil {
			return nil, err
		}
		if err := put(ctx, st, l, child.Digest, got.content); err != nil {
			return nil, err
		}
		im.IndexDigest, im.ManifestDigest, im.raw, mediaType = ref.Digest, child.Digest, got.content, child.MediaType
	}
	if im.manifest, err = parseImageManifest(im.raw, mediaType); err != nil {
		return nil, err
	}
	blobs := uniqueBlobs(append([]ocispec.Descriptor{im.manifest.Config}, im.manifest.Layers...))
	names := make([]digest.Digest, len(blobs))
	for i, b := range blobs {
		names[i] = b.Digest
	}
	if err := l.Add(ctx, names...); err != nil {
		return nil, err
	}
	config, err := c.document(documents, prefer(sources, got.from), im.manifest.Config, "config", maxConfig)
	if err != nil {
		return nil, err
	}
	if err := put(ctx, st, l, im.manifest.Config.Digest, config.content); err != nil {
		return nil, err
	}
	if err := im.describe(config.content, platform); err != nil {
		return nil, err
	}
	booked()
	if _, err := c.fetchBlobs(ctx, st, l, sources, im.ManifestDigest, blobs, nil, FetchOptions{Progress: sink, Model: ref.Repository}); err != nil {
		return nil, err
	}
	return im, nil
}

// StoredImage opens an image that the store holds already. It is
// [cas.ErrNotFound] when any part of it is missing.
func StoredImage(st *cas.Store, ref Reference, platform string) (*Image, error) {
	im := &Image{Ref: ref, ManifestDigest: ref.Digest, st: st}
	var err error
	fail := func(err error) (*Image, error) { return nil, fmt.Errorf("stored image %s: %w", ref, err) }
	if im.raw, err = st.ReadAll(ref.Digest, maxManifest); err != nil {
		return fail(err)
	}
	if isIndex(im.raw) {
		child, err := platformChild(im.raw, platform)
		if err != nil {
			return fail(err)
		}
		im.IndexDigest, im.ManifestDigest = ref.Digest, child.Digest
		if im.raw, err = st.ReadAll(child.Digest, maxManifest); err != nil {
			return fail(err)
		}
	}
	if im.manifest, err = parseImageManifest(im.raw, ""); err != nil {
		return fail(err)
	}
	config, err := st.ReadAll(im.manifest.Config.Digest, maxConfig)
	if err != nil {
		return fail(err)
	}
	if err := im.describe(config, platform); err != nil {
		return fail(err)
	}
	for _, d := range im.Blobs {
		if stat, err := st.Stat(d); err != nil {
			return fail(err)
		} else if stat.Suspect {
			return fail(fmt.Errorf("%s: %w", d, cas.ErrSuspect))
		}
	}
	return im, nil
}

// Packed is the stored image in the form in which it is exported: under the
// digest that its reference pins, an index with this platform's child alone.
// The caller holds a lease on its blobs.
func (im *Image) Packed() (*Packed, error) {
	p := &Packed{Digest: im.Ref.Digest, Raw: im.raw, MediaType: im.manifest.MediaType, Manifest: im.manifest, open: map[digest.Digest]func() (io.ReadCloser, error){}}
	if im.IndexDigest != "" {
		raw, err := im.st.ReadAll(im.IndexDigest, maxManifest)
		if err != nil {
			return nil, fmt.Errorf("stored image %s: %w", im.Ref, err)
		}
		var index ocispec.Index
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, fmt.Errorf("stored image %s: %w: %v", im.Ref, ErrFormat, err)
		}
		p.Raw, p.MediaType = raw, index.MediaType
		p.children = []ocispec.Descriptor{{MediaType: im.manifest.MediaType, Digest: im.ManifestDigest, Size: int64(len(im.raw))}}
	}
	for _, b := range p.Blobs() {
		p.open[b.Digest] = func() (io.ReadCloser, error) { return im.st.Open(b.Digest) }
	}
	return p, nil
}

func put(ctx context.Context, st *cas.Store, l *cas.Lease, d digest.Digest, b []byte) error {
	if err := st.Put(ctx, l, d, b); err != nil && !errors.Is(err, cas.ErrExists) {
		return err
	}
	return nil
}

// describe fills in what follows from manifest and config.
func (im *Image) describe(config []byte, platform string) error {
	if err := json.Unmarshal(config, &im.Config); err != nil {
		return fmt.Errorf("%w: image config: %v", ErrFormat, err)
	}
	if n := len(im.Config.RootFS.DiffIDs); n != len(im.manifest.Layers) {
		return fmt.Errorf("%w: the image has %d layers, its config names %d", ErrFormat, len(im.manifest.Layers), n)
	}
	if want := parsePlatform(platform); im.Config.OS != want.OS || im.Config.Architecture != want.Architecture {
		return fmt.Errorf("%w: the image is for %s/%s, not for %s/%s", ErrFormat, im.Config.OS, im.Config.Architecture, want.OS, want.Architecture)
	}
	im.ConfigDigest = im.manifest.Config.Digest
	im.Blobs = append(im.Blobs, im.ManifestDigest)
	if im.IndexDigest != "" {
		im.Blobs = append(im.Blobs, im.IndexDigest)
	}
	for _, b := range uniqueBlobs(append([]ocispec.Descriptor{im.manifest.Config}, im.manifest.Layers...)) {
		im.Blobs = append(im.Blobs, b.Digest)
		im.Size += b.Size
	}
	return nil
}

func parseImageManifest(raw []byte, mediaType string) (ocispec.Manifest, error) {
	m, err := parseManifest(raw, mediaType)
	if err != nil {
		return m, err
	}
	if t := m.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != mediaTypeDockerConfig {
		return m, fmt.Errorf("%w: config of type %q: this is no container image", ErrFormat, terminal.Clip(t, 100))
	}
	for i, l := range m.Layers {
		if strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable") {
			return m, fmt.Errorf("%w: layer %d is kept outside of registries (%s)", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
	}
	return m, nil
}

// isIndex tells an index from a manifest by its body.
func isIndex(raw []byte) bool {
	var kind struct {
		MediaType string           `json:"mediaType"`
		Manifests []map[string]any `json:"manifests"`
	}
	if json.Unmarshal(raw, &kind) != nil {
		return false
	}
	return kind.Manifests != nil || kind.MediaType == ocispec.MediaTypeImageIndex || kind.MediaType == mediaTypeDockerList
}

// platformChild returns the one manifest for the platform.
func platformChild(raw []byte, platform string) (ocispec.Descriptor, error) {
	var index ocispec.Index
	var both struct {
		Layers []map[string]any `json:"layers"`
		Config map[string]any   `json:"config"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: index: %v", ErrFormat, err)
	}
	if err := json.Unmarshal(raw, &both); err != nil || both.Layers != nil || both.Config != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the document is an index and a manifest at once", ErrFormat)
	}
	want := parsePlatform(platform)
	var child []ocispec.Descriptor
	for _, d := range index.Manifests {
		p := d.Platform
		if p == nil || p.OS != want.OS || p.Architecture != want.Architecture || want.Variant != "" && p.Variant != want.Variant {
			continue
		}
		if err := checkDescriptor(d); err != nil {
			return ocispec.Descriptor{}, err
		}
		child = append(child, d)
	}
	if len(child) != 1 {
		return ocispec.Descriptor{}, fmt.Errorf("%w: the index has %d manifests for %s/%s; pin the digest of one", ErrFormat, len(child), want.OS, want.Architecture)
	}
	return child[0], nil
}

func parsePlatform(s string) ocispec.Platform {
	if s == "" {
		s = runtime.GOOS + "/" + runtime.GOARCH
	}
	part := strings.SplitN(s, "/", 3)
	p := ocispec.Platform{OS: part[0]}
	if len(part) > 1 {
		p.Architecture = part[1]
	}
	if len(part) > 2 {
		p.Variant = part[2]
	}
	return p
}
