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
)

// prepared is what a run of an installed model needs, under a lease that the
// caller releases. The verbs are those with which the next pass would leave
// the model in a use that this run is like: what it would take out of use,
// refuse or fetch anew is not run, whatever the record still says.
func (n *Node) prepared(ctx context.Context, purpose, nameOrID string, verbs ...Verb) (*runner.Engine, *runner.Job, *Record, *cas.Lease, error) {
	fail := func(err error) (*runner.Engine, *runner.Job, *Record, *cas.Lease, error) {
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
	eng, err := runner.FindEngine(ctx, n.o.Engine)
	if err != nil {
		return fail(err)
	}
	l, err := st.Lease(ctx, purpose+" "+r.ID(), r.Manifest)
	if err != nil {
		return fail(err)
	}
	if err := st.CheckTree(ctx, r.Manifest); err != nil {
		l.Release()
		bad := treeFailure(r, err)
		if _, err := n.locked(ctx, r.ID(), func(r *Record) error { return n.settle(acc, r, bad) }); !errors.Is(err, ErrBusy) {
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

// Ask puts one question to an Active model in the sealed container and
// streams its answer to w. It changes no state.
func (n *Node) Ask(ctx context.Context, nameOrID, prompt string, w io.Writer) (*runner.Verdict, error) {
	eng, job, r, l, err := n.prepared(ctx, "ask", nameOrID, Keep, Retest)
	if err == nil && r.State != Active {
		l.Release()
		err = &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s: only Active models may be used", r.ID(), r.State), Hint: "see why with: rmodels explain " + r.ID()}
	}
	if err != nil {
		return nil, err
	}
	defer l.Release()
	return eng.Ask(ctx, *job, prompt, w)
}

// KeepRunning validates an installed model and leaves its sealed engine
// running for a look, until limit has passed or ctx ends. The verdict is
// printed, not kept: the model's state comes from [Node.Sync] alone.
func (n *Node) KeepRunning(ctx context.Context, nameOrID string, limit time.Duration, ready func(runner.Kept)) (*runner.Verdict, error) {
	eng, job, _, l, err := n.prepared(ctx, "keep", nameOrID, Keep, Retest, Validate)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	return eng.Keep(ctx, *job, limit, ready)
}
