package cas_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

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

// Whatever lease is taken, a collection can read: one that it could not would
// keep it from freeing anything.
func TestLargestLease(t *testing.T) {
	const most = 1 << 19
	s := newStore(t)
	roots := make([]digest.Digest, most+1)
	for n := range roots {
		roots[n] = digest.Digest(fmt.Sprintf("sha256:%064x", n))
	}
	_, err := s.TokenLease(t.Context(), "too many", time.Hour, roots...)
	wantError(t, err, cas.ErrInvalid)
	token, err := s.TokenLease(t.Context(), "many", time.Hour, roots[:most]...)
	if err != nil {
		t.Fatal(err)
	}
	l := lease(t, s)
	if err := l.Add(t.Context(), roots[:most]...); err != nil {
		t.Fatal(err)
	}
	wantError(t, l.Add(t.Context(), roots[most]), cas.ErrInvalid)
	plan, err := s.PlanGC(t.Context(), cas.GCOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Dropped != 0 {
		t.Errorf("the plan drops %d items", plan.Dropped)
	}
	if err := s.ReleaseToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
}
