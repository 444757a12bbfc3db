package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
	"golang.org/x/sync/errgroup"
)

// FetchOptions are what the caller wants to see.
type FetchOptions struct {
	Progress progress.Sink
	Model    string // names the model in events
	Limits   Limits // of packed layers
	// Bases are blobs in the store, of another version of the model, from
	// which unchanged parts are copied where the artifact has chunk maps. The
	// caller's lease holds them.
	Bases []digest.Digest
}

// FetchResult counts bytes of blobs; manifests and evidence are not counted.
type FetchResult struct {
	Bytes      int64            // received over the network
	Resumed    int64            // taken from an earlier run's partial blobs
	Present    int64            // of blobs that the store held already
	Copied     int64            // taken from Bases
	Sources    map[string]int64 // Bytes by source
	Mismatches []Mismatch       // sources that sent wrong content
}

// maxOpen bounds the blobs, and so the file descriptors, of one Fetch.
const maxOpen = 32

// Fetch brings the manifest and every blob of a into the store; of a packed
// layer the files alone. The lease announces all digests first; blobs that are
// present are not fetched again, partial ones go on where they were left, an
// interrupted packed layer starts anew. Ranges of one blob
// and of many are fetched in parallel within each host's budget of
// connections, and come from the first source in order that serves them.
//
// The result is meaningful beside an error too. Errors: [*DigestError] when
// every source that answered sent wrong bytes, [ErrUnavailable] and the other
// classes when no source could serve a blob, and the store's own.
func (c *Client) Fetch(ctx context.Context, st *cas.Store, l *cas.Lease, a *Artifact, o FetchOptions) (FetchResult, error) {
	sources, err := c.open(a.Sources)
	if err != nil {
		return FetchResult{}, err
	}
	all := []digest.Digest{a.Ref.Digest}
	for _, b := range a.Blobs() {
		all = append(all, b.Digest)
	}
	if err := l.Add(ctx, all...); err != nil {
		return FetchResult{}, fmt.Errorf("fetch %s: %w", a.Ref, err)
	}
	if err := st.Put(ctx, l, a.Ref.Digest, a.Raw); err != nil && !errors.Is(err, cas.ErrExists) {
		return FetchResult{}, fmt.Errorf("fetch %s: manifest: %w", a.Ref, err)
	}
	blobs, layers := a.split()
	result, err := c.fetchBlobs(ctx, st, l, sources, a.Ref.Digest, blobs, layers, o)
	if err != nil {
		return result, fmt.Errorf("fetch %s: %w", a.Ref, err)
	}
	return result, nil
}

// FetchLayers brings packed layers of ref into the store as they were
// published: an export needs them, and the store has only their files. Nothing
// but the lease holds them.
func (c *Client) FetchLayers(ctx context.Context, st *cas.Store, l *cas.Lease, ref Reference, mirrors []string, layers []ocispec.Descriptor, o FetchOptions) (FetchResult, error) {
	sources, err := c.sources(ref, mirrors)
	if err != nil {
		return FetchResult{}, err
	}
	result, err := c.fetchBlobs(ctx, st, l, sources, ref.Digest, layers, nil, o)
	if err != nil {
		return result, fmt.Errorf("fetch packed layers of %s: %w", ref, err)
	}
	return result, nil
}

// fetchBlobs brings blobs, which the lease holds already, and the files of
// packed layers into the store.
func (c *Client) fetchBlobs(ctx context.Context, st *cas.Store, l *cas.Lease, sources []source, subject digest.Digest, blobs []ocispec.Descriptor, layers []File, o FetchOptions) (FetchResult, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxOpen)
	var size, packed int64
	for _, b := range blobs {
		size += b.Size
	}
	for _, f := range layers {
		packed += f.Desc.Size
	}
	of := ofBlobs
	if packed > size && packed > narrow(c.o.windowBytes())*int64(len(layers)) {
		of = ofLayers
	}
	sources = usable(sources)
	p := newPull(ctx, c, sources, of, o)
	if want := wantMaps(st, blobs); len(o.Bases) > 0 && len(want) > 0 {
		p.maps = c.chunkMaps(ctx, sources, subject, want)
	}
	o.Progress.Emit(progress.Event{Kind: progress.Total, Model: o.Model, Total: size + packed})
	var mu sync.Mutex
	var total FetchResult
	count := func(r FetchResult) {
		mu.Lock()
		defer mu.Unlock()
		total.Resumed += r.Resumed
		total.Present += r.Present
		total.Copied += r.Copied
		total.Mismatches = append(total.Mismatches, r.Mismatches...)
	}
	for _, f := range layers {
		group.Go(func() error {
			r, err := p.layer(ctx, st, l, f)
			count(r)
			return err
		})
	}
	for _, b := range blobs {
		group.Go(func() error {
			r, err := p.blob(ctx, st, l, b)
			count(r)
			return err
		})
	}
	err := group.Wait()
	p.close()
	total.Sources = map[string]int64{}
	for _, or := range p.origins {
		if n := or.bytes.Load(); n > 0 {
			total.Sources[or.String()] += n
			total.Bytes += n
		}
	}
	return total, err
}

// blob brings one blob in. Its partial bytes outlive every failure except
// wrong content, after which the next source starts from nothing.
func (p *pull) blob(ctx context.Context, st *cas.Store, l *cas.Lease, desc ocispec.Descriptor) (FetchResult, error) {
	t := p.newTransfer(desc)
	for first := true; ; first = false { // at most once for each source, and once more
		if err := ctx.Err(); err != nil {
			return t.result, context.Cause(ctx)
		}
		in, err := st.Ingest(ctx, l, desc.Digest, desc.Size, cas.IngestOptions{OnWait: func(done, total int64) {
			p.o.Progress.Emit(progress.Event{Kind: progress.Waiting, Model: p.o.Model, Digest: desc.Digest.String(), Done: done, Total: total})
		}})
		if errors.Is(err, cas.ErrExists) {
			t.result.Present = desc.Size
			p.finished(desc)
			return t.result, nil
		}
		if err != nil {
			return t.result, fmt.Errorf("blob %s: %w", desc.Digest, err)
		}
		resumed := in.Done()
		if first {
			t.result.Resumed = resumed
			err = p.seed(ctx, st, t, in)
		}
		t.begin(in, resumed)
		if err == nil {
			err = p.complete(ctx, t)
		}
		if err == nil {
			if err = in.Commit(ctx); err != nil {
				err = &storeError{fmt.Errorf("blob %s: %w", desc.Digest, err)}
			}
		}
		if err == nil {
			p.acquit(t)
			p.finished(desc)
			return t.result, nil
		}
		wrong, err := p.judge(ctx, t, err)
		if !wrong {
			return t.result, errors.Join(err, in.Close())
		}
		if derr := in.Discard(); err != nil || derr != nil {
			return t.result, errors.Join(err, derr)
		}
	}
}

// judge says whether what an attempt brought is wrong, and not only cut short,
// and why the blob is given up; with no error another attempt may do better.
func (p *pull) judge(ctx context.Context, t *transfer, err error) (wrong bool, _ error) {
	var mismatch *cas.MismatchError
	switch {
	case errors.As(err, &mismatch):
		return true, p.convict(t, mismatch.Found)
	case t.only != nil && ctx.Err() == nil && !isStoreError(err):
		// The source that was to show the right bytes failed as well.
		return true, p.convict(t, "")
	}
	return errors.Is(err, ErrDigest), err
}

// finished says that a blob is complete; no older count of it comes later.
func (p *pull) finished(desc ocispec.Descriptor) {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.tell(desc, desc.Size, "")
}

func (p *pull) tell(desc ocispec.Descriptor, done int64, from string) {
	p.o.Progress.Emit(progress.Event{Kind: progress.Bytes, Model: p.o.Model, Digest: desc.Digest.String(), Source: from, Done: done, Total: desc.Size})
}
