package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// Stored is an artifact that the store holds, in the form in which it is pushed
// or exported. The caller holds a lease on its blobs. Packed layers have to be
// brought back first ([Client.FetchLayers]); opening one that was not is
// [cas.ErrNotFound].
func Stored(st *cas.Store, manifest digest.Digest) (*Packed, error) {
	raw, err := st.ReadAll(manifest, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("stored artifact %s: %w", manifest, err)
	}
	m, err := parseManifest(raw, "")
	if err != nil {
		return nil, fmt.Errorf("stored artifact %s: %w", manifest, err)
	}
	p := &Packed{Digest: manifest, Raw: raw, MediaType: m.MediaType, Manifest: m, open: map[digest.Digest]func() (io.ReadCloser, error){}}
	for _, b := range p.Blobs() {
		p.open[b.Digest] = func() (io.ReadCloser, error) { return st.Open(b.Digest) }
	}
	return p, nil
}

// Attach stores evidence beside the artifact that it speaks of, in a shape
// that [Client.Evidence] finds again: a bundle as [Client.AttachBundle] does,
// a simplesigning payload as the referrer that cosign 2 writes.
func (c *Client) Attach(ctx context.Context, ref Reference, e Evidence) error {
	if e.MediaType == mediaTypeBundle {
		return c.AttachBundle(ctx, ref, e.Payload)
	}
	layer := ocispec.Descriptor{MediaType: e.MediaType, Annotations: e.Annotations}
	if err := c.attach(ctx, ref, referrerType(e), layer, e.Payload, nil); err != nil {
		return fmt.Errorf("attach signature to %s: %w", ref, err)
	}
	return nil
}

// artifactTypeCosign is the referrer form of a simplesigning signature.
const artifactTypeCosign = "application/vnd.dev.cosign.artifact.sig.v1+json"

func referrerType(e Evidence) string {
	if e.MediaType == mediaTypeSimpleSigning {
		return artifactTypeCosign
	}
	return e.MediaType
}

// referrer is the manifest that ties one blob to the artifact subject.
func referrer(subject ocispec.Descriptor, e Evidence) (ocispec.Manifest, error) {
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: referrerType(e), Config: empty,
		Layers: []ocispec.Descriptor{{
			MediaType: e.MediaType, Digest: digest.FromBytes(e.Payload), Size: int64(len(e.Payload)), Annotations: e.Annotations,
		}},
		Subject: &subject,
	}
	if e.MediaType != mediaTypeBundle {
		return m, nil
	}
	content, predicate, err := bundleContent(e.Payload)
	if err != nil {
		return m, err
	}
	m.Layers[0].Annotations = nil
	m.Annotations = map[string]string{"dev.sigstore.bundle.content": content}
	if predicate != "" {
		m.Annotations["dev.sigstore.bundle.predicateType"] = predicate
	}
	return m, nil
}

// Compare reads an artifact back from a registry, whole, and compares every
// blob with its digest.
func (c *Client) Compare(ctx context.Context, ref Reference, p *Packed) error {
	r, repo, err := c.repository(ref.Name())
	if err != nil {
		return err
	}
	if _, err := c.pinned(ctx, []source{r}, ref.Digest); err != nil {
		return fmt.Errorf("read back %s: %w", ref, err)
	}
	for _, b := range p.Blobs() {
		err := c.repeat(ctx, nil, func() error {
			body, err := repo.Blobs().Fetch(ctx, b)
			if err != nil {
				return r.fail("blob "+b.Digest.String(), transportError(ctx, err))
			}
			defer body.Close()
			h := sha256.New()
			if _, err := io.CopyBuffer(h, io.LimitReader(body, b.Size+1), make([]byte, 1<<20)); err != nil {
				return r.fail("blob "+b.Digest.String(), transportError(ctx, err))
			}
			return sameDigest(b.Digest, h, r.String())
		})
		if err != nil {
			return fmt.Errorf("read back %s: %w", ref, err)
		}
	}
	return nil
}

// LayoutResult says what an export wrote.
type LayoutResult struct {
	Blobs   int   `json:"blobs"`
	Bytes   int64 `json:"bytes"`   // written
	Present int64 `json:"present"` // that the layout held already
}

// Export writes an artifact with its evidence into an OCI image layout
// directory, which oras, crane and skopeo read, and [Client] as the source
// oci-layout://dir. Every blob is durable, and was read back from the disk
// and compared with its digest, before index.json names the artifact. Exports
// into one directory by several processes wait for each other.
func Export(ctx context.Context, dir, name string, p *Packed, ev []Evidence) (LayoutResult, error) {
	var res LayoutResult
	to, err := lockLayout(ctx, dir)
	if err != nil {
		return res, fmt.Errorf("export %s: %w", name, err)
	}
	defer to.unlock()
	w := &layoutWriter{ctx: ctx, blobs: to.blobs, res: &res}
	subject := ocispec.Descriptor{MediaType: p.MediaType, ArtifactType: p.Manifest.ArtifactType, Digest: p.Digest, Size: int64(len(p.Raw))}
	named := subject
	named.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	entries := []ocispec.Descriptor{named}
	for _, b := range p.Blobs() {
		if err := w.blob(b.Digest, b.Size, func() (io.ReadCloser, error) { return p.Open(b.Digest) }); err != nil {
			return res, fmt.Errorf("export %s: %w", name, err)
		}
	}
	subject.ArtifactType = ""
	small := [][]byte{p.Raw, []byte("{}")}
	for _, e := range ev {
		m, err := referrer(subject, e)
		if err != nil {
			return res, fmt.Errorf("export %s: %w", name, err)
		}
		raw, err := marshal(m)
		if err != nil {
			return res, err
		}
		small = append(small, e.Payload, raw)
		entries = append(entries, ocispec.Descriptor{
			MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		})
	}
	for _, b := range small {
		if err := w.bytes(b); err != nil {
			return res, fmt.Errorf("export %s: %w", name, err)
		}
	}
	if err := to.editIndex(func(in []ocispec.Descriptor) []ocispec.Descriptor {
		return append(slices.DeleteFunc(in, func(d ocispec.Descriptor) bool {
			return slices.ContainsFunc(entries, func(e ocispec.Descriptor) bool { return e.Digest == d.Digest }) ||
				d.Annotations[ocispec.AnnotationRefName] == name
		}), entries...)
	}); err != nil {
		return res, fmt.Errorf("export %s: %w", name, err)
	}
	return res, nil
}

// Unexport takes an artifact and its referrers out of a layout, and the blobs
// that no other manifest there names.
func Unexport(ctx context.Context, dir string, manifest digest.Digest) error {
	from, err := lockLayout(ctx, dir)
	if err != nil {
		return fmt.Errorf("remove %s from %s: %w", manifest, dir, err)
	}
	defer from.unlock()
	l := &layout{path: dir}
	live := map[digest.Digest]bool{}
	var dead []digest.Digest
	err = from.editIndex(func(in []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(in, func(d ocispec.Descriptor) bool {
			raw, mediaType, rerr := l.manifest(ctx, d.Digest.String(), maxManifest)
			var m ocispec.Manifest
			if rerr == nil {
				m, rerr = parseManifest(raw, mediaType)
			}
			if rerr != nil { // what cannot be read keeps its name: nothing is deleted on its account
				live[d.Digest] = true
				return false
			}
			named := []digest.Digest{d.Digest, m.Config.Digest}
			for _, x := range m.Layers {
				named = append(named, x.Digest)
			}
			if d.Digest == manifest || m.Subject != nil && m.Subject.Digest == manifest {
				dead = append(dead, named...)
				return true
			}
			for _, x := range named {
				live[x] = true
			}
			return false
		})
	})
	if err != nil {
		return fmt.Errorf("remove %s from %s: %w", manifest, dir, err)
	}
	for _, d := range dead {
		if live[d] {
			continue
		}
		if err := from.removeBlob(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s from %s: %w", manifest, dir, err)
		}
	}
	return nil
}

// InLayout lists the manifests that a layout names, with their names.
func InLayout(ctx context.Context, dir string) (map[digest.Digest]string, error) {
	index, err := (&layout{path: dir}).index(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[digest.Digest]string, len(index.Manifests))
	for _, d := range index.Manifests {
		if checkDescriptor(d) == nil {
			out[d.Digest] = d.Annotations[ocispec.AnnotationRefName]
		}
	}
	return out, nil
}

// layoutWriter puts blobs under their digests, durably and compared.
type layoutWriter struct {
	ctx   context.Context
	blobs *os.Root
	res   *LayoutResult
}

func (w *layoutWriter) bytes(b []byte) error {
	return w.blob(digest.FromBytes(b), int64(len(b)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	})
}

func (w *layoutWriter) blob(d digest.Digest, size int64, open func() (io.ReadCloser, error)) error {
	name := d.Encoded()
	if w.present(name, d, size) {
		w.res.Present += size
		return nil
	}
	src, err := open()
	if err != nil {
		return err
	}
	defer src.Close()
	f, tmp, err := createIn(w.blobs, name)
	if err != nil {
		return err
	}
	defer w.blobs.Remove(tmp)
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, h)}, &contextReader{w.ctx, src}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("copy %s: %w", d, err)
	}
	if err := sameDigest(d, h, "the artifact"); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("copy %s: %w", d, err)
	}
	// What is compared must come from the disk and not from memory.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if err := w.verified(f, d, size); err != nil {
		return fmt.Errorf("the copy of %s does not read back: %w", d, err)
	}
	if err := w.blobs.Rename(tmp, name); err != nil {
		return err
	}
	w.res.Blobs++
	w.res.Bytes += size
	return syncIn(w.blobs)
}

// present reports whether the layout holds a blob already, on its disk: an
// export that died may have left it in memory alone.
func (w *layoutWriter) present(name string, d digest.Digest, size int64) bool {
	f, err := openIn(w.blobs, name)
	if err != nil {
		return false
	}
	defer f.Close()
	if f.Sync() != nil {
		return false
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	return w.verified(f, d, size) == nil && syncIn(w.blobs) == nil
}

// verified reads a blob of the layout whole and compares it with its digest.
func (w *layoutWriter) verified(f *os.File, d digest.Digest, size int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != size {
		return fmt.Errorf("%s: %d bytes, want %d", f.Name(), st.Size(), size)
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, &contextReader{w.ctx, io.NewSectionReader(f, 0, size)}, make([]byte, 1<<20)); err != nil {
		return err
	}
	return sameDigest(d, h, f.Name())
}

func sameDigest(d digest.Digest, h hash.Hash, source string) error {
	if found := digest.NewDigest(digest.SHA256, h); found != d {
		return &DigestError{What: "blob", Expected: d, Found: found, Source: source}
	}
	return nil
}

// contextReader ends a long copy with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(b []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
