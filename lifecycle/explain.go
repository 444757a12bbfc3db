package lifecycle

import (
	"context"
	"errors"
	"slices"

	"github.com/resultity/rmodels/policy"
)

// Explanation says why a model is in its state and what happens next.
type Explanation struct {
	Name      string           `json:"name"`
	Version   string           `json:"version"`
	State     State            `json:"state"`
	Reason    string           `json:"reason"`
	Cause     Cause            `json:"cause,omitzero"`
	Listed    bool             `json:"listed"`
	Enabled   bool             `json:"enabled"`
	Next      Action           `json:"next"`               // what the next sync does
	Admission *policy.Decision `json:"admission,omitzero"` // the policy's decision on the evidence at hand
	Record    *Record          `json:"record,omitzero"`
	Incidents []Incident       `json:"incidents,omitzero"` // the newest five
}

// Explain answers for every version of a model that matches, without a
// network and without changing anything.
func (n *Node) Explain(ctx context.Context, nameOrID string) ([]Explanation, error) {
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	recs, err := n.Records()
	if err != nil && !errors.Is(err, errCorrupt) { // the next sync rebuilds a damaged record
		return nil, err
	}
	p, err := n.planFor(ctx, acc, recs, SyncOptions{Only: []string{nameOrID}})
	if err != nil {
		return nil, err
	}
	var out []Explanation
	for _, a := range p.Actions {
		e := Explanation{Name: a.Name, Version: a.Version, State: a.State, Next: a, Reason: a.Reason, Cause: a.Cause}
		if i := slices.IndexFunc(recs, func(r *Record) bool { return r.ID() == a.ID() }); i >= 0 {
			e.Record, e.Reason, e.Cause = recs[i], recs[i].Reason, recs[i].Cause
		}
		if a.model != nil {
			e.Listed, e.Enabled = true, a.model.Enabled
			if e.Record != nil && e.Record.Tree != "" && e.Record.Receipt != nil { // else gc may have freed the evidence
				d := n.readmit(acc, a.model.Policy, a.model.Reference, e.Record.Receipt, n.modelRef(a.ID()))
				e.Admission = &d
			}
		}
		if e.Incidents, err = n.Incidents(a.ID(), 5); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if len(out) > 0 {
		return out, nil
	}
	r, err := n.Record(nameOrID)
	if err != nil {
		return nil, err
	}
	e := Explanation{Name: r.Name, Version: r.Version, State: r.State, Reason: r.Reason, Cause: r.Cause, Record: r}
	e.Next = Action{Verb: Keep, Name: r.Name, Version: r.Version, State: r.State, Next: r.State, Reason: "nothing: the snapshot does not list it"}
	if e.Incidents, err = n.Incidents(r.ID(), 5); err != nil {
		return nil, err
	}
	return []Explanation{e}, nil
}
