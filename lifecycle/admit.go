package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// evidenceMax bounds one stored signature or bundle in bytes.
const evidenceMax = 4 << 20

// admission is an artifact that the policy lets in, with what shows it.
type admission struct {
	ref     oci.Reference
	mirrors []string
	receipt Receipt
	blobs   []digest.Digest // the evidence, in the store
}

// admit finds the signatures of a reference on its sources, asks the policy,
// and keeps the evidence in the store under lease l. Nothing of the artifact
// but signatures is fetched before the policy has said yes.
func (n *Node) admit(ctx context.Context, l *cas.Lease, acc *snapshot.Accepted, policyName, reference string, mirrors []string) (*admission, error) {
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	ad, ev, d, err := n.judge(ctx, acc, policyName, reference, mirrors)
	if err != nil {
		return nil, err
	}
	if err := n.admitted(acc, policyName, reference, d); err != nil {
		return nil, err
	}
	ad.receipt = Receipt{At: n.now(), Snapshot: acc.Digest, Policy: policyName, Decision: d}
	// Only what counted is kept: the store must not grow by what strangers attach.
	for _, e := range ev {
		dg := digest.FromBytes(e.Payload)
		if !slices.ContainsFunc(d.Signers, func(s policy.Signer) bool { return s.Evidence == dg }) {
			continue
		}
		if err := st.Put(ctx, l, dg, e.Payload); err != nil {
			return nil, fmt.Errorf("keep signature %s: %w", dg, err)
		}
		stored := StoredEvidence{Digest: dg, MediaType: e.MediaType, Annotations: signatureAnnotations(e.Annotations), Source: e.Source}
		if slices.ContainsFunc(ad.receipt.Evidence, func(x StoredEvidence) bool {
			return x.Digest == dg && maps.Equal(x.Annotations, stored.Annotations)
		}) {
			continue
		}
		ad.blobs = append(ad.blobs, dg)
		ad.receipt.Evidence = append(ad.receipt.Evidence, stored)
	}
	return ad, nil
}

// judge asks the policy about an artifact with the signatures that its sources
// have. It changes nothing on the node.
func (n *Node) judge(ctx context.Context, acc *snapshot.Accepted, policyName, reference string, mirrors []string) (*admission, []policy.Evidence, policy.Decision, error) {
	fail := func(err error) (*admission, []policy.Evidence, policy.Decision, error) {
		return nil, nil, policy.Decision{}, err
	}
	ref, err := oci.ParseReference(reference)
	if err != nil {
		return fail(err)
	}
	c, err := n.client()
	if err != nil {
		return fail(err)
	}
	ad := &admission{ref: ref}
	if ad.mirrors, err = n.mirrors(c, acc.Document, ref, mirrors); err != nil {
		return fail(err)
	}
	ev := inline(acc, ref.Digest)
	found, err := c.Evidence(ctx, ref, ad.mirrors)
	if err != nil && len(ev) == 0 {
		return fail(fmt.Errorf("look for signatures of %s: %w", ref, err))
	}
	for _, e := range found {
		ev = append(ev, policy.Evidence(e))
	}
	var files []policy.FileDigest
	if aboutFiles(acc.Document, policyName, ev) {
		a, err := c.Resolve(ctx, ref, ad.mirrors)
		if err != nil {
			return fail(sentBy(ref, fmt.Errorf("fetch manifest: %w", err)))
		}
		files = rawFiles(a)
	}
	d := policy.AdmitSignatures(acc, policyName, reference, ref.Digest, ev, n.now(), files...)
	if !d.Allowed {
		if len(ev) == 0 { // nothing is known of an artifact that no source has
			if _, rerr := c.Resolve(ctx, ref, ad.mirrors); errors.Is(rerr, oci.ErrNotFound) || errors.Is(rerr, oci.ErrUnavailable) {
				return fail(rerr)
			}
		}
		source := ref.Name()
		if len(ev) > 0 && ev[0].Source != "" {
			source = ev[0].Source
		}
		return fail(refusal(d, ref.Digest, source))
	}
	return ad, ev, d, nil
}

// annotationMax bounds one kept annotation in bytes; a certificate chain is the
// longest that policies read.
const annotationMax = 32 << 10

// signatureAnnotations are those that a signature consists of. A registry may
// attach any others, of any size: they are not kept.
func signatureAnnotations(all map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range all {
		if (strings.HasPrefix(k, "dev.cosignproject.cosign/") || strings.HasPrefix(k, "dev.sigstore.cosign/")) && len(k) < 100 && len(v) <= annotationMax && len(kept) < 8 {
			kept[k] = v
		}
	}
	return kept
}

// readmitted are the decisions under one snapshot that let a receipt's evidence
// count: no signature is verified twice by one process for the same answer.
type readmitted struct {
	mu       sync.Mutex
	snapshot digest.Digest
	allowed  map[string]policy.Decision
}

func (c *readmitted) get(snap digest.Digest, key string) (policy.Decision, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot != snap {
		return policy.Decision{}, false
	}
	d, ok := c.allowed[key]
	return d, ok
}

func (c *readmitted) put(snap digest.Digest, key string, d policy.Decision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.snapshot != snap {
		c.snapshot, c.allowed = snap, map[string]policy.Decision{}
	}
	c.allowed[key] = d
}

// readmit makes the decision of a receipt again, offline, under the snapshot
// in force: a revoked key, a changed policy or a withdrawn digest shows here,
// also one of a single file. Root is the artifact's in the store.
func (n *Node) readmit(acc *snapshot.Accepted, policyName, reference string, rc *Receipt, root string) policy.Decision {
	b, err := json.Marshal(struct {
		Policy, Reference, Root string
		Receipt                 *Receipt
	}{policyName, reference, root, rc}, json.Deterministic(true))
	if err != nil {
		return policy.Decision{Class: policy.ClassSignature, Rule: "evidence", Reason: "the receipt cannot be read: " + err.Error()}
	}
	key := digest.FromBytes(b).String()
	if d, ok := n.admissions.get(acc.Digest, key); ok {
		return d
	}
	d := n.readmitNow(acc, policyName, reference, rc, root)
	if d.Allowed {
		n.admissions.put(acc.Digest, key, d)
	}
	return d
}

func (n *Node) readmitNow(acc *snapshot.Accepted, policyName, reference string, rc *Receipt, root string) policy.Decision {
	_, d, err := snapshot.SplitReference(reference)
	if err != nil {
		return policy.Decision{Class: policy.ClassListing, Rule: "models.reference", Reason: err.Error()}
	}
	// What is revoked is so whoever signed it: a policy that changed at the same
	// time must not hide it.
	if slices.ContainsFunc(acc.Document.Revocations, func(r snapshot.Revocation) bool { return r.Digest != "" }) {
		held, err := n.heldBy(root, d)
		if err != nil {
			return policy.Decision{Class: policy.ClassRevoked, Rule: "revocations", Reason: "whether it holds what is revoked cannot be told: " + err.Error()}
		}
		if rev := policy.AdmitDigests(acc.Document, append(held, d)...); !rev.Allowed {
			return rev
		}
	}
	ev := inline(acc, d)
	lost := 0
	if rc != nil {
		st, err := n.store()
		if err != nil {
			return policy.Decision{Class: policy.ClassSignature, Rule: "evidence", Reason: "the stored signatures cannot be read: " + err.Error()}
		}
		for _, s := range rc.Evidence {
			b, err := st.ReadAll(s.Digest, evidenceMax)
			if err != nil {
				n.o.Log.Warn("stored signature unreadable", "digest", s.Digest, "error", err)
				lost++
				continue // the policy counts what is left
			}
			ev = append(ev, policy.Evidence{MediaType: s.MediaType, Payload: b, Annotations: s.Annotations, Source: s.Source})
		}
	}
	var files []policy.FileDigest
	if aboutFiles(acc.Document, policyName, ev) {
		if files, err = n.treeFiles(d); err != nil {
			n.o.Log.Warn("files of an installed model unreadable", "digest", d, "error", err)
		}
	}
	dec := policy.AdmitSignatures(acc, policyName, reference, d, ev, n.now(), files...)
	if !dec.Allowed && lost > 0 { // the publisher is not to blame for what the store lost
		dec.Reason = fmt.Sprintf("%d of its %s cannot be read from the store any more: %s", lost, amount.Count(len(rc.Evidence), "signature"), dec.Reason)
	}
	return dec
}

// heldBy is everything that a root keeps in the store and that the tree of an
// artifact holds; nothing, where there is neither.
func (n *Node) heldBy(root string, manifest digest.Digest) ([]digest.Digest, error) {
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	ref, err := st.Ref(root)
	if unlessAbsent(err) != nil {
		return nil, err
	}
	held := slices.Concat(ref.Blobs, ref.Layers)
	t, err := st.Tree(manifest) // a runtime's image has none
	for _, e := range t.Entries {
		held = append(held, e.Blob)
	}
	return held, unlessAbsent(err)
}

func unlessAbsent(err error) error {
	if errors.Is(err, cas.ErrNotFound) {
		return nil
	}
	return err
}

// aboutFiles tells whether the policy asks for a statement about an artifact's
// files and there is evidence that could be one.
func aboutFiles(doc *snapshot.Snapshot, policyName string, ev []policy.Evidence) bool {
	p, _ := doc.Policy(policyName)
	return len(ev) > 0 && slices.ContainsFunc(p.Attestations, func(a snapshot.Attestation) bool { return a.PredicateType == policy.OMSPredicate })
}

// rawFiles are an artifact's files with the digests that its manifest pins.
// What lies in packed layers is not known before it is fetched, and nothing is
// fetched before the policy has said yes: then there are none.
func rawFiles(a *oci.Artifact) []policy.FileDigest {
	var files []policy.FileDigest
	for _, f := range a.Files {
		if f.Tar || f.Compression != oci.Plain {
			return nil
		}
		files = append(files, policy.FileDigest{Path: f.Path, Digest: f.Desc.Digest})
	}
	return files
}

// treeFiles are an installed model's files with the digests that they were
// stored under.
func (n *Node) treeFiles(manifest digest.Digest) ([]policy.FileDigest, error) {
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	t, err := st.Tree(manifest)
	if err != nil {
		return nil, err
	}
	files := make([]policy.FileDigest, len(t.Entries))
	for i, e := range t.Entries {
		files[i] = policy.FileDigest{Path: e.Path, Digest: e.Blob}
	}
	return files, nil
}

// inline is the evidence that came with the snapshot itself.
func inline(acc *snapshot.Accepted, d digest.Digest) []policy.Evidence {
	var ev []policy.Evidence
	for _, b := range acc.Bundles[d] {
		ev = append(ev, policy.Evidence{MediaType: policy.BundleMediaType, Payload: b, Source: "snapshot"})
	}
	return ev
}

// mirrors lists where else an artifact may come from: what a person named, its
// own mirrors, the snapshot's fallbacks, and where the snapshot permits them
// the node's mirrors: the configuration's and those of hosts.toml files. They
// change where bytes come from, never which.
func (n *Node) mirrors(c *oci.Client, doc *snapshot.Snapshot, ref oci.Reference, own []string) ([]string, error) {
	out := slices.Concat(n.o.From, own)
	prefixed := func(prefixes []string) {
		for _, p := range prefixes {
			out = append(out, strings.TrimSuffix(strings.TrimPrefix(p, "oci://"), "/")+"/"+ref.Repository)
		}
	}
	prefixed(doc.Sources.Fallback)
	if !doc.Sources.AllowNode {
		return out, nil
	}
	prefixed(n.o.Mirrors)
	hosts, err := c.HostMirrors(ref)
	return append(out, hosts...), err
}
