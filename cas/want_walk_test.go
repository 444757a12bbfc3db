package cas_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// TestWantedSchedules goes through the orders in which a collection on a disk
// that is too full, and a user of a root that it may evict, can take their
// steps: a root is there with all that it names, or not at all, and one that
// was pinned is there.
func TestWantedSchedules(t *testing.T) {
	root := filepath.Join(fastDir(t), "store")
	s := open(t, root, cas.Options{})
	proc := quietProc(t)
	wanted := false
	wants := func(context.Context) ([]cas.Want, error) {
		if wanted {
			return []cas.Want{{Ref: "a"}}, nil
		}
		return nil, nil
	}
	evict := func(s *cas.Store) error {
		_, err := s.GC(context.Background(), cas.GCOptions{Proc: proc, HighPercent: 1, MinFree: everything, Wanted: wants})
		return err
	}
	touch := func(s *cas.Store) error {
		err := s.Touch(context.Background(), "a", time.Now())
		if errors.Is(err, cas.ErrNotFound) {
			return nil
		}
		return err
	}
	// A pin is what makes a root wanted; without its root there is nothing to want.
	pin := func(s *cas.Store) error {
		r, err := s.Ref("a")
		if err == nil {
			r.Pinned = true
			err = s.PutRef(context.Background(), r)
		}
		if errors.Is(err, cas.ErrNotFound) {
			return nil
		}
		wanted = err == nil
		return err
	}
	inactive := func() {
		wanted = false
		drop(t, s)
		_, err := s.GC(context.Background(), cas.GCOptions{Proc: proc})
		must(t, err)
		must(t, pullSmall(s, "a"))
	}
	whole := func() error {
		r, err := s.Ref("a")
		if errors.Is(err, cas.ErrNotFound) && !wanted {
			return nil
		}
		if err != nil {
			return err
		}
		for _, d := range r.Blobs {
			if err := checkBlob(s, d); err != nil {
				return err
			}
		}
		return s.CheckTree(t.Context(), r.Tree)
	}
	free := func() bool {
		return !locked(t, filepath.Join(root, "lock")) && !locked(t, filepath.Join(root, "refs/.lock"))
	}
	for _, c := range []struct {
		name string
		a, b *actor
	}{ // no eviction in a use: that has the lock of the refs all the time
		{"use in an eviction", newActor(t, root, free, evict), newActor(t, root, free, touch)},
		{"pin in an eviction", newActor(t, root, free, evict), newActor(t, root, free, pin)},
		{"eviction in a pin", newActor(t, root, free, pin), newActor(t, root, free, evict)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if n := schedules(t, c.a, c.b, 3, inactive, whole); n < 10 {
				t.Errorf("only %d schedules", n)
			}
		})
	}
}

// TestWantedWalk makes models wanted and not, in all the ways that forget a pin
// or lose a root, with a collection after each step that frees what it may: no
// byte of what is wanted goes, and nothing of what is not stays.
func TestWantedWalk(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			at := t.TempDir()
			mount(t, "tmpfs", at, "size=8m")
			s := open(t, filepath.Join(at, "store"), cas.Options{})
			rng := rand.New(rand.NewPCG(seed, 12))
			const models = 3
			var ms [models]model
			var wanted, late [models]bool
			name := func(n int) string { return fmt.Sprint("net/m", n) }
			install3 := func() {
				l := lease(t, s)
				for n := range models {
					ms[n] = install(t, s, l, uint64(n+1))
					if _, err := s.Ref(name(n)); errors.Is(err, cas.ErrNotFound) && !wanted[n] {
						must(t, s.PutRef(t.Context(), ms[n].ref(name(n))))
					}
				}
				must(t, l.Release())
			}
			repin := func(n int, pinned bool) {
				r, err := s.Ref(name(n))
				if errors.Is(err, cas.ErrNotFound) {
					return
				}
				must(t, err)
				r.Pinned = pinned
				must(t, s.PutRef(t.Context(), r))
			}
			for step := range 25 {
				install3()
				late = [models]bool{}
				for range 1 + rng.IntN(3) {
					switch n := rng.IntN(models); rng.IntN(7) {
					case 0:
						wanted[n] = true
						repin(n, true)
					case 1: // the pin is forgotten
						wanted[n] = true
						repin(n, false)
					case 2:
						wanted[n] = false
						repin(n, false)
					case 3:
						must(t, unlessNotFound(s.Touch(t.Context(), name(n), time.Now())))
					case 4: // the root of something is lost
						must(t, unlessNotFound(s.DeleteRef(t.Context(), name(n))))
					case 5: // wanted only once the plan is made
						late[n] = !wanted[n]
					case 6:
						repin(n, rng.IntN(2) == 0)
					}
				}
				asked := 0
				o := cas.GCOptions{HighPercent: 2, LowPercent: 1, Proc: "/proc", Wanted: func(context.Context) ([]cas.Want, error) {
					asked++
					var out []cas.Want
					for n := range models {
						if wanted[n] || asked > 1 && late[n] {
							out = append(out, cas.Want{Ref: name(n), Digests: []digest.Digest{ms[n].manifest}})
						}
					}
					return out, nil
				}}
				r, err := s.GC(t.Context(), o)
				must(t, err)
				if asked < 2 {
					t.Fatalf("step %d: asked %d times", step, asked)
				}
				for n := range models {
					wanted[n] = wanted[n] || late[n]
					pinned := false
					if ref, err := s.Ref(name(n)); err == nil {
						pinned = ref.Pinned
					}
					switch there := ms[n].present(t, s); {
					case wanted[n] && (!there || s.CheckTree(t.Context(), ms[n].manifest) != nil):
						t.Fatalf("step %d: a wanted model went: %+v", step, r.Items)
					case !wanted[n] && !pinned && there:
						t.Fatalf("step %d: a model that nobody wants stayed: %+v", step, r.Items)
					}
				}
			}
		})
	}
}

func unlessNotFound(err error) error {
	if errors.Is(err, cas.ErrNotFound) {
		return nil
	}
	return err
}
