package policy_test

import (
	"bytes"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// FuzzEvidence: no bytes but those that the key signed are admitted.
func FuzzEvidence(f *testing.F) {
	k := newKey(f)
	s := newSigstore(f)
	acc := accepted(acme(1, keyAuthority(f, "ci", "bundle", k), keyAuthority(f, "old", "legacy", k), keylessAuthority("bot")))
	acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
	acc.Document.Policies[0].Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
	for _, b := range [][]byte{
		must(policy.SignBundle(k, other))(f), must(policy.SignBundle(newKey(f), manifest))(f), must(policy.SignAttestation(k, manifest, slsa, []byte("{}")))(f),
		s.sign(bundleShape{subject: other}), s.sign(bundleShape{who: "x@example.org"}), messageSignature(f, s.sign(bundleShape{})), twoSignatures(f, s.sign(bundleShape{})),
		must(policy.SignOMS(k, []policy.FileDigest{{Path: "a", Digest: other}}))(f),
		[]byte("{}"), []byte("null"), []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"payload":"","signatures":[null]}}`),
	} {
		f.Add(uint8(0), b, "")
	}
	moved := legacyBy(f, k, other)
	f.Add(uint8(1), moved.Payload, moved.Annotations[policy.LegacySignature])
	f.Add(uint8(1), []byte(`{"critical":null}`), "AAAA")
	f.Add(uint8(2), envelopeOf(f, must(policy.SignAttestation(k, manifest, slsa, []byte("{}")))(f)), "")
	f.Add(uint8(2), envelopeOf(f, must(policy.SignBundle(k, manifest))(f)), "")
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte, annotation string) {
		e := policy.Evidence{MediaType: policy.BundleMediaType, Payload: bytes.Clone(payload)}
		switch kind % 3 {
		case 1:
			e.MediaType, e.Annotations = policy.LegacyMediaType, map[string]string{policy.LegacySignature: annotation}
		case 2:
			e.MediaType = policy.LegacyAttestation
		}
		if d := admit(acc, e); d.Allowed {
			t.Fatalf("admitted: %+v", d)
		}
	})
}

// FuzzTrustRoot: a trust root that does not parse is an error of the policy,
// never one authority less.
func FuzzTrustRoot(f *testing.F) {
	s := newSigstore(f)
	good := s.trustedRoot()
	bundle := bundleEvidence(s.sign(bundleShape{}))
	f.Add(good)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","certificateAuthorities":[{}]}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{"publicKey":{"rawBytes":""}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		acc := accepted(acme(1, keylessAuthority("bot")))
		acc.TrustRoots = map[string][]byte{"net": b}
		d := admit(acc, bundle)
		if !d.Allowed && d.Class == "" {
			t.Fatalf("%+v", d)
		}
	})
}

// FuzzPrivateKey: key files of any content do no harm.
func FuzzPrivateKey(f *testing.F) {
	private, _, err := policy.MarshalKey(newKey(f))
	check(f, err)
	f.Add(private, []byte(nil))
	f.Add([]byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, b, pass []byte) {
		if k, err := policy.LoadKey(b, pass); err == nil && k == nil {
			t.Fatal("no key and no error")
		}
	})
}
