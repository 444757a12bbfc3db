package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// free is how many bytes the store may still take.
func (n *Node) free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(n.o.StoreDir, &s); err != nil {
		return 0, fmt.Errorf("ask for free space of %s: %w", n.o.StoreDir, err)
	}
	return int64(s.Bavail)*s.Bsize - n.o.MinFree, nil
}

// do executes one action under its model's lock.
func (n *Node) do(ctx context.Context, acc *snapshot.Accepted, a Action, o SyncOptions) (out Outcome) {
	out = Outcome{Action: a, After: a.State}
	if f := a.missed(o); f != nil {
		out.Failure = f
		return out
	}
	lk, err := n.models.lock(ctx, a.ID())
	if err != nil {
		out.Failure = AsFailure(err)
		return out
	}
	defer lk.Unlock()
	r := &Record{Name: a.Name, Version: a.Version, State: Absent}
	defer func() { n.overtaken(ctx, acc, r, &out) }()
	if err := n.models.read(a.ID(), r); err != nil && !errors.Is(err, fs.ErrNotExist) {
		out.Failure = AsFailure(err)
		return out
	}
	if err := n.evicted(r); err != nil { // gc may have freed it, also since this pass began
		out.Failure = AsFailure(err)
		return out
	}
	if r.State != a.State {
		out.After = r.State
		out.Failure = &Failure{Cause: CauseBusy, Reason: fmt.Sprintf("it became %s while this pass was planned", r.State), Hint: "the next sync goes on from there"}
		return out
	}
	err = n.perform(ctx, acc, a, r, o, &out)
	out.After, out.Result = r.State, r.Reason
	if err != nil {
		out.Failure = AsFailure(err)
	}
	return out
}

// missed says that a command that names models cannot do for this one what it
// is for. Such a command takes nothing away that it was not asked to.
func (a Action) missed(o SyncOptions) *Failure {
	if len(o.Only) == 0 || !o.Install && !o.Test {
		return nil
	}
	switch {
	case a.model == nil:
		return &Failure{Cause: CauseListing, Reason: "the snapshot does not list it", Hint: "see what it lists with: rmodels snapshot show"}
	case !a.model.Enabled && !a.Verb.takesOut():
		return &Failure{Cause: CauseListing, Reason: "the snapshot disables it", Hint: "the network has to enable it"}
	case a.Verb == Wait && a.State != Failed:
		return &Failure{Cause: CauseSnapshot, Reason: a.Reason, Hint: "see: rmodels snapshot show"}
	}
	return nil
}

// overtaken looks, before a model's lock is dropped, whether a newer snapshot
// was accepted while the action was at work, and takes the model out of use
// when that asks for it: whoever accepted it found the model busy.
func (n *Node) overtaken(ctx context.Context, acc *snapshot.Accepted, r *Record, out *Outcome) {
	if r.State != Active && r.State != Pending {
		return
	}
	cur, err := n.Current()
	if err != nil || cur.Digest == acc.Digest {
		return
	}
	err = n.outOfUse(context.WithoutCancel(ctx), cur, r, out)
	n.o.Log.Info("held against a newer snapshot", "model", r.ID(), "state", r.State, "error", err)
	out.After, out.Result = r.State, r.Reason
}

// outOfUse takes a model, whose lock the caller holds, out of use where the
// snapshot asks for it.
func (n *Node) outOfUse(ctx context.Context, acc *snapshot.Accepted, r *Record, out *Outcome) error {
	if as := n.withdrawals(acc, []*Record{r}, nil); len(as) > 0 {
		return n.also(ctx, acc, as[0], r, SyncOptions{}, out)
	}
	return n.goOn(ctx, acc, r, SyncOptions{}, out, Demote)
}

// goOn plans for one model, whose lock the caller holds, and does what the
// plan says where it is one of the verbs.
func (n *Node) goOn(ctx context.Context, acc *snapshot.Accepted, r *Record, o SyncOptions, out *Outcome, verbs ...Verb) error {
	p, err := n.plan(ctx, acc, SyncOptions{Only: []string{r.ID()}})
	if err != nil {
		return err
	}
	for _, a := range p.Actions {
		if a.ID() != r.ID() || !slices.Contains(verbs, a.Verb) {
			continue
		}
		if a.Verb == Quarantine && a.Cause == out.Cause {
			return fmt.Errorf("%s was admitted, and is not when it is asked again: %s", r.ID(), a.Reason)
		}
		if a.Verb == Validate { // a run of its own, in its turn
			a.Verb, a.Next = Demote, Pending
		}
		return n.also(ctx, acc, a, r, o, out)
	}
	return nil
}

// also performs an action that follows from the one that out tells of.
func (n *Node) also(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record, o SyncOptions, out *Outcome) error {
	out.Verb, out.Next, out.Reason, out.Cause = a.Verb, a.Next, a.Reason, a.Cause
	return n.perform(ctx, acc, a, r, o, out)
}

// perform is the one place that maps a verb to what is done. It stores the
// record whenever the record changed.
func (n *Node) perform(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record, o SyncOptions, out *Outcome) error {
	if a.model != nil {
		r.Unlisted = time.Time{}
	} else if r.Unlisted.IsZero() || r.Unlisted.After(n.now()) { // a clock that was ahead puts no removal off
		r.Unlisted = n.now()
	}
	switch a.Verb {
	case Quarantine:
		if err := n.quarantine(ctx, acc, a, r); err != nil || r.State == Failed {
			return err
		}
		// Admitted again by other signatures: what was in use comes back.
		return n.goOn(ctx, acc, r, o, out, Quarantine, Disable, Enable, Validate)
	case Disable:
		return n.moveTo(Inactive, acc, a, r)
	case Demote:
		return n.moveTo(Pending, acc, a, r)
	case Refuse:
		return n.refuse(acc, a, r)
	case Wait:
		if a.model == nil {
			return n.save(r)
		}
		if r.State == Failed { // the node is not what the snapshot asks for: say so on every pass
			return &Failure{Cause: r.Cause, Reason: r.Reason, Hint: "it is tried again after " + r.RetryAfter.Format(time.RFC3339) + "; at once with: rmodels sync " + r.ID()}
		}
		return nil
	case Keep:
		err := n.keep(ctx, acc, a, r)
		if err == nil || r.State != Failed || o.Install || o.Test {
			return err
		}
		// The disk lost what was good: no source is to blame, so none is left
		// in peace for a while.
		out.Verb = Install
		return n.bring(ctx, acc, a, r, o, out)
	case Enable:
		return n.enable(ctx, acc, a, r, o, out)
	case Install:
		if o.Test && r.Tree == "" {
			why := "it is not on this node"
			if r.State == Failed {
				why += ": " + r.Reason
			}
			return &Failure{Cause: CauseListing, Reason: why, Hint: "fetch it with: rmodels sync " + r.ID()}
		}
		return n.bring(ctx, acc, a, r, o, out)
	case Validate, Retest:
		if r.State == Inactive {
			if err := n.moveTo(Pending, acc, a, r); err != nil {
				return err
			}
		}
		return n.settle(ctx, acc, r, n.validate(ctx, acc, a.model, r))
	case Archive:
		return n.settle(ctx, acc, r, n.archive(ctx, acc, a.Reason, r))
	case Remove:
		return n.remove(ctx, acc, a, r)
	}
	return fmt.Errorf("no such action: %q", a.Verb)
}

// moveTo changes a model's state and stores its record.
func (n *Node) moveTo(to State, acc *snapshot.Accepted, a Action, r *Record) error {
	if err := r.move(to, n.o.By, a.Reason, acc.Digest, n.now()); err != nil {
		return err
	}
	return n.save(r)
}

// settle stores what a step did to a record. A failed check becomes a Failed
// state with its incident; any other error leaves the state as it
// is and notes why nothing moved.
func (n *Node) settle(ctx context.Context, acc *snapshot.Accepted, r *Record, err error) error {
	if err == nil && r.State == Active {
		err = n.activate(ctx, acc, r)
	} else if err == nil {
		err = n.save(r)
	}
	if err == nil {
		return nil
	}
	f := AsFailure(err)
	if errors.Is(err, context.Canceled) {
		return err // interrupted: the record says what held before
	}
	if !f.Cause.failedCheck() {
		// A lock is held for moments, a GPU for days: that is worth a reason.
		if r.State != Active && (f.Cause != CauseBusy || errors.Is(err, runner.ErrGPUBusy)) {
			r.Reason, r.Cause, r.Updated = f.Reason, f.Cause, n.now()
			return errors.Join(err, n.save(r))
		}
		return err
	}
	// A failed test inference is judged on verified bytes: they stay, in
	// quarantine. Any other failed check discards them (invariant 4).
	keep := f.Cause == CauseValidation || f.Cause == CauseIsolation
	action := "quarantined"
	if !keep {
		action = "discarded"
	}
	retry := n.backoff(acc.Document.Settings.Retry, r.Failures)
	incident := Incident{
		Kind: f.Cause, Model: r.Name, Version: r.Version, Digest: f.Digest, Expected: f.Expected, Found: f.Found, Source: f.Source,
		Reason: f.Reason, Action: fmt.Sprintf("%s; next attempt after %s", action, retry), Snapshot: acc.Digest,
	}
	r.Failures++
	r.RetryAfter = n.now().Add(retry)
	r.Cause, r.Holds = f.Cause, ""
	if merr := r.move(Failed, n.o.By, f.Reason, acc.Digest, n.now()); merr != nil {
		return errors.Join(err, merr)
	}
	if !keep {
		r.Tree, r.Receipt = "", nil
	}
	return errors.Join(err, n.report(r, incident))
}

// snapshotWait is how long anyone waits for the snapshot's lock, which is held
// while one that was fetched already is verified and stored.
const snapshotWait = 30 * time.Second

// activate stores a record that says Active, unless the snapshot in force is
// not the one that this pass acts upon any more: what a newer one lists is not
// known to acc, and one that became stale meanwhile activates nothing new
// (invariant 5). The record on disk stays as it was then.
func (n *Node) activate(ctx context.Context, acc *snapshot.Accepted, r *Record) error {
	before := Record{Name: r.Name, Version: r.Version, State: Absent}
	err := n.models.read(r.ID(), &before)
	if err == nil {
		err = n.mayActivate(ctx, acc, before.State, func() error { return n.save(r) })
	}
	if err != nil {
		*r = before
	}
	return err
}

// mayActivate runs save while no other snapshot can come into force.
func (n *Node) mayActivate(ctx context.Context, acc *snapshot.Accepted, before State, save func() error) error {
	lk, err := shareLock(ctx, n.snapshotLock(), "the snapshot", snapshotWait)
	if err != nil {
		return err
	}
	defer lk.Unlock()
	cur, err := n.Current()
	if err != nil {
		return err
	}
	if cur.Digest != acc.Digest {
		return &Failure{
			Cause: CauseBusy, Reason: fmt.Sprintf("snapshot %d was accepted meanwhile: not activated under snapshot %d", cur.Document.Sequence, acc.Document.Sequence),
			Hint: "the next sync goes on under the newer snapshot",
		}
	}
	if cur.Freshness != snapshot.Fresh && before != Active {
		return &Failure{
			Cause: CauseSnapshot, Reason: fmt.Sprintf("the snapshot became %s meanwhile: nothing new is activated", cur.Freshness),
			Hint: "fetch a newer one with: rmodels sync",
		}
	}
	return save()
}

// longestRetry is the default of settings.retry.max.
const longestRetry = 6 * time.Hour

// backoff doubles from Initial to Max with every failure in a row.
func (n *Node) backoff(retry snapshot.Retry, failures int) time.Duration {
	d, most := retry.Initial.Std(), retry.Max.Std()
	if d <= 0 {
		d = time.Minute
	}
	if most <= 0 {
		most = longestRetry
	}
	for range failures {
		if d *= 2; d >= most {
			return most
		}
	}
	return min(d, most)
}

// bring installs a model and, unless only installing was asked for, validates it.
func (n *Node) bring(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record, o SyncOptions, out *Outcome) error {
	if err := n.settle(ctx, acc, r, n.install(ctx, acc, a.model, r)); err != nil {
		return err
	}
	out.Fetched = r.Receipt.Fetched
	if o.Install {
		return nil
	}
	return n.settle(ctx, acc, r, n.validate(ctx, acc, a.model, r))
}

// enable makes a disabled model Active again: its bytes are looked at, its
// last verdict still holds.
func (n *Node) enable(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record, o SyncOptions, out *Outcome) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	switch err := n.whole(ctx, st, r); {
	case errors.Is(err, cas.ErrNotFound): // gc freed it while it was Inactive
		if err := r.move(Absent, n.o.By, "freed while it was Inactive", acc.Digest, n.now()); err != nil {
			return err
		}
		return n.bring(ctx, acc, a, r, o, out)
	case err != nil:
		return n.settle(ctx, acc, r, treeFailure(r, err))
	}
	return n.settle(ctx, acc, r, r.move(Active, n.o.By, a.Reason, acc.Digest, n.now()))
}

// refuse notes why a listed model is not on this node. A new reason is an
// incident; the same one again is not.
func (n *Node) refuse(acc *snapshot.Accepted, a Action, r *Record) error {
	f := &Failure{Cause: a.Cause, Reason: a.Reason, Digest: a.model.Digest()}
	if a.decision != nil {
		f = refusal(*a.decision, a.model.Digest(), "this node")
	}
	if r.Cause != f.Cause || r.Reason != f.Reason {
		if a.Cause != CauseSpace {
			if err := n.incident(Incident{
				Kind: f.Cause, Model: r.Name, Version: r.Version, Digest: f.Digest, Expected: f.Expected, Found: f.Found,
				Source: f.Source, Reason: f.Reason, Action: "not fetched", Snapshot: acc.Digest,
			}); err != nil {
				return err
			}
		}
		r.Reference, r.Cause, r.Reason, r.Updated = a.model.Reference, f.Cause, f.Reason, n.now()
		if err := n.save(r); err != nil {
			return errors.Join(f, err)
		}
	}
	return f
}

// keep looks at what is Active, so that a tree that somebody damaged does not
// stay Active until it is used.
func (n *Node) keep(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record) error {
	if r.State != Active {
		if r.State == Absent && a.model != nil && r.Reason != a.Reason {
			r.Reason, r.Cause, r.Reference, r.Updated = a.Reason, "", a.model.Reference, n.now()
			return n.save(r)
		}
		return nil
	}
	st, err := n.store()
	if err != nil {
		return err
	}
	if err := n.whole(ctx, st, r); err != nil {
		return n.settle(ctx, acc, r, treeFailure(r, err))
	}
	return nil
}

// whole looks at a model's tree, and at the root without which a collection
// would take it.
func (n *Node) whole(ctx context.Context, st *cas.Store, r *Record) error {
	if err := st.CheckTree(ctx, r.Manifest); err != nil {
		return err
	}
	ref, err := st.Ref(n.modelRef(r.ID()))
	if err == nil && ref.Tree != r.Manifest {
		err = fmt.Errorf("%w: root %s keeps another tree", cas.ErrCorrupt, ref.Name)
	}
	return err
}

// quarantine takes a model out of use that the policy no longer admits. The
// sources are asked first, unless the artifact itself is revoked: a new policy
// may be met by signatures that were not kept.
func (n *Node) quarantine(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record) error {
	if a.Cause != CauseRevoked {
		err := n.readmitOnline(ctx, acc, a.model, r)
		if err == nil {
			return n.save(r)
		}
		n.o.Log.Warn("not admitted again", "model", r.ID(), "error", err)
	}
	f := refusal(*a.decision, r.Manifest, r.Receipt.source())
	r.Cause, r.Holds = f.Cause, ""
	r.Failures++
	r.RetryAfter = n.now().Add(n.backoff(acc.Document.Settings.Retry, r.Failures))
	if err := r.move(Failed, n.o.By, f.Reason, acc.Digest, n.now()); err != nil {
		return err
	}
	return errors.Join(f, n.report(r, Incident{
		Kind: f.Cause, Model: r.Name, Version: r.Version, Digest: r.Manifest, Expected: f.Expected, Found: f.Found, Source: f.Source,
		Reason: f.Reason, Action: "quarantined", Snapshot: acc.Digest,
	}))
}

func (rc *Receipt) source() string {
	if rc == nil {
		return ""
	}
	return rc.Source
}

// readmitOnline asks the sources for signatures that satisfy the policy in
// force, and keeps them with the model.
func (n *Node) readmitOnline(ctx context.Context, acc *snapshot.Accepted, m *snapshot.Model, r *Record) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	l, err := st.Lease(ctx, "admit "+m.ID(), m.Digest())
	if err != nil {
		return err
	}
	defer l.Release()
	ad, err := n.admit(ctx, l, acc, m.Policy, m.Reference, m.Mirrors)
	if err != nil {
		return err
	}
	ref, err := st.Ref(n.modelRef(r.ID()))
	if err != nil {
		return err
	}
	ref.Blobs = append(ref.Blobs, ad.blobs...)
	if err := st.PutRef(ctx, ref); err != nil {
		return err
	}
	ad.receipt.Source, ad.receipt.Fetched = r.Receipt.source(), 0
	r.Receipt = &ad.receipt
	return nil
}

// remove forgets a model's bytes. The record stays and says why.
func (n *Node) remove(ctx context.Context, acc *snapshot.Accepted, a Action, r *Record) error {
	if r.Cold {
		if err := n.unarchive(ctx, r); err != nil {
			return err
		}
		r.Cold = false
	}
	if r.State != Absent {
		if err := r.move(Absent, n.o.By, a.Reason, acc.Digest, n.now()); err != nil {
			return err
		}
	}
	r.Reason, r.Cause, r.Tree, r.Verdict, r.Holds, r.Receipt = a.Reason, "", "", nil, "", nil
	r.Failures, r.RetryAfter = 0, time.Time{}
	return n.save(r)
}
