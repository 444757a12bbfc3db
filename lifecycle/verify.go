package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Verification is what a full check of one model found, or of the image of a
// runtime that is bad.
type Verification struct {
	Name     string          `json:"name"`
	Runtime  bool            `json:"runtime,omitzero"` // a runtime's image, which has no state
	Version  string          `json:"version"`
	State    State           `json:"state"` // afterwards
	OK       bool            `json:"ok"`
	Bytes    int64           `json:"bytes"`            // read and hashed
	Decision policy.Decision `json:"decision"`         // the admission, made again offline under the snapshot in force
	Receipt  *Receipt        `json:"receipt,omitzero"` // what was decided at installation
	Findings []cas.Finding   `json:"findings,omitzero"`
	Repaired bool            `json:"repaired"`
	Failure  *Failure        `json:"failure,omitzero"`
}

// VerifyOptions choose what is verified.
type VerifyOptions struct {
	Only   []string // names or name@version; empty: every installed model
	Repair bool     // fetch again what is bad, and validate again
}

// Verify reads every byte of installed models again, compares each blob with
// its digest and each tree with its blobs, and makes the admission decision
// again, without a network. A model that fails is Failed from then on. Without
// names the images of listed runtimes are looked at, too; see verifyRuntimes.
func (n *Node) Verify(ctx context.Context, o VerifyOptions) ([]Verification, error) {
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	recs, err := n.written()
	if err != nil && !errors.Is(err, errCorrupt) { // the next sync mends a damaged record; the others are verified
		return nil, err
	}
	for _, want := range o.Only {
		if !slices.ContainsFunc(recs, func(r *Record) bool { return r.Name == want || r.ID() == want }) {
			_, err := n.Record(want)
			return nil, err
		}
	}
	var out []Verification
	for _, r := range recs {
		if len(o.Only) > 0 && !slices.Contains(o.Only, r.Name) && !slices.Contains(o.Only, r.ID()) {
			continue
		}
		if r.State == Absent && len(o.Only) == 0 {
			continue // nothing of it is here, and nothing was damaged
		}
		if !r.State.Installed() && r.Tree == "" && (!o.Repair || len(o.Only) == 0 && r.Manifest == "") { // what never was here is not to be repaired
			if len(o.Only) > 0 && r.State != Absent {
				f := &Failure{Cause: r.Cause, Reason: r.Reason, Hint: "try again with: rmodels sync " + r.ID()}
				out = append(out, Verification{Name: r.Name, Version: r.Version, State: r.State, Failure: f})
			}
			continue
		}
		v, err := n.verifyOne(ctx, acc, r.ID(), o.Repair)
		if err != nil {
			return out, err
		}
		out = append(out, *v)
	}
	if len(o.Only) == 0 {
		images, err := n.verifyRuntimes(ctx, acc, o.Repair)
		return append(out, images...), err
	}
	return out, nil
}

func (n *Node) verifyOne(ctx context.Context, acc *snapshot.Accepted, id string, repair bool) (*Verification, error) {
	lk, err := n.models.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	var r Record
	err = n.models.read(id, &r)
	if err != nil {
		lk.Unlock()
		return nil, err
	}
	v := &Verification{Name: r.Name, Version: r.Version, Receipt: r.Receipt}
	if r.Tree != "" {
		err = n.verifyRecord(ctx, acc, &r, v)
	}
	var out Outcome
	n.overtaken(ctx, acc, &r, &out)
	v.State = r.State
	lk.Unlock()
	if err != nil && AsFailure(err).Cause == CauseUnexpected {
		return nil, err
	}
	if err != nil {
		v.Failure = AsFailure(err)
	}
	v.OK = v.Failure == nil && r.State != Failed
	if v.OK || !repair {
		if r.State == Failed && v.Failure == nil {
			v.Failure = &Failure{Cause: r.Cause, Reason: r.Reason, Hint: "try again with: rmodels sync " + id}
		}
		return v, nil
	}
	res, err := n.Sync(ctx, SyncOptions{Only: []string{id}, Force: true})
	if err != nil {
		return nil, err
	}
	for _, out := range res.Outcomes {
		v.State, v.Failure = out.After, out.Failure
	}
	v.Repaired = v.Failure == nil && v.State.Installed()
	v.OK = v.Repaired
	return v, nil
}

// verifyRecord checks one installed model under its lock and settles what it
// found.
func (n *Node) verifyRecord(ctx context.Context, acc *snapshot.Accepted, r *Record, v *Verification) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	l, err := st.Lease(ctx, "verify "+r.ID(), r.Manifest)
	if err != nil {
		return err
	}
	defer l.Release()
	ref, err := st.Ref(n.modelRef(r.ID()))
	if errors.Is(err, cas.ErrNotFound) && r.rooting() == kept {
		return n.evicted(r)
	}
	if errors.Is(err, cas.ErrNotFound) {
		return n.settle(ctx, acc, r, treeFailure(r, err))
	}
	if err != nil {
		return err
	}
	if err := l.Add(ctx, append(ref.Blobs, ref.Layers...)...); err != nil {
		return err
	}
	step := n.step(r.ID(), "hash")
	v.Findings, err = st.Verify(ctx, hashed(st, r, ref), cas.VerifyOptions{OnProgress: func(d digest.Digest, done, total int64) {
		n.o.Progress.Emit(progress.Event{Kind: progress.Bytes, Model: r.ID(), Step: "hash", Digest: d.String(), Source: "disk", Done: done, Total: total})
	}})
	step(err, amount.Bytes(r.Size))
	if err != nil {
		return err
	}
	v.Bytes = r.Size
	if len(v.Findings) > 0 {
		f := v.Findings[0]
		return n.settle(ctx, acc, r, &Failure{
			Cause: CauseHash, Reason: f.Kind + " " + f.Name + ": " + f.Problem, Expected: f.Expected, Found: f.Found, Source: r.Tree,
			Digest: r.Manifest, Hint: "repair it with: rmodels verify --repair " + r.ID(),
		})
	}
	if err := errors.Join(st.CheckTree(ctx, r.Manifest), n.checkLayers(ctx, st, r, ref)); err != nil {
		return n.settle(ctx, acc, r, treeFailure(r, err))
	}
	m, ok := acc.Document.Model(r.Name, r.Version)
	if !ok || m.Digest() != r.Manifest {
		return nil // not what is listed: the next sync takes it out of use
	}
	v.Decision = n.readmit(acc, m.Policy, m.Reference, r.Receipt, n.modelRef(r.ID()))
	if !v.Decision.Allowed && r.State == Failed {
		return refusal(v.Decision, r.Manifest, r.Receipt.source()) // it is in quarantine for that already
	}
	if !v.Decision.Allowed {
		return n.settle(ctx, acc, r, refusal(v.Decision, r.Manifest, r.Receipt.source()))
	}
	return nil
}

// hashed are the blobs of a model: what its ref names, and the files of its
// tree, which are none of these where layers are packed. A tree that cannot be
// read fails its own check.
func hashed(st *cas.Store, r *Record, ref cas.Ref) []digest.Digest {
	blobs := slices.Clone(ref.Blobs)
	if t, err := st.Tree(r.Manifest); err == nil {
		for _, e := range t.Entries {
			blobs = append(blobs, e.Blob)
		}
	}
	slices.Sort(blobs)
	return slices.Compact(blobs)
}

// checkLayers compares the tree of a model with packed layers with what the
// store noted when it unpacked them.
func (n *Node) checkLayers(ctx context.Context, st *cas.Store, r *Record, ref cas.Ref) error {
	if len(ref.Layers) == 0 {
		return nil
	}
	a, err := oci.StoredArtifact(st, r.Manifest)
	if err != nil {
		return err
	}
	want, err := a.Entries(ctx, st)
	if err != nil {
		return err
	}
	t, err := st.Tree(r.Manifest)
	if err != nil {
		return err
	}
	slices.SortFunc(want, func(a, b cas.TreeEntry) int { return strings.Compare(a.Path, b.Path) })
	if !slices.Equal(want, t.Entries) {
		return fmt.Errorf("%w: tree %s does not show what its layers hold; build it again", cas.ErrCorrupt, r.Manifest)
	}
	return nil
}

// ScrubFindings settles what a scrub of the store found. A model that holds
// flagged bytes is out of use from now on, and mended by the next pass; what
// no model holds is an incident of the node.
func (n *Node) ScrubFindings(ctx context.Context, fs []cas.Finding) error {
	if len(fs) == 0 {
		return nil
	}
	acc, err := n.Current()
	if err != nil && !errors.Is(err, snapshot.ErrNone) {
		return err
	}
	settled := map[string]bool{}
	if err == nil {
		if settled, err = n.demoteDamaged(ctx, acc); err != nil {
			return err
		}
	}
	for _, f := range fs {
		if settled[f.Name] {
			continue
		}
		if err := n.incident(Incident{
			Kind: CauseHash, Digest: digest.Digest(f.Name), Expected: f.Expected, Found: f.Found, Source: n.o.StoreDir,
			Reason: f.Kind + ": " + f.Problem, Action: "not handed out until it is repaired",
		}); err != nil {
			return err
		}
	}
	return nil
}

// demoteDamaged looks at the trees of all installed models and settles those
// that do not fit the store. It returns the blobs of these.
func (n *Node) demoteDamaged(ctx context.Context, acc *snapshot.Accepted) (map[string]bool, error) {
	recs, err := n.Records()
	if err != nil && !errors.Is(err, errCorrupt) {
		return nil, err
	}
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	blobs := map[string]bool{}
	for _, r := range recs {
		if !r.State.Installed() {
			continue
		}
		ref, rerr := st.Ref(n.modelRef(r.ID()))
		_, err := n.locked(ctx, r.ID(), func(r *Record) error {
			if err := st.CheckTree(ctx, r.Manifest); err != nil && r.State.Installed() {
				return n.settle(ctx, acc, r, treeFailure(r, err))
			}
			return nil
		})
		switch {
		case err == nil, errors.Is(err, ErrBusy): // whoever is at work meets the damage itself
		case AsFailure(err).Cause != CauseHash:
			return nil, err
		case rerr == nil:
			for _, d := range hashed(st, r, ref) {
				blobs[d.String()] = true
			}
		}
	}
	return blobs, nil
}
