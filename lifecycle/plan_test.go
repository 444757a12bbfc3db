package lifecycle

import (
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

var testNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ref(c byte) string {
	return "registry.example/acme/tiny@sha256:" + strings.Repeat(string(c), 64)
}

// testDoc lists one model, tiny@v1, for a runtime that needs no GPU.
func testDoc(change ...func(*snapshot.Snapshot)) *snapshot.Snapshot {
	d := &snapshot.Snapshot{
		Network: "lab", Sequence: 7,
		Policies: []snapshot.Policy{{Name: "acme", Threshold: 1}},
		Runtimes: []snapshot.Runtime{{Name: "llama", Version: "1.0.0", Policy: "acme", Reference: ref('f'), Protocol: "openai-chat", GPU: "none"}},
		Models: []snapshot.Model{{
			Name: "tiny", Version: "v1", Enabled: true, Policy: "acme", Reference: ref('a'), Size: 1000,
			Compat: snapshot.Compat{Runtime: "llama"},
		}},
	}
	for _, c := range change {
		c(d)
	}
	return d
}

func inputs(d *snapshot.Snapshot, recs ...*Record) Inputs {
	in := Inputs{
		Accepted: &snapshot.Accepted{Document: d, Freshness: snapshot.Fresh, Digest: "sha256:" + "00"},
		Records:  recs, Free: 1 << 30, Now: testNow,
		Facts:    policy.Facts{Memory: 8 << 30, CPUs: 2, Engine: "nerdctl 2.2.2"},
		Admitted: map[string]policy.Decision{},
	}
	for _, m := range d.Models {
		in.Admitted[m.ID()] = policy.Decision{Allowed: true}
	}
	return in
}

// record is tiny@v1 in a state, as this package leaves it behind.
func record(s State, change ...func(*Record)) *Record {
	r := &Record{Name: "tiny", Version: "v1", State: s, Updated: testNow.Add(-time.Hour), Tested: testNow.Add(-time.Hour)}
	if s.Installed() || s == Failed {
		r.Manifest = testDoc().Models[0].Digest()
	}
	if s.Installed() {
		r.Tree = "/store/trees/a"
	}
	for _, c := range change {
		c(r)
	}
	return r
}

// validated gives a record the verdict that belongs to the document.
func validated(d *snapshot.Snapshot) func(*Record) {
	return func(r *Record) { r.Holds = verdictKey(d, &d.Models[0], inputs(d).Facts) }
}

func TestMakePlan(t *testing.T) {
	doc := testDoc()
	disabled := testDoc(func(d *snapshot.Snapshot) { d.Models[0].Enabled = false })
	unlisted := testDoc(func(d *snapshot.Snapshot) { d.Models = nil })
	other := testDoc(func(d *snapshot.Snapshot) { d.Models[0].Reference = ref('b') })
	huge := testDoc(func(d *snapshot.Snapshot) { d.Models[0].Compat.GPUMemory = 80 << 30 })
	revoked := testDoc(func(d *snapshot.Snapshot) {
		d.Revocations = []snapshot.Revocation{{Digest: d.Models[0].Digest()}}
	})
	retest := testDoc(func(d *snapshot.Snapshot) { d.Settings.RetestInterval = snapshot.Duration(30 * time.Minute) })
	graced := testDoc(func(d *snapshot.Snapshot) {
		d.Models = nil
		d.Settings.RemoveUnlistedAfter = snapshot.Duration(time.Hour)
	})
	v2 := func(d *snapshot.Snapshot) {
		m := d.Models[0]
		m.Version, m.Reference = "v2", ref('b')
		d.Models = []snapshot.Model{m}
		d.Settings.Retention.Outdated = "archive"
	}
	successor := testDoc(v2)

	cases := []struct {
		name string
		in   Inputs
		with func(*Inputs)
		verb Verb
		next State
		why  string // part of the reason
		then Verb   // the second action, where there is one
	}{
		{name: "new", in: inputs(doc), verb: Install, next: Active},
		{name: "new but disabled", in: inputs(disabled), verb: Keep, next: Absent, why: "disables"},
		{name: "too large for the disk", in: inputs(doc), with: func(in *Inputs) { in.Free = 10 }, verb: Refuse, next: Absent, why: "disk"},
		{name: "too large, but mostly here", in: inputs(doc), with: func(in *Inputs) {
			in.Free = 10
			in.Present = func(*snapshot.Model) int64 { return 995 }
		}, verb: Install, next: Active},
		{name: "needs a GPU", in: inputs(huge), verb: Refuse, next: Absent, why: "80 GiB"},
		{name: "installed", in: inputs(doc, record(Pending)), verb: Validate, next: Active},
		{name: "active", in: inputs(doc, record(Active, validated(doc))), verb: Keep, next: Active},
		{name: "active, runtime changed", in: inputs(doc, record(Active)), verb: Demote, next: Pending, why: "changed", then: Validate},
		{name: "active, runtime changed, stale", in: inputs(doc, record(Active)), with: stale, verb: Demote, next: Pending, why: "changed"},
		{name: "active, runtime revoked", in: inputs(doc, record(Active, validated(doc))), with: func(in *Inputs) {
			in.Runtimes = map[string]policy.Decision{"llama": {Class: policy.ClassRevoked, Reason: "withdrawn"}}
		}, verb: Demote, next: Pending, why: "withdrawn", then: Validate},
		{name: "active, interval passed", in: inputs(retest, record(Active, validated(retest))), verb: Retest, next: Active},
		{name: "active, retest asked for", in: inputs(doc, record(Active, validated(doc))), with: func(in *Inputs) { in.Retest = true }, verb: Retest, next: Active},
		{name: "pending, only installing", in: inputs(doc, record(Pending)), with: func(in *Inputs) { in.Install = true }, verb: Keep, next: Pending},
		{name: "active, other content pinned", in: inputs(other, record(Active, validated(other))), verb: Disable, next: Inactive, why: "other content", then: Install},
		{name: "active, other content pinned, stale", in: inputs(other, record(Active, validated(other))), with: stale, verb: Disable, next: Inactive, why: "other content"},
		{name: "active, other content pinned, disk full", in: inputs(other, record(Active, validated(other))), with: func(in *Inputs) { in.Free = 0 }, verb: Disable, next: Inactive, why: "other content"},
		{name: "active, other content pinned, old revoked", in: inputs(testDoc(func(d *snapshot.Snapshot) {
			d.Revocations = []snapshot.Revocation{{Digest: d.Models[0].Digest()}}
			d.Models[0].Reference = ref('b')
		}), record(Active)), verb: Quarantine, next: Failed},
		{name: "active, now disabled", in: inputs(disabled, record(Active)), verb: Disable, next: Inactive},
		{name: "active, no longer fits", in: inputs(huge, record(Active, validated(huge))), verb: Disable, next: Inactive, why: "80 GiB"},
		{name: "active, stale snapshot", in: inputs(doc, record(Active, validated(doc))), with: stale, verb: Keep, next: Active},
		{name: "pending, stale snapshot", in: inputs(doc, record(Pending)), with: stale, verb: Wait, next: Pending, why: "stale"},
		{name: "absent, stale snapshot", in: inputs(doc), with: stale, verb: Wait, next: Absent, why: "stale"},
		{name: "zero freshness permits nothing", in: inputs(doc), with: func(in *Inputs) { in.Accepted.Freshness = "" }, verb: Wait, next: Absent},
		{name: "expired and told to stop", in: inputs(testDoc(func(d *snapshot.Snapshot) { d.Settings.Expired = "stop" }), record(Active, validated(doc))), with: func(in *Inputs) {
			in.Accepted.Freshness = snapshot.Expired
		}, verb: Disable, next: Inactive, why: "expired"},
		{name: "active, signature no longer counts", in: inputs(doc, record(Active, validated(doc))), with: denied(policy.ClassSignature), verb: Disable, next: Inactive, why: "not admitted"},
		{name: "inactive, signature no longer counts", in: inputs(doc, record(Inactive, validated(doc))), with: denied(policy.ClassSignature), verb: Quarantine, next: Failed},
		{name: "active, a part is revoked", in: inputs(doc, record(Active, validated(doc))), with: denied(policy.ClassRevoked), verb: Quarantine, next: Failed},
		{name: "active, revoked", in: inputs(revoked, record(Active, validated(revoked))), verb: Quarantine, next: Failed},
		{name: "absent, revoked", in: inputs(revoked), verb: Refuse, next: Absent},
		{name: "quarantined, still revoked", in: inputs(revoked, record(Failed, func(r *Record) { r.Cause, r.Tree = CauseRevoked, "/t" })), verb: Refuse, next: Failed},
		{name: "absent, no evidence yet", in: inputs(doc), with: denied(policy.ClassSignature), verb: Install, next: Active},
		{name: "disabled, signature no longer counts", in: inputs(disabled, record(Inactive)), with: denied(policy.ClassSignature), verb: Quarantine, next: Failed},
		{name: "failed, in backoff", in: inputs(doc, record(Failed, func(r *Record) { r.RetryAfter = testNow.Add(time.Minute) })), verb: Wait, next: Failed},
		{name: "failed, backoff over", in: inputs(doc, record(Failed)), verb: Install, next: Active},
		{name: "failed, forced", in: inputs(doc, record(Failed, func(r *Record) { r.RetryAfter = testNow.Add(time.Minute) })), with: func(in *Inputs) { in.Force = true }, verb: Install, next: Active},
		{name: "inactive, enabled without verdict", in: inputs(doc, record(Inactive)), verb: Validate, next: Active},
		{name: "unlisted", in: inputs(unlisted, record(Active)), verb: Disable, next: Inactive, why: "no longer lists", then: Remove},
		{name: "unlisted and out of use", in: inputs(unlisted, record(Inactive)), verb: Remove, next: Absent},
		{name: "unlisted and failed", in: inputs(unlisted, record(Failed)), verb: Remove, next: Absent},
		{name: "unlisted, in its grace", in: inputs(graced, record(Active)), verb: Disable, next: Inactive},
		{name: "unlisted, grace running", in: inputs(graced, record(Inactive, func(r *Record) { r.Unlisted = testNow.Add(-time.Minute) })), verb: Wait, next: Inactive},
		{name: "unlisted, grace over", in: inputs(graced, record(Inactive, func(r *Record) { r.Unlisted = testNow.Add(-2 * time.Hour) })), verb: Remove, next: Absent},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.with != nil {
				c.with(&c.in)
			}
			p := MakePlan(c.in)
			var then Verb
			if len(p.Actions) == 2 {
				then = p.Actions[1].Verb
			} else if len(p.Actions) != 1 {
				t.Fatalf("got %d actions: %+v", len(p.Actions), p.Actions)
			}
			if then != c.then {
				t.Errorf("then %q, want %q", then, c.then)
			}
			a := p.Actions[0]
			if a.Verb != c.verb || a.Next != c.next || !strings.Contains(a.Reason, c.why) {
				t.Errorf("got %s to %s because %q, want %s to %s because …%s…", a.Verb, a.Next, a.Reason, c.verb, c.next, c.why)
			}
		})
	}

	t.Run("successor first, then the old one goes", func(t *testing.T) {
		in := inputs(successor, record(Active))
		in.Archive = true
		p := MakePlan(in)
		if len(p.Actions) != 2 || p.Actions[0].Verb != Disable || p.Actions[0].Version != "v1" || p.Actions[1].Verb != Install {
			t.Fatalf("got %+v", p.Actions)
		}
		in.Records = append(in.Records, &Record{Name: "tiny", Version: "v2", State: Active, Manifest: successor.Models[0].Digest(), Holds: verdictKey(successor, &successor.Models[0], in.Facts)})
		in.Records[0] = record(Inactive)
		p = MakePlan(in)
		if len(p.Actions) != 2 || p.Actions[0].Verb != Keep || p.Actions[1].Verb != Archive {
			t.Fatalf("got %+v", p.Actions)
		}
	})
	t.Run("the disk is shared by what comes", func(t *testing.T) {
		d := testDoc(func(d *snapshot.Snapshot) {
			m := d.Models[0]
			m.Name = "second"
			d.Models = append(d.Models, m)
		})
		in := inputs(d)
		in.Free = 1500
		p := MakePlan(in)
		verbs := map[Verb]int{}
		for _, a := range p.Actions {
			verbs[a.Verb]++
		}
		if verbs[Install] != 1 || verbs[Refuse] != 1 || p.FetchBytes != 1000 {
			t.Fatalf("got %v, %d bytes", verbs, p.FetchBytes)
		}
	})
}

func stale(in *Inputs) { in.Accepted.Freshness = snapshot.Stale }

func denied(c policy.Class) func(*Inputs) {
	return func(in *Inputs) {
		for id := range in.Admitted {
			in.Admitted[id] = policy.Decision{Class: c, Reason: "no"}
		}
	}
}

// TestUnlistedIsNeverActive runs the plan over every state and every document
// and asks invariant 5 of the result.
func TestUnlistedIsNeverActive(t *testing.T) {
	for _, s := range []State{Absent, Pending, Active, Inactive, Failed, Archived} {
		for _, archive := range []bool{false, true} {
			in := inputs(testDoc(func(d *snapshot.Snapshot) { d.Models = nil }), record(s))
			in.Archive = archive
			for _, a := range MakePlan(in).Actions {
				if a.Next == Active {
					t.Errorf("%s: %s leaves it Active", s, a.Verb)
				}
			}
		}
	}
}

func TestMovesFollowTheTable(t *testing.T) {
	states := []State{Absent, Pending, Active, Inactive, Failed, Archived}
	if len(leavesTo) != len(states) {
		t.Fatalf("the table has %d states, want %d", len(leavesTo), len(states))
	}
	for _, from := range states {
		for _, to := range states {
			r := &Record{Name: "tiny", Version: "v1", State: from}
			err := r.move(to, "test", "because", "", testNow)
			allowed := from == to
			for _, s := range leavesTo[from] {
				allowed = allowed || s == to
			}
			if (err == nil) != allowed {
				t.Errorf("%s to %s: error %v, allowed %v", from, to, err, allowed)
			}
			if err == nil && from != to && (len(r.History) != 1 || r.History[0].From != from || r.History[0].To != to) {
				t.Errorf("%s to %s: history %+v", from, to, r.History)
			}
		}
	}
	if len(leavesTo[Absent]) != 2 {
		t.Errorf("Absent leaves to %v: nothing may become Active without having been Pending", leavesTo[Absent])
	}
}

func TestBackoffDoublesToItsMax(t *testing.T) {
	n := newNode(Options{StateDir: t.TempDir(), Network: "lab"})
	retry := snapshot.Retry{Initial: snapshot.Duration(time.Minute), Max: snapshot.Duration(10 * time.Minute)}
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if got := n.backoff(retry, i); got != want*time.Minute {
			t.Errorf("after %d failures: %s, want %s", i, got, want*time.Minute)
		}
	}
	if got := n.backoff(snapshot.Retry{}, 0); got != time.Minute {
		t.Errorf("default: %s", got)
	}
}
