package cas_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// Whatever hashes a blob writes its chunk map again that is missing, cannot be
// read, or has the sums of other bytes.
func TestMapsAreWrittenAgain(t *testing.T) {
	b, d := content(1, 5<<20)
	other, e := content(2, 5<<20)
	harms := map[string]func(t *testing.T, s *cas.Store){
		"missing": func(t *testing.T, s *cas.Store) { must(t, os.Remove(mapPath(s, d))) },
		"damaged": func(t *testing.T, s *cas.Store) { damage(t, mapPath(s, d), 9) },
		"of other bytes": func(t *testing.T, s *cas.Store) {
			wrong, err := os.ReadFile(mapPath(s, e))
			must(t, err)
			must(t, os.Remove(mapPath(s, d)))
			must(t, os.WriteFile(mapPath(s, d), wrong, 0o444))
			r, err := s.Scrub(t.Context(), cas.ScrubOptions{})
			if err != nil || len(r.Findings) != 1 { // the map has the say over a scrub
				t.Fatalf("%+v, %v", r, err)
			}
		},
	}
	cures := map[string]func(t *testing.T, s *cas.Store) error{
		"verify": func(t *testing.T, s *cas.Store) error {
			found, err := s.Verify(t.Context(), []digest.Digest{d}, cas.VerifyOptions{})
			if len(found) > 0 {
				t.Errorf("%+v", found)
			}
			return err
		},
		"fsck": func(t *testing.T, s *cas.Store) error {
			_, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
			return err
		},
		"repair": func(t *testing.T, s *cas.Store) error {
			return s.Repair(t.Context(), d, func(_ context.Context, off, n int64, w io.WriterAt) error {
				_, err := w.WriteAt(b[off:off+n], off)
				return err
			})
		},
	}
	for harmed, harm := range harms {
		for cured, cure := range cures {
			t.Run(harmed+", "+cured, func(t *testing.T) {
				s := newStore(t)
				l := lease(t, s)
				put(t, s, l, b)
				put(t, s, l, other)
				right, err := os.ReadFile(mapPath(s, d))
				must(t, err)
				harm(t, s)
				must(t, cure(t, s))
				if got, err := os.ReadFile(mapPath(s, d)); err != nil || !bytes.Equal(got, right) {
					t.Errorf("the map has %d bytes, want %d; %v", len(got), len(right), err)
				}
				if r, err := s.Scrub(t.Context(), cas.ScrubOptions{}); err != nil || len(r.Findings) > 0 {
					t.Errorf("a scrub afterwards: %+v, %v", r, err)
				}
				if found, err := s.Fsck(t.Context(), cas.FsckOptions{}); err != nil || len(found) > 0 {
					t.Errorf("a check afterwards: %+v, %v", found, err)
				}
			})
		}
	}
}
