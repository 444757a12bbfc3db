package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
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

// inMemory is the size up to which an entry is read whole: small ones then
// wait for the disk beside each other.
const inMemory = 256 << 10

// unpackParallel is how many files are made durable at once, and so how many
// are open.
const unpackParallel = 16

// unpack brings the files of a packed layer into the store, in one pass. The
// layer itself is there already and has its digest: nothing unverified is
// decompressed.
func (a *Artifact) unpack(ctx context.Context, st *cas.Store, l *cas.Lease, f File, limits Limits) error {
	list, err := listLayer(ctx, st, l, f, limits)
	if err != nil {
		return fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
	}
	if a.unpacked == nil {
		a.unpacked = map[digest.Digest]listing{}
	}
	a.unpacked[f.Desc.Digest] = list
	return nil
}

// listLayer goes through a layer once. With a lease it stores the files on the
// way.
func listLayer(ctx context.Context, st *cas.Store, l *cas.Lease, f File, limits Limits) (listing, error) {
	var entries []*unpackedFile
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(unpackParallel)
	buffer := make([]byte, 1<<20)
	err := openLayer(gctx, st, f, limits, func(e tarEntry, content io.Reader) error {
		u := &unpackedFile{tarEntry: e}
		entries = append(entries, u)
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
		case l == nil:
			d, n, err := hashAll(gctx, content)
			if err != nil {
				return err
			}
			u.blob, u.size = d, n
		default:
			p, err := st.Spool(gctx, l, e.size)
			if err != nil {
				return &storeError{err}
			}
			if err := spool(p, content, buffer); err != nil {
				return errors.Join(err, p.Close())
			}
			group.Go(func() (err error) { // while the next entry is read
				if u.blob, u.size, err = p.Commit(gctx); err != nil {
					return &storeError{err}
				}
				return nil
			})
		}
		return nil
	})
	if perr := group.Wait(); perr != nil {
		return nil, perr // why the pass was given up, if it was
	}
	if err != nil {
		return nil, err
	}
	list := make(listing, len(entries))
	for i, u := range entries {
		list[i] = *u
	}
	return list, nil
}

// spool copies one file in large blocks, and tells failures of the store from
// those of what it reads. Only io.EOF is the file's end: decoders say
// io.ErrUnexpectedEOF of one that was cut off.
func spool(p *cas.Spool, content io.Reader, buffer []byte) error {
	for {
		n := 0
		var err error
		for n < len(buffer) && err == nil {
			var m int
			m, err = content.Read(buffer[n:])
			n += m
		}
		if _, werr := p.Write(buffer[:n]); werr != nil {
			return &storeError{werr}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
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
		most := limits.FileBytes
		one := &bounded{ReadCloser: r, left: most, most: most}
		err := visit(tarEntry{path: f.Path, kind: tar.TypeReg, size: max(most, inMemory+1), mode: f.Mode}, one)
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
			if list, err = listLayer(context.Background(), st, nil, f, Limits{}); err != nil {
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
