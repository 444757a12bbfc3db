package policy_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// envelopeOf takes the DSSE envelope out of a bundle, as cosign 2 attaches it.
func envelopeOf(t testing.TB, bundle []byte) []byte {
	t.Helper()
	var b struct {
		Envelope jsontext.Value `json:"dsseEnvelope"`
	}
	check(t, json.Unmarshal(bundle, &b))
	return b.Envelope
}

// retyped is an envelope with the same payload, signed as one of another type.
func retyped(t *testing.T, key crypto.Signer, e policy.Evidence, payloadType string) policy.Evidence {
	t.Helper()
	var env struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
		Signatures  []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	}
	check(t, json.Unmarshal(e.Payload, &env))
	env.PayloadType = payloadType
	sum := sha256.Sum256(dsse.PAE(payloadType, env.Payload))
	env.Signatures[0].Sig = must(key.Sign(rand.Reader, sum[:], crypto.SHA256))(t)
	return policy.Evidence{MediaType: e.MediaType, Payload: must(json.Marshal(env))(t)}
}

// TestBareEnvelopes: attestations without a bundle, by authorities of the
// legacy format; never signatures.
func TestBareEnvelopes(t *testing.T) {
	k := newKey(t)
	p := acme(1, keyAuthority(t, "ci", "legacy", k), keyAuthority(t, "new", "bundle", k))
	p.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
	acc := accepted(p)
	bare := func(b []byte) policy.Evidence {
		return policy.Evidence{MediaType: policy.LegacyAttestation, Payload: envelopeOf(t, b)}
	}
	attest := func(key crypto.Signer, d digest.Digest, kind string) policy.Evidence {
		return bare(must(policy.SignAttestation(key, d, kind, []byte(`{"a":1}`)))(t))
	}
	signed := legacyBy(t, k, manifest)
	good := attest(k, manifest, slsa)
	wantAllowed(t, admit(acc, signed, good), "ci")
	missing := func(name string, e policy.Evidence) {
		t.Helper()
		if d := admit(acc, signed, e); d.Allowed || d.Class != policy.ClassAttestation {
			t.Errorf("%s: %+v", name, d)
		}
	}
	with := func(old, new string) policy.Evidence {
		if !strings.Contains(string(good.Payload), old) {
			t.Fatalf("no %s in %s", old, good.Payload)
		}
		return policy.Evidence{MediaType: good.MediaType, Payload: []byte(strings.Replace(string(good.Payload), old, new, 1))}
	}
	missing("of another artifact", attest(k, other, slsa))
	missing("of another kind", attest(k, manifest, "https://example.org/other"))
	missing("by a stranger", attest(newKey(t), manifest, slsa))
	missing("of another type", with("application/vnd.in-toto+json", "text/plain"))
	missing("signed as another type", retyped(t, k, good, "text/plain"))
	missing("a second signature", with(`}]`, `},{"sig":"AAAA"}]`))
	missing("no signature", with(`"sig":`, `"gis":`))
	missing("read in two ways", with(`"payloadType"`, `"payload":"","payloadType"`))
	missing("endless", with(`"payloadType"`, `"more":"`+strings.Repeat("x", 4<<20)+`","payloadType"`))
	missing("by the key under its other name", policy.Evidence{MediaType: policy.BundleMediaType, Payload: must(policy.SignAttestation(k, manifest, slsa, []byte("{}")))(t)})

	p.Attestations = nil
	wantRefused(t, admit(accepted(p), good), policy.ClassSignature, "policies[acme].threshold")
	wantRefused(t, admit(accepted(p), bare(must(policy.SignBundle(k, manifest))(t))), policy.ClassSignature, "policies[acme].threshold", "attestations, not signatures")
}
