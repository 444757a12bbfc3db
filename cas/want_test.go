package cas_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// everything lets go of all that may go.
const everything = 1 << 60

// A root that is wanted stays although nobody pinned it, and the result says so.
func TestGCKeepsWantedRoots(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	models := map[string]model{"wanted": install(t, s, l, 1), "spare": install(t, s, l, 2), "pinned": install(t, s, l, 3), "rootless": install(t, s, l, 4)}
	for name, m := range models {
		if name == "rootless" {
			continue
		}
		r := m.ref(name)
		r.Pinned = name == "pinned"
		must(t, s.PutRef(t.Context(), r))
	}
	must(t, l.Release())
	o := cas.GCOptions{MinFree: everything, Proc: "/proc", Wanted: func(context.Context) ([]cas.Want, error) {
		return []cas.Want{{Ref: "wanted"}, {Ref: "pinned"}, {Ref: "rootless", Digests: []digest.Digest{models["rootless"].manifest}}}, nil
	}}
	plan, err := s.PlanGC(t.Context(), o)
	must(t, err)
	r, err := s.GC(t.Context(), o)
	must(t, err)
	for name, m := range models {
		if kept := m.present(t, s); kept != (name != "spare") {
			t.Errorf("%s: present %v", name, kept)
		}
	}
	for _, p := range []cas.GCPlan{*plan, r.GCPlan} {
		if !slices.Equal(p.Unpinned, []string{"wanted"}) || !slices.Equal(p.Missing, []string{"rootless"}) {
			t.Errorf("unpinned %v, missing %v", p.Unpinned, p.Missing)
		}
	}
	if i := item(t, r, "ref", "wanted"); i.Action != cas.Keep || i.Reason != "wanted, but not pinned" {
		t.Errorf("%+v", i)
	}
}

// A root that becomes wanted after the plan stays.
func TestGCAsksAgainWhatIsWanted(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	late, rootless := install(t, s, l, 1), install(t, s, l, 2)
	must(t, s.PutRef(t.Context(), late.ref("late")))
	must(t, l.Release())
	asked := 0
	r, err := s.GC(t.Context(), cas.GCOptions{MinFree: everything, Proc: "/proc", Wanted: func(context.Context) ([]cas.Want, error) {
		if asked++; asked == 1 {
			return nil, nil
		}
		return []cas.Want{{Ref: "late"}, {Ref: "rootless", Digests: []digest.Digest{rootless.manifest}}}, nil
	}})
	must(t, err)
	if !late.present(t, s) || !rootless.present(t, s) {
		t.Errorf("late %v, without a root %v", late.present(t, s), rootless.present(t, s))
	}
	if i := item(t, r, "ref", "late"); i.Action != cas.Keep || !slices.Equal(r.Unpinned, []string{"late"}) {
		t.Errorf("%+v, unpinned %v", i, r.Unpinned)
	}
}

// Nothing goes while nobody can tell what is wanted, neither by the plan nor
// when the plan is carried out.
func TestGCFailsClosedOnWanted(t *testing.T) {
	for fails := 1; fails <= 2; fails++ {
		s := newStore(t)
		l := lease(t, s)
		m, garbage := install(t, s, l, 1), install(t, s, l, 2)
		must(t, s.PutRef(t.Context(), m.ref("m")))
		must(t, l.Release())
		broken := errors.New("a record is damaged")
		asked := 0
		_, err := s.GC(t.Context(), cas.GCOptions{MinFree: everything, Proc: "/proc", Wanted: func(context.Context) ([]cas.Want, error) {
			if asked++; asked == fails {
				return nil, broken
			}
			return nil, nil
		}})
		wantError(t, err, broken)
		if !m.present(t, s) || !garbage.present(t, s) {
			t.Errorf("error at look %d: present %v and %v", fails, m.present(t, s), garbage.present(t, s))
		}
	}
}

// A use that is noted after the plan spares the root and what it names; it is
// no change of roots by the generation.
func TestGCSparesWhatARootNamesThatIsTouched(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	must(t, s.PutRef(t.Context(), m.ref("m")))
	must(t, l.Release())
	asked := 0
	r, err := s.GC(t.Context(), cas.GCOptions{MinFree: everything, Proc: "/proc", Wanted: func(ctx context.Context) ([]cas.Want, error) {
		if asked++; asked == 1 {
			// After its identity was read for the plan, and before the refs are locked.
			return nil, s.Touch(ctx, "m", time.Now().Add(time.Hour))
		}
		return nil, nil
	}})
	must(t, err)
	if _, err := s.Ref("m"); err != nil || !m.present(t, s) {
		t.Errorf("the model is there: %v; its root: %v", m.present(t, s), err)
	}
	if i := item(t, r, "ref", "m"); i.Action != cas.Keep {
		t.Errorf("%+v", i)
	}
}
