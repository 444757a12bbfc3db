package lifecycle

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Preflight is what installing one model would take: what its sources and
// signatures say today, without a change on the node.
type Preflight struct {
	Name    string          `json:"name"`
	Version string          `json:"version"`
	Source  string          `json:"source,omitzero"` // that has the manifest
	Format  string          `json:"format,omitzero"`
	Signers []string        `json:"signers,omitzero"`
	Fetch   int64           `json:"fetch"`           // bytes
	Here    int64           `json:"here"`            // bytes that the store holds, those of interrupted fetches too
	Disk    int64           `json:"disk"`            // bytes that the store grows by; at least, where layers are packed: what their files take is known when they are here
	Packed  bool            `json:"packed,omitzero"` // some layers are archives
	Blobs   []PreflightBlob `json:"blobs,omitzero"`
	Failure *Failure        `json:"failure,omitzero"` // why it would be refused
}

// PreflightBlob is one blob, with the files that it becomes. A packed layer's
// files are known once it is here; its directory stands for them.
type PreflightBlob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Here   bool          `json:"here"`
	Part   int64         `json:"part,omitzero"` // bytes that an interrupted fetch left
	Files  []string      `json:"files,omitzero"`
}

// preflight looks at each model that a plan installs, or refuses for its size.
// One that cannot be looked at is told with the reason, like one that would be
// refused.
func (n *Node) preflight(ctx context.Context, acc *snapshot.Accepted, p Plan) ([]Preflight, error) {
	out := []Preflight{}
	for _, a := range p.Actions {
		if a.model == nil || a.Verb != Install && !(a.Verb == Refuse && a.Cause == CauseSpace) {
			continue
		}
		f := Preflight{Name: a.Name, Version: a.Version}
		if err := n.foresee(oci.ForModel(ctx), acc, a.model, &f); err != nil {
			if ctx.Err() != nil {
				return out, ctx.Err()
			}
			f.Failure = AsFailure(err)
		}
		if f.Failure == nil && f.Disk > p.FreeBytes {
			f.Failure = &Failure{
				Cause: CauseSpace, Reason: fmt.Sprintf("needs %s of disk, this node has %s free above its reserve", amount.Bytes(f.Disk), amount.Bytes(max(0, p.FreeBytes))),
				Hint: "free some with: rmodels gc",
			}
		}
		out = append(out, f)
	}
	return out, nil
}

func (n *Node) foresee(ctx context.Context, acc *snapshot.Accepted, m *snapshot.Model, f *Preflight) error {
	c, err := n.client()
	if err != nil {
		return err
	}
	st, err := n.store()
	if err != nil {
		return err
	}
	pol, ok := acc.Document.Policy(m.Policy)
	if !ok {
		return &Failure{Cause: CausePolicy, Reason: fmt.Sprintf("the snapshot has no policy %q", m.Policy)}
	}
	ref, err := oci.ParseReference(m.Reference)
	if err != nil {
		return err
	}
	mirrors, err := n.mirrors(c, acc.Document, ref, m.Mirrors)
	if err != nil {
		return err
	}
	a, err := c.Resolve(ctx, ref, mirrors)
	if err != nil {
		return sentBy(ref, fmt.Errorf("fetch manifest: %w", err))
	}
	f.Source, f.Format = a.From, string(a.Format)
	at := map[digest.Digest]int{}
	for _, b := range a.Blobs() {
		x := PreflightBlob{Digest: b.Digest, Size: b.Size}
		if x.Here = a.Here(ctx, st, b.Digest); x.Here {
			f.Here += b.Size
		} else {
			x.Part = st.Partial(b.Digest, b.Size)
			f.Here += x.Part
			f.Fetch += b.Size - x.Part
		}
		at[b.Digest] = len(f.Blobs)
		f.Blobs = append(f.Blobs, x)
	}
	for _, x := range a.Files {
		b := &f.Blobs[at[x.Desc.Digest]]
		b.Files = append(b.Files, x.Path)
		f.Packed = f.Packed || x.Tar || x.Compression != oci.Plain
	}
	f.Disk = f.Fetch
	_, _, d, err := n.judge(ctx, acc, m.Policy, m.Reference, m.Mirrors)
	if err != nil {
		return err
	}
	for _, s := range d.Signers {
		f.Signers = append(f.Signers, s.Authority)
	}
	if d := policy.AdmitLayout(pol, *m, string(a.Format), claims(a)); !d.Allowed {
		return refusal(d, ref.Digest, a.From)
	}
	return nil
}

// present is how many bytes of a model the store holds, as far as its manifest
// is here to tell.
func (n *Node) present(m *snapshot.Model) int64 {
	st, err := n.store()
	if err != nil {
		return 0
	}
	a, err := oci.StoredArtifact(st, m.Digest())
	if err != nil {
		return 0
	}
	var sum int64
	for _, b := range a.Blobs() {
		if a.Here(context.Background(), st, b.Digest) {
			sum += b.Size
		} else {
			sum += st.Partial(b.Digest, b.Size)
		}
	}
	return sum
}
