package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/resultity/rmodels/cas"
	"golang.org/x/sync/errgroup"
)

// listing is what a packed layer holds, in order.
type listing []unpackedFile

// unpackedFile is one entry of a packed layer; files have a digest.
type unpackedFile struct {
	tarEntry
	blob digest.Digest
}

// inMemory is the size up to which an entry is read whole and stored in the
// pass that lists it. Larger ones need their digest before the store takes
// them, so a second pass brings them.
const inMemory = 256 << 10

// unpackParallel is how many small files are made durable at once.
const unpackParallel = 16

// unpack brings the files of a packed layer into the store. The layer itself
// is there already and has its digest: nothing unverified is decompressed.
func (a *Artifact) unpack(ctx context.Context, st *cas.Store, l *cas.Lease, f File, limits Limits) error {
	list, missing, err := listLayer(ctx, st, l, f, limits)
	if err != nil {
		return fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
	}
	if len(missing) > 0 {
		if err := l.Add(ctx, slices.Sorted(maps.Keys(missing))...); err != nil {
			return err
		}
		if err := storeLarge(ctx, st, l, f, limits, list, missing); err != nil {
			return fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
		}
	}
	if a.unpacked == nil {
		a.unpacked = map[digest.Digest]listing{}
	}
	a.unpacked[f.Desc.Digest] = list
	return nil
}

// listLayer goes through a layer once. With a lease it stores small files on
// the way; large ones, by digest, are what is still missing.
func listLayer(ctx context.Context, st *cas.Store, l *cas.Lease, f File, limits Limits) (listing, map[digest.Digest]bool, error) {
	var list listing
	missing := map[digest.Digest]bool{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(unpackParallel)
	err := openLayer(gctx, st, f, limits, func(e tarEntry, content io.Reader) error {
		u := unpackedFile{tarEntry: e}
		switch {
		case e.kind != tar.TypeReg:
		case e.size <= inMemory:
			b, err := io.ReadAll(io.LimitReader(content, inMemory+1))
			if err != nil {
				return err
			}
			u.blob = digest.FromBytes(b)
			if l != nil {
				group.Go(func() error { return put(gctx, st, l, u.blob, b) })
			}
		default:
			d, n, err := hashAll(gctx, content)
			if err != nil {
				return err
			}
			if n != e.size && f.Tar {
				return fmt.Errorf("%w: %d of %d bytes", io.ErrUnexpectedEOF, n, e.size)
			}
			u.blob, u.size = d, n
			missing[d] = true
		}
		list = append(list, u)
		return nil
	})
	if perr := group.Wait(); perr != nil {
		return nil, nil, perr
	}
	return list, missing, err
}

// storeLarge goes through the layer again and writes the files whose digests
// are known by now.
func storeLarge(ctx context.Context, st *cas.Store, l *cas.Lease, f File, limits Limits, list listing, missing map[digest.Digest]bool) error {
	at := 0
	return openLayer(ctx, st, f, limits, func(e tarEntry, content io.Reader) error {
		if at >= len(list) || list[at].path != e.path {
			return fmt.Errorf("%w: the layer reads differently the second time", ErrFormat)
		}
		u := list[at]
		at++
		if e.kind != tar.TypeReg || !missing[u.blob] {
			if !f.Tar {
				return nil
			}
			_, err := io.Copy(io.Discard, content)
			return err
		}
		delete(missing, u.blob)
		return storeFile(ctx, st, l, u.blob, u.size, content)
	})
}

func storeFile(ctx context.Context, st *cas.Store, l *cas.Lease, d digest.Digest, size int64, content io.Reader) error {
	in, err := st.Ingest(ctx, l, d, size, cas.IngestOptions{})
	if errors.Is(err, cas.ErrExists) {
		return nil
	}
	if err != nil {
		return &storeError{err}
	}
	buffer := make([]byte, 1<<20)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return errors.Join(context.Cause(ctx), in.Discard())
		}
		n, err := io.ReadFull(content, buffer)
		if n > 0 {
			if _, werr := in.WriteAt(buffer[:n], at); werr != nil {
				return errors.Join(&storeError{werr}, in.Discard())
			}
			at += int64(n)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return errors.Join(err, in.Discard())
		}
	}
	if err := in.Commit(ctx); err != nil {
		return errors.Join(&storeError{err}, in.Discard())
	}
	return nil
}

// openLayer walks the entries of a layer in the store. A compressed raw layer
// is one entry whose size is not known before.
func openLayer(ctx context.Context, st *cas.Store, f File, limits Limits, visit func(tarEntry, io.Reader) error) error {
	limits = limits.withDefaults()
	blob, err := st.Open(f.Desc.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	r, err := unfold(&cancelable{ctx, blob}, f.Compression, f.Desc.Size, limits)
	if err != nil {
		return err
	}
	defer r.Close()
	if !f.Tar {
		err := visit(tarEntry{path: f.Path, kind: tar.TypeReg, size: inMemory + 1, mode: f.Mode}, r)
		return formatError(string(f.Compression), err)
	}
	return walkTar(r, limits, f.keep, func(e tarEntry, content io.Reader) error {
		if f.Under != "" && e.path != f.Under && !strings.HasPrefix(e.path, f.Under+"/") {
			return fmt.Errorf("%w: %q is outside of the layer's directory %q", ErrPath, e.path, f.Under)
		}
		return visit(e, content)
	})
}

// cancelable ends a long pass when its context does.
type cancelable struct {
	ctx context.Context
	io.Reader
}

func (c *cancelable) Read(b []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(b)
}

// packed says whether a layer is more than the bytes of one file.
func (f File) packed() bool { return f.Tar || f.Compression != Plain }

// Entries lists the model's files for [cas.Store.BuildTree], once Fetch has
// brought every layer in.
func (a *Artifact) Entries(st *cas.Store) ([]cas.TreeEntry, error) {
	var entries []cas.TreeEntry
	at := map[string]int{}
	add := func(e cas.TreeEntry) error {
		if _, twice := at[e.Path]; twice {
			return fmt.Errorf("%w: two layers hold the file %q", ErrFormat, e.Path)
		}
		at[e.Path] = len(entries)
		entries = append(entries, e)
		return nil
	}
	var overlay []listing
	for _, f := range a.Files {
		if !f.packed() {
			if err := add(cas.TreeEntry{Path: f.Path, Blob: f.Desc.Digest, Executable: f.Mode&0o111 != 0}); err != nil {
				return nil, err
			}
			continue
		}
		list, ok := a.unpacked[f.Desc.Digest]
		if !ok {
			var err error
			if list, _, err = listLayer(context.Background(), st, nil, f, Limits{}); err != nil {
				return nil, fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
			}
		}
		if a.Format == FormatImage {
			overlay = append(overlay, list)
			continue
		}
		for _, u := range list {
			switch u.kind {
			case tar.TypeDir:
				continue
			case tar.TypeReg:
			default:
				return nil, fmt.Errorf("%w: layer %s: %q is a link; only models in images may hold links", ErrFormat, f.Desc.Digest, u.path)
			}
			name := u.path
			if f.Tar {
				name = path.Join(f.Path, u.path)
			}
			if err := CheckPath(name); err != nil {
				return nil, err
			}
			if err := add(cas.TreeEntry{Path: name, Blob: u.blob, Executable: u.mode&0o111 != 0}); err != nil {
				return nil, err
			}
		}
	}
	if a.Format == FormatImage {
		return imageEntries(overlay)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: the layers hold no file", ErrFormat)
	}
	return entries, nil
}

// Stored lists what a ref must name so that nothing of the artifact is
// collected: the manifest, the config, and every blob that [Artifact.Entries]
// uses. Packed layers are not among them once their files are stored.
func (a *Artifact) Stored(st *cas.Store) ([]digest.Digest, error) {
	entries, err := a.Entries(st)
	if err != nil {
		return nil, err
	}
	seen := map[digest.Digest]bool{a.Ref.Digest: true, a.Manifest.Config.Digest: true}
	for _, e := range entries {
		seen[e.Blob] = true
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// unpackAll unpacks what is packed, after every blob is there.
func (a *Artifact) unpackAll(ctx context.Context, st *cas.Store, l *cas.Lease, limits Limits) error {
	for _, f := range a.Files {
		if !f.packed() {
			continue
		}
		if _, done := a.unpacked[f.Desc.Digest]; done {
			continue
		}
		if err := a.unpack(ctx, st, l, f, limits); err != nil {
			return err
		}
	}
	return nil
}
