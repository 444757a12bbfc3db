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

// TestCosign2: the tags that cosign 2 writes, of a signature and of an
// attestation.
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

	p.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
	wantAllowed(t, ask(p, d), "ci")
	p.Authorities = append(p.Authorities, keyAuthority(t, "builder", "legacy", newKey(t)))
	p.Attestations[0].Authorities[0] = "builder" // who did not attest
	wantRefused(t, ask(p, d), policy.ClassAttestation, "policies[acme].attestations[0]")
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

const modelSigning = "model_signing-1.1.1"

// signedModel is what a listing of sha256sum says of a model's files.
func signedModel(t *testing.T) []policy.FileDigest {
	t.Helper()
	var files []policy.FileDigest
	for line := range strings.Lines(string(readFixture(t, modelSigning, "model.sha256"))) {
		sum, path, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			t.Fatalf("line %q", line)
		}
		files = append(files, policy.FileDigest{Path: path, Digest: digest.NewDigestFromEncoded(digest.SHA256, sum)})
	}
	if len(files) != 3 {
		t.Fatalf("%d files", len(files))
	}
	return files
}

// TestModelSigning: a bundle of OpenSSF Model Signing by a key.
func TestModelSigning(t *testing.T) {
	author := fixtureKey("author", "bundle", readFixture(t, modelSigning, "key.pub"))
	testModelSigning(t, author, nil, readFixture(t, modelSigning, "model.sig"))
}

// testModelSigning asks for the author's statement about the fixture's files.
func testModelSigning(t *testing.T, author snapshot.Authority, trustRoots map[string][]byte, bundle []byte) {
	t.Helper()
	reviewer := newKey(t)
	p := acme(1, keyAuthority(t, "review", "bundle", reviewer), author)
	p.Attestations = []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"author"}}}
	acc := accepted(p)
	acc.TrustRoots = trustRoots
	ask := func(files ...policy.FileDigest) policy.Decision {
		ev := []policy.Evidence{signedBy(t, reviewer), bundleEvidence(bundle)}
		return policy.AdmitSignatures(acc, "acme", repository+"@"+manifest.String(), manifest, ev, now, files...)
	}
	files := signedModel(t)
	wantAllowed(t, ask(files...), "review", "author")
	wantAllowed(t, ask(append(files, policy.FileDigest{Path: "model.sig", Digest: digest.FromBytes(bundle)})...), "author")
	const rule = "policies[acme].attestations[0]"
	wantRefused(t, ask(files[:2]...), policy.ClassAttestation, rule, "lacks", "tokenizer/vocab.txt")
	wantRefused(t, ask(files[0], policy.FileDigest{Path: "model.safetensors", Digest: other}, files[2]), policy.ClassAttestation, rule, "model.safetensors")
	// What the signer's ignore_paths leave out is a file like any other.
	wantRefused(t, ask(append(files, policy.FileDigest{Path: ".gitattributes", Digest: other})...), policy.ClassAttestation, rule, ".gitattributes")
	acc.Document.Policies[0].Authorities[1] = keyAuthority(t, "author", "bundle", newKey(t))
	wantRefused(t, ask(files...), policy.ClassAttestation, rule)
}
