package snapshot_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// TestClockBack: what this node saw become stale or expire stays so when its
// clock goes back, also after a restart and under an equal offer.
func TestClockBack(t *testing.T) {
	for _, c := range []struct {
		name string
		seen time.Duration
		want snapshot.Freshness
	}{
		{"before the end of a term", 6 * days, snapshot.Fresh},
		{"past the first term", 7*days + time.Second, snapshot.Stale},
		{"at the end of the grace", 21 * days, snapshot.Stale},
		{"past the grace", 21*days + time.Second, snapshot.Expired},
		{"by years", 4000 * days, snapshot.Expired},
	} {
		t.Run(c.name, func(t *testing.T) {
			net := newNetwork(t)
			b := net.release()
			n := newNode(t, "mainnet", net.root())
			must1(n.Apply(b, net.now()))(t)
			check(t, n.Witness(t.Context(), start.Add(c.seen)))
			n.reopen()
			back := start.Add(time.Hour)
			if acc := must1(n.Current(back))(t); acc.Freshness != c.want {
				t.Errorf("%s after the clock went back, want %s", acc.Freshness, c.want)
			}
			_, err := n.Apply(b, back)
			if c.want == snapshot.Fresh {
				check(t, err)
				return
			}
			wantErr(t, err, snapshot.ErrExpired)
			if acc := must1(n.Current(back))(t); acc.Freshness != c.want {
				t.Errorf("%s after the same set was offered again", acc.Freshness)
			}
		})
	}
}

// TestClockWasAhead: however far a clock was ahead, the next renewal is taken
// for fresh; and a person can say at once that it was wrong.
func TestClockWasAhead(t *testing.T) {
	net := newNetwork(t)
	b := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b, net.now()))(t)
	wrong := start.AddDate(30, 0, 0)
	check(t, n.Witness(t.Context(), wrong))
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Expired {
		t.Errorf("%s", acc.Freshness)
	}
	net.forward(days)
	f := net.forge()
	f.renew(net.now().Add(7 * days))
	if acc := must1(n.Apply(f.bundle(), net.now()))(t); acc.Freshness != snapshot.Fresh {
		t.Errorf("a renewal after the clock was right again is %s: %s", acc.Freshness, acc.Reason)
	}
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Fresh {
		t.Errorf("%s: %s", acc.Freshness, acc.Reason)
	}

	check(t, n.Witness(t.Context(), wrong))
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Expired {
		t.Errorf("%s", acc.Freshness)
	}
	was := must1(n.ForgetTime(t.Context(), net.now()))(t)
	if !was.After(start.Add(20*days)) || was.After(start.Add(30*days)) {
		t.Errorf("the time seen was %s: it is believed to the end of the grace, and no further", was)
	}
	n.reopen()
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Fresh {
		t.Errorf("%s: %s", acc.Freshness, acc.Reason)
	}

	// An acceptance while the clock was ahead, within the terms, is forgotten too.
	must1(n.Apply(f.bundle(), net.now().Add(6*days)))(t)
	must1(n.ForgetTime(t.Context(), net.now()))(t)
	if acc := must1(n.Current(net.now()))(t); !acc.AcceptedAt.Equal(net.now()) {
		t.Errorf("accepted at %s", acc.AcceptedAt)
	}
}

// TestWitnessWritesSeldom: the time is written down when it moved by an hour or
// past the end of a term, not on every pass.
func TestWitnessWritesSeldom(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	check(t, n.Witness(t.Context(), net.now())) // nothing accepted: no term to believe a time by
	must1(n.Apply(net.release(), net.now()))(t)
	writes := 0
	last := string(mustRead(t, n.floor))
	for at := time.Duration(0); at <= 3*time.Hour; at += 10 * time.Minute {
		check(t, n.Witness(t.Context(), start.Add(at)))
		if now := string(mustRead(t, n.floor)); now != last {
			writes, last = writes+1, now
		}
	}
	if writes != 3 {
		t.Errorf("%d writes in three hours", writes)
	}
	check(t, n.Witness(t.Context(), start.Add(7*days-time.Minute)))
	check(t, n.Witness(t.Context(), start.Add(7*days+time.Minute)))
	if acc := must1(n.Current(start))(t); acc.Freshness != snapshot.Stale {
		t.Errorf("%s: the end of a term was not written down", acc.Freshness)
	}
}

// TestLateSetWithdraws: a set that verifies and is newer than what the node
// holds is in force for what it withdraws, fresh or not, and activates nothing.
func TestLateSetWithdraws(t *testing.T) {
	net := newNetwork(t)
	first := net.release()
	bad := snapshot.Revocation{Digest: testDigest("tinyv1"), Reason: "found harmful"}
	check(t, net.repo.Revoke(bad))
	second := net.release()
	site := t.TempDir()
	check(t, net.publish(site))
	for _, c := range []struct {
		name  string
		ahead time.Duration
		want  snapshot.Freshness
	}{
		{"a clock ahead by a month", 10 * days, snapshot.Stale},
		{"a clock ahead by years", 4000 * days, snapshot.Expired},
	} {
		for _, how := range []string{"push", "pull"} {
			t.Run(c.name+", "+how, func(t *testing.T) {
				n := newNode(t, "mainnet", net.root())
				must1(n.Apply(first, net.now()))(t)
				now := net.now().Add(c.ahead)
				take := func(now time.Time) (*snapshot.Accepted, error) {
					if how == "push" {
						return n.Apply(second, now)
					}
					return n.Pull(t.Context(), snapshot.DirSource(site), now)
				}
				acc, err := take(now)
				wantErr(t, err, snapshot.ErrExpired, "expired at")
				if acc == nil || !acc.Changed || acc.Freshness != c.want || len(acc.Document.Revocations) != 1 {
					t.Fatalf("a newer revocation is not in force: %+v", acc)
				}
				n.reopen()
				cur := must1(n.Current(now))(t)
				if cur.Digest != acc.Digest || cur.Freshness != c.want {
					t.Errorf("%s: %s", cur.Freshness, cur.Reason)
				}
				_, err = n.Apply(first, now)
				wantErr(t, err, snapshot.ErrReplay)
				// Offered once more it withdraws nothing more.
				acc, err = take(now)
				wantErr(t, err, snapshot.ErrExpired)
				if acc != nil {
					t.Errorf("%+v", acc)
				}
				// The clock goes back: what was seen late stays late, also when it
				// is offered again, until a renewal.
				back := net.now().Add(time.Hour)
				_, err = take(back)
				wantErr(t, err, snapshot.ErrExpired)
				if cur := must1(n.Current(back))(t); cur.Freshness == snapshot.Fresh {
					t.Errorf("%s", cur.Freshness)
				}
				f := net.forge()
				f.renew(back.Add(7 * days))
				if acc := must1(n.Apply(f.bundle(), back))(t); acc.Freshness != snapshot.Fresh || acc.Digest != cur.Digest {
					t.Errorf("%s: %s", acc.Freshness, acc.Reason)
				}
			})
		}
	}
}

// TestLateRenewalStaysLate: a renewal that this node met when it was over, and
// which changes nothing else, is not fresh when the clock goes back.
func TestLateRenewalStaysLate(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	f := net.forge()
	f.renew(start.Add(10 * days))
	_, err := n.Apply(f.bundle(), start.Add(12*days))
	wantErr(t, err, snapshot.ErrExpired)
	back := start.Add(8 * days)
	_, err = n.Apply(f.bundle(), back)
	wantErr(t, err, snapshot.ErrExpired)
	if acc := must1(n.Current(back))(t); acc.Freshness != snapshot.Stale {
		t.Errorf("%s", acc.Freshness)
	}
}

// TestUntimely: a signed time that lies too far ahead is no term. What the set
// withdraws is in force, and it activates nothing; nobody is blamed for it who
// cannot be told from a wrong clock.
func TestUntimely(t *testing.T) {
	stage := newStage(t)
	far := start.AddDate(11, 0, 0)
	document := func(created time.Duration) func(f *forge) {
		return func(f *forge) {
			f.document(f.edited(func(s *snapshot.Snapshot) {
				s.Sequence, s.Created, s.Expires = 4, start.Add(created), start.Add(created+30*days)
			}), "targets-1", "targets-2")
		}
	}
	for _, c := range []struct {
		name   string
		change func(f *forge)
		words  string // of the refusal; empty: fresh
	}{
		{"created an hour ahead", document(2 * time.Hour), ""},
		{"created a day ahead", document(days), ""},
		{"created two days ahead", document(2 * days), "one of the two clocks is wrong"},
		{"created years ahead", document(4000 * days), "one of the two clocks is wrong"},
		{"a timestamp for ever", func(f *forge) {
			ts := f.timestamp()
			ts.Signed.Version, ts.Signed.Expires = ts.Signed.Version+1, far
			put(f, "timestamp.json", ts, "online")
		}, "timestamp expires at 2037"},
		{"online metadata for ever", func(f *forge) { f.renew(far) }, "expires at 2037"},
		{"targets for ever", func(f *forge) {
			f.release(func(tg *metadata.Metadata[metadata.TargetsType]) { tg.Signed.Expires = far }, "targets-1", "targets-2")
		}, "targets expires at 2037"},
		{"a root for ever", func(f *forge) {
			r := f.root(1)
			r.Signed.Version, r.Signed.Expires = 2, far
			put(f, "2.root.json", r, "root-1", "root-2")
		}, "root expires at 2037"},
		{"a root for nine years", func(f *forge) {
			r := f.root(1)
			r.Signed.Version, r.Signed.Expires = 2, start.AddDate(9, 0, 0)
			put(f, "2.root.json", r, "root-1", "root-2")
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			net, n := stage.copy(t)
			f := net.forge()
			c.change(f)
			acc, err := n.Apply(f.bundle(), net.now())
			if c.words == "" {
				check(t, err)
				if acc.Freshness != snapshot.Fresh {
					t.Errorf("%s: %s", acc.Freshness, acc.Reason)
				}
				return
			}
			wantErr(t, err, snapshot.ErrClock, c.words)
			if errors.Is(err, snapshot.ErrRejected) {
				t.Errorf("a rejection: %v", err)
			}
			if acc == nil || acc.Freshness != snapshot.Stale || acc.Document.Sequence < 3 {
				t.Fatalf("%+v", acc)
			}
			if cur := must1(n.Current(net.now()))(t); cur.Digest != acc.Digest || cur.Freshness != snapshot.Stale {
				t.Errorf("%s: %s", cur.Freshness, cur.Reason)
			}
		})
	}
	t.Run("a node's clock far behind", func(t *testing.T) {
		net, _ := stage.copy(t)
		n := newNode(t, "mainnet", net.root())
		acc, err := n.Apply(net.forge().bundle(), time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC))
		wantErr(t, err, snapshot.ErrClock, "2015-01-01")
		if acc == nil || acc.Freshness != snapshot.Stale {
			t.Fatalf("%+v", acc)
		}
		if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Fresh { // the clock is right now
			t.Errorf("%s: %s", acc.Freshness, acc.Reason)
		}
	})
}

// TestClockWalks: over random walks of a clock, of releases, renewals and
// restarts, a node is never fresh under what it has seen become stale, never
// goes back, and is fresh again after the next renewal under a clock that is
// right.
func TestClockWalks(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	next := func(n int) int { // an LCG: the seed alone repeats a walk
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % n
	}
	f := net.forge()
	held := must1(n.Current(net.now()))(t)
	var stale time.Time // when the held set was first seen stale
	for step := range 80 {
		what := ""
		wall := net.now()
		switch next(6) {
		case 0:
			wall = wall.Add(time.Duration(next(5000)) * days)
			what = "ahead"
		case 1:
			wall = wall.Add(-time.Duration(next(5000)) * days)
			what = "behind"
		case 2:
			net.forward(time.Duration(next(96)) * time.Hour)
			wall = net.now()
			what = "forward"
		}
		check(t, n.Witness(t.Context(), wall))
		if wall.After(held.StaleAt) && stale.IsZero() {
			stale = wall
		}
		if next(4) == 0 {
			right := wall.Equal(net.now())
			net.forward(time.Hour) // a renewal has a later term
			f.renew(net.now().Add(7 * days))
			acc, err := n.Apply(f.bundle(), wall)
			if err == nil && acc.Freshness != snapshot.Fresh {
				t.Fatalf("step %d (%s): no error, and %s", step, what, acc.Freshness)
			}
			// Later the targets' own term is the first one, which no renewal moves.
			if right && net.now().Before(start.Add(22*days)) && err != nil {
				t.Fatalf("step %d (%s): a renewal under a right clock: %v", step, what, err)
			}
			if err == nil {
				held, stale = acc, time.Time{}
			}
			what += ", renewed"
		}
		if next(3) == 0 {
			n.reopen()
		}
		cur := must1(n.Current(wall))(t)
		if cur.Document.Sequence < held.Document.Sequence {
			t.Fatalf("step %d (%s): went back", step, what)
		}
		if !stale.IsZero() && cur.Freshness == snapshot.Fresh {
			t.Fatalf("step %d (%s): fresh at %s, and was seen stale at %s: %s", step, what, wall, stale, fmt.Sprint(cur.StaleAt))
		}
	}
}
