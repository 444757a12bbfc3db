package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/snapshot"
)

// verifyRuntimes reads the images of the runtimes that listed models need, as
// far as they are here, and returns those that are bad. A bad blob is not used
// from then on. With repair it is fetched again now, and not when the next test
// inference needs it. The models are not at fault and stay as they are.
func (n *Node) verifyRuntimes(ctx context.Context, acc *snapshot.Accepted, repair bool) ([]Verification, error) {
	var out []Verification
	for _, rt := range acc.Document.Runtimes {
		needed := func(m snapshot.Model) bool { return m.Compat.Runtime == rt.Name }
		if !slices.ContainsFunc(acc.Document.Models, needed) {
			continue
		}
		v, err := n.verifyRuntime(ctx, acc, rt, repair)
		if err != nil {
			return out, err
		}
		if !v.OK || v.Repaired {
			out = append(out, *v)
		}
	}
	return out, nil
}

func (n *Node) verifyRuntime(ctx context.Context, acc *snapshot.Accepted, rt snapshot.Runtime, repair bool) (*Verification, error) {
	id := modelID(rt.Name, rt.Version)
	v := &Verification{Name: rt.Name, Version: rt.Version, Runtime: true, OK: true}
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	l, err := st.Lease(ctx, "verify runtime "+id, rt.Digest())
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if v.Findings, err = n.hashRuntime(ctx, st, l, id, v); err != nil || len(v.Findings) == 0 {
		return v, err
	}
	f := v.Findings[0]
	v.OK, v.Failure = false, &Failure{
		Cause: CauseHash, Reason: "runtime image " + id + ": " + f.Kind + " " + f.Name + ": " + f.Problem, Expected: f.Expected, Found: f.Found,
		Source: rt.Reference, Digest: rt.Digest(), Hint: "repair it with: rmodels verify --repair",
	}
	if err := n.runtimeIncident(acc, rt, v.Failure); err != nil || !repair {
		return v, err
	}
	for _, f := range v.Findings { // signatures too are fetched again only when they are not here
		if err := st.Discard(ctx, digest.Digest(f.Name), f.Problem); err != nil && !errors.Is(err, cas.ErrNotFound) {
			return nil, err
		}
	}
	if _, err := n.runtimeImage(ctx, l, acc, rt, id); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		v.Failure = AsFailure(err)
		return v, nil
	}
	left, err := n.hashRuntime(ctx, st, l, id, v)
	if err == nil && len(left) == 0 {
		v.OK, v.Repaired, v.Failure = true, true, nil
	}
	return v, err
}

// hashRuntime reads what the record of a runtime names. Without a record the
// image is not here yet, or is fetched anew in any case.
func (n *Node) hashRuntime(ctx context.Context, st *cas.Store, l *cas.Lease, id string, v *Verification) ([]cas.Finding, error) {
	var rec RuntimeRecord
	switch err := n.runtimes.read(id, &rec); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errCorrupt):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if err := l.Add(ctx, rec.Blobs...); err != nil {
		return nil, err
	}
	v.Receipt, v.Bytes = rec.Receipt, rec.Size
	step := n.step(id, "hash")
	found, err := st.Verify(ctx, rec.Blobs, cas.VerifyOptions{})
	step(err, "runtime image")
	return found, err
}
