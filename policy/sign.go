package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/resultity/rmodels/snapshot"
)

// ErrKey: a key that cannot be used.
var ErrKey = errors.New("unusable key")

// Media and predicate types of signatures, as cosign writes them.
const (
	BundleMediaType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	LegacyMediaType    = "application/vnd.dev.cosign.simplesigning.v1+json"
	LegacySignature    = "dev.cosignproject.cosign/signature"    // annotation: the signature in base64
	LegacyAttestation  = "application/vnd.dsse.envelope.v1+json" // a bare DSSE envelope, as cosign 2 attests
	SignaturePredicate = snapshot.SignaturePredicate

	inTotoPayload = "application/vnd.in-toto+json"
	statementV1   = "https://in-toto.io/Statement/v1"
	statementV01  = "https://in-toto.io/Statement/v0.1"
	legacyType    = "cosign container image signature"
)

// GenerateKey makes an ECDSA key on P-256, the kind that cosign makes.
func GenerateKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// MarshalKey writes a private key as PEM PKCS#8 and its public half as PEM
// SubjectPublicKeyInfo.
func MarshalKey(key crypto.Signer) (private, public []byte, err error) {
	if private, err = cryptoutils.MarshalPrivateKeyToPEM(key); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if public, err = cryptoutils.MarshalPublicKeyToPEM(key.Public()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return private, public, nil
}

// LoadKey reads a private key: PEM PKCS#8, or encrypted as cosign writes it
// (cosign.key), for which the passphrase is needed.
func LoadKey(data, passphrase []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block == nil || len(data) > 64<<10 {
		return nil, fmt.Errorf("%w: not a PEM file", ErrKey)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("%w: the file holds more than one PEM block", ErrKey)
	}
	encrypted := block.Type == "ENCRYPTED SIGSTORE PRIVATE KEY" || block.Type == "ENCRYPTED COSIGN PRIVATE KEY" || block.Type == "ENCRYPTED PRIVATE KEY"
	if encrypted && passphrase == nil {
		return nil, fmt.Errorf("%w: it is encrypted and no passphrase was given", ErrKey)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(data, func(bool) ([]byte, error) { return passphrase, nil })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: %T cannot sign", ErrKey, key)
	}
	return signer, nil
}

// KeyDigest is the SHA-256 of a public key's SubjectPublicKeyInfo, the name by
// which a snapshot revokes it.
func KeyDigest(public crypto.PublicKey) (digest.Digest, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	return digest.SHA256.FromBytes(der), nil
}

// SignRaw signs a message as cosign does: ECDSA and RSA over SHA-256, Ed25519
// pure.
func SignRaw(key crypto.Signer, message []byte) ([]byte, error) {
	switch key.Public().(type) {
	case ed25519.PublicKey:
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey, *rsa.PublicKey:
		sum := sha256.Sum256(message)
		return key.Sign(rand.Reader, sum[:], crypto.SHA256)
	}
	return nil, fmt.Errorf("%w: %T", ErrKey, key.Public())
}

type statementSubject struct {
	Name   string            `json:"name,omitzero"`
	Digest map[string]string `json:"digest"`
}

// SignBundle signs a manifest digest as cosign 3 does: a sigstore bundle v0.3
// with a DSSE envelope over an in-toto statement of type [SignaturePredicate].
func SignBundle(key crypto.Signer, manifest digest.Digest) ([]byte, error) {
	return SignAttestation(key, manifest, SignaturePredicate, []byte("{}"))
}

// SignAttestation signs a statement of predicateType about a manifest; the
// predicate is a JSON object.
func SignAttestation(key crypto.Signer, manifest digest.Digest, predicateType string, predicate []byte) ([]byte, error) {
	if err := manifest.Validate(); err != nil || manifest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("sign %q: not a SHA-256 digest", manifest)
	}
	id, err := KeyDigest(key.Public())
	if err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(id.Encoded())
	if err != nil {
		return nil, err
	}
	hint := base64.StdEncoding.EncodeToString(sum)
	return signStatement(key, hint, []statementSubject{{Digest: map[string]string{"sha256": manifest.Encoded()}}}, predicateType, predicate)
}

// signStatement signs an in-toto statement. The hint names the key as the
// tools of that statement do; verification does not go by it.
func signStatement(key crypto.Signer, hint string, subjects []statementSubject, predicateType string, predicate []byte) ([]byte, error) {
	if jsontext.Value(predicate).Kind() != '{' || !jsontext.Value(predicate).IsValid() {
		return nil, errors.New("sign attestation: the predicate is not a JSON object")
	}
	statement, err := json.Marshal(struct {
		Type          string             `json:"_type"`
		Subject       []statementSubject `json:"subject"`
		PredicateType string             `json:"predicateType"`
		Predicate     jsontext.Value     `json:"predicate"`
	}{statementV1, subjects, predicateType, predicate}, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	sig, err := SignRaw(key, dsse.PAE(inTotoPayload, statement))
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(&protobundle.Bundle{
		MediaType: BundleMediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
			PublicKey: &protocommon.PublicKeyIdentifier{Hint: hint},
		}},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: inTotoPayload, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	})
}

type legacyPayload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional jsontext.Value `json:"optional"`
}

// SignLegacy signs a manifest digest as cosign 2 does. The payload becomes a
// layer of type [LegacyMediaType]; the signature (base64) its annotation
// [LegacySignature].
func SignLegacy(key crypto.Signer, repository string, manifest digest.Digest) (payload []byte, signature string, err error) {
	if err := manifest.Validate(); err != nil || manifest.Algorithm() != digest.SHA256 {
		return nil, "", fmt.Errorf("sign %q: not a SHA-256 digest", manifest)
	}
	var p legacyPayload
	p.Critical.Identity.DockerReference = repository
	p.Critical.Image.DockerManifestDigest = manifest.String()
	p.Critical.Type = legacyType
	p.Optional = jsontext.Value("null")
	if payload, err = json.Marshal(p); err != nil {
		return nil, "", err
	}
	sig, err := SignRaw(key, payload)
	if err != nil {
		return nil, "", err
	}
	return payload, base64.StdEncoding.EncodeToString(sig), nil
}
