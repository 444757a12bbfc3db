package oci

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	orasremote "oras.land/oras-go/v2/registry/remote"

	"github.com/resultity/rmodels/internal/ociref"
)

// pushParallel is how many blobs are uploaded at once.
const pushParallel = 4

// Push uploads the artifact to registry/repository and returns the reference
// that pins it. Blobs that the repository has are not sent again, so a push
// that was cut off goes on with the missing ones; what other repositories of
// the same registry have, those named by mount, is mounted from there. The
// manifest comes last.
func (c *Client) Push(ctx context.Context, p *Packed, to string, mount ...string) (Reference, error) {
	registry, repository, err := ociref.SplitName(to)
	if err != nil {
		return Reference{}, fmt.Errorf("push to %q: %w", to, err)
	}
	ref := Reference{Registry: registry, Repository: repository, Digest: p.Digest}
	r, repo, err := c.repository(to)
	if err != nil {
		return Reference{}, err
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(pushParallel)
	for _, b := range p.Blobs() {
		group.Go(func() error {
			return c.upload(gctx, r, b, mount, func() (io.ReadCloser, error) { return p.Open(b.Digest) })
		})
	}
	if err := group.Wait(); err != nil {
		return Reference{}, fmt.Errorf("push to %s: %w", to, err)
	}
	desc := ocispec.Descriptor{MediaType: p.MediaType, Digest: p.Digest, Size: int64(len(p.Raw))}
	err = c.repeat(ctx, nil, func() error {
		if err := repo.Manifests().Push(ctx, desc, bytes.NewReader(p.Raw)); err != nil {
			return r.fail("manifest "+desc.Digest.String(), transportError(ctx, err))
		}
		return nil
	})
	if err != nil {
		return Reference{}, fmt.Errorf("push to %s: %w", to, err)
	}
	return ref, nil
}

func (c *Client) repository(name string) (*remote, *orasremote.Repository, error) {
	s, err := c.source(name)
	if err != nil {
		return nil, nil, err
	}
	r, ok := s.(*remote)
	if !ok {
		return nil, nil, fmt.Errorf("%q: %w: not a registry", name, ErrReference)
	}
	repo, err := r.oras()
	return r, repo, err
}

// AttachBundle stores a sigstore bundle beside the artifact that it signs: as
// an OCI 1.1 referrer with the annotations that cosign v3 writes, indexed
// under the fallback tag where the registry has no referrers API.
func (c *Client) AttachBundle(ctx context.Context, ref Reference, bundle []byte) error {
	if err := c.attachBundle(ctx, ref, bundle); err != nil {
		return fmt.Errorf("attach bundle to %s: %w", ref, err)
	}
	return nil
}

func (c *Client) attachBundle(ctx context.Context, ref Reference, bundle []byte) error {
	content, predicate, err := bundleContent(bundle)
	if err != nil {
		return err
	}
	annotations := map[string]string{"dev.sigstore.bundle.content": content}
	if predicate != "" {
		annotations["dev.sigstore.bundle.predicateType"] = predicate
	}
	return c.attach(ctx, ref, mediaTypeBundle, ocispec.Descriptor{MediaType: mediaTypeBundle}, bundle, annotations)
}

// attachment is one layer of a referrer; its digest and size follow from the
// content.
type attachment struct {
	desc    ocispec.Descriptor
	content []byte
}

// attach pushes a one-layer manifest whose subject is ref.
func (c *Client) attach(ctx context.Context, ref Reference, artifactType string, layer ocispec.Descriptor, content []byte, annotations map[string]string) error {
	return c.attachLayers(ctx, ref, artifactType, []attachment{{layer, content}}, annotations)
}

func (c *Client) attachLayers(ctx context.Context, ref Reference, artifactType string, parts []attachment, annotations map[string]string) error {
	r, repo, err := c.repository(ref.Name())
	if err != nil {
		return err
	}
	subject, err := c.pinned(ctx, []source{r}, ref.Digest)
	if err != nil {
		return err
	}
	m, err := parseManifest(subject.content, subject.mediaType)
	if err != nil {
		return err
	}
	blobs := map[digest.Digest][]byte{ocispec.DescriptorEmptyJSON.Digest: []byte("{}")}
	var layers []ocispec.Descriptor
	for _, p := range parts {
		p.desc.Digest, p.desc.Size = digest.FromBytes(p.content), int64(len(p.content))
		blobs[p.desc.Digest] = p.content
		layers = append(layers, p.desc)
	}
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	for _, d := range uniqueBlobs(append([]ocispec.Descriptor{empty}, layers...)) {
		if err := c.upload(ctx, r, d, nil, func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(blobs[d.Digest])), nil
		}); err != nil {
			return err
		}
	}
	raw, err := marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: empty, Layers: layers, Annotations: annotations,
		Subject: &ocispec.Descriptor{MediaType: m.MediaType, Digest: ref.Digest, Size: int64(len(subject.content))},
	})
	if err != nil {
		return err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return c.repeat(ctx, nil, func() error {
		// oras-go adds the manifest to the fallback tag's index when the
		// answer shows that the registry did not take note of the subject.
		if err := repo.Manifests().Push(ctx, desc, bytes.NewReader(raw)); err != nil {
			return r.fail("manifest "+desc.Digest.String(), transportError(ctx, err))
		}
		return nil
	})
}

// bundleContent reads what the annotations say about a bundle.
func bundleContent(bundle []byte) (content, predicate string, err error) {
	var doc struct {
		MediaType    string `json:"mediaType"`
		DSSEEnvelope *struct {
			Payload string `json:"payload"`
		} `json:"dsseEnvelope"`
		MessageSignature map[string]any `json:"messageSignature"`
	}
	if len(bundle) > maxEvidenceBytes {
		return "", "", fmt.Errorf("%w: bundle of %d bytes", ErrTooLarge, len(bundle))
	}
	if err := json.Unmarshal(bundle, &doc); err != nil {
		return "", "", fmt.Errorf("not a sigstore bundle: %v", err)
	}
	switch {
	case doc.DSSEEnvelope != nil:
		payload, err := base64.StdEncoding.DecodeString(doc.DSSEEnvelope.Payload)
		if err != nil {
			return "", "", fmt.Errorf("not a sigstore bundle: payload: %v", err)
		}
		var statement struct {
			PredicateType string `json:"predicateType"`
		}
		if err := json.Unmarshal(payload, &statement); err != nil {
			return "", "", fmt.Errorf("not a sigstore bundle: statement: %v", err)
		}
		return "dsse-envelope", statement.PredicateType, nil
	case doc.MessageSignature != nil:
		return "message-signature", "", nil
	}
	return "", "", errors.New("not a sigstore bundle: neither an envelope nor a signature in it")
}
