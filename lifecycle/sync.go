package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// SyncOptions choose what a pass does.
type SyncOptions struct {
	Source snapshot.Source // where to look for a newer snapshot; nil: act on the stored one
	// SourceName is Source as a person wrote it, for incidents.
	SourceName string
	DryRun     bool          // plan only; nothing on the node changes
	Install    bool          // install alone, no test inference
	Test       bool          // test alone: what is not installed is not fetched
	Only       []string      // names or name@version; empty: all
	Force      bool          // ignore backoff
	Retest     bool          // test what is Active again
	Wait       time.Duration // for another pass to end
}

// Outcome is what became of one action.
type Outcome struct {
	Action
	After   State    `json:"after"`           // the state that holds now
	Result  string   `json:"result,omitzero"` // why it is in that state now
	Failure *Failure `json:"failure,omitzero"`
	Fetched int64    `json:"fetched,omitzero"` // bytes over the network
	Seconds float64  `json:"seconds"`
}

// SyncResult is the outcome of one pass.
type SyncResult struct {
	Plan            Plan        `json:"plan"`
	Changed         bool        `json:"changed"` // this pass accepted a newer snapshot
	SnapshotFailure *Failure    `json:"snapshotFailure,omitzero"`
	Preflight       []Preflight `json:"preflight,omitzero"` // of a dry run: what each install would take
	Outcomes        []Outcome   `json:"outcomes,omitzero"`
	Fetched         int64       `json:"fetched"`
	Seconds         float64     `json:"seconds"`
}

// Sync makes the node equal to the snapshot: it looks for a newer one, takes
// out of use what that withdraws, plans, and executes. Looking and withdrawing
// need no lock that another pass holds for long, so that they happen also
// while one is at work, or hangs. A model that fails does not stop the others.
// The error is for what stops the pass itself; what was withdrawn before is in
// the result all the same.
func (n *Node) Sync(ctx context.Context, o SyncOptions) (*SyncResult, error) {
	start := time.Now()
	res := new(SyncResult)
	defer func() { res.Seconds = time.Since(start).Seconds() }()
	acc, err := n.newest(ctx, o, res)
	if err != nil {
		return res, err
	}
	if !o.DryRun {
		if len(o.Only) == 0 {
			lk, err := takeLock(ctx, filepath.Join(n.dir, "sync.lock"), "sync of "+n.o.Network, o.Wait)
			if err != nil {
				return res, err
			}
			defer lk.Unlock()
			if acc, err = n.Current(); err != nil { // another pass may have accepted a newer one meanwhile
				return res, err
			}
		}
		n.keepReserve()
		if err := n.mend(ctx); err != nil {
			return res, err
		}
	}
	res.Plan, err = n.plan(ctx, acc, o)
	if err != nil {
		return res, err
	}
	if o.DryRun {
		res.Preflight, err = n.preflight(ctx, acc, res.Plan)
		return res, err
	}
	for _, a := range res.Plan.Actions {
		if a.Verb == Install {
			n.o.Progress.Emit(progress.Event{Kind: progress.Planned, Model: a.ID(), Total: a.Bytes + a.Here})
		}
	}
	c, err := n.client()
	if err != nil {
		return res, err
	}
	c.NewPass()
	n.runPlan(ctx, acc, o, res, res.Plan, func(a Action) bool { return a.Verb != Archive && a.Verb != Remove })
	// What goes is decided after what comes: a version is archived once its
	// successor is Active, which this pass may have brought about. And what had
	// no room may have some now: not all that was to come did.
	after, err := n.plan(ctx, acc, o)
	if err != nil {
		return res, err
	}
	n.runPlan(ctx, acc, o, res, after, func(a Action) bool {
		return a.Verb == Archive || a.Verb == Remove || a.Verb == Install && res.Plan.hadNoRoom(a)
	})
	if len(o.Only) == 0 {
		if err := n.forgetRuntimes(ctx, acc); err != nil {
			return res, err
		}
		n.forgetImages(ctx, acc)
	}
	if err := ctx.Err(); err != nil {
		return res, err
	}
	return res, n.brokenRoots()
}

// brokenRoots is the error of roots that cannot be read and that the pass did
// not write anew. They hold up no model; while there are any, nothing is
// collected.
func (n *Node) brokenRoots() error {
	st, err := n.store()
	if err != nil {
		return err
	}
	_, broken, err := st.ReadRefs()
	if err != nil || len(broken) == 0 {
		return err
	}
	return &Failure{
		Cause: CauseStore, Reason: fmt.Sprintf("the root %s in the store cannot be read: %s", broken[0].Name, broken[0].Problem),
		Hint: "the models are as the snapshot wants them; see: rmodels fsck", Err: cas.ErrCorrupt,
	}
}

// Refresh looks for a newer snapshot and takes out of use what that withdraws,
// as a pass does before all else; it brings nothing in. It waits for no pass.
func (n *Node) Refresh(ctx context.Context, o SyncOptions) (*snapshot.Accepted, *SyncResult, error) {
	start := time.Now()
	res := new(SyncResult)
	defer func() { res.Seconds = time.Since(start).Seconds() }()
	o.DryRun = false
	acc, err := n.newest(ctx, o, res)
	return acc, res, err
}

// newest returns the snapshot to act upon, once what it withdraws is out of
// use.
func (n *Node) newest(ctx context.Context, o SyncOptions, res *SyncResult) (*snapshot.Accepted, error) {
	if o.DryRun {
		return n.refresh(ctx, o, res)
	}
	if err := n.withdrawStored(ctx, res); err != nil && !errors.Is(err, snapshot.ErrCache) { // a damaged cache is healed by the next acceptance
		return nil, err
	}
	acc, err := n.refresh(ctx, o, res)
	if err != nil {
		return nil, err
	}
	return acc, n.withdraw(ctx, acc, res)
}

// refresh returns the snapshot to act upon. A source that fails or lies is
// reported in res, and the last good snapshot stays in force.
func (n *Node) refresh(ctx context.Context, o SyncOptions, res *SyncResult) (*snapshot.Accepted, error) {
	t, err := n.trust()
	if err != nil {
		return nil, err
	}
	if !o.DryRun {
		res.SnapshotFailure = AsFailure(n.witness(ctx, t))
	}
	if o.Source == nil {
		return t.Current(n.now())
	}
	// Fetching holds no lock: what is slow here keeps nobody from accepting a
	// snapshot that was handed over, or from withdrawing what one withdraws.
	offer, err := t.Fetch(ctx, audible{o.Source, o.SourceName, n.o.Progress}, n.now())
	var acc *snapshot.Accepted
	switch {
	case err != nil:
	case o.DryRun:
		acc, err = t.Preview(ctx, offer, n.now())
	default:
		acc, err = n.accept(ctx, func() (*snapshot.Accepted, error) { return t.Accept(ctx, offer, n.now()) })
	}
	if _, late := errors.AsType[*unlogged](err); late {
		res.SnapshotFailure = AsFailure(err)
		err = nil
	}
	if err == nil {
		res.Changed = acc.Changed
		return acc, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	res.SnapshotFailure = AsFailure(err)
	if !o.DryRun {
		if ierr := n.rejected(err, o.SourceName); ierr != nil { // the pass goes on with the last good snapshot
			res.SnapshotFailure.Reason += "; not in the log: " + ierr.Error()
		}
	}
	if acc != nil { // it is not fresh, and in force for what it withdraws
		res.Changed = acc.Changed
		return acc, nil
	}
	cur, cerr := t.Current(n.now())
	if cerr != nil {
		return nil, err // nothing to fall back to: the source's error is the one to read
	}
	return cur, nil
}

// Apply accepts a pushed snapshot; source says where it came from. A refusal
// is an incident and changes nothing. What an accepted one revokes, disables
// or no longer lists is out of use before Apply returns; what it brings waits
// for the next pass. So it is with one that is newer but not fresh, which comes
// with an error.
func (n *Node) Apply(ctx context.Context, bundle []byte, source string) (*snapshot.Accepted, []Outcome, error) {
	t, err := n.trust()
	if err != nil {
		return nil, nil, err
	}
	lost := n.witness(ctx, t)
	acc, err := n.accept(ctx, func() (*snapshot.Accepted, error) { return t.Apply(bundle, n.now()) })
	if err != nil {
		err = errors.Join(err, n.rejected(err, source))
	}
	err = errors.Join(err, lost)
	if acc == nil {
		return nil, nil, err
	}
	var res SyncResult
	err = errors.Join(err, n.takeOut(ctx, acc, &res))
	if err == nil {
		err = ctx.Err()
	}
	return acc, res.Outcomes, err
}

// takeOut takes every model out of use that a newly accepted snapshot does not
// let be used: what the snapshot alone withdraws first, then what its sources
// and this node's hardware have a say in.
func (n *Node) takeOut(ctx context.Context, acc *snapshot.Accepted, res *SyncResult) error {
	if err := n.withdraw(ctx, acc, res); err != nil {
		return err
	}
	p, err := n.plan(ctx, acc, SyncOptions{})
	if err != nil {
		return err
	}
	n.runPlan(ctx, acc, SyncOptions{}, res, p, func(a Action) bool { return a.Verb == Quarantine || a.Verb == Demote })
	return nil
}

// acceptWait bounds how long a newer snapshot waits for an activation under the
// one before, which takes milliseconds.
const acceptWait = 5 * time.Second

// accept takes a snapshot while nobody activates a model under an older one.
func (n *Node) accept(ctx context.Context, take func() (*snapshot.Accepted, error)) (*snapshot.Accepted, error) {
	lk, err := takeLock(ctx, n.snapshotLock(), "the snapshot", acceptWait)
	switch {
	case errors.Is(err, ErrBusy):
		// A stopped process is in the middle of an activation. What it still
		// writes is a record that readers hold against the newer snapshot, and
		// the next pass withdraws.
		n.o.Log.Warn("a snapshot is accepted beside an activation that does not end", "error", err)
	case err != nil:
		return nil, err
	default:
		defer lk.Unlock()
	}
	_ = durable.RemoveTemporary(n.dir, markSnapshot+".json")
	acc, err := take()
	if acc != nil {
		if lerr := n.accepted(acc); lerr != nil { // it is in force all the same
			err = errors.Join(err, &unlogged{lerr})
		}
	}
	return acc, err
}

// unlogged says that a snapshot was accepted but not written to the log.
type unlogged struct{ error }

func (e *unlogged) Unwrap() error { return e.error }
func (e *unlogged) Error() string {
	return "the snapshot is in force, but not in the log: " + e.error.Error()
}

// rejected writes the incident of a snapshot that did not verify. A source
// that merely did not answer is no incident.
func (n *Node) rejected(err error, source string) error {
	if !errors.Is(err, snapshot.ErrRejected) {
		return nil
	}
	in := Incident{
		Kind: CauseSnapshot, Expected: "a snapshot signed by " + n.o.Network + " and not older than the accepted one",
		Found: err.Error(), Source: source, Reason: "the snapshot was rejected", Action: "the last good snapshot stays in force",
	}
	if cur, cerr := n.Current(); cerr == nil {
		in.Snapshot = cur.Digest
		in.Expected = fmt.Sprintf("a snapshot signed by %s with sequence %d or later", n.o.Network, cur.Document.Sequence)
	}
	return n.incident(in)
}

// mend clears what a crash left: damaged records, roots in the store that no
// record stands for, containers of runs that died.
func (n *Node) mend(ctx context.Context) error {
	n.models.removeTemporary(ctx)
	n.runtimes.removeTemporary(ctx)
	n.removeOld(n.dir)
	n.removeOld(n.runsDir())
	ids, err := n.models.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		var r Record
		err := n.models.read(id, &r)
		if err == nil && r.ID() == id && len(r.Unlogged) > 0 {
			if _, err := n.locked(ctx, id, n.logKept); err != nil {
				n.o.Log.Warn("incidents are still to be logged", "model", id, "error", err)
			}
		}
		if err == nil && r.ID() == id || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !errors.Is(err, errCorrupt) {
			return err
		}
		to, merr := n.models.setAside(id, n.now())
		if merr != nil {
			return merr
		}
		name, version, _ := strings.Cut(id, "@")
		if err := n.incident(Incident{
			Kind: CauseState, Model: name, Version: version, Expected: "a record with a valid checksum", Found: fmt.Sprint(err),
			Source: to, Reason: "the model's record is damaged", Action: "moved aside; the model is verified and validated again",
		}); err != nil {
			return err
		}
	}
	if err := n.settleRoots(ctx, ids, false); err != nil {
		return err
	}
	if eng, err := n.engine(ctx); err == nil {
		gone, err := eng.RemoveOrphans(ctx, n.runsDir())
		if err != nil {
			n.o.Log.Warn("orphans of earlier runs", "error", err)
		}
		for _, c := range gone {
			n.o.Log.Info("removed the container of a run that died", "container", c)
		}
	}
	return nil
}

// forgetRuntimes drops images of runtimes that the snapshot no longer lists.
func (n *Node) forgetRuntimes(ctx context.Context, acc *snapshot.Accepted) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	refs, _, err := st.ReadRefs()
	if err != nil {
		return err
	}
	for _, ref := range refs {
		id, ok := strings.CutPrefix(ref.Name, n.runtimeRef(""))
		if !ok {
			continue
		}
		name, version, _ := strings.Cut(id, "@")
		if rt, ok := acc.Document.Runtime(name); ok && rt.Version == version {
			continue
		}
		lk, err := n.runtimes.lock(ctx, id)
		if errors.Is(err, ErrBusy) {
			continue
		} else if err != nil {
			return err
		}
		err = st.DeleteRef(ctx, n.runtimeRef(id))
		if err == nil || errors.Is(err, cas.ErrNotFound) {
			err = os.Remove(n.runtimes.path(id))
		}
		lk.Unlock()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// plan gathers the inputs and makes the plan.
func (n *Node) plan(ctx context.Context, acc *snapshot.Accepted, o SyncOptions) (Plan, error) {
	recs, err := n.known()
	if err != nil && !errors.Is(err, errCorrupt) {
		return Plan{}, err
	}
	return n.planFor(ctx, acc, recs, o)
}

func (n *Node) planFor(ctx context.Context, acc *snapshot.Accepted, recs []*Record, o SyncOptions) (Plan, error) {
	f, err := n.facts(ctx)
	if err != nil {
		return Plan{}, err
	}
	free, err := n.free()
	if err != nil {
		return Plan{}, err
	}
	byID := make(map[string]*Record, len(recs))
	for _, r := range recs {
		byID[r.ID()] = r
	}
	admitted := make(map[string]policy.Decision, len(recs))
	for _, m := range acc.Document.Models {
		if r := byID[m.ID()]; r != nil && r.State.Installed() {
			admitted[m.ID()] = n.readmit(acc, m.Policy, m.Reference, r.Receipt, n.modelRef(m.ID()))
		}
	}
	runtimes := make(map[string]policy.Decision, len(acc.Document.Runtimes))
	for _, rt := range acc.Document.Runtimes {
		judged := slices.ContainsFunc(acc.Document.Models, func(m snapshot.Model) bool {
			r := byID[m.ID()]
			return m.Compat.Runtime == rt.Name && r != nil && r.Verdict != nil
		})
		if d, known := n.readmitRuntime(acc, rt, judged); known {
			runtimes[rt.Name] = d
		}
	}
	for _, want := range o.Only {
		known := !o.Install && !o.Test && byID[want] != nil
		for _, m := range acc.Document.Models {
			known = known || m.Name == want || m.ID() == want
		}
		for _, r := range recs {
			known = known || !o.Install && !o.Test && r.Name == want
		}
		if !known {
			return Plan{}, &Failure{
				Cause: CauseListing, Reason: fmt.Sprintf("%s: the snapshot %d of %s does not list it", want, acc.Document.Sequence, n.o.Network),
				Hint: "see what it lists with: rmodels snapshot show",
			}
		}
	}
	return MakePlan(Inputs{
		Accepted: acc, Records: recs, Facts: f, Free: free, Present: n.present, Admitted: admitted, Runtimes: runtimes,
		Now: n.now(), Only: o.Only, Force: o.Force, Retest: o.Retest, Install: o.Install, Archive: n.o.Archive != "",
	}), nil
}

// readmitRuntime makes the decision on a runtime's image again, offline. Where
// models were judged on it, an image without a receipt is not admitted; where
// none was, nothing is known of it before it is fetched.
func (n *Node) readmitRuntime(acc *snapshot.Accepted, rt snapshot.Runtime, judged bool) (d policy.Decision, known bool) {
	if d := policy.AdmitDigests(acc.Document, rt.Digest()); !d.Allowed {
		return d, true
	}
	var rec RuntimeRecord
	id := modelID(rt.Name, rt.Version)
	err := n.runtimes.read(id, &rec)
	if err == nil && rec.Reference == rt.Reference {
		return n.readmit(acc, rt.Policy, rt.Reference, rec.Receipt, n.runtimeRef(id)), true
	}
	return policy.Decision{Class: policy.ClassSignature, Rule: "evidence", Reason: "this node has no receipt of its image"}, judged
}

// runPlan executes the actions that are wanted and adds their outcomes.
func (n *Node) runPlan(ctx context.Context, acc *snapshot.Accepted, o SyncOptions, res *SyncResult, p Plan, wanted func(Action) bool) {
	withdrawn := make(map[string]bool, len(res.Outcomes))
	for _, out := range res.Outcomes {
		withdrawn[out.ID()] = true
	}
	for _, a := range p.Actions {
		if !wanted(a) || withdrawn[a.ID()] && a.idle() {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		out := n.timed(ctx, acc, a, o)
		res.Outcomes = append(res.Outcomes, out)
		res.Fetched += out.Fetched
	}
}
