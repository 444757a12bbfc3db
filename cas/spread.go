package cas

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// spreadOver is how many small files are worth a goroutine.
const spreadOver = 32

// spread calls do with 0 to n-1 on all processors, in order where there is one
// goroutine, and waits. An error or the end of ctx keeps it from going on.
func spread(ctx context.Context, n int, do func(int) error) error {
	return spreadOn(ctx, runtime.GOMAXPROCS(0), n, do)
}

// deleters is how many files are deleted at once: a file system that discards
// freed blocks lets each wait for the disk.
const deleters = 16

// spreadOn is spread for at most so many goroutines.
func spreadOn(ctx context.Context, most, n int, do func(int) error) error {
	workers := min(most, (n+spreadOver-1)/spreadOver)
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := context.Cause(gctx); err != nil {
					return err
				}
				if err := do(i); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}
