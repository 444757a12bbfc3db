package lifecycle

import (
	"context"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// TestModelSigning: a policy that asks for an OpenSSF Model Signing statement
// admits a model whose files are those of the statement, and holds the
// installed files against it again, offline.
func TestModelSigning(t *testing.T) {
	w := newNetwork(t)
	w.must(w.repo.AddPolicy(snapshot.Policy{
		Name: "acme", Threshold: 1, Images: []snapshot.ImageGlob{{Glob: w.host + "/**"}},
		Authorities:  []snapshot.Authority{{Name: "publisher", SignatureFormat: "bundle", Key: &snapshot.Key{Data: w.public}}},
		Attestations: []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"publisher"}}},
		Content:      snapshot.Content{ChatTemplates: "any"},
	}))
	sign := func(name, words string, change func([]policy.FileDigest)) string {
		reference := w.push(name, w.key, words)
		ref, err := w.ociReference(reference)
		w.must(err)
		a, err := w.client.Resolve(context.Background(), ref, nil)
		w.must(err)
		var files []policy.FileDigest
		for _, f := range a.Files {
			files = append(files, policy.FileDigest{Path: f.Path, Digest: f.Desc.Digest})
		}
		change(files)
		b, err := policy.SignOMS(w.key, files)
		w.must(err)
		w.must(w.client.AttachBundle(context.Background(), ref, b))
		return reference
	}
	w.list("honest", "v1", sign("honest", "one", func([]policy.FileDigest) {}))
	w.list("swapped", "v1", sign("swapped", "two", func(files []policy.FileDigest) { files[0].Digest = digest.FromString("another file") }))
	w.list("unstated", "v1", w.push("unstated", w.key, "three"))
	w.publish()
	n := w.node()
	out := w.sync(n)
	r := w.state(n, "honest@v1", Pending)
	if got := len(r.Receipt.Decision.Signers); got != 2 || len(r.Receipt.Evidence) != 2 {
		t.Errorf("receipt: %d signers, %d pieces of evidence", got, len(r.Receipt.Evidence))
	}
	for id, want := range map[string]string{"swapped@v1": "the OMS statement says", "unstated@v1": "attestation is missing"} {
		if o := out[id]; o.After != Failed || o.Failure == nil || o.Failure.Cause != CauseSignature && o.Failure.Cause != CauseAttestation ||
			!strings.Contains(o.Failure.Reason+o.Failure.Found, want) {
			t.Errorf("%s: %+v, %+v", id, o, o.Failure)
		}
	}

	w.requests()
	vs, err := n.Verify(context.Background(), VerifyOptions{Only: []string{"honest@v1"}})
	if err != nil || len(vs) != 1 || !vs[0].OK || len(vs[0].Decision.Signers) != 2 {
		t.Fatalf("%+v, %v", vs, err)
	}
	if seen := w.requests(); len(seen) != 0 {
		t.Errorf("verify went online: %s", seen)
	}
}
