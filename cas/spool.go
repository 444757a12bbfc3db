package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
)

// Spool is the writer of one file of an [Unpacking]: a blob whose digest is not
// known before. The bytes are hashed on their way to the disk. It writes in
// order. Its methods are for one goroutine.
type Spool struct {
	u    *Unpacking
	s    *Store
	path string
	max  int64
	h    *hasher
	f    durable.File
	err  error // of a failed write; nothing can be published any more
}

// spaceStep is how many bytes of a layer are spooled between two looks at the
// free space; the first is before its first byte.
const spaceStep = 64 << 20

// Spool opens the writer of a file of at most limit bytes.
func (u *Unpacking) Spool(ctx context.Context, limit int64) (*Spool, error) {
	if limit < 0 || limit > MaxSize {
		return nil, fmt.Errorf("%w: spool of %d bytes; a blob has at most %d", ErrInvalid, limit, int64(MaxSize))
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	s := u.s
	// While the lease lives, a collector leaves the file alone.
	p := &Spool{u: u, s: s, max: limit, h: newHasher(), path: filepath.Join(s.path("ingest"), ".spool-"+u.l.ID()+"-"+randomID())}
	var err error
	if p.f, err = s.fs.OpenFile(p.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return nil, fmt.Errorf("spool: %w", noSpace(err))
	}
	return p, nil
}

// Write appends b. More than the limit is [ErrInvalid]; after an error the
// spool can only be closed.
func (p *Spool) Write(b []byte) (int, error) {
	if p.f == nil {
		return 0, fmt.Errorf("%w: spool", ErrClosed)
	}
	if p.err == nil {
		p.err = p.write(b)
	}
	if p.err != nil {
		return 0, p.err
	}
	return len(b), nil
}

func (p *Spool) write(b []byte) error {
	at := p.h.off
	n := int64(len(b))
	if n > p.max-at {
		return fmt.Errorf("%w: spool of more than %d bytes", ErrInvalid, p.max)
	}
	if before := p.u.spooled.Add(n) - n; before == 0 || before%spaceStep+n >= spaceStep {
		free, _, err := p.s.free()
		if err != nil {
			return err
		}
		if free -= p.s.minFree; free < n {
			return &NoSpaceError{Need: n, Free: max(0, free), Path: p.s.root}
		}
	}
	err := p.h.hashWhile(b, func() error {
		_, err := p.f.WriteAt(b, at)
		return err
	})
	if err == nil && at/writebackBytes != p.h.off/writebackBytes {
		from := at / writebackBytes * writebackBytes
		err = p.f.StartWriteback(from, p.h.off-from)
	}
	if err != nil {
		return fmt.Errorf("spool: %w", noSpace(err))
	}
	return nil
}

// Seal makes what was written durable, without a name, and returns its digest
// and size. The spool is closed in any case.
func (p *Spool) Seal() (_ digest.Digest, size int64, err error) {
	if p.f == nil {
		return "", 0, fmt.Errorf("%w: spool", ErrClosed)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if p.err != nil {
		return "", 0, p.err
	}
	d := p.h.digest()
	k, err := keyOf(d)
	if err != nil {
		return "", 0, err
	}
	if err := sealData(p.f); err != nil {
		return "", 0, fmt.Errorf("spool %s: %w", d, noSpace(err))
	}
	f := p.f
	p.f = nil
	if err := f.Close(); err != nil {
		return "", 0, fmt.Errorf("spool %s: %w", d, errors.Join(noSpace(err), p.s.fs.Unlink(p.path)))
	}
	return d, p.h.off, p.u.keep(sealedFile{k, p.path, p.h.finish()})
}

// Close forgets what was not sealed. It may be called more than once.
func (p *Spool) Close() error {
	if p.f == nil {
		return nil
	}
	err := p.f.Close()
	p.f = nil
	if gone := p.s.fs.Unlink(p.path); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// hashWhile hashes the next bytes b while write writes them. Short ones are
// not worth a second goroutine.
func (h *hasher) hashWhile(b []byte, write func() error) error {
	var other sync.WaitGroup
	if len(b) < handOver {
		h.sumBytes(b)
	} else {
		other.Go(func() { h.sumBytes(b) })
	}
	err := write()
	h.mapBytes(b)
	other.Wait()
	h.advance(len(b))
	return err
}
