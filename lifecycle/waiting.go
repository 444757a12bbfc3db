package lifecycle

import (
	"context"
	"fmt"
	"time"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/snapshot"
)

// sayEvery is how long a source may be silent until it is said on the screen.
const sayEvery = 5 * time.Second

// audible is a source that is not waited for in silence.
type audible struct {
	snapshot.Source
	name string
	to   progress.Sink
}

func (s audible) Fetch(ctx context.Context, file string, max int64) ([]byte, error) {
	over := make(chan struct{})
	defer close(over)
	began := time.Now()
	go func() {
		t := time.NewTicker(sayEvery)
		defer t.Stop()
		for {
			select {
			case <-over:
				return
			case now := <-t.C:
				s.to.Emit(progress.Event{Kind: progress.Note, Source: s.name, Message: fmt.Sprintf("the snapshot's source has not sent %s for %s", file, now.Sub(began).Round(time.Second))})
			}
		}
	}()
	return s.Source.Fetch(ctx, file, max)
}
