package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Exported is what an export wrote of one model, or of the runtime image that
// models of the export are tested on.
type Exported struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Runtime bool   `json:"runtime"`
	Missing bool   `json:"missing"` // a runtime image that this node does not have
	oci.LayoutResult
}

// Export copies installed models, and the runtime images that they are tested
// on, with their signatures into an OCI image layout directory, for nodes
// without a network. Nothing is written unless every model can be.
func (n *Node) Export(ctx context.Context, models []string, dir string) ([]Exported, error) {
	var recs []*Record
	for _, name := range models {
		r, err := n.Record(name)
		if err != nil {
			return nil, err
		}
		if !r.State.Installed() {
			return nil, &Failure{
				Cause: CauseListing, Reason: fmt.Sprintf("%s is %s: only what is installed can be exported", r.ID(), r.State),
				Hint: "see why with: rmodels explain " + r.ID(),
			}
		}
		recs = append(recs, r)
	}
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	for _, r := range recs {
		if d := n.stillAdmitted(acc, r); !d.Allowed {
			return nil, refusal(d, r.Manifest, r.Receipt.source())
		}
	}
	var out []Exported
	var runtimes []snapshot.Runtime
	copies := make([]*copied, len(recs))
	for i, r := range recs {
		if copies[i], err = n.gather(ctx, acc, r, layoutPrefix+dir); err != nil {
			return out, err
		}
		defer copies[i].lease.Release()
	}
	for i, r := range recs {
		res, err := n.copyOut(ctx, copies[i])
		if err != nil {
			return out, err
		}
		out = append(out, Exported{Name: r.Name, Version: r.Version, LayoutResult: res})
		m, _ := acc.Document.Model(r.Name, r.Version)
		rt, ok := acc.Document.Runtime(m.Compat.Runtime)
		if ok && !slices.ContainsFunc(runtimes, func(x snapshot.Runtime) bool { return x.Name == rt.Name }) {
			runtimes = append(runtimes, rt)
		}
	}
	for _, rt := range runtimes {
		x, err := n.exportRuntime(ctx, rt, dir)
		if err != nil {
			return out, fmt.Errorf("export runtime %s: %w", modelID(rt.Name, rt.Version), err)
		}
		out = append(out, x)
	}
	return out, nil
}

// stillAdmitted is the policy's decision on an installed model, whatever its
// state; of one that is not listed any more, only what is revoked is known.
func (n *Node) stillAdmitted(acc *snapshot.Accepted, r *Record) policy.Decision {
	if m, ok := acc.Document.Model(r.Name, r.Version); ok && m.Digest() == r.Manifest {
		return n.readmit(acc, m.Policy, m.Reference, r.Receipt, n.modelRef(r.ID()))
	}
	held, err := n.heldBy(n.modelRef(r.ID()), r.Manifest)
	if err != nil {
		return policy.Decision{Class: policy.ClassRevoked, Rule: "revocations", Reason: "whether it holds what is revoked cannot be told: " + err.Error()}
	}
	return policy.AdmitDigests(acc.Document, append(held, r.Manifest)...)
}

func (n *Node) exportRuntime(ctx context.Context, rt snapshot.Runtime, dir string) (Exported, error) {
	id := modelID(rt.Name, rt.Version)
	x := Exported{Name: rt.Name, Version: rt.Version, Runtime: true}
	var rec RuntimeRecord
	err := n.runtimes.read(id, &rec)
	if errors.Is(err, fs.ErrNotExist) || err == nil && rec.Reference != rt.Reference {
		x.Missing = true
		return x, nil
	}
	if err != nil {
		return x, err
	}
	st, err := n.store()
	if err != nil {
		return x, err
	}
	l, err := st.Lease(ctx, "export "+id, rec.Blobs...)
	if err != nil {
		return x, err
	}
	defer l.Release()
	ref, err := oci.ParseReference(rt.Reference)
	if err != nil {
		return x, err
	}
	im, err := oci.StoredImage(st, ref, runtime.GOOS+"/"+runtime.GOARCH)
	if err != nil {
		return x, err
	}
	p, err := im.Packed()
	if err != nil {
		return x, err
	}
	ev, err := evidenceOf(st, rec.Receipt)
	if err != nil {
		return x, err
	}
	x.LayoutResult, err = oci.Export(ctx, dir, id, p, ev)
	return x, err
}
