package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// tufKey is a private key of one holder.
type tufKey struct {
	file   string
	id     string
	signer signature.Signer
}

func marshalPrivateKey(k crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// loadTUFKey reads a private key: PEM, PKCS#8, Ed25519 or ECDSA P-256.
func loadTUFKey(file string) (tufKey, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return tufKey{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return tufKey{}, fmt.Errorf("%w: %s is not a PEM file with PRIVATE KEY (PKCS#8)", snapshot.ErrKey, file)
	}
	priv, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return tufKey{}, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err)
	}
	var hash crypto.Hash
	var public crypto.PublicKey
	switch k := priv.(type) {
	case ed25519.PrivateKey:
		public = k.Public()
	case *ecdsa.PrivateKey:
		if k.Curve.Params().BitSize != 256 {
			return tufKey{}, fmt.Errorf("%w: %s: ECDSA on P-256 or Ed25519 is needed", snapshot.ErrKey, file)
		}
		hash, public = crypto.SHA256, k.Public()
	default:
		return tufKey{}, fmt.Errorf("%w: %s: %T, ECDSA on P-256 or Ed25519 is needed", snapshot.ErrKey, file, priv)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return tufKey{}, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err)
	}
	id, err := key.ID()
	if err != nil {
		return tufKey{}, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err)
	}
	signer, err := signature.LoadSigner(priv, hash)
	if err != nil {
		return tufKey{}, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err)
	}
	return tufKey{file, id, signer}, nil
}

// publicTUFKey reads a public key in PEM for a role.
func publicTUFKey(data string) (*metadata.Key, error) {
	pub, _, err := snapshot.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize != 256 {
			return nil, fmt.Errorf("%w: ECDSA on P-256 or Ed25519 is needed", snapshot.ErrKey)
		}
	default:
		return nil, fmt.Errorf("%w: %T, ECDSA on P-256 or Ed25519 is needed", snapshot.ErrKey, pub)
	}
	return metadata.KeyFromPublicKey(pub)
}

// PublicKeyPEM is the public half of a private key file, to hand to whoever
// runs [Init] or [Repository.RotateKey].
func PublicKeyPEM(keyFile string) (string, error) {
	k, err := loadTUFKey(keyFile)
	if err != nil {
		return "", err
	}
	pub, err := k.signer.PublicKey()
	if err != nil {
		return "", fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// loadKeys reads the given key files, or all of keys/ when there are none.
func (r *Repository) loadKeys(files []string) ([]tufKey, error) {
	if len(files) == 0 {
		var err error
		if files, err = filepath.Glob(r.path(keysFolder, "*.pem")); err != nil {
			return nil, err
		}
		slices.Sort(files)
	}
	var keys []tufKey
	for _, f := range files {
		k, err := loadTUFKey(f)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}
