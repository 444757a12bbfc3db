package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/resultity/rmodels/internal/progress"
)

type silentSource struct{}

func (silentSource) Fetch(ctx context.Context, _ string, _ int64) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSilentSourceIsSaid: a snapshot source that hangs is named on the screen
// while it is waited for, and no longer.
func TestSilentSourceIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		s := audible{silentSource{}, "https://site.example", func(e progress.Event) { said = append(said, e.Source+": "+e.Message) }}
		if _, err := s.Fetch(ctx, "timestamp.json", 1); err == nil {
			t.Fatal("no error")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(said) != 2 || said[1] != "https://site.example: the snapshot's source has not sent timestamp.json for 10s" {
			t.Errorf("said %q", said)
		}
	})
}
