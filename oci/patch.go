package oci

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FetchRange brings the bytes [off, off+n) of one blob and writes them to w at
// their offsets in the blob: what a repair needs. The first source that serves
// them all is taken. They are checked against nothing here; the caller hashes
// the whole blob. It returns how many bytes came over the wire.
func (c *Client) FetchRange(ctx context.Context, ref Reference, mirrors []string, blob ocispec.Descriptor, off, n int64, w io.WriterAt) (int64, error) {
	if err := checkDescriptor(blob); err != nil {
		return 0, err
	}
	if off < 0 || n <= 0 || off > blob.Size-n {
		return 0, fmt.Errorf("blob %s has no bytes %d to %d", blob.Digest, off, off+n)
	}
	sources, err := c.sources(ref, mirrors)
	if err != nil {
		return 0, err
	}
	var wire int64
	var failed []error
	for _, s := range sources {
		err := c.repeat(ctx, s.budget(), func() error {
			return c.attempt(ctx, s.budget(), 0, func(ctx context.Context) error {
				got, err := readRange(ctx, s, blob, off, n, w)
				wire += got
				return err
			})
		})
		if err == nil {
			return wire, nil
		}
		failed = append(failed, err)
	}
	return wire, fmt.Errorf("blob %s, bytes %d to %d: %w", blob.Digest, off, off+n, errors.Join(failed...))
}

func readRange(ctx context.Context, s source, blob ocispec.Descriptor, off, n int64, w io.WriterAt) (int64, error) {
	st, err := s.read(ctx, blob, off, n)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	// A source that ignores ranges sends the whole blob: what comes before is skipped.
	if st.off > off || st.off+st.n < off+n {
		return 0, &SourceError{Source: s.String(), What: "blob " + blob.Digest.String(), Err: fmt.Errorf("%w: it serves other bytes than asked for", ErrUnavailable)}
	}
	skip := off - st.off
	if _, err := io.CopyN(io.Discard, st, skip); err != nil {
		return 0, &SourceError{Source: s.String(), What: "blob " + blob.Digest.String(), Err: fmt.Errorf("%w: %v", ErrUnavailable, err)}
	}
	got, err := io.CopyBuffer(io.NewOffsetWriter(w, off), &contextReader{ctx, io.LimitReader(st, n)}, make([]byte, 1<<20))
	if err == nil && got < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = &SourceError{Source: s.String(), What: "blob " + blob.Digest.String(), Err: fmt.Errorf("%w: %v", ErrUnavailable, err)}
	}
	return skip + got, err
}
