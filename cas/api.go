package cas

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

var errPending = errors.New("cas: being built")

type ScrubOptions struct {
	Budget     int64
	Parallel   int
	OnProgress func(done, total int64)
}
type ScrubResult struct {
	Blobs    int       `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Findings []Finding `json:"findings"`
}

func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (ScrubResult, error) {
	return ScrubResult{}, errPending
}
func (s *Store) Repair(ctx context.Context, d digest.Digest, fetch func(ctx context.Context, off, n int64, w io.WriterAt) error) error {
	return errPending
}
