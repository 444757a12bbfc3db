package lifecycle

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// TestPortalIsNoIncident: what stands between the node and its source says
// nothing about the network.
func TestPortalIsNoIncident(t *testing.T) {
	_, n := installed(t)
	for name, h := range map[string]http.HandlerFunc{
		"a login page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>log in</html>")
		},
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.HTTPSource(nil, srv.URL), SourceName: srv.URL})
			if err != nil || res.SnapshotFailure == nil || res.SnapshotFailure.Cause != CauseUnavailable {
				t.Fatalf("got %+v, %v", res.SnapshotFailure, err)
			}
			if ins, _ := n.Incidents("", 0); len(ins) != 0 {
				t.Errorf("incidents: %+v", ins)
			}
		})
	}
	for _, class := range []error{oci.ErrFormat, oci.ErrDigest, oci.ErrTooLarge} {
		if f := AsFailure(fmt.Errorf("%w: timestamp.json: %w", snapshot.ErrSource, class)); f.Cause != CauseUnavailable {
			t.Errorf("%v of a snapshot source is %s", class, f.Cause)
		}
	}
}

// clocked is installed with a clock that can be set wrong.
func clocked(t *testing.T, change func(w *network)) (w *network, n *Node, wrong *time.Duration) {
	t.Helper()
	w = newNetwork(t)
	if change != nil {
		change(w)
	}
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	wrong = new(time.Duration)
	n = w.node(func(o *Options) { o.Now = func() time.Time { return time.Now().Add(*wrong) } })
	w.sync(n)
	w.state(n, "tiny@v1", Pending)
	return w, n, wrong
}

const year = 365 * 24 * time.Hour

// TestLateSnapshotWithdraws: a clock that is ahead keeps no revocation out, by
// whichever way it comes.
func TestLateSnapshotWithdraws(t *testing.T) {
	for _, how := range []string{"sync", "apply"} {
		t.Run(how, func(t *testing.T) {
			w, n, wrong := clocked(t, nil)
			r := w.state(n, "tiny@v1", Pending)
			w.must(w.repo.Revoke(snapshot.Revocation{Digest: r.Manifest, Reason: "found harmful"}))
			bundle := w.publish()
			*wrong = 2 * year
			if how == "sync" {
				res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site), SourceName: w.site})
				if err != nil || res.SnapshotFailure == nil || res.SnapshotFailure.Cause != CauseSnapshot || !res.Changed {
					t.Fatalf("%+v, %v", res, err)
				}
			} else {
				acc, outs, err := n.Apply(context.Background(), bundle, "push file")
				if f := AsFailure(err); f == nil || f.Cause != CauseSnapshot || acc == nil || len(outs) != 1 || outs[0].Verb != Quarantine {
					t.Fatalf("%+v, %+v, %v", acc, outs, err)
				}
			}
			if r := w.state(n, "tiny@v1", Failed); r.Cause != CauseRevoked {
				t.Errorf("%+v", r)
			}
			acc, err := n.Current()
			w.must(err)
			if acc.Freshness == snapshot.Fresh || len(acc.Document.Revocations) != 1 {
				t.Errorf("%s, %+v", acc.Freshness, acc.Document.Revocations)
			}
		})
	}
}

// TestClockAheadDeletesNothing: a clock that is ahead neither removes what is
// not listed before its grace, nor puts its removal off when it is right again.
func TestClockAheadDeletesNothing(t *testing.T) {
	const grace = 48 * time.Hour
	for _, c := range []struct {
		name string
		then []time.Duration // how wrong the clock is, pass by pass, from when it is dropped
	}{
		{"ahead after it was dropped", []time.Duration{0, 2 * year, 2 * year}},
		{"ahead when it was dropped", []time.Duration{2 * year, 2 * year}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, n, wrong := clocked(t, func(w *network) {
				w.must(w.repo.Edit(func(s *snapshot.Snapshot) error {
					s.Settings.RemoveUnlistedAfter = snapshot.Duration(grace)
					return nil
				}))
			})
			w.must(w.repo.RemoveModel("tiny", "v1"))
			w.publish()
			for _, *wrong = range c.then {
				w.sync(n)
				if r := w.state(n, "tiny@v1", Inactive); r.Tree == "" {
					t.Errorf("removed: %+v", r)
				}
			}
			*wrong = 0
			_, _, err := n.ForgetTime(context.Background())
			w.must(err)
			w.sync(n)
			w.state(n, "tiny@v1", Inactive)
			*wrong = grace + time.Minute // less than any term
			w.sync(n)
			w.state(n, "tiny@v1", Absent)
		})
	}
}

// TestClockBackRevivesNothing: passes write down the time.
func TestClockBackRevivesNothing(t *testing.T) {
	w, n, wrong := clocked(t, nil)
	*wrong = 8 * 24 * time.Hour // past the timestamp's term
	if res, err := n.Sync(context.Background(), SyncOptions{}); err != nil || res.Plan.Freshness != snapshot.Stale {
		t.Fatalf("%+v, %v", res, err)
	}
	*wrong = 0
	res, err := n.Sync(context.Background(), SyncOptions{})
	w.must(err)
	if res.Plan.Freshness != snapshot.Stale {
		t.Errorf("%s after the clock went back", res.Plan.Freshness)
	}
	was, now, err := n.ForgetTime(context.Background())
	w.must(err)
	if was.Sub(now) < 6*24*time.Hour {
		t.Errorf("seen %s, now %s", was, now)
	}
	if acc, err := n.Current(); err != nil || acc.Freshness != snapshot.Fresh {
		t.Errorf("%+v, %v", acc, err)
	}
}

// TestLostFloorIsAnIncident: once, and the pass goes on.
func TestLostFloorIsAnIncident(t *testing.T) {
	w, n := installed(t)
	w.must(os.Remove(n.floorPath()))
	res, err := n.Sync(context.Background(), SyncOptions{})
	if err != nil || res.SnapshotFailure == nil || res.SnapshotFailure.Cause != CauseState || len(res.Outcomes) == 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	ins, err := n.Incidents("", 0)
	w.must(err)
	if len(ins) != 1 || ins[0].Kind != CauseState || !strings.Contains(ins[0].Found, n.floorPath()) || !strings.Contains(ins[0].Action, "raised again") {
		t.Errorf("incidents: %+v", ins)
	}
	res, err = n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
	w.must(err)
	if res.SnapshotFailure != nil {
		t.Errorf("%+v", res.SnapshotFailure)
	}
	if ins, _ := n.Incidents("", 0); len(ins) != 1 {
		t.Errorf("incidents: %+v", ins)
	}
}

// TestTimesOfAWrongClock: what a clock that was ahead wrote into a record puts
// nothing off for years.
func TestTimesOfAWrongClock(t *testing.T) {
	doc := testDoc()
	doc.Settings.RetestInterval = snapshot.Duration(24 * time.Hour)
	active := validated(doc)
	for _, c := range []struct {
		name string
		r    *Record
		verb Verb
	}{
		{"a wait that was set", record(Failed, func(r *Record) { r.RetryAfter = testNow.Add(5 * time.Hour) }), Wait},
		{"a wait for years", record(Failed, func(r *Record) { r.RetryAfter = testNow.Add(2 * year) }), Install},
		{"tested an hour ago", record(Active, active), Keep},
		{"tested years ahead", record(Active, active, func(r *Record) { r.Tested = testNow.Add(2 * year) }), Retest},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := inputs(doc, c.r)
			for _, a := range MakePlan(in).Actions {
				if a.ID() == c.r.ID() && a.Verb != c.verb {
					t.Errorf("%s: %s, want %s", a.Verb, a.Reason, c.verb)
				}
			}
		})
	}
}
