package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/ociref"
	"github.com/resultity/rmodels/internal/terminal"
)

// A TUF repository in a registry is one manifest under a tag; each of its
// files is a layer that an annotation names.
const (
	mediaTypeTUFMetadata = "application/vnd.tuf.metadata+json"
	mediaTypeTUFTarget   = "application/vnd.tuf.target"
	artifactTypeTUF      = "application/vnd.tuf.repository.v1"
	annotationTUFName    = "tuf.io/filename"

	defaultTUFTag = "latest"
)

// TUF reads the files of a TUF repository that [Client.PushTUF] wrote. A tag
// pins nothing, and nothing is believed: the files' own signatures decide. The
// manifest is read once, so all files are of one publication.
type TUF struct {
	c         *Client
	source    source
	name, tag string
	files     map[string]ocispec.Descriptor
}

var tagName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// splitTag takes registry/repository[:tag] apart.
func splitTag(s string) (name, tag string, err error) {
	name, tag = s, defaultTUFTag
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		name, tag = s[:i], s[i+1:]
	}
	if !tagName.MatchString(tag) {
		return "", "", fmt.Errorf("%q: %w: no such tag can be", s, ErrReference)
	}
	_, _, err = ociref.SplitName(name)
	return name, tag, err
}

// TUF names a repository as registry/repository[:tag]; the default tag is
// latest. Nothing is asked yet.
func (c *Client) TUF(name string) (*TUF, error) {
	name, tag, err := splitTag(name)
	if err != nil {
		return nil, err
	}
	s, err := c.source(name)
	if err != nil {
		return nil, err
	}
	return &TUF{c: c, source: s, name: name, tag: tag}, nil
}

// Fetch reads one file of at most max bytes. A name that the repository does
// not list matches [fs.ErrNotExist]; a repository that is not there does not.
func (t *TUF) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if t.files == nil {
		files, err := t.list(ctx)
		if err != nil {
			return nil, fmt.Errorf("TUF repository %s:%s: %w", t.name, t.tag, notMissing(err))
		}
		t.files = files
	}
	desc, ok := t.files[name]
	if !ok {
		return nil, fmt.Errorf("%s in %s:%s: %w", name, t.name, t.tag, fs.ErrNotExist)
	}
	if desc.Size > max {
		return nil, fmt.Errorf("%w: %s of %d bytes in %s:%s, at most %d are read", ErrTooLarge, name, desc.Size, t.name, t.tag, max)
	}
	var b []byte
	err := t.c.again(ctx, t.source.budget(), func(ctx context.Context) (err error) {
		b, err = readDocument(ctx, t.source, desc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s in %s:%s: %w", name, t.name, t.tag, notMissing(err))
	}
	return b, nil
}

// Exists tells whether there is a repository under the tag yet: a publisher's
// question, which a registry's "not found" answers. Readers do not ask it.
func (t *TUF) Exists(ctx context.Context) (bool, error) {
	files, err := t.list(ctx)
	if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("TUF repository %s:%s: %w", t.name, t.tag, err)
	}
	t.files = files
	return true, nil
}

// notMissing keeps a file that should be there from being taken for one that
// the repository does not have: that answer ends a walk over roots.
func notMissing(err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return err
}

func (t *TUF) list(ctx context.Context) (map[string]ocispec.Descriptor, error) {
	var raw []byte
	err := t.c.again(ctx, t.source.budget(), func(ctx context.Context) (err error) {
		raw, _, err = t.source.manifest(ctx, t.tag, maxManifest)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tufFiles(raw)
}

// tufFiles reads the manifest of a TUF repository.
func tufFiles(raw []byte) (map[string]ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %v", ErrFormat, err)
	}
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	if m.ArtifactType != artifactTypeTUF {
		return nil, fmt.Errorf("%w: artifact of type %q, a TUF repository is %q", ErrFormat, terminal.Clip(m.ArtifactType, 100), artifactTypeTUF)
	}
	files := make(map[string]ocispec.Descriptor, len(m.Layers))
	for i, l := range m.Layers {
		name := l.Annotations[annotationTUFName]
		if _, twice := files[name]; twice || name == "" {
			return nil, fmt.Errorf("%w: layer %d: annotation %s is missing or stands twice", ErrFormat, i+1, annotationTUFName)
		}
		files[name] = l
	}
	return files, nil
}

// PushTUF publishes the files of a TUF repository, by name, under
// registry/repository[:tag]. Readers see the old files or the new ones: the
// manifest, which names them all, comes last.
func (c *Client) PushTUF(ctx context.Context, files map[string][]byte, to string) (Reference, error) {
	ref, err := c.pushTUF(ctx, files, to)
	if err != nil {
		return Reference{}, fmt.Errorf("publish to %s: %w", to, err)
	}
	return ref, nil
}

func (c *Client) pushTUF(ctx context.Context, files map[string][]byte, to string) (Reference, error) {
	name, tag, err := splitTag(to)
	if err != nil {
		return Reference{}, err
	}
	r, repo, err := c.repository(name)
	if err != nil {
		return Reference{}, err
	}
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactTypeTUF, Config: empty,
	}
	send := func(d ocispec.Descriptor, b []byte) error {
		return c.upload(ctx, r, d, nil, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	}
	if err := send(empty, []byte("{}")); err != nil {
		return Reference{}, err
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		d := ocispec.Descriptor{
			MediaType: mediaTypeTUFMetadata, Digest: digest.FromBytes(files[file]), Size: int64(len(files[file])),
			Annotations: map[string]string{annotationTUFName: file},
		}
		if strings.HasPrefix(file, "targets/") {
			d.MediaType = mediaTypeTUFTarget
		}
		if err := send(d, files[file]); err != nil {
			return Reference{}, err
		}
		m.Layers = append(m.Layers, d)
	}
	raw, err := marshal(m)
	if err != nil {
		return Reference{}, err
	}
	if _, err := tufFiles(raw); err != nil {
		return Reference{}, err
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	err = c.repeat(ctx, nil, func() error {
		if err := repo.Manifests().PushReference(ctx, desc, bytes.NewReader(raw), tag); err != nil {
			return r.fail("manifest "+tag, transportError(ctx, err))
		}
		return nil
	})
	registry, repository, _ := strings.Cut(name, "/")
	return Reference{Registry: registry, Repository: repository, Digest: desc.Digest}, err
}
