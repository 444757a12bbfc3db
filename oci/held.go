package oci

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
)

// held is the store as a source of a packed layer that it has: earlier versions
// kept them beside their files. Its bytes are checked like any other source's.
type held struct{ st *cas.Store }

func (h held) String() string { return "the store " + h.st.Root() }
func (h held) budget() *host  { return nil }

func (h held) fail(what string) error {
	return &SourceError{Source: h.String(), What: what, Err: ErrNotFound}
}

func (h held) manifest(_ context.Context, reference string, _ int64) ([]byte, string, error) {
	return nil, "", h.fail("manifest " + reference)
}

func (h held) read(_ context.Context, blob ocispec.Descriptor, off, n int64) (*stream, error) {
	what := "blob " + blob.Digest.String()
	b, err := h.st.Open(blob.Digest)
	if err != nil {
		return nil, &SourceError{Source: h.String(), What: what, Err: fmt.Errorf("%w: %w", ErrNotFound, err)}
	}
	if b.Size() != blob.Size {
		b.Close()
		return nil, h.fail(what)
	}
	return &stream{ReadCloser: section{io.NewSectionReader(b, off, n), b}, off: off, n: n}, nil
}

func (h held) referrers(_ context.Context, d digest.Digest, _ int) ([]ocispec.Descriptor, error) {
	return nil, h.fail("referrers of " + d.String())
}
