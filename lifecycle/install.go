package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// modelRef is the name of a model's root in the store, runtimeRef a runtime
// image's. They carry the network: one store serves several.
// No name holds a slash, so no network's refs begin as another's do.
func (n *Node) modelRef(id string) string   { return "model/" + n.o.Network + "/" + id }
func (n *Node) runtimeRef(id string) string { return "runtime/" + n.o.Network + "/" + id }

// install brings one listed model onto the node: signatures first, then the
// manifest's claims, then the bytes, then what the bytes are, and only then a
// tree. On success r is Pending in memory; the caller stores it. An archived
// model comes from the archive where that still has it.
func (n *Node) install(ctx context.Context, acc *snapshot.Accepted, m *snapshot.Model, r *Record) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	c, err := n.client()
	if err != nil {
		return err
	}
	pol, ok := acc.Document.Policy(m.Policy)
	if !ok {
		return &Failure{Cause: CausePolicy, Reason: fmt.Sprintf("the snapshot has no policy %q", m.Policy)}
	}
	// Announce, then check: from here on no collector takes what this needs.
	l, err := st.Lease(ctx, "install "+m.ID(), m.Digest())
	if err != nil {
		return err
	}
	defer l.Release()

	mirrors := m.Mirrors
	if r.Cold && n.o.Archive != "" {
		ref, err := oci.ParseReference(m.Reference)
		if err != nil {
			return err
		}
		mirrors = slices.Concat([]string{n.archiveSource(ref)}, mirrors)
	}
	step := n.step(m.ID(), "verify signatures")
	ad, err := n.admit(ctx, l, acc, m.Policy, m.Reference, mirrors)
	step(err, signedBy(ad))
	if err != nil {
		return err
	}

	a, err := c.Resolve(ctx, ad.ref, ad.mirrors)
	if err != nil {
		return sentBy(ad.ref, fmt.Errorf("fetch manifest: %w", err))
	}
	if err := n.reportMismatches(m, acc, a.Mismatches, nil); err != nil {
		return err
	}
	if d := policy.AdmitLayout(pol, *m, string(a.Format), claims(a)); !d.Allowed {
		return refusal(d, ad.ref.Digest, a.From)
	}
	blobs, layers := a.Kept()
	blobs = append(blobs, ad.blobs...)
	if d := policy.AdmitDigests(acc.Document, slices.Concat(blobs, layers)...); !d.Allowed {
		return refusal(d, ad.ref.Digest, a.From)
	}
	if err := st.Put(ctx, l, ad.ref.Digest, a.Raw); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}

	healed, err := n.heal(ctx, st, c, a, ad.mirrors, m.ID())
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	step = n.step(m.ID(), "fetch")
	bases, err := n.otherVersions(ctx, st, l, m)
	if err != nil {
		return err
	}
	res, err := c.Fetch(ctx, st, l, a, oci.FetchOptions{
		Progress: n.o.Progress, Model: m.ID(), Bases: bases,
		Limits: oci.Limits(pol.Content.Limits),
	})
	step(err, fetchedLine(res))
	if merr := n.reportMismatches(m, acc, res.Mismatches, err); merr != nil && err == nil {
		err = merr
	}
	if err != nil {
		return sentBy(ad.ref, fmt.Errorf("fetch: %w", err))
	}

	entries, err := a.Entries(ctx, st)
	if err != nil {
		return sentBy(ad.ref, fmt.Errorf("list files: %w", err))
	}
	step = n.step(m.ID(), "check content")
	err = n.checkContent(st, acc.Document, pol, m, ad.ref, a.From, entries)
	step(err, amount.Count(len(entries), "file"))
	if err != nil {
		return err
	}

	step = n.step(m.ID(), "build tree")
	tree, err := st.BuildTree(ctx, l, ad.ref.Digest, entries)
	step(err, "read-only, "+amount.Bytes(tree.Size))
	if err != nil {
		return fmt.Errorf("build tree: %w", err)
	}
	if err := st.PutRef(ctx, cas.Ref{Name: n.modelRef(m.ID()), Tree: ad.ref.Digest, Blobs: blobs, Layers: layers, Pinned: true, LastUsed: n.now()}); err != nil {
		return fmt.Errorf("root %s in the store: %w", m.ID(), err)
	}
	ad.receipt.Source, ad.receipt.Fetched = a.From, healed+res.Bytes
	r.Reference, r.Manifest, r.Format, r.Size, r.Tree = m.Reference, ad.ref.Digest, string(a.Format), tree.Size, tree.Path
	r.Receipt, r.Verdict, r.Holds = &ad.receipt, nil, ""
	r.Cause, r.Unlisted = "", time.Time{}
	return r.move(Pending, n.o.By, "bytes and signatures verified; not validated yet", acc.Digest, n.now())
}

// otherVersions are the blobs of other installed versions of the model, held by
// the lease: what did not change is copied from them.
func (n *Node) otherVersions(ctx context.Context, st *cas.Store, l *cas.Lease, m *snapshot.Model) ([]digest.Digest, error) {
	recs, err := n.Records()
	if err != nil && !errors.Is(err, errCorrupt) {
		return nil, err
	}
	var out []digest.Digest
	for _, r := range recs {
		if r.Name != m.Name || r.Version == m.Version || !r.State.Installed() {
			continue
		}
		ref, err := st.Ref(n.modelRef(r.ID()))
		if errors.Is(err, cas.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, ref.Blobs...)
	}
	return out, l.Add(ctx, out...)
}

// sentBy names the artifact and its repository in a failure that does not say
// where the bytes came from.
func sentBy(ref oci.Reference, err error) error {
	f := AsFailure(err)
	if f.Source == "" {
		f.Source = ref.Name()
	}
	if f.Digest == "" {
		f.Digest = ref.Digest
	}
	return f
}

// claims is what the manifest says of each file, before a byte of it.
func claims(a *oci.Artifact) []policy.FileClaim {
	out := make([]policy.FileClaim, len(a.Files))
	for i, f := range a.Files {
		out[i] = policy.FileClaim{Path: f.Path, Size: f.Desc.Size, MediaType: f.Desc.MediaType, Digest: f.Desc.Digest, Archive: f.Tar}
	}
	return out
}

// checkContent runs the path guard and the content gate on every file before
// a tree exists.
func (n *Node) checkContent(st *cas.Store, doc *snapshot.Snapshot, pol snapshot.Policy, m *snapshot.Model, ref oci.Reference, source string, entries []cas.TreeEntry) error {
	files := make([]policy.ArtifactFile, len(entries))
	paths := make([]string, len(entries))
	digests := make([]digest.Digest, len(entries))
	for i, e := range entries {
		stat, err := st.Stat(e.Blob)
		if err != nil {
			return err
		}
		paths[i], digests[i] = e.Path, e.Blob
		files[i] = policy.ArtifactFile{Path: e.Path, Size: stat.Size, Open: func() (policy.ReaderAtCloser, error) { return st.Open(e.Blob) }}
	}
	if err := policy.SafePaths(paths); err != nil {
		return &Failure{Cause: CauseContent, Reason: err.Error(), Digest: ref.Digest, Expected: "relative paths that stay inside the model", Found: terminal.Clip(err.Error(), 200), Source: source, Err: err}
	}
	// Files of packed layers have no digest in the manifest.
	if d := policy.AdmitDigests(doc, digests...); !d.Allowed {
		return refusal(d, ref.Digest, source)
	}
	if d := policy.AdmitContent(pol, *m, files); !d.Allowed {
		return refusal(d, ref.Digest, source)
	}
	return nil
}

// reportMismatches writes an incident for each source that sent wrong bytes,
// also when another source had the right ones. The mismatch that ended the
// fetch with err is left to whoever settles that.
func (n *Node) reportMismatches(m *snapshot.Model, acc *snapshot.Accepted, ms []oci.Mismatch, err error) error {
	last, _ := errors.AsType[*oci.DigestError](err)
	for _, x := range ms {
		if last != nil && x.Expected == last.Expected && x.Source == last.Source {
			continue
		}
		found := x.Found.String()
		if len(x.Ranges) > 0 {
			found = fmt.Sprintf("%s (wrong in %d ranges, the first at byte %d)", found, len(x.Ranges), x.Ranges[0].Off)
		}
		err := n.incident(Incident{
			Kind: CauseHash, Model: m.Name, Version: m.Version, Digest: x.Expected, Expected: x.Expected.String(), Found: found,
			Source: x.Source, Reason: "a source sent bytes that do not match the digest of the " + x.What,
			Action: "discarded; other sources were asked", Snapshot: acc.Digest,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// step reports one step of a model to whoever watches.
func (n *Node) step(id, name string) func(err error, result string) {
	n.o.Progress.Emit(progress.Event{Kind: progress.StepStart, Model: id, Step: name})
	return func(err error, result string) {
		if err != nil {
			result = "failed: " + AsFailure(err).Reason
		}
		n.o.Progress.Emit(progress.Event{Kind: progress.StepEnd, Model: id, Step: name, Message: result, Failed: err != nil})
	}
}

func signedBy(ad *admission) string {
	if ad == nil {
		return ""
	}
	s := "signed by"
	for i, x := range ad.receipt.Decision.Signers {
		if i > 0 {
			s += ","
		}
		s += " " + x.Authority
	}
	return s
}

func fetchedLine(r oci.FetchResult) string {
	s := amount.Bytes(r.Bytes) + " fetched"
	if r.Resumed > 0 {
		s += ", " + amount.Bytes(r.Resumed) + " resumed"
	}
	if r.Copied > 0 {
		s += ", " + amount.Bytes(r.Copied) + " copied from another version"
	}
	if r.Present > 0 {
		s += ", " + amount.Bytes(r.Present) + " here already"
	}
	return s
}
