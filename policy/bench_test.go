package policy_test

import (
	"fmt"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// BenchmarkAdmitSignatures is one artifact with three signatures (key, legacy,
// keyless) and two attestations. Budget: 50 ms.
func BenchmarkAdmitSignatures(b *testing.B) {
	s := newSigstore(b)
	k1, k2 := newKey(b), newKey(b)
	p := acme(3, keyAuthority(b, "ci", "bundle", k1), keyAuthority(b, "old", "legacy", k2), keylessAuthority("bot"))
	p.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"bot"}}, {PredicateType: "https://example.org/review/v1", Authorities: []string{"ci"}}}
	acc := accepted(p)
	acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
	ev := []policy.Evidence{
		signedBy(b, k1), legacyBy(b, k2, manifest), bundleEvidence(s.sign(bundleShape{})),
		bundleEvidence(s.sign(bundleShape{predicateType: slsa})), attested(b, k1, "https://example.org/review/v1"),
	}
	for b.Loop() {
		if d := admit(acc, ev...); !d.Allowed {
			b.Fatalf("%+v", d)
		}
	}
	ms := b.Elapsed().Seconds() * 1000 / float64(b.N)
	fmt.Printf("\n"+`{"bench":"admit: 3 signatures, 2 attestations","vs":"budget of 50 ms","ratio":%.3f,"value":%.2f,"unit":"ms"}`+"\n", ms/50, ms)
}
