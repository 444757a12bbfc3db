package policy_test

import (
	"crypto"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

const seenRunning = "design: traps seen when the libraries ran"

// scene is what the traps are set in: a key and an identity that the policy
// names, and a stranger of either kind.
type scene struct {
	t                testing.TB
	ci, review, evil crypto.Signer
	net, foreign     *sigstore
}

func newScene(t testing.TB) *scene {
	return &scene{t, newKey(t), newKey(t), newKey(t), newSigstore(t), newSigstore(t)}
}

// under is a snapshot with the network's trust root and one policy.
func (s *scene) under(threshold int, authorities ...snapshot.Authority) *snapshot.Accepted {
	acc := accepted(acme(threshold, authorities...))
	acc.TrustRoots = map[string][]byte{"net": s.net.trustedRoot()}
	return acc
}

func (s *scene) key(name string, k crypto.Signer) snapshot.Authority {
	return keyAuthority(s.t, name, "bundle", k)
}

func (s *scene) legacy(name string, k crypto.Signer) snapshot.Authority {
	return keyAuthority(s.t, name, "legacy", k)
}

func revoked(acc *snapshot.Accepted, r snapshot.Revocation) *snapshot.Accepted {
	acc.Document.Revocations = []snapshot.Revocation{r}
	return acc
}

// traps are the ways in which a verifier of artifact signatures has been seen
// to say yes, each with what is said here.
var traps = []struct {
	name, source string
	class        policy.Class
	decide       func(s *scene) policy.Decision
}{
	{"a legacy signature moved from another artifact (ClaimVerifier nil)", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.legacy("ci", s.ci)), legacyBy(s.t, s.ci, other))
	}},
	{"a bundle moved from another artifact", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence(must(policy.SignBundle(s.ci, other))(s.t)))
	}},
	{"an attestation by a trusted key as a signature, even a verdict that says malicious", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence(must(policy.SignAttestation(s.ci, manifest, "https://example.org/scan/v1", []byte(`{"verdict":"MALICIOUS"}`)))(s.t)))
	}},
	{"an attestation that the policy asks for as the signature, too", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		acc := s.under(1, s.key("ci", s.ci))
		acc.Document.Policies[0].Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
		return admit(acc, attested(s.t, s.ci, slsa))
	}},
	{"a signature as the attestation that the policy asks for", seenRunning, policy.ClassAttestation, func(s *scene) policy.Decision {
		acc := s.under(1, s.key("ci", s.ci))
		acc.Document.Policies[0].Attestations = []snapshot.Attestation{{PredicateType: policy.SignaturePredicate + "/x", Authorities: []string{"ci"}}}
		return admit(acc, signedBy(s.t, s.ci))
	}},
	{"an attestation by an authority that may only sign", seenRunning, policy.ClassAttestation, func(s *scene) policy.Decision {
		acc := s.under(1, s.key("ci", s.ci), s.key("review", s.review))
		acc.Document.Policies[0].Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
		return admit(acc, signedBy(s.t, s.ci), attested(s.t, s.review, slsa))
	}},
	{"legacy keyless, where no identities would accept anyone", "CVE-2026-24122, without a fix in cosign 2", policy.ClassPolicy, func(s *scene) policy.Decision {
		a := keylessAuthority("bot")
		a.SignatureFormat = "legacy"
		return admit(s.under(1, a), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"keyless without identities", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		a := keylessAuthority("bot")
		a.Keyless.Identities = nil
		return admit(s.under(1, a), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"an identity that is empty", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot", snapshot.Identity{})), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"several identities, signed by none of them", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		two := keylessAuthority("bots", snapshot.Identity{Issuer: issuer, Subject: robot}, snapshot.Identity{Issuer: issuer, Subject: "second@example.org"})
		return admit(s.under(1, two), bundleEvidence(s.net.sign(bundleShape{who: "third@example.org"})))
	}},
	{"the issuer of one identity with the subject of another", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		two := keylessAuthority("bots", snapshot.Identity{Issuer: issuer, Subject: robot}, snapshot.Identity{Issuer: "https://second.example", Subject: "second@example.org"})
		return admit(s.under(1, two), bundleEvidence(s.net.sign(bundleShape{who: "second@example.org"})))
	}},
	{"a look-alike identity (unanchored pattern)", "design: identities are no patterns", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(s.net.sign(bundleShape{who: robot + ".attacker.net"})))
	}},
	{"a certificate of another Fulcio", "sigstore: trust roots", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(s.foreign.sign(bundleShape{})))
	}},
	{"a certificate that the artifact brings beside a good signature", "design: key material comes from the policy", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(swapCertificate(s.t, s.net.sign(bundleShape{}), s.foreign.sign(bundleShape{}))))
	}},
	{"a stranger's key under the hint of a trusted one", "design: key material comes from the policy", policy.ClassSignature, func(s *scene) policy.Decision {
		b := must(policy.SignBundle(s.evil, manifest))(s.t)
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence(swapCertificate(s.t, b, must(policy.SignBundle(s.ci, manifest))(s.t))))
	}},
	{"a log entry of another signature", "CVE-2026-22703", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(swapLog(s.t, s.net.sign(bundleShape{}), s.net.sign(bundleShape{who: "x@example.org"}))))
	}},
	{"keyless without a log entry", "sigstore: short-lived certificates", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(s.net.sign(bundleShape{noLog: true})))
	}},
	{"logged after the certificate ended", "sigstore: short-lived certificates", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, keylessAuthority("bot")), bundleEvidence(s.net.sign(bundleShape{at: now.AddDate(2, 0, 0), noTSA: true})))
	}},
	{"no timestamp where the policy asks for one", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		a := keylessAuthority("bot")
		a.Timestamp = &snapshot.LogRef{TrustRootRef: "net"}
		return admit(s.under(1, a), bundleEvidence(s.net.sign(bundleShape{noTSA: true})))
	}},
	{"no certificate timestamp where the policy asks for one", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		a := keylessAuthority("bot")
		a.CTLog = &snapshot.LogRef{TrustRootRef: "net"}
		return admit(s.under(1, a), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"a key without a log entry where the policy asks for one", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		a := s.key("ci", s.ci)
		a.TLog = &snapshot.LogRef{TrustRootRef: "net"}
		return admit(s.under(1, a), signedBy(s.t, s.ci))
	}},
	{"a stolen key: its expiry is not enforced, so the snapshot revokes it", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(revoked(s.under(1, s.key("ci", s.ci)), snapshot.Revocation{Key: keyDigest(s.t, s.ci)}), signedBy(s.t, s.ci))
	}},
	{"a revoked identity", "design: revocation", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(revoked(s.under(1, keylessAuthority("bot")), snapshot.Revocation{Identity: &snapshot.Identity{Issuer: issuer, Subject: robot}}), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"a revoked artifact, whoever signs it", "design: revocation", policy.ClassRevoked, func(s *scene) policy.Decision {
		return admit(revoked(s.under(1, s.key("ci", s.ci)), snapshot.Revocation{Digest: manifest}), signedBy(s.t, s.ci))
	}},
	{"one bundle many times", "design: distinct authorities", policy.ClassSignature, func(s *scene) policy.Decision {
		e := signedBy(s.t, s.ci)
		return admit(s.under(2, s.key("ci", s.ci), s.key("review", s.review)), e, e, e, signedBy(s.t, s.ci))
	}},
	{"one key under two names", "design: distinct keys", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(2, s.key("ci", s.ci), s.key("also-ci", s.ci)), signedBy(s.t, s.ci), signedBy(s.t, s.ci))
	}},
	{"one key in two formats", "design: distinct keys", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(2, s.key("ci", s.ci), s.legacy("also-ci", s.ci)), signedBy(s.t, s.ci), legacyBy(s.t, s.ci, manifest))
	}},
	{"one identity under two names", "design: distinct identities", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(2, keylessAuthority("a"), keylessAuthority("b")), bundleEvidence(s.net.sign(bundleShape{})), bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"a threshold of zero", "design: the zero value rejects", policy.ClassPolicy, func(s *scene) policy.Decision {
		return admit(s.under(0, s.key("ci", s.ci)), signedBy(s.t, s.ci))
	}},
	{"bytes that do not parse", "design: parse errors refuse", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence([]byte("junk")), policy.Evidence{MediaType: policy.LegacyMediaType, Payload: []byte("junk")})
	}},
	{"a bundle that two parsers read differently", "design: parse errors refuse", policy.ClassSignature, func(s *scene) policy.Decision {
		e := signedBy(s.t, s.ci)
		e.Payload = []byte(strings.Replace(string(e.Payload), "{", `{"mediaType":"x",`, 1))
		return admit(s.under(1, s.key("ci", s.ci)), e)
	}},
	{"a payload with two digests", "design: parse errors refuse", policy.ClassSignature, func(s *scene) policy.Decision {
		e := legacyBy(s.t, s.ci, other)
		e.Payload = []byte(strings.Replace(string(e.Payload), `"docker-manifest-digest"`, `"docker-manifest-digest":"`+manifest.String()+`","docker-manifest-digest"`, 1))
		return admit(s.under(1, s.legacy("ci", s.ci)), e)
	}},
	{"an envelope with two signatures", "DSSE: which of them verified?", policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence(twoSignatures(s.t, must(policy.SignBundle(s.ci, manifest))(s.t))))
	}},
	{"a bare message signature, which names no predicate", seenRunning, policy.ClassSignature, func(s *scene) policy.Decision {
		return admit(s.under(1, s.key("ci", s.ci)), bundleEvidence(messageSignature(s.t, must(policy.SignBundle(s.ci, manifest))(s.t))))
	}},
	{"a bundle over the size", "design: cap before reading", policy.ClassSignature, func(s *scene) policy.Decision {
		e := signedBy(s.t, s.ci)
		e.Payload = append(e.Payload, strings.Repeat(" ", 5<<20)...)
		return admit(s.under(1, s.key("ci", s.ci)), e)
	}},
	{"a flood of junk before the signature", "design: cap before reading", policy.ClassSignature, func(s *scene) policy.Decision {
		ev := make([]policy.Evidence, 0, 300)
		for i := range 299 {
			ev = append(ev, bundleEvidence([]byte(strings.Repeat(" ", i+1))))
		}
		return admit(s.under(1, s.key("ci", s.ci)), append(ev, signedBy(s.t, s.ci))...)
	}},
	{"no trust root came with the snapshot", "design: nothing is fetched", policy.ClassPolicy, func(s *scene) policy.Decision {
		acc := s.under(1, keylessAuthority("bot"))
		acc.TrustRoots = nil
		return admit(acc, bundleEvidence(s.net.sign(bundleShape{})))
	}},
	{"another manifest than the pinned one", "design: the digest pins", policy.ClassSignature, func(s *scene) policy.Decision {
		return policy.AdmitSignatures(s.under(1, s.key("ci", s.ci)), "acme", repository+"@"+manifest.String(), other, []policy.Evidence{bundleEvidence(must(policy.SignBundle(s.ci, other))(s.t))}, now)
	}},
	{"a repository that the policy is not for", "ClusterImagePolicy", policy.ClassPolicy, func(s *scene) policy.Decision {
		return policy.AdmitSignatures(s.under(1, s.key("ci", s.ci)), "acme", "registry.example.attacker.net/acme/tiny@"+manifest.String(), manifest, []policy.Evidence{signedBy(s.t, s.ci)}, now)
	}},
	{"an OMS statement about other files", "OpenSSF Model Signing", policy.ClassAttestation, func(s *scene) policy.Decision {
		acc := s.under(1, s.key("ci", s.ci))
		acc.Document.Policies[0].Attestations = []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"ci"}}}
		oms := bundleEvidence(must(policy.SignOMS(s.ci, []policy.FileDigest{{Path: "model.gguf", Digest: digest.FromString("good")}}))(s.t))
		return policy.AdmitSignatures(acc, "acme", repository+"@"+manifest.String(), manifest, []policy.Evidence{signedBy(s.t, s.ci), oms}, now,
			policy.FileDigest{Path: "model.gguf", Digest: digest.FromString("bad")})
	}},
}

// TestTraps runs the table. Where nothing is wrong the same scene admits.
func TestTraps(t *testing.T) {
	s := newScene(t)
	wantAllowed(t, admit(s.under(2, s.key("ci", s.ci), s.legacy("review", s.review), keylessAuthority("bot")),
		signedBy(t, s.ci), legacyBy(t, s.review, manifest), bundleEvidence(s.net.sign(bundleShape{}))), "ci", "review", "bot")
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			d := trap.decide(s)
			wantRefused(t, d, trap.class, "")
			if d.Reason == "" || d.Expected == "" || d.Found == "" {
				t.Errorf("unexplained: %+v", d)
			}
			t.Logf("%s: refused as %s by %s: %s", trap.source, d.Class, d.Rule, d.Reason)
		})
	}
}
