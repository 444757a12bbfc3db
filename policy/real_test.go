package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// nowhere is a registry that refuses connections: the layout is the only
// source that answers.
const nowhere = "127.0.0.1:1/acme/tiny"

func readFixture(t *testing.T, path ...string) []byte {
	t.Helper()
	return must(os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...)))(t)
}

// cosigned is a fixture's artifact with what a release of cosign wrote beside
// it, found in the layout as on a registry.
func cosigned(t *testing.T, release string) (digest.Digest, []policy.Evidence) {
	t.Helper()
	var index ocispec.Index
	check(t, json.Unmarshal(readFixture(t, release, "index.json"), &index))
	at := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == "tiny" })
	if at < 0 {
		t.Fatal("the layout has no artifact tiny")
	}
	d := index.Manifests[at].Digest
	c := must(oci.New(oci.Options{Attempts: 1}))(t)
	ref := must(oci.ParseReference(nowhere + "@" + d.String()))(t)
	layout := must(filepath.Abs(filepath.Join("testdata", release)))(t)
	found, err := c.Evidence(t.Context(), ref, []string{"oci-layout://" + layout})
	check(t, err)
	var ev []policy.Evidence
	for _, e := range found {
		ev = append(ev, policy.Evidence(e))
	}
	return d, ev
}

func fixtureKey(name, format string, public []byte) snapshot.Authority {
	return snapshot.Authority{Name: name, SignatureFormat: format, Key: &snapshot.Key{Data: string(public)}}
}

func nowherePolicy(authorities ...snapshot.Authority) snapshot.Policy {
	return snapshot.Policy{Name: "acme", Images: []snapshot.ImageGlob{{Glob: "127.0.0.1:1/acme/*"}}, Threshold: 1, Authorities: authorities}
}

// TestCosign2: the tag that cosign 2 writes.
func TestCosign2(t *testing.T) {
	const release = "cosign-2.6.5"
	d, ev := cosigned(t, release)
	ask := func(p snapshot.Policy, d digest.Digest) policy.Decision {
		return policy.AdmitSignatures(accepted(p), "acme", nowhere+"@"+d.String(), d, ev, now)
	}
	p := nowherePolicy(fixtureKey("ci", "legacy", readFixture(t, release, "cosign.pub")))
	wantAllowed(t, ask(p, d), "ci")
	wantRefused(t, ask(p, other), policy.ClassSignature, "policies[acme].threshold", "another artifact", d.String())
	wantRefused(t, ask(nowherePolicy(keyAuthority(t, "ci", "legacy", newKey(t))), d), policy.ClassSignature, "policies[acme].threshold")
	wantRefused(t, ask(nowherePolicy(fixtureKey("ci", "bundle", readFixture(t, release, "cosign.pub"))), d), policy.ClassSignature, "policies[acme].threshold", "format")
}

// TestCosign3: the bundles that cosign 3 attaches as referrers, a signature
// and an attestation.
func TestCosign3(t *testing.T) {
	const release = "cosign-3.1.3"
	d, ev := cosigned(t, release)
	if len(ev) != 2 {
		t.Fatalf("%d bundles", len(ev))
	}
	ask := func(p snapshot.Policy, ev ...policy.Evidence) policy.Decision {
		return policy.AdmitSignatures(accepted(p), "acme", nowhere+"@"+d.String(), d, ev, now)
	}
	p := nowherePolicy(fixtureKey("ci", "bundle", readFixture(t, release, "cosign.pub")))
	wantAllowed(t, ask(p, ev...), "ci")
	p.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
	wantAllowed(t, ask(p, ev...), "ci")
	for i, e := range ev { // each alone lacks what the other says
		class := policy.ClassAttestation
		if strings.Contains(e.Annotations["dev.sigstore.bundle.predicateType"], "slsa.dev") {
			class = policy.ClassSignature
		}
		wantRefused(t, ask(p, ev[i]), class, "policies[acme]")
	}
	p.Authorities[0] = keyAuthority(t, "ci", "bundle", newKey(t))
	wantRefused(t, ask(p, ev...), policy.ClassSignature, "policies[acme].threshold")
}

// TestModelSigning: bundles of OpenSSF Model Signing, by a key and by an
// identity of the public Sigstore instance.
func TestModelSigning(t *testing.T) {
	const release = "model_signing-1.1.0"
	reviewer := newKey(t)
	for _, c := range []struct {
		name, bundle, first string
		authority           snapshot.Authority
	}{
		{"key", "key.sig", "signme-1\n", fixtureKey("author", "bundle", readFixture(t, release, "key.pub"))},
		{"keyless", "keyless.sig", "signme-1", keylessAuthority("author", snapshot.Identity{Issuer: "https://sigstore.verify.ibm.com/oauth2", Subject: "stefanb@us.ibm.com"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := []policy.FileDigest{{Path: "signme-1", Digest: digest.FromString(c.first)}, {Path: "signme-2", Digest: digest.FromString("signme-2")}}
			p := acme(1, keyAuthority(t, "review", "bundle", reviewer), c.authority)
			p.Attestations = []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"author"}}}
			acc := accepted(p)
			acc.TrustRoots = map[string][]byte{"net": readFixture(t, release, "trusted_root.json")}
			ask := func(files ...policy.FileDigest) policy.Decision {
				ev := []policy.Evidence{signedBy(t, reviewer), bundleEvidence(readFixture(t, release, c.bundle))}
				return policy.AdmitSignatures(acc, "acme", repository+"@"+manifest.String(), manifest, ev, now, files...)
			}
			wantAllowed(t, ask(files...), "review")
			const rule = "policies[acme].attestations[0]"
			wantRefused(t, ask(files[0]), policy.ClassAttestation, rule, "lacks")
			wantRefused(t, ask(files[0], policy.FileDigest{Path: "signme-2", Digest: other}), policy.ClassAttestation, rule, "signme-2")
			acc.Document.Policies[0].Authorities[1] = keyAuthority(t, "author", "bundle", newKey(t))
			wantRefused(t, ask(files...), policy.ClassAttestation, rule)
		})
	}
}
