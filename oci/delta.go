package oci

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"
)

const (
	maxChunkMaps = 32 << 20 // bytes of maps that one fetch reads
	maxMapBytes  = 8 << 20
)

// AttachChunkMaps cuts the large raw layers of a pushed artifact and attaches
// their maps as one referrer, so that nodes which hold another version fetch
// only what changed.
func (c *Client) AttachChunkMaps(ctx context.Context, ref Reference, p *Packed) error {
	var layers []attachment
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	found := make([]*attachment, len(p.Manifest.Layers))
	for i, l := range p.Manifest.Layers {
		if l.Size < minMapped || l.Size > maxMapped {
			continue
		}
		group.Go(func() error {
			content, err := p.Open(l.Digest)
			if err != nil {
				return err
			}
			defer content.Close()
			m, err := mapChunks(&cancelable{gctx, content}, l.Digest, l.Size)
			if err != nil {
				return fmt.Errorf("chunk map of %s: %w", l.Digest, err)
			}
			found[i] = &attachment{ocispec.Descriptor{MediaType: mediaTypeChunkMap, Annotations: map[string]string{annotationChunkMap: l.Digest.String()}}, m.encode()}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, f := range found {
		if f != nil {
			layers = append(layers, *f)
		}
	}
	if len(layers) == 0 {
		return nil
	}
	if err := c.attachLayers(ctx, ref, mediaTypeChunkMap, layers, nil); err != nil {
		return fmt.Errorf("attach chunk maps to %s: %w", ref, err)
	}
	return nil
}

// chunkMaps finds the maps of blobs on any of the sources. Maps are a
// convenience: whatever is wrong with one, it is left out.
func (c *Client) chunkMaps(ctx context.Context, sources []source, subject digest.Digest, want map[digest.Digest]int64) map[digest.Digest]chunkMap {
	out := map[digest.Digest]chunkMap{}
	budget := int64(maxChunkMaps)
	ctx, booked := c.metering(ctx)
	defer booked()
	for i, s := range sources {
		part, end := c.share(ctx, s, len(sources)-i)
		c.chunkMapsFrom(part, s, subject, want, out, &budget)
		end()
		if len(out) == len(want) {
			break
		}
	}
	return out
}

// chunkMapsFrom adds the maps that one source has to out.
func (c *Client) chunkMapsFrom(ctx context.Context, s source, subject digest.Digest, want map[digest.Digest]int64, out map[digest.Digest]chunkMap, budget *int64) {
	once := func(get func(context.Context) error) error {
		return c.attempt(ctx, s.budget(), c.o.Budgets.document(), get)
	}
	var list []ocispec.Descriptor
	err := once(func(ctx context.Context) (err error) {
		list, err = s.referrers(ctx, subject, maxEvidence)
		return err
	})
	if err != nil {
		return
	}
	for _, d := range list {
		// Some registries say the config's type instead of the artifact's.
		if !slices.Contains([]string{mediaTypeChunkMap, "", ocispec.MediaTypeEmptyJSON}, d.ArtifactType) || checkDescriptor(d) != nil || d.Size > maxManifest {
			continue
		}
		var raw []byte
		err := once(func(ctx context.Context) (err error) {
			raw, _, err = s.manifest(ctx, d.Digest.String(), maxManifest)
			return err
		})
		var m ocispec.Manifest
		if err != nil || digest.FromBytes(raw) != d.Digest || json.Unmarshal(raw, &m) != nil || checkManifest(m) != nil || m.ArtifactType != mediaTypeChunkMap || m.Subject == nil || m.Subject.Digest != subject {
			continue
		}
		for _, l := range m.Layers {
			blob := digest.Digest(l.Annotations[annotationChunkMap])
			size, wanted := want[blob]
			if _, have := out[blob]; !wanted || have || l.MediaType != mediaTypeChunkMap || l.Size > min(*budget, maxMapBytes) {
				continue
			}
			var b []byte
			err := once(func(ctx context.Context) (err error) {
				b, err = readDocument(ctx, s, l)
				return err
			})
			if err != nil {
				continue
			}
			*budget -= l.Size
			if cm, err := parseChunkMap(b); err == nil && cm.blob == blob && cm.size == size {
				out[blob] = cm
			}
		}
	}
}

// seed copies the chunks of t's blob that bases hold into its ingest. What it
// writes is not trusted: Commit hashes it like everything else.
func (p *pull) seed(ctx context.Context, st *cas.Store, t *transfer, in *cas.Ingest) error {
	cm, ok := p.maps[t.desc.Digest]
	if !ok {
		return nil
	}
	missing := in.Missing()
	at := map[xxh3.Uint128][]cas.Range{}
	off := int64(0)
	for _, c := range cm.chunks {
		r := cas.Range{Off: off, Len: int64(c.n)}
		off += r.Len
		if within(missing, r) {
			at[c.sum] = append(at[c.sum], r)
		}
	}
	p.seeding.Lock() // one buffer, and one reader on the disk
	defer p.seeding.Unlock()
	for _, base := range p.o.Bases {
		if len(at) == 0 || base == t.desc.Digest {
			continue
		}
		if err := seedFrom(ctx, st, base, cm.mean, at, t, in); err != nil {
			return err
		}
	}
	return nil
}

func seedFrom(ctx context.Context, st *cas.Store, base digest.Digest, mean uint32, at map[xxh3.Uint128][]cas.Range, t *transfer, in *cas.Ingest) error {
	blob, err := st.Open(base)
	if errors.Is(err, cas.ErrNotFound) || errors.Is(err, cas.ErrSuspect) {
		return nil
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	if blob.Size() < minMapped {
		return nil
	}
	return cutAll(&cancelable{ctx, blob}, mean, func(b []byte) error {
		sum := xxh3.Hash128(b)
		for _, r := range at[sum] {
			if r.Len != int64(len(b)) {
				continue
			}
			if _, err := in.WriteAt(b, r.Off); err != nil {
				return &storeError{err}
			}
			t.result.Copied += r.Len
			t.seeded = true
		}
		delete(at, sum)
		return nil
	})
}

// within says whether one of the ranges holds all of r.
func within(ranges []cas.Range, r cas.Range) bool {
	i, _ := slices.BinarySearchFunc(ranges, r.Off, func(e cas.Range, off int64) int {
		if e.Off+e.Len <= off {
			return -1
		}
		if e.Off > off {
			return 1
		}
		return 0
	})
	return i < len(ranges) && ranges[i].Off <= r.Off && r.Off+r.Len <= ranges[i].Off+ranges[i].Len
}

// wantMaps lists the blobs that a delta may pay for.
func wantMaps(st *cas.Store, blobs []ocispec.Descriptor) map[digest.Digest]int64 {
	want := map[digest.Digest]int64{}
	for _, b := range blobs {
		if b.Size < minMapped || b.Size > maxMapped {
			continue
		}
		if s, err := st.Stat(b.Digest); err == nil && !s.Suspect {
			continue
		}
		want[b.Digest] = b.Size
	}
	return want
}
