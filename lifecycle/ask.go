package lifecycle

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// prepared is what a run of an installed model needs; release ends its lease.
func (n *Node) prepared(ctx context.Context, purpose, nameOrID string, ok func(*Record) error) (*runner.Engine, *runner.Job, *Record, *cas.Lease, error) {
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
	if !listed {
		return fail(&Failure{Cause: CauseListing, Reason: r.ID() + ": the snapshot does not list it", Hint: "see: rmodels explain " + r.ID()})
	}
	if err := ok(r); err != nil {
		return fail(err)
	}
	if acc.Freshness == snapshot.Expired && acc.Document.Settings.Expired == "stop" {
		return fail(&Failure{Cause: CauseListing, Reason: "the snapshot has expired and its settings say stop", Hint: "fetch a newer one with: rmodels sync"})
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
		return fail(treeFailure(r, err))
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
	eng, job, _, l, err := n.prepared(ctx, "ask", nameOrID, func(r *Record) error {
		if r.State != Active {
			return &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s: only Active models may be used", r.ID(), r.State), Hint: "see why with: rmodels explain " + r.ID()}
		}
		return nil
	})
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
	eng, job, _, l, err := n.prepared(ctx, "keep", nameOrID, func(r *Record) error {
		if r.Tree == "" {
			return &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s and not on this node", r.ID(), r.State), Hint: "fetch it with: rmodels pull " + r.ID()}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer l.Release()
	return eng.Keep(ctx, *job, limit, ready)
}
