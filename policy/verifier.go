package policy

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/resultity/rmodels/snapshot"
)

// verifier checks signatures for one authority of a policy. The key, the
// identities and the trust root come from the snapshot, never from the
// artifact: a key hint or a certificate in a bundle selects nothing.
type verifier struct {
	authority  snapshot.Authority
	key        crypto.PublicKey
	keyDigest  digest.Digest
	identities []snapshot.Identity // those that are not revoked
	revoked    string              // why it can admit nothing any more
	material   root.TrustedMaterial
	options    []verify.VerifierOption
}

// newVerifier prepares an authority. A trust root that does not parse is an
// error of the whole policy: it must not silently weaken it.
func newVerifier(acc *snapshot.Accepted, a snapshot.Authority) (*verifier, error) {
	v := &verifier{authority: a}
	if (a.Key == nil) == (a.Keyless == nil) {
		return nil, fmt.Errorf("authority %s has not exactly one of key and keyless", a.Name)
	}
	if a.Key != nil {
		pub, d, err := snapshot.ParseKey(a.Key.Data)
		if err != nil {
			return nil, fmt.Errorf("authority %s: %w", a.Name, err)
		}
		v.key, v.keyDigest = pub, d
		if r, ok := revokedKey(acc.Document, d); ok {
			v.revoked = fmt.Sprintf("its key %s is revoked%s", d, because(r))
		}
		return v, v.prepareKey(acc)
	}
	if a.SignatureFormat != snapshot.FormatBundle {
		return nil, fmt.Errorf("authority %s: keyless signatures in the format %q are refused (CVE-2026-24122)", a.Name, a.SignatureFormat)
	}
	for _, id := range a.Keyless.Identities {
		if _, ok := revokedIdentity(acc.Document, id); !ok && id.Issuer != "" && id.Subject != "" {
			v.identities = append(v.identities, id)
		}
	}
	if len(v.identities) == 0 {
		v.revoked = "all of its identities are revoked"
		return v, nil
	}
	return v, v.prepareKeyless(acc)
}

func (v *verifier) prepareKey(acc *snapshot.Accepted) error {
	a := v.authority
	var err error
	own := &keyMaterial{key: v.key}
	v.material = own
	if a.TLog == nil && a.Timestamp == nil {
		v.options = []verify.VerifierOption{verify.WithNoObserverTimestamps()}
		return nil
	}
	ref := a.TLog
	if ref == nil {
		ref = a.Timestamp
	}
	tr, err := trustRoot(acc, ref.TrustRootRef)
	if err != nil {
		return fmt.Errorf("authority %s: %w", a.Name, err)
	}
	v.material = root.TrustedMaterialCollection{own, tr}
	v.options = timeOptions(a)
	return nil
}

func (v *verifier) prepareKeyless(acc *snapshot.Accepted) error {
	tr, err := trustRoot(acc, v.authority.Keyless.TrustRootRef)
	if err != nil {
		return fmt.Errorf("authority %s: %w", v.authority.Name, err)
	}
	v.material = tr
	a := v.authority
	a.TLog = &snapshot.LogRef{TrustRootRef: a.Keyless.TrustRootRef} // a short-lived certificate proves nothing without a log
	v.options = timeOptions(a)
	if a.CTLog != nil {
		v.options = append(v.options, verify.WithSignedCertificateTimestamps(1))
	}
	return nil
}

// timeOptions asks for log entries and timestamps as the authority does.
func timeOptions(a snapshot.Authority) []verify.VerifierOption {
	var o []verify.VerifierOption
	if a.TLog != nil {
		o = append(o, verify.WithTransparencyLog(1))
	}
	if a.Timestamp != nil {
		o = append(o, verify.WithSignedTimestamps(1))
	} else {
		o = append(o, verify.WithObserverTimestamps(1))
	}
	return append(o, verify.WithoutStatementPredicate())
}

// trustRoot parses a Sigstore trusted_root.json that came with the snapshot.
// Nothing is ever fetched.
func trustRoot(acc *snapshot.Accepted, name string) (tr *root.TrustedRoot, err error) {
	b, ok := acc.TrustRoots[name]
	if !ok {
		return nil, fmt.Errorf("trust root %q did not come with the snapshot", name)
	}
	err = guarded(func() error { tr, err = root.NewTrustedRootFromJSON(b); return err })
	if err != nil {
		return nil, fmt.Errorf("trust root %q: %w", name, err)
	}
	return tr, nil
}

// keyMaterial is trusted material that knows one key, whatever the hint.
type keyMaterial struct {
	root.BaseTrustedMaterial
	key crypto.PublicKey
}

func (m *keyMaterial) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	v, err := loadVerifier(m.key)
	if err != nil {
		return nil, err
	}
	return root.NewExpiringKey(v, time.Time{}, time.Time{}), nil
}

// loadVerifier takes SHA-256 for ECDSA and RSA whatever their size, as cosign
// does, and what is usual for the key besides it (SHA-384 for P-384).
func loadVerifier(key crypto.PublicKey) (signature.Verifier, error) {
	if k, ok := key.(ed25519.PublicKey); ok {
		return signature.LoadED25519Verifier(k)
	}
	usual, err := signature.LoadDefaultVerifier(key)
	if err != nil {
		return nil, err
	}
	sha256, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return eitherVerifier{usual, sha256}, nil
}

type eitherVerifier [2]signature.Verifier

func (e eitherVerifier) PublicKey(o ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return e[0].PublicKey(o...)
}

func (e eitherVerifier) VerifySignature(sig, message io.Reader, o ...signature.VerifyOption) error {
	s, err := io.ReadAll(sig)
	if err != nil {
		return err
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	if e[0].VerifySignature(bytesReader(s), bytesReader(m), o...) == nil {
		return nil
	}
	return e[1].VerifySignature(bytesReader(s), bytesReader(m), o...)
}

var errRevoked = errors.New("revoked")

// bundle verifies a bundle for the authority and says who signed it.
func (v *verifier) bundle(b *bundle.Bundle, s *statement, manifest digest.Digest) (Signer, error) {
	if v.authority.SignatureFormat != snapshot.FormatBundle {
		return Signer{}, fmt.Errorf("signs in the format %q", v.authority.SignatureFormat)
	}
	if v.revoked != "" {
		return Signer{}, fmt.Errorf("%w: %s", errRevoked, v.revoked)
	}
	sum, err := hex.DecodeString(manifest.Encoded())
	if err != nil {
		return Signer{}, err
	}
	var options []verify.PolicyOption
	if v.key != nil {
		options = append(options, verify.WithKey())
	}
	for _, id := range v.identities {
		cid, err := verify.NewShortCertificateIdentity(id.Issuer, "", id.Subject, "")
		if err != nil {
			return Signer{}, err
		}
		options = append(options, verify.WithCertificateIdentity(cid))
	}
	var res *verify.VerificationResult
	err = guarded(func() error {
		res, err = verifyWithin(v.material, v.options, b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum), options...))
		return err
	})
	if err != nil {
		return Signer{}, err
	}
	signer := Signer{Authority: v.authority.Name, Format: snapshot.FormatBundle, PredicateType: s.PredicateType, Key: v.keyDigest}
	if len(res.VerifiedTimestamps) > 0 {
		signer.Time = res.VerifiedTimestamps[0].Timestamp.UTC()
	}
	if v.key != nil {
		return signer, nil
	}
	// The library has matched one of the identities as text; which one is read
	// from the certificate, by the type of its name, and held against the list.
	id, err := v.identityOf(b)
	if err != nil {
		return Signer{}, err
	}
	signer.Identity = &id
	return signer, nil
}

// identityOf names who a bundle's certificate was issued to, if it is one of
// the authority's identities.
func (v *verifier) identityOf(b *bundle.Bundle) (snapshot.Identity, error) {
	content, err := b.VerificationContent()
	if err != nil {
		return snapshot.Identity{}, err
	}
	c := content.Certificate()
	if c == nil {
		return snapshot.Identity{}, errors.New("no certificate was verified")
	}
	id, kind, err := certificateIdentity(c)
	if err != nil {
		return snapshot.Identity{}, err
	}
	if want := kindOf(id.Subject); kind != want {
		return snapshot.Identity{}, fmt.Errorf("%s %s is spelled as the %s that the policy may name, and is none", kind, brief(id.Subject), want)
	}
	if !slices.Contains(v.identities, id) {
		return snapshot.Identity{}, fmt.Errorf("identity %s of %s is not one of the authority's", brief(id.Subject), brief(id.Issuer))
	}
	return id, nil
}

// legacy verifies a simplesigning payload for the authority.
func (v *verifier) legacy(payload, sig []byte) (Signer, error) {
	return v.bare(payload, sig, "")
}

// envelope verifies a DSSE envelope that came without a bundle.
func (v *verifier) envelope(e *envelope, s *statement) (Signer, error) {
	return v.bare(dsse.PAE(e.PayloadType, e.Payload), e.Signatures[0].Sig, s.PredicateType)
}

// bare verifies a signature that comes with nothing to say when it was made.
func (v *verifier) bare(message, sig []byte, predicateType string) (Signer, error) {
	if v.authority.SignatureFormat != snapshot.FormatLegacy {
		return Signer{}, fmt.Errorf("signs in the format %q", v.authority.SignatureFormat)
	}
	if v.revoked != "" {
		return Signer{}, fmt.Errorf("%w: %s", errRevoked, v.revoked)
	}
	if v.key == nil {
		return Signer{}, errors.New("legacy signatures are accepted with a key alone (CVE-2026-24122)")
	}
	err := guarded(func() error {
		ver, err := loadVerifier(v.key)
		if err != nil {
			return err
		}
		return ver.VerifySignature(bytesReader(sig), bytesReader(message))
	})
	if err != nil {
		return Signer{}, err
	}
	return Signer{Authority: v.authority.Name, Format: snapshot.FormatLegacy, PredicateType: predicateType, Key: v.keyDigest}, nil
}

// openLegacy reads a simplesigning payload and its signature. What the
// payload is about stands in critical; "optional" is the signer's own.
func openLegacy(e Evidence, manifest digest.Digest) (sig []byte, err error) {
	if len(e.Payload) > maxPayload {
		return nil, fmt.Errorf("payload of %d bytes, at most %d", len(e.Payload), maxPayload)
	}
	text := e.Annotations[LegacySignature]
	if text == "" || len(text) > 16<<10 {
		return nil, fmt.Errorf("annotation %s is missing or longer than 16 KiB", LegacySignature)
	}
	if sig, err = base64.StdEncoding.Strict().DecodeString(text); err != nil {
		return nil, fmt.Errorf("annotation %s is not base64", LegacySignature)
	}
	var p legacyPayload
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if p.Critical.Type != legacyType {
		return nil, fmt.Errorf("payload's critical.type is %q, must be %q", brief(p.Critical.Type), legacyType)
	}
	if p.Critical.Image.DockerManifestDigest != manifest.String() {
		return nil, &otherArtifact{brief(p.Critical.Image.DockerManifestDigest)}
	}
	return sig, nil
}

// otherArtifact: a signature that is about something else.
type otherArtifact struct{ about string }

func (o *otherArtifact) Error() string { return "it is about " + o.about }
