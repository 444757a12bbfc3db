package oci

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
)

var errNotBuilt = errors.New("not built yet")

type Client struct{ o Options }

func New(o Options) (*Client, error) { return &Client{o}, nil }

func (c *Client) Resolve(ctx context.Context, ref Reference, mirrors []string) (*Artifact, error) {
	return nil, errNotBuilt
}

// Evidence is one signature or bundle blob as found beside an artifact.
type Evidence struct {
	MediaType   string
	Payload     []byte
	Annotations map[string]string
	Source      string
}

func (c *Client) Evidence(ctx context.Context, ref Reference, mirrors []string) ([]Evidence, error) {
	return nil, errNotBuilt
}

type FetchOptions struct {
	Progress progress.Sink
	Model    string
}

type FetchResult struct {
	Bytes      int64            // received over the network
	Resumed    int64            // taken from an earlier run's partial blobs
	Present    int64            // of blobs that the store held already
	Sources    map[string]int64 // bytes by source
	Mismatches []Mismatch
}

func (c *Client) Fetch(ctx context.Context, st *cas.Store, l *cas.Lease, a *Artifact, o FetchOptions) (FetchResult, error) {
	return FetchResult{}, errNotBuilt
}

// Image is a runtime image whose manifest, config and layers are in the store.
type Image struct {
	Ref            Reference
	ManifestDigest digest.Digest
	ConfigDigest   digest.Digest
	IndexDigest    digest.Digest // "" unless the reference pins an index
	Config         ocispec.Image
	Blobs          []digest.Digest
	Size           int64
}

func (c *Client) Image(ctx context.Context, st *cas.Store, l *cas.Lease, ref Reference, mirrors []string, platform string) (*Image, error) {
	return nil, errNotBuilt
}

func (im *Image) WriteArchive(w io.Writer) error { return errNotBuilt }

// Packed is an artifact on the publisher's disk.
type Packed struct {
	Digest   digest.Digest
	Raw      []byte
	Manifest ocispec.Manifest
}

type PackOptions struct {
	Name, Version string
}

func Pack(ctx context.Context, dir string, o PackOptions) (*Packed, error) { return nil, errNotBuilt }

type ImageOptions struct {
	Entrypoint, Cmd, Env []string
	User                 string
	Labels               map[string]string
}

func PackImage(ctx context.Context, rootfs string, o ImageOptions) (*Packed, error) {
	return nil, errNotBuilt
}

func (c *Client) Push(ctx context.Context, p *Packed, to string) (Reference, error) {
	return Reference{}, errNotBuilt
}

func (c *Client) AttachBundle(ctx context.Context, ref Reference, bundle []byte) error {
	return errNotBuilt
}
