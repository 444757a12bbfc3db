package oci

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

// Evidence is one signature or bundle as found beside an artifact. Its bytes
// have hashed to the digest that its manifest gives; whether it says anything
// about the artifact is for package policy to judge.
type Evidence struct {
	MediaType   string
	Payload     []byte
	Annotations map[string]string // of the layer; for bundles also the manifest's
	Source      string
}

// Limits on evidence, per source: one source cannot use up what another may
// bring.
const (
	maxEvidence      = 64
	maxEvidenceBytes = 4 << 20
)

// repository speaks the parts of the distribution protocol that are oras-go's:
// referrers with their fallback tag, uploads, manifests of signatures.
func (r *remote) oras() (*orasremote.Repository, error) {
	repo, err := orasremote.NewRepository(r.host.name + "/" + r.repository)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %v", r, ErrReference, err)
	}
	repo.Client = r.host.auth
	repo.PlainHTTP = r.host.base.Scheme == "http"
	repo.MaxMetadataBytes = maxManifest
	repo.ReferrerListMaxPages = 16
	repo.SkipReferrersGC = true // an old index may be what another client is reading
	return repo, nil
}

var errEnough = errors.New("enough")

// fallbackTag is where an index of referrers stands on registries without the
// API (distribution-spec 1.1, "Referrers Tag Schema").
func fallbackTag(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// referrers asks the API, and the fallback tag where the API is missing or
// knows nothing: a registry that learned the API later may not have indexed
// what was pushed before.
func (r *remote) referrers(ctx context.Context, d digest.Digest, max int) ([]ocispec.Descriptor, error) {
	list, err := r.listReferrers(ctx, d, max)
	if len(list) > 0 || err != nil && !noReferrersAPI(err) {
		return list, err
	}
	raw, _, err := r.manifest(ctx, fallbackTag(d), maxManifest)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, nil // something else under that tag
	}
	return index.Manifests[:min(max, len(index.Manifests))], nil
}

// noReferrersAPI is what registries answer to a path that they do not know.
func noReferrersAPI(err error) bool {
	var status *statusError
	return errors.Is(err, ErrNotFound) || errors.As(err, &status) && status.class == ErrUnavailable &&
		status.status >= 400 && status.status < 500 && status.status != 408 && status.status != 429
}

func (r *remote) listReferrers(ctx context.Context, d digest.Digest, max int) ([]ocispec.Descriptor, error) {
	repo, err := r.oras()
	if err != nil {
		return nil, err
	}
	if err := repo.SetReferrersCapability(true); err != nil { // the fallback is ours
		return nil, err
	}
	var out []ocispec.Descriptor
	err = repo.Referrers(ctx, ocispec.Descriptor{Digest: d}, "", func(page []ocispec.Descriptor) error {
		out = append(out, page...)
		if len(out) >= max {
			out = out[:max]
			return errEnough
		}
		return nil
	})
	switch {
	case err == nil, errors.Is(err, errEnough), errors.Is(err, errdef.ErrTooManyPages):
		return out, nil
	case errors.Is(err, errdef.ErrUnsupported), errors.Is(err, errdef.ErrNotFound):
		return nil, r.fail("referrers of "+d.String(), ErrNotFound)
	}
	return nil, r.fail("referrers of "+d.String(), transportError(ctx, err))
}

// Evidence collects signatures and bundles of ref from every source: OCI
// referrers (through the API or the tag sha256-<hex>), and cosign's tags
// sha256-<hex>.sig and .att. What is malformed or too large is left out. The error is
// not nil when nothing was found and a source could not be asked: then the
// artifact may well be signed.
func (c *Client) Evidence(ctx context.Context, ref Reference, mirrors []string) ([]Evidence, error) {
	sources, err := c.sources(ref, mirrors)
	if err != nil {
		return nil, err
	}
	ctx, booked := c.metering(ctx)
	defer booked()
	var out []Evidence
	var errs []error
	seen := map[string]bool{}
	for i, s := range sources {
		part, end := c.share(ctx, s, len(sources)-i)
		got, err := c.evidenceFrom(part, s, ref.Digest)
		end()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			errs = append(errs, err)
		}
		for _, e := range got {
			if key := e.key(); !seen[key] {
				seen[key] = true
				out = append(out, e)
			}
		}
	}
	if len(out) == 0 && len(errs) > 0 {
		return nil, fmt.Errorf("signatures of %s: %w", ref, worst(errs))
	}
	return out, nil
}

// key is equal for the same evidence from two sources.
func (e Evidence) key() string {
	keys := make([]string, 0, len(e.Annotations))
	for k := range e.Annotations {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	b.WriteString(e.MediaType)
	b.WriteByte(0)
	b.WriteString(digest.FromBytes(e.Payload).String())
	for _, k := range keys {
		fmt.Fprintf(&b, "\x00%s\x00%s", k, e.Annotations[k])
	}
	return b.String()
}

// evidenceFrom asks one source in every way; an error beside evidence says
// which way failed.
func (c *Client) evidenceFrom(ctx context.Context, s source, subject digest.Digest) ([]Evidence, error) {
	var errs []error
	type candidate struct {
		reference string
		pinned    bool // reference is a digest
		referrer  bool
	}
	var candidates []candidate
	var list []ocispec.Descriptor
	err := c.again(ctx, s.budget(), func(ctx context.Context) (err error) {
		list, err = s.referrers(ctx, subject, maxEvidence)
		return err
	})
	if err != nil {
		errs = append(errs, err)
		if again, _ := retryable(err); again {
			return nil, err // it is down; the other ways would fail too
		}
	}
	for _, d := range list {
		if checkDescriptor(d) == nil && d.Size <= maxEvidenceBytes {
			candidates = append(candidates, candidate{d.Digest.String(), true, true})
		}
	}
	for _, suffix := range []string{".sig", ".att"} {
		candidates = append(candidates, candidate{reference: fallbackTag(subject) + suffix})
	}
	var out []Evidence
	budget := int64(maxEvidenceBytes)
	for _, cand := range candidates {
		if err := stopped(ctx, s); err != nil {
			errs = append(errs, err)
			break
		}
		var raw []byte
		err := c.again(ctx, s.budget(), func(ctx context.Context) (err error) {
			raw, _, err = s.manifest(ctx, cand.reference, budget)
			return err
		})
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			if !errors.Is(err, ErrTooLarge) {
				errs = append(errs, err)
			}
			continue
		}
		if cand.pinned && digest.FromBytes(raw) != digest.Digest(cand.reference) {
			errs = append(errs, &DigestError{What: "signature", Expected: digest.Digest(cand.reference), Found: digest.FromBytes(raw), Source: s.String()})
			continue
		}
		var m ocispec.Manifest
		if json.Unmarshal(raw, &m) != nil || checkManifest(m) != nil {
			continue
		}
		if cand.referrer && (m.Subject == nil || m.Subject.Digest != subject) {
			continue
		}
		budget -= int64(len(raw))
		for _, l := range m.Layers {
			bundle := strings.HasPrefix(l.MediaType, mediaTypeBundlePrefix)
			known := bundle || l.MediaType == mediaTypeSimpleSigning || l.MediaType == mediaTypeEnvelope
			if !known || l.Size > budget || len(out) >= maxEvidence || stopped(ctx, s) != nil {
				continue
			}
			var content []byte
			err := c.again(ctx, s.budget(), func(ctx context.Context) (err error) {
				content, err = readDocument(ctx, s, l)
				return err
			})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			budget -= l.Size
			e := Evidence{MediaType: l.MediaType, Payload: content, Annotations: map[string]string{}, Source: s.String()}
			if bundle {
				for k, v := range m.Annotations {
					e.Annotations[k] = v
				}
			}
			for k, v := range l.Annotations {
				e.Annotations[k] = v
			}
			out = append(out, e)
		}
	}
	if len(errs) > 0 {
		return out, worst(errs)
	}
	return out, nil
}

// readDocument reads one small blob whole and checks it.
func readDocument(ctx context.Context, s source, desc ocispec.Descriptor) ([]byte, error) {
	body, err := s.read(ctx, desc, 0, desc.Size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := readCapped(ctx, body, body.n, desc.Size)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != desc.Digest {
		return nil, &DigestError{What: "signature", Expected: desc.Digest, Found: got, Source: s.String()}
	}
	return b, nil
}
