package lifecycle

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/runner"
)

// engine is what a node asks of a container engine; see [runner.Engine] for
// the methods. Tests put another in its place.
type engine interface {
	Validate(ctx context.Context, j runner.Job) (*runner.Verdict, error)
	Ask(ctx context.Context, j runner.Job, prompt string, w io.Writer) (*runner.Verdict, error)
	Keep(ctx context.Context, j runner.Job, limit time.Duration, ready func(runner.Kept)) (*runner.Verdict, error)
	RemoveOrphans(ctx context.Context, stateDir string) (removed []string, err error)
	RemoveImages(ctx context.Context, stateDir, lock string, keep []digest.Digest) (removed []string, err error)
}
