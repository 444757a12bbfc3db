package policy_test

import (
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// TestAttestsOnly: an authority that only attests does not sign, by whatever
// format it signs, and its attestations count.
func TestAttestsOnly(t *testing.T) {
	ci, scanner := newKey(t), newKey(t)
	s := newSigstore(t)
	const scan = "https://example.org/scan/v1"
	const rule = "policies[acme].threshold"
	build := func(threshold int, scanners ...snapshot.Authority) *snapshot.Accepted {
		p := acme(threshold, append([]snapshot.Authority{keyAuthority(t, "ci", "bundle", ci)}, scanners...)...)
		p.Attestations = []snapshot.Attestation{{PredicateType: scan}}
		for i, a := range scanners {
			p.Authorities[i+1].AttestsOnly = true
			p.Attestations[0].Authorities = append(p.Attestations[0].Authorities, a.Name)
		}
		acc := accepted(p)
		acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
		return acc
	}
	one := build(1, keyAuthority(t, "scanner", "bundle", scanner))
	// The case: the scanner's key alone signs and attests.
	d := admit(one, signedBy(t, scanner), attested(t, scanner, scan))
	wantRefused(t, d, policy.ClassSignature, rule, "scanner: it may only attest", "a signature by ci")
	wantRefused(t, admit(one, signedBy(t, ci)), policy.ClassAttestation, "policies[acme].attestations[0]", "scanner")
	wantRefused(t, admit(one, signedBy(t, ci), attested(t, ci, scan)), policy.ClassAttestation, "policies[acme].attestations[0]")
	wantAllowed(t, admit(one, signedBy(t, ci), attested(t, scanner, scan)), "ci", "scanner")

	legacy := build(1, keyAuthority(t, "scanner", "legacy", scanner))
	wantRefused(t, admit(legacy, legacyBy(t, scanner, manifest)), policy.ClassSignature, rule, "it may only attest")
	keyless := build(1, keylessAuthority("scanner"))
	wantRefused(t, admit(keyless, bundleEvidence(s.sign(bundleShape{}))), policy.ClassSignature, rule, "it may only attest")
	wantAllowed(t, admit(keyless, signedBy(t, ci), bundleEvidence(s.sign(bundleShape{predicateType: scan}))), "scanner")
	// No threshold is met with it.
	two := build(2, keyAuthority(t, "scanner", "bundle", scanner))
	wantRefused(t, admit(two, signedBy(t, ci), signedBy(t, scanner), attested(t, scanner, scan)), policy.ClassSignature, rule, "1: ci")
}
