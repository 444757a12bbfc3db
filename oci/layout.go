package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutScheme names an OCI image layout on this machine: a directory, or a
// tar of one.
const layoutScheme = "oci-layout://"

// layout is an OCI image layout directory: how artifacts reach a node without
// a network. Its bytes are checked like any other source's.
type layout struct{ path string }

func (l *layout) String() string { return layoutScheme + l.path }
func (l *layout) budget() *host  { return nil }

func (l *layout) fail(what string, err error) error {
	class := ErrUnavailable
	if errors.Is(err, fs.ErrNotExist) {
		class = ErrNotFound
	}
	return &SourceError{Source: l.String(), What: what, Err: fmt.Errorf("%w: %v", class, err)}
}

func (l *layout) blobPath(d digest.Digest) string {
	return filepath.Join(l.path, "blobs", d.Algorithm().String(), d.Encoded())
}

func (l *layout) manifest(ctx context.Context, reference string, max int64) ([]byte, string, error) {
	what := "manifest " + reference
	d := digest.Digest(reference)
	mediaType := ""
	if checkDigest(d) != nil {
		desc, err := l.tagged(ctx, reference)
		if err != nil {
			return nil, "", err
		}
		d, mediaType = desc.Digest, desc.MediaType
	}
	f, err := os.Open(l.blobPath(d))
	if err != nil {
		return nil, "", l.fail(what, err)
	}
	defer f.Close()
	b, err := readCapped(ctx, f, -1, max)
	if err != nil {
		return nil, "", l.fail(what, err)
	}
	return b, mediaType, nil
}

// tagged finds a name in index.json.
func (l *layout) tagged(ctx context.Context, name string) (ocispec.Descriptor, error) {
	index, err := l.index(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == name && checkDescriptor(d) == nil {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, l.fail("manifest "+name, fs.ErrNotExist)
}

func (l *layout) index(ctx context.Context) (ocispec.Index, error) {
	var index ocispec.Index
	f, err := os.Open(filepath.Join(l.path, ocispec.ImageIndexFile))
	if err != nil {
		return index, l.fail("index", err)
	}
	defer f.Close()
	b, err := readCapped(ctx, f, -1, maxManifest)
	if err != nil {
		return index, l.fail("index", err)
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return index, l.fail("index", err)
	}
	return index, nil
}

func (l *layout) read(_ context.Context, blob ocispec.Descriptor, off, n int64) (*stream, error) {
	what := "blob " + blob.Digest.String()
	f, err := os.Open(l.blobPath(blob.Digest))
	if err != nil {
		return nil, l.fail(what, err)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != blob.Size || !st.Mode().IsRegular() {
		f.Close()
		if err == nil {
			err = &rangeError{asked: fmt.Sprintf("all of %d bytes", blob.Size), got: fmt.Sprintf("%d bytes", st.Size()), wrongSize: true}
			return nil, &SourceError{Source: l.String(), What: what, Err: err}
		}
		return nil, l.fail(what, err)
	}
	return &stream{ReadCloser: section{io.NewSectionReader(f, off, n), f}, off: off, n: n}, nil
}

type section struct {
	io.Reader
	io.Closer
}

// referrers searches index.json: each manifest there, and each that an index
// there names by the fallback tag.
func (l *layout) referrers(ctx context.Context, d digest.Digest, max int) ([]ocispec.Descriptor, error) {
	index, err := l.index(ctx)
	if err != nil {
		return nil, err
	}
	list := index.Manifests
	if raw, _, err := l.manifest(ctx, fallbackTag(d), maxManifest); err == nil {
		var more ocispec.Index
		if json.Unmarshal(raw, &more) == nil {
			list = append(list, more.Manifests...)
		}
	}
	var out []ocispec.Descriptor
	for _, desc := range list {
		if len(out) >= max {
			break
		}
		if checkDescriptor(desc) != nil || desc.Size > maxManifest || desc.Digest == d {
			continue
		}
		raw, _, err := l.manifest(ctx, desc.Digest.String(), desc.Size)
		if err != nil {
			continue
		}
		var m ocispec.Manifest
		if json.Unmarshal(raw, &m) == nil && m.Subject != nil && m.Subject.Digest == d {
			out = append(out, desc)
		}
	}
	return out, nil
}
