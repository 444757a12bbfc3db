package oci

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/ociref"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/internal/terminal"
)

// Limits on documents that are held in memory.
const (
	maxManifest = 4 << 20 // what registries accept
	maxConfig   = 4 << 20
	maxLayers   = 10_000
)

// getAttempts is how often a small document is asked for on one source.
const getAttempts = 4

// Resolve fetches the manifest of ref from the first source that has it,
// tells its format and plans its files. Sources are ref's own registry and
// mirrors in order (see [Client.Fetch] for their forms). An index is refused:
// the digest must name one manifest.
//
// Errors: [ErrNotFound], [ErrUnavailable], [ErrUnauthorized], [ErrTLS] by
// what the last source said, [*DigestError] when a source sent other content
// and none sent the right one, [ErrFormat], [ErrPath], [ErrTooLarge].
func (c *Client) Resolve(ctx context.Context, ref Reference, mirrors []string) (*Artifact, error) {
	sources, err := c.sources(ref, mirrors)
	if err != nil {
		return nil, err
	}
	ctx, booked := c.metering(ctx)
	defer booked()
	got, err := c.pinned(ctx, sources, ref.Digest)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", ref, err)
	}
	a := &Artifact{Ref: ref, Raw: got.content, MediaType: got.mediaType, From: got.from.String(), Mismatches: got.mismatches}
	for _, s := range sources {
		a.Sources = append(a.Sources, s.String())
	}
	if a.Manifest, err = parseManifest(got.content, got.mediaType); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", ref, err)
	}
	if a.Format, err = detectFormat(a.Manifest); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", ref, err)
	}
	if a.needsConfig() {
		config, err := c.document(ctx, prefer(sources, got.from), a.Manifest.Config, "config", maxConfig)
		a.Mismatches = append(a.Mismatches, config.mismatches...)
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", ref, err)
		}
		a.Config = config.content
	}
	if a.Files, err = planFiles(a); err != nil {
		return nil, fmt.Errorf("resolve %s: %w", ref, err)
	}
	return a, nil
}

func (a *Artifact) needsConfig() bool { return a.Format == FormatKitOps || a.Format == FormatImage }

// StoredArtifact is [Client.Resolve] of a manifest that the store holds with
// its config.
func StoredArtifact(st *cas.Store, manifest digest.Digest) (*Artifact, error) {
	fail := func(err error) (*Artifact, error) {
		return nil, fmt.Errorf("stored artifact %s: %w", manifest, err)
	}
	a := &Artifact{Ref: Reference{Digest: manifest}}
	var err error
	if a.Raw, err = st.ReadAll(manifest, maxManifest); err != nil {
		return fail(err)
	}
	if a.Manifest, err = parseManifest(a.Raw, ""); err != nil {
		return fail(err)
	}
	a.MediaType = a.Manifest.MediaType
	if a.Format, err = detectFormat(a.Manifest); err != nil {
		return fail(err)
	}
	if a.needsConfig() {
		if a.Config, err = st.ReadAll(a.Manifest.Config.Digest, maxConfig); err != nil {
			return fail(err)
		}
	}
	if a.Files, err = planFiles(a); err != nil {
		return fail(err)
	}
	return a, nil
}

// found is verified content and where it came from.
type found struct {
	content    []byte
	mediaType  string
	from       source
	mismatches []Mismatch
}

// pinned fetches the manifest of that digest from the first source that has
// the right bytes.
func (c *Client) pinned(ctx context.Context, sources []source, d digest.Digest) (found, error) {
	return c.firstOf(ctx, sources, "manifest", d, func(ctx context.Context, s source) ([]byte, string, error) {
		return s.manifest(ctx, d.String(), maxManifest)
	})
}

// document fetches a small blob from the first source that has the right
// bytes.
func (c *Client) document(ctx context.Context, sources []source, desc ocispec.Descriptor, what string, max int64) (found, error) {
	if err := checkDescriptor(desc); err != nil {
		return found{}, fmt.Errorf("%s: %w", what, err)
	}
	if desc.Size > max {
		return found{}, fmt.Errorf("%s %s: %w: %d bytes, at most %d are read", what, desc.Digest, ErrTooLarge, desc.Size, max)
	}
	return c.firstOf(ctx, sources, what, desc.Digest, func(ctx context.Context, s source) ([]byte, string, error) {
		body, err := s.read(ctx, desc, 0, desc.Size)
		if err != nil {
			return nil, "", err
		}
		defer body.Close()
		b, err := readCapped(ctx, body, body.n, desc.Size)
		return b, desc.MediaType, err
	})
}

// firstOf asks the sources in order until one sends content with digest d.
// The error of the most telling source is returned when none does: wrong
// content outweighs everything, then whatever may pass, then what will not.
func (c *Client) firstOf(ctx context.Context, sources []source, what string, d digest.Digest, get func(context.Context, source) ([]byte, string, error)) (found, error) {
	var out found
	var errs []error
	for i, s := range sources {
		var content []byte
		var mediaType string
		part, end := c.share(ctx, s, len(sources)-i)
		err := c.again(part, s.budget(), func(ctx context.Context) (err error) {
			content, mediaType, err = get(ctx, s)
			return err
		})
		end()
		if err != nil {
			if ctx.Err() != nil {
				return out, context.Cause(ctx)
			}
			errs = append(errs, err)
			continue
		}
		if got := digest.FromBytes(content); got != d {
			out.mismatches = append(out.mismatches, Mismatch{What: what, Expected: d, Found: got, Source: s.String()})
			errs = append(errs, &DigestError{What: what, Expected: d, Found: got, Source: s.String()})
			continue
		}
		out.content, out.mediaType, out.from = content, mediaType, s
		return out, nil
	}
	return out, worst(errs)
}

// sayPause is how long a pause may be that is not said on the screen.
const sayPause = 3 * time.Second

// repeat asks while asking again may help, and waits as long as the host
// wishes where its budget allows.
func (c *Client) repeat(ctx context.Context, h *host, ask func() error) error {
	for n := 1; ; n++ {
		err := ask()
		if err == nil {
			return nil
		}
		retry, after := retryable(err)
		if !retry || n >= getAttempts {
			return err
		}
		wait := max(after, c.o.backoff(n))
		if h != nil {
			if out := h.affords(c.o.Budgets, wait, err); out != nil {
				c.tellLeftOut(h)
				return out
			}
		}
		if h != nil && wait >= sayPause {
			c.o.Progress.Emit(progress.Event{Kind: progress.Note, Source: h.name, Message: fmt.Sprintf("asks for a pause of %s", wait.Round(time.Second))})
		}
		began := time.Now()
		if sleep(ctx, wait) != nil {
			return err
		}
		if h != nil {
			h.lost(c.o.Budgets, began, time.Now(), err)
			c.tellLeftOut(h)
		}
	}
}

// worst joins the errors of several sources under the class that a caller
// should act upon.
func worst(errs []error) error {
	order := []error{ErrDigest, ErrTooLarge, ErrTLS, ErrUnauthorized, ErrUnavailable, ErrNotFound}
	for _, class := range order {
		for i, err := range errs {
			if !errors.Is(err, class) {
				continue
			}
			if len(errs) == 1 {
				return err
			}
			var others []string
			for j, other := range errs {
				if j != i {
					others = append(others, other.Error())
				}
			}
			return fmt.Errorf("%w (also: %s)", err, strings.Join(others, "; "))
		}
	}
	return errors.Join(errs...)
}

// prefer moves one source to the front.
func prefer(sources []source, first source) []source {
	out := []source{first}
	for _, s := range sources {
		if s.String() != first.String() {
			out = append(out, s)
		}
	}
	return out
}

// parseManifest reads the verified bytes of an image manifest. A document
// that could be read as two kinds at once is refused (CVE-2021-41190).
func parseManifest(raw []byte, contentType string) (ocispec.Manifest, error) {
	var kind struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []map[string]any `json:"manifests"`
		Layers        []map[string]any `json:"layers"`
		FSLayers      []map[string]any `json:"fsLayers"`
		Config        map[string]any   `json:"config"`
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &kind); err != nil {
		return m, fmt.Errorf("%w: manifest: %v", ErrFormat, err)
	}
	mediaType := kind.MediaType
	if said, _, _ := mime.ParseMediaType(contentType); mediaType == "" && slices.Contains(manifestTypes, said) {
		mediaType = said
	}
	if kind.Manifests != nil || mediaType == ocispec.MediaTypeImageIndex || mediaType == mediaTypeDockerList {
		if kind.Layers != nil || kind.Config != nil {
			return m, fmt.Errorf("%w: the document is an index and a manifest at once", ErrFormat)
		}
		return m, fmt.Errorf("%w: the digest names an index of %d manifests; pin the digest of one of them", ErrFormat, len(kind.Manifests))
	}
	if kind.FSLayers != nil || kind.SchemaVersion != 2 {
		return m, fmt.Errorf("%w: manifest of schema version %d; only version 2 is read", ErrFormat, kind.SchemaVersion)
	}
	switch mediaType {
	case ocispec.MediaTypeImageManifest, mediaTypeDockerManifest, "":
	default:
		return m, fmt.Errorf("%w: manifest of media type %q", ErrFormat, terminal.Clip(mediaType, 100))
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %v", ErrFormat, err)
	}
	m.MediaType = mediaType
	if mediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	return m, checkManifest(m)
}

// checkManifest bounds what the manifest claims before anything is reserved.
func checkManifest(m ocispec.Manifest) error {
	if len(m.Layers) > maxLayers {
		return fmt.Errorf("%w: %d layers, at most %d are read", ErrTooLarge, len(m.Layers), maxLayers)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	sizes := map[digest.Digest]int64{m.Config.Digest: m.Config.Size}
	total := m.Config.Size
	for i, l := range m.Layers {
		if err := checkDescriptor(l); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
		if size, seen := sizes[l.Digest]; seen && size != l.Size {
			return fmt.Errorf("%w: layer %d: %s is given as %d and as %d bytes", ErrFormat, i+1, l.Digest, size, l.Size)
		}
		sizes[l.Digest] = l.Size
		if total += l.Size; total < 0 || total > maxArtifact {
			return fmt.Errorf("%w: the layers add up to more than %d bytes", ErrTooLarge, int64(maxArtifact))
		}
	}
	return nil
}

// maxArtifact is beyond any file system; sums of sizes below it cannot
// overflow.
const maxArtifact = 1 << 53

func checkDescriptor(d ocispec.Descriptor) error {
	if err := ociref.CheckDigest(d.Digest); err != nil {
		return fmt.Errorf("%w: %v", ErrFormat, err)
	}
	if d.Size < 0 || d.Size > maxArtifact {
		return fmt.Errorf("%w: %s: size %d", ErrFormat, d.Digest, d.Size)
	}
	return nil
}
