package policy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/resultity/rmodels/policy"
)

// fulcio is a certificate authority that writes into a certificate what the
// test wants there, with a CT log of its own; Rekor and the timestamp authority
// are the library's.
type fulcio struct {
	*sigstore
	root    *x509.Certificate
	rootKey crypto.Signer
	ctKey   crypto.Signer
}

func newFulcio(t testing.TB) *fulcio {
	t.Helper()
	f := &fulcio{sigstore: newSigstore(t), ctKey: newKey(t)}
	cert, key, err := ca.GenerateRootCa()
	check(t, err)
	f.root, f.rootKey = cert, key
	return f
}

// window is when a log's key was valid.
type window struct{ start, end time.Time }

// trustedRoot is that of the network, with the windows of its two logs.
func (f *fulcio) trustedRoot(rekor, ct window) []byte {
	f.t.Helper()
	authorities := []root.CertificateAuthority{&root.FulcioCertificateAuthority{
		Root: f.root, URI: "https://fulcio.localhost", ValidityPeriodStart: time.Now().Add(-5 * time.Hour),
	}}
	logs := f.RekorLogs()
	for id, l := range logs {
		l.ID = must(hex.DecodeString(id))(f.t)
		l.ValidityPeriodStart, l.ValidityPeriodEnd = rekor.start, rekor.end
	}
	id := f.ctLogID()
	cts := map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		BaseURL: "https://ct.localhost", ID: id[:], HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		PublicKey: f.ctKey.Public(), ValidityPeriodStart: ct.start, ValidityPeriodEnd: ct.end,
	}}
	tr := must(root.NewTrustedRoot(root.TrustedRootMediaType01, authorities, cts, f.TimestampingAuthorities(), logs))(f.t)
	return must(json.Marshal(tr))(f.t)
}

func (f *fulcio) ctLogID() [32]byte {
	return sha256.Sum256(must(x509.MarshalPKIXPublicKey(f.ctKey.Public()))(f.t))
}

// issue is what a certificate and the bundle around it say.
type issue struct {
	names               pkix.Extension // the subject alternative names
	issuers             []pkix.Extension
	notBefore, notAfter time.Time
	sct                 time.Time // of a certificate timestamp; zero: none
	logged              time.Time // what the log says
	noPromise, noTSA    bool
}

var oidIssuer, oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}

// altNames is the extension that holds names, in this order.
func altNames(t testing.TB, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: must(asn1.Marshal(names))(t)}
}

func emailName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, Bytes: []byte(s)}
}

func uriName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}
}

// certificate issues one, with a certificate timestamp (RFC 6962, 3.2) where
// one is wanted.
func (f *fulcio) certificate(i issue, public crypto.PublicKey) *x509.Certificate {
	f.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: i.notBefore, NotAfter: i.notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: append([]pkix.Extension{i.names}, i.issuers...),
	}
	c := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, f.root, public, f.rootKey))(f.t)))(f.t)
	if i.sct.IsZero() {
		return c
	}
	issuerKey := sha256.Sum256(f.root.RawSubjectPublicKeyInfo)
	head := binary.BigEndian.AppendUint64([]byte{0, 0}, uint64(i.sct.UnixMilli())) // version 1, of a certificate
	signed := append(append([]byte{}, head...), 0, 1)                              // an entry before the certificate
	signed = append(signed, issuerKey[:]...)
	n := len(c.RawTBSCertificate)
	signed = append(append(signed, byte(n>>16), byte(n>>8), byte(n)), c.RawTBSCertificate...)
	sum := sha256.Sum256(append(signed, 0, 0))
	sig := must(f.ctKey.Sign(rand.Reader, sum[:], crypto.SHA256))(f.t)
	id := f.ctLogID()
	sct := append(append(append([]byte{0}, id[:]...), head[2:]...), 0, 0, 4, 3, byte(len(sig)>>8), byte(len(sig)))
	sct = append(sct, sig...)
	list := append([]byte{byte((len(sct) + 2) >> 8), byte(len(sct) + 2), byte(len(sct) >> 8), byte(len(sct))}, sct...)
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{
		Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(list))(f.t),
	})
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, f.root, public, f.rootKey))(f.t)))(f.t)
}

// sign makes a keyless bundle over the manifest.
func (f *fulcio) sign(i issue) policy.Evidence {
	f.t.Helper()
	if i.notBefore.IsZero() {
		i.notBefore, i.notAfter = time.Now().Add(-time.Minute), time.Now().Add(10*time.Minute)
	}
	if i.logged.IsZero() {
		i.logged = time.Now()
	}
	if i.issuers == nil {
		i.issuers = []pkix.Extension{{Id: oidIssuer, Value: []byte(issuer)}}
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(f.t)
	leaf := f.certificate(i, key.Public())
	var own protobundle.Bundle // the statement as the product writes it
	check(f.t, protojson.Unmarshal(must(policy.SignBundle(key, manifest))(f.t), &own))
	env := own.GetDsseEnvelope()
	sig := env.Signatures[0].Sig
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: leaf.Raw},
	}}
	text := &dsse.Envelope{
		PayloadType: env.PayloadType, Payload: base64.StdEncoding.EncodeToString(env.Payload),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	}
	entry := must(f.GenerateTlogEntry(leaf, text, sig, i.logged.Unix(), true))(f.t)
	le := entry.TransparencyLogEntry()
	le.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	if !i.noPromise {
		le.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: f.promise(le)}
	}
	material.TlogEntries = []*protorekor.TransparencyLogEntry{le}
	if !i.noTSA {
		ts := must(f.TimestampResponse(sig))(f.t)
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: ts}},
		}
	}
	return bundleEvidence(must(protojson.Marshal(&protobundle.Bundle{
		MediaType: policy.BundleMediaType, VerificationMaterial: material,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: env.Payload, PayloadType: env.PayloadType, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	}))(f.t))
}
