package policy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

func TestKeySignatures(t *testing.T) {
	a, b := newKey(t), newKey(t)
	acc := accepted(acme(1, keyAuthority(t, "ci", "bundle", a), keyAuthority(t, "old", "legacy", b)))
	d := admit(acc, signedBy(t, a))
	wantAllowed(t, d, "ci")
	if s := d.Signers[0]; s.Key != keyDigest(t, a) || s.Format != "bundle" || s.PredicateType != policy.SignaturePredicate || s.Source != "registry.example" || s.Evidence == "" || !d.Time.Equal(now) {
		t.Errorf("%+v", s)
	}
	wantAllowed(t, admit(acc, legacyBy(t, b, manifest)), "old")
	wantRefused(t, admit(acc), policy.ClassSignature, "policies[acme].threshold", "not signed")
	wantRefused(t, admit(acc, signedBy(t, b)), policy.ClassSignature, "policies[acme].threshold", "no authority")
	wantRefused(t, admit(acc, legacyBy(t, a, manifest)), policy.ClassSignature, "policies[acme].threshold", "no authority")
	// A signature that moved from another artifact.
	wantRefused(t, admit(acc, legacyBy(t, b, other)), policy.ClassSignature, "policies[acme].threshold", "another artifact", other.String())
	moved := bundleEvidence(must(policy.SignBundle(a, other))(t))
	wantRefused(t, admit(acc, moved), policy.ClassSignature, "policies[acme].threshold", "another artifact", other.String())
	// Junk beside a good one does no harm and is told.
	d = admit(acc, bundleEvidence([]byte("junk")), moved, signedBy(t, a))
	wantAllowed(t, d, "ci")
	if len(d.Rejected) != 2 {
		t.Errorf("%+v", d.Rejected)
	}
}

// TestZeroValues: what is empty rejects.
func TestZeroValues(t *testing.T) {
	k := newKey(t)
	ev := signedBy(t, k)
	ref := repository + "@" + manifest.String()
	for name, acc := range map[string]*snapshot.Accepted{
		"nil":          nil,
		"no document":  {},
		"empty":        {Document: &snapshot.Snapshot{}},
		"empty policy": accepted(snapshot.Policy{Name: "acme"}),
		"threshold 0":  accepted(acme(0, keyAuthority(t, "ci", "bundle", k))),
		"no authority": accepted(acme(1)),
		"no images":    accepted(snapshot.Policy{Name: "acme", Threshold: 1, Authorities: []snapshot.Authority{keyAuthority(t, "ci", "bundle", k)}}),
		"zero authority": accepted(acme(1, snapshot.Authority{
			Name: "ci",
		})),
		"no format": accepted(acme(1, keyAuthority(t, "ci", "", k))),
	} {
		if d := policy.AdmitSignatures(acc, "acme", ref, manifest, []policy.Evidence{ev}, now); d.Allowed || d.Class == "" || d.Rule == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if (policy.Decision{}).Allowed {
		t.Error("the zero decision admits")
	}
	if d := policy.Listed(nil, "tiny", "v1"); d.Allowed {
		t.Error(d)
	}
	if d := policy.Compatible(nil, snapshot.Model{}, policy.Facts{}); d.Allowed {
		t.Error(d)
	}
}

func TestReference(t *testing.T) {
	k := newKey(t)
	acc := accepted(acme(1, keyAuthority(t, "ci", "bundle", k)))
	ev := []policy.Evidence{signedBy(t, k)}
	for _, c := range []struct {
		name, policy, reference string
		manifest                digest.Digest
		class                   policy.Class
	}{
		{"unknown policy", "none", repository + "@" + manifest.String(), manifest, policy.ClassPolicy},
		{"tag", "acme", repository + ":v1", manifest, policy.ClassPolicy},
		{"another repository", "acme", "registry.example/evil/tiny@" + manifest.String(), manifest, policy.ClassPolicy},
		{"another host", "acme", "registry.example.attacker.net/acme/tiny@" + manifest.String(), manifest, policy.ClassPolicy},
		{"a deeper repository", "acme", "registry.example/acme/a/tiny@" + manifest.String(), manifest, policy.ClassPolicy},
		{"not the pinned manifest", "acme", repository + "@" + manifest.String(), other, policy.ClassSignature},
		{"no manifest", "acme", repository + "@" + manifest.String(), "", policy.ClassSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitSignatures(acc, c.policy, c.reference, c.manifest, ev, now)
			if d.Allowed || d.Class != c.class {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestThreshold: distinct authorities with distinct keys, never bundles.
func TestThreshold(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	two := acme(2, keyAuthority(t, "a", "bundle", a), keyAuthority(t, "b", "bundle", b), keyAuthority(t, "c", "legacy", c))
	wantAllowed(t, admit(accepted(two), signedBy(t, a), signedBy(t, b)), "a", "b")
	wantAllowed(t, admit(accepted(two), signedBy(t, a), legacyBy(t, c, manifest)), "a", "c")
	wantRefused(t, admit(accepted(two), signedBy(t, a)), policy.ClassSignature, "policies[acme].threshold", "2 of", "1: a")
	wantRefused(t, admit(accepted(two), signedBy(t, a), signedBy(t, a), signedBy(t, a)), policy.ClassSignature, "policies[acme].threshold", "1: a")

	// One key under two names is one signer, in one format or in two.
	twice := acme(2, keyAuthority(t, "a", "bundle", a), keyAuthority(t, "also-a", "bundle", a))
	wantRefused(t, admit(accepted(twice), signedBy(t, a)), policy.ClassSignature, "policies[acme].threshold")
	formats := acme(2, keyAuthority(t, "a", "bundle", a), keyAuthority(t, "also-a", "legacy", a))
	wantRefused(t, admit(accepted(formats), signedBy(t, a), legacyBy(t, a, manifest)), policy.ClassSignature, "policies[acme].threshold")

	// Two names share a key and one has another besides: the largest
	// assignment counts, whatever the order.
	s := newSigstore(t)
	shared := []snapshot.Identity{{Issuer: issuer, Subject: robot}}
	both := append([]snapshot.Identity{{Issuer: issuer, Subject: "second@example.org"}}, shared...)
	acc := accepted(acme(2, keylessAuthority("wide", both...), keylessAuthority("narrow", shared...)))
	acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
	first, second := bundleEvidence(s.sign(bundleShape{})), bundleEvidence(s.sign(bundleShape{who: "second@example.org"}))
	wantRefused(t, admit(acc, first), policy.ClassSignature, "policies[acme].threshold")
	wantRefused(t, admit(acc, second), policy.ClassSignature, "policies[acme].threshold")
	wantAllowed(t, admit(acc, first, second), "wide", "narrow")
	wantAllowed(t, admit(acc, second, first), "wide", "narrow")
}

func TestAttestations(t *testing.T) {
	ci, review := newKey(t), newKey(t)
	p := acme(1, keyAuthority(t, "ci", "bundle", ci), keyAuthority(t, "review", "bundle", review))
	// Any attestation by a trusted key would pass as a signature if the
	// predicate type were not checked, even a verdict that says "malicious".
	malicious := attested(t, ci, "https://example.org/scan/v1")
	wantRefused(t, admit(accepted(p), malicious), policy.ClassSignature, "policies[acme].threshold", "predicate type")

	p.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: []string{"ci"}}}
	wantRefused(t, admit(accepted(p), attested(t, ci, slsa)), policy.ClassSignature, "policies[acme].threshold")
	wantRefused(t, admit(accepted(p), signedBy(t, ci)), policy.ClassAttestation, "policies[acme].attestations[0]", slsa, "ci")
	wantRefused(t, admit(accepted(p), signedBy(t, ci), attested(t, review, slsa)), policy.ClassAttestation, "policies[acme].attestations[0]")
	wantRefused(t, admit(accepted(p), signedBy(t, ci), attested(t, newKey(t), slsa)), policy.ClassAttestation, "policies[acme].attestations[0]")
	wantAllowed(t, admit(accepted(p), signedBy(t, review), attested(t, ci, slsa)), "review", "ci")
	moved := bundleEvidence(must(policy.SignAttestation(ci, other, slsa, []byte("{}")))(t))
	wantRefused(t, admit(accepted(p), signedBy(t, ci), moved), policy.ClassAttestation, "policies[acme].attestations[0]", other.String())
}

func TestOMS(t *testing.T) {
	k := newKey(t)
	p := acme(1, keyAuthority(t, "ci", "bundle", k))
	p.Attestations = []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"ci"}}}
	files := []policy.FileDigest{{Path: "config.json", Digest: digest.FromString("c")}, {Path: "model.gguf", Digest: digest.FromString("m")}}
	oms := bundleEvidence(must(policy.SignOMS(k, files))(t))
	ask := func(ev policy.Evidence, files ...policy.FileDigest) policy.Decision {
		return policy.AdmitSignatures(accepted(p), "acme", repository+"@"+manifest.String(), manifest, []policy.Evidence{signedBy(t, k), ev}, now, files...)
	}
	wantAllowed(t, ask(oms, files...), "ci")
	wantAllowed(t, ask(oms, files[1], files[0]), "ci")
	if d := ask(oms, files...); strings.Contains(d.Reason, "outside") {
		t.Errorf("%q: every file is in the statement", d.Reason)
	}
	// The signature file cannot be in the statement; whoever reads the receipt
	// sees that nothing vouches for it.
	inside := append([]policy.FileDigest{{Path: "model.sig", Digest: digest.FromString("s")}}, files...)
	d := ask(oms, inside...)
	wantAllowed(t, d, "ci")
	if !strings.HasSuffix(d.Reason, `outside the OMS statement: "model.sig"`) {
		t.Errorf("%q does not name model.sig", d.Reason)
	}
	const rule = "policies[acme].attestations[0]"
	wantRefused(t, ask(oms), policy.ClassAttestation, rule, "not known")
	wantRefused(t, ask(oms, files[0]), policy.ClassAttestation, rule, "lacks")
	wantRefused(t, ask(oms, files[0], policy.FileDigest{Path: "model.gguf", Digest: digest.FromString("x")}), policy.ClassAttestation, rule, "model.gguf")
	wantRefused(t, ask(oms, append([]policy.FileDigest{{Path: "extra.json", Digest: digest.FromString("x")}}, files...)...), policy.ClassAttestation, rule, "extra.json")
	wantRefused(t, ask(oms, append([]policy.FileDigest{{Path: "evil.sig", Digest: digest.FromString("x")}}, files...)...), policy.ClassAttestation, rule, "evil.sig")
	wantRefused(t, ask(oms, append([]policy.FileDigest{{Path: "extra.json", Digest: digest.FromString("x")}, {Path: "sub/model.sig", Digest: digest.FromString("x")}}, inside...)...),
		policy.ClassAttestation, rule, `outside the OMS statement: "extra.json", "sub/model.sig", "model.sig"`)
	wantRefused(t, ask(bundleEvidence(must(policy.SignOMS(newKey(t), files))(t)), files...), policy.ClassAttestation, rule)
	// A statement about the manifest lists the files all the same.
	wrong := must(policy.SignAttestation(k, manifest, policy.OMSPredicate, []byte(`{"serialization":{"method":"files"},"resources":[]}`)))(t)
	wantRefused(t, ask(bundleEvidence(wrong), files...), policy.ClassAttestation, rule, "config.json")
	// An OMS statement is no signature of the artifact.
	alone := policy.AdmitSignatures(accepted(p), "acme", repository+"@"+manifest.String(), manifest, []policy.Evidence{oms}, now, files...)
	wantRefused(t, alone, policy.ClassSignature, "policies[acme].threshold")
}

func TestRevocation(t *testing.T) {
	a, b := newKey(t), newKey(t)
	s := newSigstore(t)
	build := func(revs ...snapshot.Revocation) *snapshot.Accepted {
		acc := accepted(acme(1, keyAuthority(t, "a", "bundle", a), keyAuthority(t, "b", "legacy", b), keylessAuthority("bot")))
		acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
		acc.Document.Revocations = revs
		return acc
	}
	key := snapshot.Revocation{Key: keyDigest(t, a), Reason: "laptop stolen"}
	wantRefused(t, admit(build(key), signedBy(t, a)), policy.ClassSignature, "policies[acme].threshold", "revoked", "laptop stolen")
	wantAllowed(t, admit(build(key), signedBy(t, a), legacyBy(t, b, manifest)), "b")
	wantRefused(t, admit(build(snapshot.Revocation{Key: keyDigest(t, b)}), legacyBy(t, b, manifest)), policy.ClassSignature, "policies[acme].threshold", "revoked")
	id := snapshot.Revocation{Identity: &snapshot.Identity{Issuer: issuer, Subject: robot}}
	keyless := bundleEvidence(s.sign(bundleShape{}))
	wantAllowed(t, admit(build(), keyless), "bot")
	wantRefused(t, admit(build(id), keyless), policy.ClassSignature, "policies[acme].threshold", "revoked")
	wantRefused(t, admit(build(snapshot.Revocation{Digest: manifest, Reason: "backdoor"}), signedBy(t, a)), policy.ClassRevoked, "revocations", "backdoor")
}

// TestRevokedParts: what holds something revoked is revoked.
func TestRevokedParts(t *testing.T) {
	doc := &snapshot.Snapshot{Revocations: []snapshot.Revocation{{Key: manifest}, {Digest: digest.FromString("bad"), Reason: "backdoor"}}}
	if d := policy.AdmitDigests(doc, manifest, digest.FromString("good")); !d.Allowed {
		t.Errorf("%+v", d)
	}
	wantRefused(t, policy.AdmitDigests(doc, manifest, digest.FromString("good"), digest.FromString("bad")), policy.ClassRevoked, "revocations", "backdoor")
}

// TestKeyless: exact identities under a private trust root, with a log.
func TestKeyless(t *testing.T) {
	s, foreign := newSigstore(t), newSigstore(t)
	acc := accepted(acme(1, keylessAuthority("bot")))
	acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
	d := admit(acc, bundleEvidence(s.sign(bundleShape{})))
	wantAllowed(t, d, "bot")
	if id := d.Signers[0].Identity; id == nil || id.Subject != robot || id.Issuer != issuer || d.Signers[0].Time.IsZero() {
		t.Errorf("%+v", d.Signers[0])
	}
	two := accepted(acme(1, keylessAuthority("bots", snapshot.Identity{Issuer: issuer, Subject: "x@example.org"}, snapshot.Identity{Issuer: issuer, Subject: robot})))
	two.TrustRoots = acc.TrustRoots
	wantAllowed(t, admit(two, bundleEvidence(s.sign(bundleShape{}))), "bots")

	for name, b := range map[string][]byte{
		"wrong issuer":             s.sign(bundleShape{issuer: "https://evil.example"}),
		"wrong subject":            s.sign(bundleShape{who: "x@example.org"}),
		"subject with a suffix":    s.sign(bundleShape{who: robot + ".attacker.net"}),
		"subject with a prefix":    s.sign(bundleShape{who: "x" + robot}),
		"a foreign Fulcio":         foreign.sign(bundleShape{}),
		"no log entry":             s.sign(bundleShape{noLog: true}),
		"logged after the term":    s.sign(bundleShape{at: now.AddDate(2, 0, 0), noTSA: true}),
		"another artifact":         s.sign(bundleShape{subject: other}),
		"another predicate":        s.sign(bundleShape{predicateType: slsa}),
		"a key instead":            must(policy.SignBundle(newKey(t), manifest))(t),
		"tampered":                 tamper(t, s.sign(bundleShape{})),
		"two signatures":           twoSignatures(t, s.sign(bundleShape{})),
		"not JSON":                 []byte("x"),
		"empty object":             []byte("{}"),
		"duplicate member":         []byte(strings.Replace(string(s.sign(bundleShape{})), "{", `{"mediaType":"x",`, 1)),
		"a certificate of its own": swapCertificate(t, s.sign(bundleShape{}), foreign.sign(bundleShape{})),
		"a log entry of another signature (CVE-2026-22703)": swapLog(t, s.sign(bundleShape{}), s.sign(bundleShape{who: "x@example.org"})),
		"a bare message signature":                          messageSignature(t, s.sign(bundleShape{})),
		"over the size":                                     append(s.sign(bundleShape{}), make([]byte, 5<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, admit(acc, bundleEvidence(b)), policy.ClassSignature, "policies[acme].threshold")
		})
	}
	t.Run("no trust root", func(t *testing.T) {
		wantRefused(t, admit(accepted(acme(1, keylessAuthority("bot"))), bundleEvidence(s.sign(bundleShape{}))), policy.ClassPolicy, "policies[acme].authorities[bot]")
	})
	t.Run("damaged trust root", func(t *testing.T) {
		bad := accepted(acme(1, keylessAuthority("bot")))
		bad.TrustRoots = map[string][]byte{"net": []byte(`{"mediaType":"x"}`)}
		wantRefused(t, admit(bad, bundleEvidence(s.sign(bundleShape{}))), policy.ClassPolicy, "policies[acme].authorities[bot]")
	})
	t.Run("legacy keyless", func(t *testing.T) {
		a := keylessAuthority("bot")
		a.SignatureFormat = "legacy"
		bad := accepted(acme(1, a))
		bad.TrustRoots = acc.TrustRoots
		wantRefused(t, admit(bad, bundleEvidence(s.sign(bundleShape{}))), policy.ClassPolicy, "policies[acme].authorities[bot]", "CVE-2026-24122")
	})
	t.Run("a keyless bundle for a key", func(t *testing.T) {
		keyed := accepted(acme(1, keyAuthority(t, "ci", "bundle", newKey(t))))
		wantRefused(t, admit(keyed, bundleEvidence(s.sign(bundleShape{}))), policy.ClassSignature, "policies[acme].threshold")
	})
}

// TestTimes: what an authority asks of logs and timestamps.
func TestTimes(t *testing.T) {
	s := newSigstore(t)
	ref := &snapshot.LogRef{TrustRootRef: "net"}
	ask := func(change func(*snapshot.Authority), b []byte) policy.Decision {
		a := keylessAuthority("bot")
		change(&a)
		acc := accepted(acme(1, a))
		acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
		return admit(acc, bundleEvidence(b))
	}
	full, logOnly, stampOnly := s.sign(bundleShape{}), s.sign(bundleShape{noTSA: true}), s.sign(bundleShape{noLog: true})
	wantAllowed(t, ask(func(a *snapshot.Authority) {}, logOnly), "bot")
	wantRefused(t, ask(func(a *snapshot.Authority) {}, stampOnly), policy.ClassSignature, "policies[acme].threshold")
	stamp := func(a *snapshot.Authority) { a.Timestamp = ref }
	wantAllowed(t, ask(stamp, full), "bot")
	wantRefused(t, ask(stamp, logOnly), policy.ClassSignature, "policies[acme].threshold", "timestamp")
	wantRefused(t, ask(stamp, stampOnly), policy.ClassSignature, "policies[acme].threshold")
	// The virtual Fulcio's certificates carry no SCT.
	wantRefused(t, ask(func(a *snapshot.Authority) { a.CTLog = ref }, full), policy.ClassSignature, "policies[acme].threshold", "certificate timestamp")

	// A key whose authority asks for a log: a bare bundle is not enough.
	k := newKey(t)
	a := keyAuthority(t, "ci", "bundle", k)
	a.TLog = ref
	acc := accepted(acme(1, a))
	acc.TrustRoots = map[string][]byte{"net": s.trustedRoot()}
	wantRefused(t, admit(acc, signedBy(t, k)), policy.ClassSignature, "policies[acme].threshold", "log")
	acc.Document.Policies[0].Authorities[0].TLog, acc.Document.Policies[0].Authorities[0].Timestamp = nil, ref
	wantRefused(t, admit(acc, signedBy(t, k)), policy.ClassSignature, "policies[acme].threshold", "timestamp")
}

// TestKeyKinds: every key that cosign makes, in both formats.
func TestKeyKinds(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	for name, k := range map[string]crypto.Signer{
		"P-256": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), "P-384": must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t),
		"RSA": must(rsa.GenerateKey(rand.Reader, 2048))(t), "Ed25519": ed,
	} {
		t.Run(name, func(t *testing.T) {
			acc := accepted(acme(1, keyAuthority(t, "new", "bundle", k), keyAuthority(t, "old", "legacy", k)))
			wantAllowed(t, admit(acc, signedBy(t, k)), "new")
			wantAllowed(t, admit(acc, legacyBy(t, k, manifest)), "old")
		})
	}
}

// TestLegacy: the payload is read strictly.
func TestLegacy(t *testing.T) {
	k := newKey(t)
	acc := accepted(acme(1, keyAuthority(t, "old", "legacy", k)))
	good := legacyBy(t, k, manifest)
	wantAllowed(t, admit(acc, good), "old")
	resign := func(payload string) policy.Evidence {
		e := policy.Evidence{MediaType: policy.LegacyMediaType, Payload: []byte(payload)}
		sig := must(policy.SignRaw(k, e.Payload))(t)
		e.Annotations = map[string]string{policy.LegacySignature: base64.StdEncoding.EncodeToString(sig)}
		return e
	}
	text := string(good.Payload)
	for name, e := range map[string]policy.Evidence{
		"no annotation":      {MediaType: policy.LegacyMediaType, Payload: good.Payload},
		"not base64":         {MediaType: policy.LegacyMediaType, Payload: good.Payload, Annotations: map[string]string{policy.LegacySignature: "%%"}},
		"tampered payload":   {MediaType: policy.LegacyMediaType, Payload: []byte(strings.Replace(text, "registry", "Registry", 1)), Annotations: good.Annotations},
		"another type":       resign(strings.Replace(text, "cosign container image signature", "atomic container signature", 1)),
		"no type":            resign(strings.Replace(text, "cosign container image signature", "", 1)),
		"digest twice":       resign(strings.Replace(text, `"docker-manifest-digest"`, `"docker-manifest-digest":"`+other.String()+`","docker-manifest-digest"`, 1)),
		"digest in optional": resign(`{"critical":{"type":"cosign container image signature","image":{},"identity":{}},"optional":{"docker-manifest-digest":"` + manifest.String() + `"}}`),
		"trailing":           resign(text + "{}"),
		"null":               resign("null"),
		"too long":           resign(text + strings.Repeat(" ", 1<<17)),
		"as a bundle":        {MediaType: policy.BundleMediaType, Payload: good.Payload, Annotations: good.Annotations},
		"unknown type":       {MediaType: "application/vnd.dsse.envelope.v1+json", Payload: good.Payload, Annotations: good.Annotations},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, admit(acc, e), policy.ClassSignature, "policies[acme].threshold")
		})
	}
}

// TestInline: bundles that came with the snapshot count, and a flood of junk
// from a registry does not push them out.
func TestInline(t *testing.T) {
	k := newKey(t)
	acc := accepted(acme(1, keyAuthority(t, "ci", "bundle", k)))
	acc.Bundles = map[digest.Digest][][]byte{manifest: {must(policy.SignBundle(k, manifest))(t)}}
	var junk []policy.Evidence
	for range 300 {
		junk = append(junk, bundleEvidence(must(policy.SignBundle(newKey(t), manifest))(t)))
	}
	d := admit(acc, junk...)
	wantAllowed(t, d, "ci")
	if d.Signers[0].Source != "snapshot" {
		t.Errorf("%+v", d.Signers)
	}
	if last := d.Rejected[len(d.Rejected)-1]; !strings.Contains(last.Reason, "left out") {
		t.Errorf("%+v", last)
	}
}

// TestBundleSize: a bundle that would verify is refused for its size alone.
func TestBundleSize(t *testing.T) {
	k := newKey(t)
	acc := accepted(acme(1, keyAuthority(t, "ci", "bundle", k)))
	e := signedBy(t, k)
	pad := func(n int) policy.Evidence {
		return bundleEvidence(append(append([]byte{}, e.Payload...), strings.Repeat(" ", n)...))
	}
	wantAllowed(t, admit(acc, pad(1<<20)), "ci")
	wantRefused(t, admit(acc, pad(4<<20)), policy.ClassSignature, "policies[acme].threshold", "bytes, at most")
}

func TestDecisionJSON(t *testing.T) {
	k := newKey(t)
	b, err := json.Marshal(admit(accepted(acme(1, keyAuthority(t, "ci", "bundle", k))), signedBy(t, k)))
	check(t, err)
	for _, w := range []string{`"allowed":true`, `"rule":"policies[acme].threshold"`, `"authority":"ci"`, `"key":"sha256:`} {
		if !strings.Contains(string(b), w) {
			t.Errorf("%s lacks %s", b, w)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	k := newKey(t)
	private, _, err := policy.MarshalKey(k)
	check(t, err)
	loaded, err := policy.LoadKey(private, nil)
	check(t, err)
	if keyDigest(t, loaded) != keyDigest(t, k) {
		t.Error("another key came back")
	}
	for name, b := range map[string]string{"empty": "", "text": "key", "two": string(private) + string(private), "public": publicPEM(t, k)} {
		if _, err := policy.LoadKey([]byte(b), nil); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// edit changes a bundle through its protobuf form.
func edit(t testing.TB, b []byte, change func(*protobundle.Bundle)) []byte {
	t.Helper()
	var p protobundle.Bundle
	check(t, protojson.Unmarshal(b, &p))
	change(&p)
	return must(protojson.Marshal(&p))(t)
}

func tamper(t testing.TB, b []byte) []byte {
	return edit(t, b, func(p *protobundle.Bundle) {
		env := p.GetDsseEnvelope()
		env.Payload = []byte(strings.Replace(string(env.Payload), `"predicate":{}`, `"predicate":{"x":1}`, 1))
	})
}

func twoSignatures(t testing.TB, b []byte) []byte {
	return edit(t, b, func(p *protobundle.Bundle) {
		env := p.GetDsseEnvelope()
		env.Signatures = append(env.Signatures, env.Signatures[0])
	})
}

func swapCertificate(t testing.TB, b, from []byte) []byte {
	var donor protobundle.Bundle
	check(t, protojson.Unmarshal(from, &donor))
	return edit(t, b, func(p *protobundle.Bundle) { p.VerificationMaterial.Content = donor.VerificationMaterial.Content })
}

func messageSignature(t testing.TB, b []byte) []byte {
	return edit(t, b, func(p *protobundle.Bundle) {
		p.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: []byte(manifest.Encoded())},
			Signature:     p.GetDsseEnvelope().Signatures[0].Sig,
		}}
	})
}

// swapLog gives b the log entries of another bundle.
func swapLog(t testing.TB, b, from []byte) []byte {
	var donor protobundle.Bundle
	check(t, protojson.Unmarshal(from, &donor))
	return edit(t, b, func(p *protobundle.Bundle) {
		p.VerificationMaterial.TlogEntries = donor.VerificationMaterial.TlogEntries
	})
}
