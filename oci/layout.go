package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/ociref"
)

// layoutScheme names an OCI image layout on this machine: a directory, or a
// tar of one.
const layoutScheme = "oci-layout://"

// layout is an OCI image layout: how artifacts reach a node without a
// network. Its bytes are checked like any other source's.
type layout struct {
	path string

	once    sync.Once
	members map[string]member // of a tar; nil for a directory
	err     error
}

// member is where a file of a tar begins, and its length.
type member struct{ off, size int64 }

func (l *layout) String() string { return layoutScheme + l.path }
func (l *layout) budget() *host  { return nil }

func (l *layout) fail(what string, err error) error {
	class := ErrUnavailable
	if errors.Is(err, fs.ErrNotExist) {
		class = ErrNotFound
	}
	return &SourceError{Source: l.String(), What: what, Err: fmt.Errorf("%w: %w", class, err)}
}

// section reads a part of a file and closes all of it.
type section struct {
	*io.SectionReader
	io.Closer
}

// open finds a file of the layout by its slash-separated name.
func (l *layout) open(name string) (section, error) {
	l.once.Do(func() {
		if st, err := os.Stat(l.path); err == nil && st.Mode().IsRegular() {
			l.members, l.err = tarMembers(l.path)
		}
	})
	if l.err != nil {
		return section{}, l.err
	}
	if l.members != nil {
		m, ok := l.members[name]
		if !ok {
			return section{}, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		f, err := durable.OpenLink(l.path)
		if err != nil {
			return section{}, err
		}
		return section{io.NewSectionReader(f, m.off, m.size), f}, nil
	}
	f, err := durable.Open(filepath.Join(l.path, filepath.FromSlash(name)))
	if err != nil {
		return section{}, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return section{}, err
	}
	return section{io.NewSectionReader(f, 0, st.Size()), f}, nil
}

// maxMembers bounds the table of a tar.
const maxMembers = 200_000

// tarMembers indexes an uncompressed tar, so that blobs are read in place.
func tarMembers(file string) (map[string]member, error) {
	f, err := durable.OpenLink(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	members := map[string]member{}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: an uncompressed tar is needed: %v", ErrFormat, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if len(members) >= maxMembers {
			return nil, fmt.Errorf("%w: more than %d files", ErrTooLarge, maxMembers)
		}
		off, err := f.Seek(0, io.SeekCurrent) // the reader has read no further than the header
		if err != nil {
			return nil, err
		}
		members[path.Clean(cleanPath(h.Name))] = member{off, h.Size}
	}
}

func (l *layout) manifest(ctx context.Context, reference string, max int64) ([]byte, string, error) {
	what := "manifest " + reference
	d := digest.Digest(reference)
	mediaType := ""
	if ociref.CheckDigest(d) != nil {
		desc, err := l.tagged(ctx, reference)
		if err != nil {
			return nil, "", err
		}
		d, mediaType = desc.Digest, desc.MediaType
	}
	f, err := l.open(blobName(d))
	if err != nil {
		return nil, "", l.fail(what, err)
	}
	defer f.Close()
	b, err := readCapped(ctx, f, f.Size(), max)
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
	f, err := l.open(ocispec.ImageIndexFile)
	if err != nil {
		return index, l.fail("index", err)
	}
	defer f.Close()
	b, err := readCapped(ctx, f, f.Size(), maxManifest)
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
	f, err := l.open(blobName(blob.Digest))
	if err != nil {
		return nil, l.fail(what, err)
	}
	if f.Size() != blob.Size {
		f.Close()
		err := &rangeError{asked: fmt.Sprintf("all of %d bytes", blob.Size), got: fmt.Sprintf("%d bytes", f.Size()), wrongSize: true, size: f.Size()}
		return nil, &SourceError{Source: l.String(), What: what, Err: err}
	}
	part := section{io.NewSectionReader(f.SectionReader, off, n), f.Closer}
	return &stream{ReadCloser: part, off: off, n: n}, nil
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
