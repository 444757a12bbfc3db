package policy_test

import (
	"encoding/base64"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// attest makes a keyless bundle of a whole statement.
func (s *sigstore) attest(who string, statement []byte) []byte {
	s.t.Helper()
	e := must(s.AttestAtTime(who, issuer, statement, time.Now().Add(time.Minute), true))(s.t)
	env := must(e.SignatureContent())(s.t).EnvelopeContent().RawEnvelope()
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{
			Certificate: &protocommon.X509Certificate{RawBytes: must(e.VerificationContent())(s.t).Certificate().Raw},
		},
		TimestampVerificationData: &protobundle.TimestampVerificationData{},
	}
	for _, entry := range must(e.TlogEntries())(s.t) {
		le := entry.TransparencyLogEntry()
		le.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
		le.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: s.promise(le)}
		material.TlogEntries = append(material.TlogEntries, le)
	}
	for _, ts := range must(e.Timestamps())(s.t) {
		material.TimestampVerificationData.Rfc3161Timestamps = append(material.TimestampVerificationData.Rfc3161Timestamps,
			&protocommon.RFC3161SignedTimestamp{SignedTimestamp: ts})
	}
	return must(protojson.Marshal(&protobundle.Bundle{
		MediaType: policy.BundleMediaType, VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: must(base64.StdEncoding.DecodeString(env.Payload))(s.t), PayloadType: env.PayloadType,
			Signatures: []*protodsse.Signature{{Sig: must(base64.StdEncoding.DecodeString(env.Signatures[0].Sig))(s.t)}},
		}},
	}))(s.t)
}

// TestModelSigningKeyless: the statement that model_signing wrote, signed by an
// identity.
func TestModelSigningKeyless(t *testing.T) {
	var b protobundle.Bundle
	check(t, protojson.Unmarshal(readFixture(t, modelSigning, "model.sig"), &b))
	statement := b.GetDsseEnvelope().GetPayload()
	s := newSigstore(t)
	roots := map[string][]byte{"net": s.trustedRoot()}
	testModelSigning(t, keylessAuthority("author"), roots, s.attest(robot, statement))

	// Another identity of the same instance is not the author.
	reviewer := newKey(t)
	p := acme(1, keyAuthority(t, "review", "bundle", reviewer), keylessAuthority("author"))
	p.Attestations = []snapshot.Attestation{{PredicateType: policy.OMSPredicate, Authorities: []string{"author"}}}
	acc := accepted(p)
	acc.TrustRoots = roots
	ev := []policy.Evidence{signedBy(t, reviewer), bundleEvidence(s.attest("somebody@example.org", statement))}
	d := policy.AdmitSignatures(acc, "acme", repository+"@"+manifest.String(), manifest, ev, now, signedModel(t)...)
	wantRefused(t, d, policy.ClassAttestation, "policies[acme].attestations[0]", "somebody@example.org")
}
