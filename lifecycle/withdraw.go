package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Withdrawal: what a snapshot takes out of use, it takes out at once and by
// itself. The rules below need nothing but the snapshot, the record and what
// the store holds: no source, no container engine, no hardware, no lock that
// anybody keeps for long. They run before everything else that a command does,
// and every reader applies them to what it shows, so that nobody sees a model
// in use that the accepted snapshot withdraws (invariant 5).

// withdrawal is what the snapshot acc asks for at once of a record; m is the
// entry that lists the model, nil where none does. Admitted makes the decision
// on the stored evidence again; nil where that is known to hold.
func withdrawal(acc *snapshot.Accepted, m *snapshot.Model, r *Record, admitted func() policy.Decision) (Action, bool) {
	doc := acc.Document
	a := Action{Name: r.Name, Version: r.Version, State: r.State, Next: r.State, model: m, tested: r.Tested}
	do := func(v Verb, next State, why string) (Action, bool) {
		a.Verb, a.Next, a.Reason = v, next, why
		return a, true
	}
	refused := func(d policy.Decision) (Action, bool) {
		a.Cause, a.decision = Cause(d.Class), &d
		return do(Quarantine, Failed, d.Reason)
	}
	ready := r.State == Active || r.State == Pending
	if m == nil {
		if ready {
			return do(Disable, Inactive, "the snapshot no longer lists it")
		}
		return a, false
	}
	held := r.State.Installed() || r.State == Failed && r.Tree != ""
	same := r.Manifest == "" || r.Manifest == m.Digest()
	if d := policy.Listed(doc, m.Name, m.Version); !d.Allowed { // revoked by digest
		if held && (r.State != Failed || r.Cause != Cause(d.Class)) {
			return refused(d)
		}
		return a, false
	}
	if d := policy.AdmitDigests(doc, r.Manifest); !d.Allowed && r.State.Installed() && !same {
		return refused(d)
	}
	if r.State.Installed() && same && admitted != nil {
		switch d := admitted(); {
		case d.Allowed:
		case d.Class == policy.ClassRevoked:
			return refused(d)
		case ready: // its sources may have what the policy asks for now; they are asked when it is out of use
			return do(Disable, Inactive, "not admitted under the snapshot in force: "+d.Reason)
		}
	}
	switch {
	case ready && !same:
		return do(Disable, Inactive, "the snapshot pins other content under this version")
	case !m.Enabled && held && r.State != Inactive:
		return do(Disable, Inactive, "the snapshot disables it")
	case r.State == Active && acc.Freshness == snapshot.Expired && doc.Settings.Expired == "stop":
		return do(Disable, Inactive, "the snapshot has expired and its settings say stop")
	}
	return a, false
}

// withdrawals are those of all records, in their order. Seen are the files of
// the records from before they were read, by which the mark knows them; nil
// where every signature is to be looked at.
func (n *Node) withdrawals(acc *snapshot.Accepted, recs []*Record, seen map[string]string) []Action {
	listed := make(map[string]*snapshot.Model, len(acc.Document.Models))
	for i := range acc.Document.Models {
		listed[acc.Document.Models[i].ID()] = &acc.Document.Models[i]
	}
	done := n.withdrawn()
	var out []Action
	for _, r := range recs {
		m := listed[r.ID()]
		admitted := func() policy.Decision { return n.readmit(acc, m.Policy, m.Reference, r.Receipt, n.modelRef(r.ID())) }
		if done.covers(acc, r.ID(), seen[r.ID()]) {
			admitted = nil
		}
		if a, ok := withdrawal(acc, m, r, admitted); ok {
			out = append(out, a)
		}
	}
	return out
}

// withdraw takes out of use what the snapshot withdraws. A model whose lock a
// long action holds is left to that action, which looks when it ends; readers
// show it as withdrawn meanwhile.
func (n *Node) withdraw(ctx context.Context, acc *snapshot.Accepted, res *SyncResult) error {
	seen, err := n.models.seen()
	if err != nil {
		return err
	}
	recs, err := n.known()
	if err != nil && !errors.Is(err, errCorrupt) {
		return err
	}
	done := withdrawn{Snapshot: acc.Digest, Seen: map[string]string{}}
	for _, r := range recs { // of a damaged one nothing is known
		done.Seen[r.ID()] = seen[r.ID()]
	}
	for _, a := range n.withdrawals(acc, recs, seen) {
		out := n.timed(context.WithoutCancel(ctx), acc, a, SyncOptions{})
		res.Outcomes = append(res.Outcomes, out)
		delete(done.Seen, a.ID()) // another file by now, or left for later
	}
	n.setWithdrawn(done)
	return nil
}

// withdrawStored acts upon the snapshot that is stored already: a command that
// accepted it may have died before it did, and time alone expires it.
func (n *Node) withdrawStored(ctx context.Context, res *SyncResult) error {
	acc, err := n.Current()
	if errors.Is(err, snapshot.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.withdraw(ctx, acc, res)
}

// withdrawn says under which snapshot which records were looked at, each by the
// file that it was: their signatures need not be verified again to know that
// the snapshot keeps them. A record that was written or put back since is
// another file.
type withdrawn struct {
	Snapshot digest.Digest     `json:"snapshot"`
	Seen     map[string]string `json:"seen"`
}

const markWithdrawn = "withdrawn"

func (w withdrawn) covers(acc *snapshot.Accepted, id, file string) bool {
	return w.Snapshot == acc.Digest && file != "" && w.Seen[id] == file
}

// withdrawn reads the mark; one that is absent or damaged covers nothing.
func (n *Node) withdrawn() withdrawn {
	var w withdrawn
	if (records{n.dir}).read(markWithdrawn, &w) != nil {
		return withdrawn{}
	}
	return w
}

// setWithdrawn writes the mark where it says something new. It only saves
// work, so that a disk that does not take it changes nothing.
func (n *Node) setWithdrawn(w withdrawn) {
	if old := n.withdrawn(); old.Snapshot == w.Snapshot && maps.Equal(old.Seen, w.Seen) {
		return
	}
	if err := (records{n.dir}).write(markWithdrawn, w); err != nil {
		n.o.Log.Warn("what was withdrawn is not marked", "error", err)
	}
}

// underSnapshot changes records in memory to what the snapshot in force makes
// of them. Without one that verifies nothing may be used, whatever a record
// says; who may not read the snapshot is shown the records.
func (n *Node) underSnapshot(recs []*Record, seen map[string]string) {
	acc, err := n.Current()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, snapshot.ErrNotOwner) {
		return
	}
	if err != nil {
		for _, r := range recs {
			if r.State == Active || r.State == Pending {
				r.State, r.Reason, r.Cause = Inactive, "not usable without a snapshot that verifies: "+err.Error(), CauseSnapshot
			}
		}
		return
	}
	actions := n.withdrawals(acc, recs, seen)
	for _, r := range recs {
		if len(actions) == 0 {
			return
		}
		if a := actions[0]; a.ID() == r.ID() {
			r.State, r.Reason, r.Cause = a.Next, a.Reason, a.Cause
			actions = actions[1:]
		}
	}
}

// timed runs one action and says how long it took.
func (n *Node) timed(ctx context.Context, acc *snapshot.Accepted, a Action, o SyncOptions) Outcome {
	start := time.Now()
	out := n.do(oci.ForModel(ctx), acc, a, o)
	out.Seconds = time.Since(start).Seconds()
	n.o.Log.Info("action", "verb", a.Verb, "model", a.ID(), "from", a.State, "state", out.After, "seconds", out.Seconds)
	return out
}
