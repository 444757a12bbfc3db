package policy

import (
	"crypto"
	"errors"

	"github.com/opencontainers/go-digest"
)

// ErrKey: a key file that cannot be used.
var ErrKey = errors.New("unusable key")

// BundleMediaType is the type of a sigstore bundle as written by SignBundle.
const BundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// SignaturePredicate is the predicate type of a plain signature.
const SignaturePredicate = "https://sigstore.dev/cosign/sign/v1"

// SignBundle signs manifest as a sigstore bundle.
func SignBundle(key crypto.Signer, manifest digest.Digest) ([]byte, error) { return nil, ErrKey }

// SignLegacy signs a simplesigning payload; signature is base64, for the
// annotation dev.cosignproject.cosign/signature.
func SignLegacy(key crypto.Signer, repository string, manifest digest.Digest) (payload []byte, signature string, err error) {
	return nil, "", ErrKey
}

// GenerateKey makes an ECDSA P-256 key.
func GenerateKey() (crypto.Signer, error) { return nil, ErrKey }

// MarshalKey writes a private key as PEM PKCS#8 and its public half as PEM.
func MarshalKey(key crypto.Signer) (private, public []byte, err error) { return nil, nil, ErrKey }

// LoadKey reads a PEM private key: PKCS#8, or cosign's encrypted form with
// the passphrase.
func LoadKey(pem []byte, passphrase []byte) (crypto.Signer, error) { return nil, ErrKey }
