// Package orasstore is a [cas.Store] as oras-go's content.Storage, for programs
// that copy artifacts with oras.CopyGraph into a node's store or out of it. It
// adds nothing to what the store promises: pushed bytes are published only if
// they hash to their descriptor's digest, fetched ones were.
package orasstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"

	"github.com/resultity/rmodels/cas"
)

// Storage is a store and the lease that protects what is copied until a ref
// names it. Its methods may be called from any goroutine.
type Storage struct {
	store *cas.Store
	lease *cas.Lease
}

var _ content.Storage = Storage{}

// New makes a Storage whose pushes are announced in l.
func New(s *cas.Store, l *cas.Lease) Storage { return Storage{s, l} }

// Fetch opens a published blob of the descriptor's size. A blob that failed a
// check is refused with [cas.ErrSuspect].
func (s Storage) Fetch(_ context.Context, target ocispec.Descriptor) (io.ReadCloser, error) {
	b, err := s.store.Open(target.Digest)
	if err != nil {
		return nil, classed(err)
	}
	if b.Size() != target.Size {
		return nil, errors.Join(wrongSize(target, b.Size()), b.Close())
	}
	return b, nil
}

// Exists tells whether Fetch would find the blob. It is in the lease from
// then on, since whoever asks goes on to rely on the answer.
func (s Storage) Exists(ctx context.Context, target ocispec.Descriptor) (bool, error) {
	if err := s.lease.Add(ctx, target.Digest); err != nil {
		return false, err
	}
	st, err := s.store.Stat(target.Digest)
	switch {
	case errors.Is(err, cas.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case st.Size != target.Size:
		return false, wrongSize(target, st.Size)
	}
	return !st.Suspect, nil // a suspect one is to be pushed again
}

// Push reads the descriptor's bytes and publishes them. What an interrupted
// push has left is not written again; what does not hash to the digest leaves
// nothing.
func (s Storage) Push(ctx context.Context, expected ocispec.Descriptor, r io.Reader) error {
	i, err := s.store.Ingest(ctx, s.lease, expected.Digest, expected.Size, cas.IngestOptions{})
	if err != nil {
		return classed(err)
	}
	if err := copyMissing(i, r, expected); err != nil {
		return errors.Join(fmt.Errorf("push %s: %w", expected.Digest, err), i.Close())
	}
	if err := i.Commit(ctx); err != nil {
		return errors.Join(err, i.Discard())
	}
	return nil
}

// copyMissing reads all of r and writes what the ingest does not have.
func copyMissing(i *cas.Ingest, r io.Reader, expected ocispec.Descriptor) error {
	at := int64(0)
	for _, missing := range i.Missing() {
		if _, err := io.CopyN(io.Discard, r, missing.Off-at); err != nil {
			return short(err)
		}
		if _, err := io.CopyN(io.NewOffsetWriter(i, missing.Off), r, missing.Len); err != nil {
			return short(err)
		}
		at = missing.Off + missing.Len
	}
	n, err := io.Copy(io.Discard, io.LimitReader(r, expected.Size-at+1))
	if err == nil && at+n != expected.Size {
		err = wrongSize(expected, at+n)
	}
	return err
}

func short(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", cas.ErrIncomplete, io.ErrUnexpectedEOF)
	}
	return err
}

func wrongSize(d ocispec.Descriptor, size int64) error {
	return fmt.Errorf("%w: the descriptor of %s says %d bytes, and there are %d or more", cas.ErrInvalid, d.Digest, d.Size, size)
}

// classed adds oras-go's error class to the store's.
func classed(err error) error {
	switch {
	case errors.Is(err, cas.ErrNotFound):
		return fmt.Errorf("%w: %w", errdef.ErrNotFound, err)
	case errors.Is(err, cas.ErrExists):
		return fmt.Errorf("%w: %w", errdef.ErrAlreadyExists, err)
	}
	return err
}
