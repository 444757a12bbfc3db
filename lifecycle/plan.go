package lifecycle

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Verb is what a pass does with one model version.
type Verb string

const (
	Install    Verb = "install"    // fetch what is missing, verify, build the tree, then validate
	Validate   Verb = "validate"   // run the test inference on what is installed
	Retest     Verb = "retest"     // the same for an Active model whose interval has passed
	Enable     Verb = "enable"     // installed and still validated: Active again without a run
	Disable    Verb = "disable"    // Inactive: the snapshot disables it, pins other content, or no longer lists it
	Demote     Verb = "demote"     // Pending: its verdict no longer holds
	Refuse     Verb = "refuse"     // listed, but not for this node; stays Absent
	Wait       Verb = "wait"       // backoff, staleness, or a newer version that is not Active yet
	Keep       Verb = "keep"       // nothing to do
	Archive    Verb = "archive"    // outdated: to cold storage
	Remove     Verb = "remove"     // not listed: its ref goes, gc frees its blobs
	Quarantine Verb = "quarantine" // revoked: nobody may use it from now on
)

// Action is one line of a [Plan].
type Action struct {
	Verb    Verb      `json:"verb"`
	Name    string    `json:"name"`
	Version string    `json:"version"`
	State   State     `json:"state"`          // before
	Next    State     `json:"next"`           // when all goes well
	Reason  string    `json:"reason"`         // why this verb
	Cause   Cause     `json:"cause,omitzero"` // class of a refusal
	Bytes   int64     `json:"bytes,omitzero"` // at most, to be fetched
	Here    int64     `json:"here,omitzero"`  // bytes of it that the store holds already
	After   time.Time `json:"after,omitzero"` // when a wait ends

	model    *snapshot.Model // nil when the snapshot does not list it
	decision *policy.Decision
	tested   time.Time // the model's last test inference
}

// ID is name@version.
func (a Action) ID() string { return modelID(a.Name, a.Version) }

// Plan is what one pass is going to do, in the order in which it will be
// done: first what takes a model out of use, then what brings one in, then
// what frees space.
type Plan struct {
	Network    string             `json:"network"`
	Snapshot   digest.Digest      `json:"snapshot"`
	Sequence   int64              `json:"sequence"`
	Freshness  snapshot.Freshness `json:"freshness"`
	Actions    []Action           `json:"actions"`
	FetchBytes int64              `json:"fetchBytes"` // at most
	FreeBytes  int64              `json:"freeBytes"`  // of the store's file system, above what must stay free
}

// Inputs are the facts that a plan is made from.
type Inputs struct {
	Accepted *snapshot.Accepted
	Records  []*Record
	Facts    policy.Facts
	Free     int64                       // bytes that may be used on the store's file system
	Present  func(*snapshot.Model) int64 // bytes of it that the store holds already
	Admitted map[string]policy.Decision  // by name@version: what the policy says of an installed model's stored evidence
	Archive  bool                        // an archive is configured
	Runtimes map[string]policy.Decision  // by name: what it says of the stored evidence of runtimes that are here
	Now      time.Time
	Only     []string // names or name@version; empty: all
	Force    bool     // ignore backoff
	Retest   bool     // test what is Active again, whenever it was tested last
	Install  bool     // no test inference: what is installed is kept as it is
}

// verbOrder sorts a plan.
var verbOrder = map[Verb]int{
	Quarantine: 0, Disable: 1, Demote: 2, Refuse: 3, Wait: 4, Keep: 5, Enable: 6, Validate: 7, Install: 8, Retest: 9, Archive: 10, Remove: 11,
}

// testedBefore puts what was tested longest ago first; what was never tested,
// and so never in use, waits for what was.
func (a Action) testedBefore(b Action) int {
	if a.Verb != Validate && a.Verb != Retest || a.tested.IsZero() && b.tested.IsZero() {
		return 0
	}
	if a.tested.IsZero() || b.tested.IsZero() {
		return b.tested.Compare(a.tested)
	}
	return a.tested.Compare(b.tested)
}

// takesOut reports whether the verb takes a model out of use.
func (v Verb) takesOut() bool { return v == Quarantine || v == Disable || v == Demote }

// idle reports whether the verb leaves a model where it is: not worth a second
// line where the same pass did something to it.
func (a Action) idle() bool { return a.Verb == Refuse || a.Verb == Wait || a.Verb == Keep }

// hadNoRoom reports whether the plan refused a model for want of space alone.
func (p *Plan) hadNoRoom(a Action) bool {
	return slices.ContainsFunc(p.Actions, func(x Action) bool { return x.ID() == a.ID() && x.Verb == Refuse && x.Cause == CauseSpace })
}

// MakePlan decides what to do with every model that the snapshot lists or the
// node remembers. It reads in alone.
func MakePlan(in Inputs) Plan {
	acc := in.Accepted
	p := Plan{
		Network: acc.Document.Network, Snapshot: acc.Digest, Sequence: acc.Document.Sequence,
		Freshness: acc.Freshness, FreeBytes: in.Free,
	}
	byID := make(map[string]*Record, len(in.Records))
	for _, r := range in.Records {
		byID[r.ID()] = r
	}
	asked := func(name, id string) bool {
		return len(in.Only) == 0 || slices.Contains(in.Only, name) || slices.Contains(in.Only, id)
	}
	listed := make(map[string]bool)
	free := in.Free
	for i := range acc.Document.Models {
		m := &acc.Document.Models[i]
		id := modelID(m.Name, m.Version)
		listed[id] = true
		if !asked(m.Name, id) {
			continue
		}
		r := byID[id]
		if r == nil {
			r = &Record{Name: m.Name, Version: m.Version, State: Absent}
		}
		a := in.listedAction(m, r, free)
		as := []Action{a}
		if a.Verb == Disable || a.Verb == Demote { // and what comes of it then
			then := *r
			then.State = a.Next
			if b := in.listedAction(m, &then, free); b.Verb == Install || b.Verb == Validate {
				as = append(as, b)
			}
		}
		for _, a := range as {
			if in.Install && (a.Verb == Validate || a.Verb == Retest) {
				a.Verb, a.Next = Keep, a.State
			}
			if a.Verb == Install {
				free -= a.Bytes
				p.FetchBytes += a.Bytes
			}
			p.Actions = append(p.Actions, a)
		}
	}
	for _, r := range in.Records {
		if !listed[r.ID()] && asked(r.Name, r.ID()) {
			a, ok := in.unlistedAction(r)
			if !ok {
				continue
			}
			p.Actions = append(p.Actions, a)
			if a.Verb == Disable {
				then := *r
				then.State = a.Next
				if b, _ := in.unlistedAction(&then); b.Verb == Remove {
					p.Actions = append(p.Actions, b)
				}
			}
		}
	}
	slices.SortStableFunc(p.Actions, func(a, b Action) int {
		return cmp.Or(cmp.Compare(verbOrder[a.Verb], verbOrder[b.Verb]), a.testedBefore(b))
	})
	return p
}

// listedAction decides for a model that the snapshot lists.
func (in *Inputs) listedAction(m *snapshot.Model, r *Record, free int64) Action {
	doc, now := in.Accepted.Document, in.Now
	a := Action{Name: m.Name, Version: m.Version, State: r.State, Next: r.State, model: m, tested: r.Tested}
	do := func(v Verb, next State, why string) Action {
		a.Verb, a.Next, a.Reason = v, next, why
		return a
	}
	admitted := in.Admitted[m.ID()]
	if w, out := withdrawal(in.Accepted, m, r, func() policy.Decision { return admitted }); out {
		return w
	}
	same := r.Manifest == "" || r.Manifest == m.Digest()
	if d := policy.Listed(doc, m.Name, m.Version); !d.Allowed { // revoked by digest, and nothing of it may be used
		a.Cause, a.decision = Cause(d.Class), &d
		return do(Refuse, r.State, d.Reason)
	}
	if r.State == Inactive && same && !admitted.Allowed {
		a.Cause, a.decision = Cause(admitted.Class), &admitted
		return do(Quarantine, Failed, admitted.Reason)
	}
	if !m.Enabled {
		if r.State == Inactive {
			return do(Keep, Inactive, "the snapshot disables it")
		}
		return do(Keep, r.State, "the snapshot disables it; not fetched")
	}
	if d := policy.Compatible(doc, *m, in.Facts); !d.Allowed {
		a.Cause, a.decision = Cause(d.Class), &d
		if r.State == Active || r.State == Pending {
			return do(Disable, Inactive, "this node no longer fits: "+d.Reason)
		}
		return do(Refuse, r.State, d.Reason)
	}
	key := verdictKey(doc, m, in.Facts)
	if r.State == Active && r.Holds != key {
		return do(Demote, Pending, "its runtime, test or GPU changed since the last verdict")
	}
	if d, ok := in.Runtimes[m.Compat.Runtime]; ok && !d.Allowed && r.State == Active {
		return do(Demote, Pending, "its runtime is not admitted any more: "+d.Reason)
	}
	if in.Accepted.Freshness != snapshot.Fresh {
		if r.State == Active {
			return do(Keep, Active, "validated")
		}
		return do(Wait, r.State, fmt.Sprintf("the snapshot is %s: nothing new is activated; fetch a newer one with rmodels sync", in.Accepted.Freshness))
	}
	install := func(why string) Action {
		a.Bytes = m.Size
		if in.Present != nil {
			a.Here = in.Present(m)
			a.Bytes = max(0, m.Size-a.Here)
		}
		if a.Bytes > free {
			a.Cause = CauseSpace
			return do(Refuse, r.State, fmt.Sprintf("needs %s of disk, this node has %s free above its reserve",
				amount.Bytes(a.Bytes), amount.Bytes(max(0, free))))
		}
		return do(Install, Active, why)
	}
	if !same {
		return install("the snapshot pins other content under this version")
	}
	switch r.State {
	case Active:
		every := doc.Settings.RetestInterval.Std()
		if in.Retest || every > 0 && (now.Sub(r.Tested) >= every || r.Tested.After(now)) { // a clock that was ahead puts no test off
			return do(Retest, Active, "last tested "+r.Tested.UTC().Format(time.RFC3339))
		}
		return do(Keep, Active, "validated")
	case Pending:
		if !in.Force && in.early(r) {
			a.After = r.RetryAfter
			return do(Wait, Pending, r.Reason)
		}
		return do(Validate, Active, "installed, not validated yet")
	case Inactive:
		d, known := in.Runtimes[m.Compat.Runtime]
		if r.Verdict != nil && r.Verdict.Passed && r.Holds == key && (!known || d.Allowed) {
			return do(Enable, Active, "enabled again; its last verdict still holds")
		}
		return do(Validate, Active, "enabled again")
	case Failed:
		if !in.Force && in.early(r) {
			a.After = r.RetryAfter
			return do(Wait, Failed, r.Reason)
		}
		return install("trying again: " + r.Reason)
	case Archived:
		return install("restored from the archive")
	default:
		if !in.Force && in.early(r) {
			a.After = r.RetryAfter
			return do(Wait, Absent, r.Reason)
		}
		return install("not on this node yet")
	}
}

// unlistedAction decides for a model version that no snapshot entry names.
// The second result is false when nothing is left to say about it.
func (in *Inputs) unlistedAction(r *Record) (Action, bool) {
	doc, now := in.Accepted.Document, in.Now
	a := Action{Name: r.Name, Version: r.Version, State: r.State, Next: r.State}
	do := func(v Verb, next State, why string) (Action, bool) {
		a.Verb, a.Next, a.Reason = v, next, why
		return a, true
	}
	if r.State == Absent && !r.Unlisted.IsZero() {
		return a, false
	}
	fresh := in.Accepted.Freshness == snapshot.Fresh // else the clock may be ahead, by years: nothing is deleted by it
	if r.State == Archived {
		keep := doc.Settings.Retention.Keep.Std()
		if keep > 0 && now.Sub(r.Updated) >= keep && fresh {
			return do(Remove, Absent, "archived longer than the snapshot's retention keeps it")
		}
		return do(Keep, Archived, "in the archive")
	}
	if w, out := withdrawal(in.Accepted, nil, r, nil); out { // what becomes of its bytes comes after
		return w, true
	}
	newer := newestListed(doc, r.Name)
	if newer != nil && in.Archive && doc.Settings.Retention.Outdated == "archive" && r.State == Inactive {
		if in.active(newer.Name, newer.Version) {
			return do(Archive, Archived, "replaced by "+newer.ID())
		}
		return do(Wait, Inactive, "archived once "+newer.ID()+" is Active")
	}
	grace := doc.Settings.RemoveUnlistedAfter.Std()
	if left := grace - now.Sub(cmp.Or(r.Unlisted, now)); grace > 0 && left > 0 {
		a.After = now.Add(left)
		return do(Wait, r.State, "not listed; removed after "+a.After.UTC().Format(time.RFC3339))
	}
	if !fresh {
		return do(Wait, r.State, fmt.Sprintf("not listed; its bytes are kept while the snapshot is %s", in.Accepted.Freshness))
	}
	return do(Remove, Absent, "the snapshot no longer lists it")
}

// early reports whether it is too early to try a model again. A wait that is
// longer than any that is ever set was set by a clock that was ahead.
func (in *Inputs) early(r *Record) bool {
	left := r.RetryAfter.Sub(in.Now)
	return left > 0 && left <= max(longestRetry, in.Accepted.Document.Settings.Retry.Max.Std())
}

// active reports whether a record says Active for this version.
func (in *Inputs) active(name, version string) bool {
	return slices.ContainsFunc(in.Records, func(r *Record) bool {
		return r.Name == name && r.Version == version && r.State == Active
	})
}

// newestListed is the last enabled entry of that name: a network lists the
// versions of a model in order.
func newestListed(doc *snapshot.Snapshot, name string) *snapshot.Model {
	for i := len(doc.Models) - 1; i >= 0; i-- {
		if m := &doc.Models[i]; m.Name == name && m.Enabled {
			return m
		}
	}
	return nil
}

// verdictKey identifies what a verdict is good for: content, runtime
// definition, test and GPUs. A change in any of them asks for a new run.
func verdictKey(doc *snapshot.Snapshot, m *snapshot.Model, f policy.Facts) string {
	rt, _ := doc.Runtime(m.Compat.Runtime)
	gpus := make([]string, len(f.GPUs))
	for i, g := range f.GPUs {
		gpus[i] = g.UUID + " " + g.Name
	}
	slices.Sort(gpus)
	b, err := json.Marshal(struct {
		Reference  string
		Runtime    snapshot.Runtime
		Validation snapshot.Validation
		GPUs       []string
		Driver     string
	}{m.Reference, rt, m.Validation, gpus, f.Driver}, json.Deterministic(true))
	if err != nil { // these types always encode; an empty key never equals a stored one
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
