package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
	"golang.org/x/sync/errgroup"
)

// inMemory is the size up to which an entry is read whole: small ones then
// wait for the disk beside each other.
const inMemory = 256 << 10

// unpackParallel is how many files are made durable at once, and so how many
// are open.
const unpackParallel = 16

// packed says whether a layer is more than the bytes of one file.
func (f File) packed() bool { return f.Tar || f.Compression != Plain }

// fewEntries is what a layer may hold while others are unfolded: the record of
// a hundred thousand takes much memory.
const fewEntries = 1000

// small says whether a packed layer fits into its window from the beginning.
func (p *pull) small(f File) bool { return f.Desc.Size <= narrow(p.c.o.windowBytes()) }

// reading says how a packed layer is understood. The store keeps it beside what
// the layer unfolded to: the same bytes may be a file for one artifact and an
// archive for another.
func (f File) reading() string {
	words := []string{"tar"}
	if !f.Tar {
		words = nil
	}
	if f.Compression != Plain {
		words = append(words, string(f.Compression))
	}
	s := strings.Join(words, "+")
	if f.keep != nil {
		s += " of /" + imagePrefix
	}
	return s
}

// layer brings the files of a packed layer into the store, in one pass from the
// network to the disk: no copy of the packed bytes is made. What arrives is
// unfolded before it is known to be right, so nothing of it has a name until
// the digest fits. The bytes are those of one attempt; after a mismatch they
// come whole from one source, as in [pull.blob].
//
// Small layers arrive side by side, each whole in its window, and wait for the
// decoder then. A large one has the decoder before it asks for a byte: a
// connection that brings what cannot be unfolded yet would be missing where the
// decoder waits.
func (p *pull) layer(ctx context.Context, st *cas.Store, l *cas.Lease, f File) (FetchResult, error) {
	limits := p.o.Limits.withDefaults()
	t := p.newTransfer(f.Desc)
	room := min(f.Desc.Size, narrow(p.c.o.windowBytes()))
	if err := p.windows.Acquire(ctx, room); err != nil {
		return t.result, context.Cause(ctx)
	}
	defer p.windows.Release(room)
	if !p.small(f) {
		if err := p.decoder.Acquire(ctx, 1); err != nil {
			return t.result, context.Cause(ctx)
		}
		defer p.decoder.Release(1)
	}
	stat, err := st.Stat(f.Desc.Digest)
	kept := err == nil && !stat.Suspect
	if kept {
		// Of a store that kept packed layers, or for an export.
		t.order = append([]*origin{{source: held{st}}}, t.order...)
	}
	fail := func(err error) (FetchResult, error) {
		return t.result, fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return t.result, context.Cause(ctx)
		}
		u, err := st.Unpack(ctx, l, f.Desc.Digest, f.Desc.Size, f.reading(), func() {
			p.o.Progress.Emit(progress.Event{Kind: progress.Waiting, Model: p.o.Model, Digest: f.Desc.Digest.String(), Total: f.Desc.Size})
		})
		if errors.Is(err, cas.ErrExists) {
			entries, err := st.Layer(ctx, f.Desc.Digest, f.reading())
			if err == nil {
				err = limits.admitAll(entries, f.Desc.Size)
			}
			if err != nil {
				return fail(err)
			}
			t.result.Present = f.Desc.Size
			p.finished(f.Desc)
			return t.result, nil
		}
		if err != nil {
			return fail(err)
		}
		fits, err := p.unpack(ctx, t, u, f, limits)
		err = errors.Join(err, u.Close())
		if fits {
			p.acquit(t)
			if err != nil {
				return fail(err)
			}
			p.finished(f.Desc)
			return t.result, nil
		}
		if wrong, err := p.judge(ctx, t, err); !wrong || err != nil {
			return fail(err)
		}
		if kept {
			// It may be the store's own copy that is wrong.
			if _, err := st.Verify(ctx, []digest.Digest{f.Desc.Digest}, cas.VerifyOptions{}); err != nil {
				return fail(err)
			}
		}
	}
}

// unpack is one attempt. It says whether the packed bytes were the right ones:
// then an error is about what they unfold to, or the store.
func (p *pull) unpack(ctx context.Context, t *transfer, u *cas.Unpacking, f File, limits Limits) (fits bool, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := newWindow(f.Desc.Size, p.c.o.windowBytes(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dispatch()
	})
	p.mu.Lock()
	t.begin(w, 0)
	p.mu.Unlock()
	var work sync.WaitGroup
	var entries []cas.LayerEntry
	var invalid error
	turn := false // with the decoder, until it has few entries to keep
	release := sync.OnceFunc(func() {
		if turn {
			p.decoder.Release(1)
		}
	})
	defer release()
	work.Go(func() {
		packed := windowReader{w, 0}
		if p.small(f) {
			if invalid = p.decoder.Acquire(ctx, 1); invalid != nil {
				return
			}
			turn = true
			defer func() {
				if len(entries) < fewEntries {
					release()
				}
			}()
		}
		if head, err := packed.head(zstd.HeaderMaxSize); err == nil && f.Compression.history(head) <= narrow(p.c.o.windowBytes()) {
			w.widen()
		}
		entries, invalid = f.store(ctx, u, packed, limits)
		if isStoreError(invalid) {
			stop(invalid)
		}
	})
	work.Go(func() {
		if err := sumAll(u, windowReader{w, 1}); err != nil {
			stop(&storeError{err})
		}
	})
	err = p.complete(ctx, t)
	if err != nil {
		w.fail(err)
		stop(err)
	}
	work.Wait()
	if err != nil {
		return false, err
	}
	// Wrong bytes first: what they unfold to says nothing.
	if err := u.Check(); err != nil {
		return false, &storeError{err}
	}
	if invalid != nil {
		return true, invalid
	}
	return true, u.Commit(ctx, entries)
}

// sumAll hashes the packed bytes where they lie.
func sumAll(u *cas.Unpacking, r windowReader) error {
	for {
		b, err := r.next()
		if err != nil {
			return nil // the end, or the transfer has failed and says why
		}
		if _, err := u.Write(b); err != nil {
			return err
		}
		r.advance(int64(len(b)))
	}
}

// store unfolds a layer and spools its files.
func (f File) store(ctx context.Context, u *cas.Unpacking, packed io.ReadCloser, limits Limits) ([]cas.LayerEntry, error) {
	defer packed.Close()
	var entries []*cas.LayerEntry
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(unpackParallel)
	buffer := make([]byte, 1<<20)
	err := f.walk(cancelableCloser{&cancelable{gctx, packed}, packed}, limits, func(e cas.LayerEntry, content io.Reader) error {
		entry := &e
		entries = append(entries, entry)
		if e.Kind != cas.EntryFile {
			return nil
		}
		if e.Size <= inMemory {
			b, err := io.ReadAll(io.LimitReader(content, inMemory+1))
			if err != nil {
				return err
			}
			group.Go(func() error {
				p, err := u.Spool(gctx, e.Size)
				if err != nil {
					return &storeError{err}
				}
				if _, err := p.Write(b); err != nil {
					return &storeError{errors.Join(err, p.Close())}
				}
				return seal(entry, p)
			})
			return nil
		}
		p, err := u.Spool(gctx, e.Size)
		if err != nil {
			return &storeError{err}
		}
		if err := spool(p, content, buffer); err != nil {
			return errors.Join(err, p.Close())
		}
		group.Go(func() error { return seal(entry, p) }) // while the next entry is read
		return nil
	})
	if perr := group.Wait(); perr != nil {
		return nil, perr // why the pass was given up, if it was
	}
	if err != nil {
		return nil, err
	}
	list := make([]cas.LayerEntry, len(entries))
	for i, e := range entries {
		list[i] = *e
	}
	return list, nil
}

// seal makes a file durable and notes what it is.
func seal(e *cas.LayerEntry, p *cas.Spool) (err error) {
	if e.Blob, e.Size, err = p.Seal(); err != nil {
		return &storeError{err}
	}
	return nil
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

// wholeFile is the path of the one entry of a compressed file. Each artifact
// names it as it likes.
const wholeFile = "file"

// walk visits the entries of a layer. A compressed raw layer is one entry whose
// size is not known before.
func (f File) walk(packed io.ReadCloser, limits Limits, visit func(cas.LayerEntry, io.Reader) error) error {
	r, err := unfold(packed, f.Compression, f.Desc.Size, limits)
	if err != nil {
		return err
	}
	defer r.Close()
	if f.Tar {
		return walkTar(r, limits, f.Desc.Size, f.keep, visit)
	}
	most := limits.FileBytes
	one := &bounded{ReadCloser: r, left: most, most: most}
	err = visit(cas.LayerEntry{Path: wholeFile, Kind: cas.EntryFile, Size: max(most, inMemory+1)}, one)
	return formatError(string(f.Compression), err)
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

// cancelableCloser is one that can be closed.
type cancelableCloser struct {
	io.Reader
	io.Closer
}

// maxListed bounds the names in all packed layers of a model together; a tree
// has at most 100,000 files.
const maxListed = 200_000

// Entries lists the model's files for [cas.Store.BuildTree], once Fetch has
// brought every layer in. It is [cas.ErrNotFound] when one is not there.
func (a *Artifact) Entries(ctx context.Context, st *cas.Store) ([]cas.TreeEntry, error) {
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
	var overlay [][]cas.LayerEntry
	names := 0
	for _, f := range a.Files {
		if !f.packed() {
			if err := add(cas.TreeEntry{Path: f.Path, Blob: f.Desc.Digest, Executable: f.Mode&0o111 != 0}); err != nil {
				return nil, err
			}
			continue
		}
		list, err := st.Layer(ctx, f.Desc.Digest, f.reading())
		if err != nil {
			return nil, err
		}
		if names += len(list); names > maxListed {
			return nil, fmt.Errorf("%w: the packed layers hold more than %d names", ErrTooLarge, maxListed)
		}
		if a.Format == FormatImage {
			overlay = append(overlay, list)
			continue
		}
		for _, e := range list {
			name, mode := path.Join(f.Path, e.Path), e.Mode
			if !f.Tar {
				name, mode = f.Path, f.Mode
			}
			switch e.Kind {
			case cas.EntryDir:
				continue
			case cas.EntryFile:
			default:
				return nil, fmt.Errorf("%w: layer %s: %q is a link; only models in images may hold links", ErrFormat, f.Desc.Digest, e.Path)
			}
			if f.Under != "" && e.Path != f.Under && !strings.HasPrefix(e.Path, f.Under+"/") {
				return nil, fmt.Errorf("%w: layer %s: %q is outside of the layer's directory %q", ErrPath, f.Desc.Digest, e.Path, f.Under)
			}
			if err := CheckPath(name); err != nil {
				return nil, err
			}
			if err := add(cas.TreeEntry{Path: name, Blob: e.Blob, Executable: mode&0o111 != 0}); err != nil {
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

// Here says whether the store has a blob of the artifact, or the files of a
// packed layer.
func (a *Artifact) Here(ctx context.Context, st *cas.Store, d digest.Digest) bool {
	for _, f := range a.Files {
		if f.Desc.Digest == d && f.packed() {
			_, err := st.Layer(ctx, d, f.reading())
			return err == nil
		}
	}
	stat, err := st.Stat(d)
	return err == nil && !stat.Suspect
}
