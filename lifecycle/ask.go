package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// prepared is what a run of an installed model needs, under a lease that the
// caller releases. The verbs are those with which the next pass would leave
// the model in a use that this run is like: what it would take out of use,
// refuse or fetch anew is not run, whatever the record still says.
func (n *Node) prepared(ctx context.Context, purpose, nameOrID string, verbs ...Verb) (engine, *runner.Job, *Record, *cas.Lease, error) {
	fail := func(err error) (engine, *runner.Job, *Record, *cas.Lease, error) {
		return nil, nil, nil, nil, err
	}
	acc, err := n.Current()
	if err != nil {
		return fail(err)
	}
	r, err := n.Record(nameOrID)
	if err != nil {
		return fail(err)
	}
	m, listed := acc.Document.Model(r.Name, r.Version)
	p, err := n.plan(ctx, acc, SyncOptions{Only: []string{r.ID()}})
	if err != nil {
		return fail(err)
	}
	if !listed || !m.Enabled || r.Manifest != m.Digest() || len(p.Actions) != 1 || !slices.Contains(verbs, p.Actions[0].Verb) || !r.State.Installed() {
		f := &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s (%s) and may not be used", r.ID(), r.State, r.Reason), Hint: "see why, and what happens next: rmodels explain " + r.ID()}
		if len(p.Actions) > 0 && p.Actions[0].Verb.takesOut() {
			f.Reason = fmt.Sprintf("%s may not be used any more: %s", r.ID(), p.Actions[0].Reason)
		}
		return fail(f)
	}
	st, err := n.store()
	if err != nil {
		return fail(err)
	}
	eng, err := n.engine(ctx)
	if err != nil {
		return fail(err)
	}
	l, err := st.Lease(ctx, purpose+" "+r.ID(), r.Manifest)
	if err != nil {
		return fail(err)
	}
	if err := n.whole(ctx, st, r); err != nil {
		l.Release()
		bad := treeFailure(r, err)
		if _, err := n.locked(ctx, r.ID(), func(r *Record) error { return n.settle(ctx, acc, r, bad) }); !errors.Is(err, ErrBusy) {
			return fail(err)
		}
		return fail(bad)
	}
	job, err := n.job(ctx, l, acc, &m, r)
	if err != nil {
		l.Release()
		return fail(err)
	}
	return eng, job, r, l, nil
}

// watchEvery is how often a running box is held against the snapshot in force.
const watchEvery = time.Second

// watched is ctx until a newer snapshot than acc takes the model out of use:
// what runs then is ended, too.
func (n *Node) watched(ctx context.Context, acc *snapshot.Accepted, id string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		t := time.NewTicker(watchEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			cur, err := n.Current()
			if err != nil || cur.Digest == acc.Digest && cur.Freshness == acc.Freshness {
				continue
			}
			why, out := n.isOut(ctx, cur, id)
			if out {
				cancel(&Failure{Cause: CauseListing, Reason: "ended, because a newer snapshot takes it out of use: " + why, Hint: "see why with: rmodels explain " + id})
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

// isOut reports whether a model may not be used under the snapshot acc, be it
// that this is still to be done or done already.
func (n *Node) isOut(ctx context.Context, acc *snapshot.Accepted, id string) (why string, out bool) {
	var r Record
	if err := n.models.read(id, &r); err == nil {
		if r.State != Active && r.State != Pending {
			return r.Reason, true
		}
		if as := n.withdrawals(acc, []*Record{&r}, nil); len(as) > 0 {
			return as[0].Reason, true
		}
	}
	p, err := n.plan(ctx, acc, SyncOptions{Only: []string{id}})
	if err != nil {
		return "", false
	}
	for _, a := range p.Actions {
		if a.ID() == id && a.Verb.takesOut() {
			return a.Reason, true
		}
	}
	return "", false
}

// Ask puts one question to an Active model in the sealed container and
// streams its answer to w. It changes no state.
func (n *Node) Ask(ctx context.Context, nameOrID, prompt string, w io.Writer) (*runner.Verdict, error) {
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	eng, job, r, l, err := n.prepared(ctx, "ask", nameOrID, Keep, Retest)
	if err == nil && r.State != Active {
		l.Release()
		err = &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s: only Active models may be used", r.ID(), r.State), Hint: "see why with: rmodels explain " + r.ID()}
	}
	if err != nil {
		return nil, err
	}
	defer l.Release()
	ctx, stop := n.watched(ctx, acc, r.ID())
	defer stop()
	v, err := eng.Ask(ctx, *job, prompt, w)
	return v, endedFor(ctx, err)
}

// KeepRunning validates an installed model and leaves its sealed engine
// running for a look, until limit has passed or ctx ends. The verdict is
// printed, not kept: the model's state comes from [Node.Sync] alone.
func (n *Node) KeepRunning(ctx context.Context, nameOrID string, limit time.Duration, ready func(runner.Kept)) (*runner.Verdict, error) {
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	eng, job, r, l, err := n.prepared(ctx, "keep", nameOrID, Keep, Retest, Validate)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	ctx, stop := n.watched(ctx, acc, r.ID())
	defer stop()
	v, err := eng.Keep(ctx, *job, limit, ready)
	return v, endedFor(ctx, err)
}

// endedFor is why a watched run ended, where that was not its own doing.
func endedFor(ctx context.Context, err error) error {
	if f, ok := errors.AsType[*Failure](context.Cause(ctx)); ok {
		return f
	}
	return err
}
