package policy_test

import (
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

const (
	repository = "registry.example/acme/tiny"
	slsa       = "https://slsa.dev/provenance/v1"
	issuer     = "https://issuer.example"
	robot      = "robot@example.org"
)

var (
	manifest = digest.FromString("the manifest")
	other    = digest.FromString("another manifest")
	now      = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	return must(policy.GenerateKey())(t)
}

func publicPEM(t testing.TB, k crypto.Signer) string {
	t.Helper()
	_, pub, err := policy.MarshalKey(k)
	check(t, err)
	return string(pub)
}

func keyDigest(t testing.TB, k crypto.Signer) digest.Digest {
	t.Helper()
	return must(policy.KeyDigest(k.Public()))(t)
}

func keyAuthority(t testing.TB, name, format string, k crypto.Signer) snapshot.Authority {
	return snapshot.Authority{Name: name, SignatureFormat: format, Key: &snapshot.Key{Data: publicPEM(t, k)}}
}

// accepted is a snapshot with one policy.
func accepted(p snapshot.Policy) *snapshot.Accepted {
	return &snapshot.Accepted{Document: &snapshot.Snapshot{Sequence: 7, Policies: []snapshot.Policy{p}}}
}

func acme(threshold int, authorities ...snapshot.Authority) snapshot.Policy {
	return snapshot.Policy{Name: "acme", Images: []snapshot.ImageGlob{{Glob: "registry.example/acme/*"}}, Threshold: threshold, Authorities: authorities}
}

func admit(acc *snapshot.Accepted, ev ...policy.Evidence) policy.Decision {
	return policy.AdmitSignatures(acc, "acme", repository+"@"+manifest.String(), manifest, ev, now)
}

func bundleEvidence(b []byte) policy.Evidence {
	return policy.Evidence{MediaType: policy.BundleMediaType, Payload: b, Source: "registry.example"}
}

func signedBy(t testing.TB, k crypto.Signer) policy.Evidence {
	t.Helper()
	return bundleEvidence(must(policy.SignBundle(k, manifest))(t))
}

func attested(t testing.TB, k crypto.Signer, predicateType string) policy.Evidence {
	t.Helper()
	return bundleEvidence(must(policy.SignAttestation(k, manifest, predicateType, []byte(`{"buildType":"x"}`)))(t))
}

func legacyBy(t testing.TB, k crypto.Signer, d digest.Digest) policy.Evidence {
	t.Helper()
	payload, sig, err := policy.SignLegacy(k, repository, d)
	check(t, err)
	return policy.Evidence{MediaType: policy.LegacyMediaType, Payload: payload, Annotations: map[string]string{policy.LegacySignature: sig}, Source: "registry.example"}
}

// wantRefused checks class, rule and that the decision says all of words.
func wantRefused(t testing.TB, d policy.Decision, class policy.Class, rule string, words ...string) {
	t.Helper()
	if d.Allowed {
		t.Fatalf("admitted: %+v", d)
	}
	if d.Class != class || !strings.HasPrefix(d.Rule, rule) {
		t.Errorf("refused as %s by %s, want %s by %s: %s", d.Class, d.Rule, class, rule, d.Reason)
	}
	text := fmt.Sprintf("%s | %s | %s | %v", d.Reason, d.Expected, d.Found, d.Rejected)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

func wantAllowed(t testing.TB, d policy.Decision, authorities ...string) {
	t.Helper()
	if !d.Allowed {
		t.Fatalf("refused: %+v", d)
	}
	for _, a := range authorities {
		found := false
		for _, s := range d.Signers {
			found = found || s.Authority == a
		}
		if !found {
			t.Errorf("%s is not among the signers %+v", a, d.Signers)
		}
	}
}

// sigstore is a Fulcio, a Rekor, a CT log and a timestamp authority in memory.
type sigstore struct {
	t testing.TB
	*ca.VirtualSigstore
}

func newSigstore(t testing.TB) *sigstore {
	t.Helper()
	return &sigstore{t, must(ca.NewVirtualSigstore())(t)}
}

// trustedRoot writes what a network would publish as trusted_root.json.
func (s *sigstore) trustedRoot() []byte {
	s.t.Helper()
	logs := s.RekorLogs()
	for id, l := range logs { // the library keeps the hex text; real roots carry raw bytes
		l.ID = must(hex.DecodeString(id))(s.t)
	}
	cts := s.CTLogs()
	for id, l := range cts {
		l.ID = must(hex.DecodeString(id))(s.t)
		l.SignatureHashFunc = crypto.SHA256
	}
	tr := must(root.NewTrustedRoot(root.TrustedRootMediaType01, s.FulcioCertificateAuthorities(), cts, s.TimestampingAuthorities(), logs))(s.t)
	return must(json.Marshal(tr))(s.t)
}

// promise is the log's signature over an entry with its time.
func (s *sigstore) promise(le *protorekor.TransparencyLogEntry) []byte {
	s.t.Helper()
	return must(s.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(le.CanonicalizedBody), IntegratedTime: le.IntegratedTime,
		LogIndex: le.LogIndex, LogID: hex.EncodeToString(le.LogId.KeyId),
	}))(s.t)
}

type bundleShape struct {
	subject       digest.Digest
	predicateType string
	who, issuer   string
	at            time.Time // of the log entry; zero: while the certificate is valid
	noLog, noTSA  bool
}

// sign makes a keyless bundle.
func (s *sigstore) sign(shape bundleShape) []byte {
	s.t.Helper()
	if shape.subject == "" {
		shape.subject = manifest
	}
	if shape.predicateType == "" {
		shape.predicateType = policy.SignaturePredicate
	}
	if shape.who == "" {
		shape.who = robot
	}
	if shape.issuer == "" {
		shape.issuer = issuer
	}
	if shape.at.IsZero() {
		shape.at = time.Now().Add(time.Minute)
	}
	statement := must(json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{"sha256": shape.subject.Encoded()}}},
		"predicateType": shape.predicateType, "predicate": map[string]any{},
	}))(s.t)
	e := must(s.AttestAtTime(shape.who, shape.issuer, statement, shape.at, true))(s.t)
	vc := must(e.VerificationContent())(s.t)
	sc := must(e.SignatureContent())(s.t)
	env := sc.EnvelopeContent().RawEnvelope()
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: vc.Certificate().Raw},
	}}
	if !shape.noLog {
		for _, entry := range must(e.TlogEntries())(s.t) {
			le := entry.TransparencyLogEntry()
			le.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
			le.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: s.promise(le)}
			material.TlogEntries = append(material.TlogEntries, le)
		}
	}
	if !shape.noTSA {
		data := &protobundle.TimestampVerificationData{}
		for _, ts := range must(e.Timestamps())(s.t) {
			data.Rfc3161Timestamps = append(data.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: ts})
		}
		material.TimestampVerificationData = data
	}
	return must(protojson.Marshal(&protobundle.Bundle{
		MediaType: policy.BundleMediaType, VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: must(base64.StdEncoding.DecodeString(env.Payload))(s.t), PayloadType: env.PayloadType,
			Signatures: []*protodsse.Signature{{Sig: must(base64.StdEncoding.DecodeString(env.Signatures[0].Sig))(s.t)}},
		}},
	}))(s.t)
}

func keylessAuthority(name string, ids ...snapshot.Identity) snapshot.Authority {
	if len(ids) == 0 {
		ids = []snapshot.Identity{{Issuer: issuer, Subject: robot}}
	}
	return snapshot.Authority{Name: name, SignatureFormat: "bundle", Keyless: &snapshot.Keyless{TrustRootRef: "net", Identities: ids}}
}
