package cas_test

import (
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/cas"
)

func TestLeaseMisuse(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	for range 2 {
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, l.Add(t.Context(), name(1)), cas.ErrReleased)
	_, err := s.Ingest(t.Context(), l, name(1), 1, cas.IngestOptions{})
	wantError(t, err, cas.ErrReleased)
	wantError(t, s.Renew(t.Context(), "t-../../x", time.Hour), cas.ErrInvalid)
	wantError(t, s.Renew(t.Context(), cas.Token("t-"+strings.Repeat("0", 32)), time.Hour), cas.ErrNotFound)
}
