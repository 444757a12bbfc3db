package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// Passphrase is asked for the passphrase of a key file; nil: none is known. An
// empty answer for a new key leaves it in the clear.
type Passphrase func(file string) ([]byte, error)

const (
	maxKeyFile   = 64 << 10
	plainKey     = "PRIVATE KEY"
	encryptedKey = string(cryptoutils.EncryptedSigstorePrivateKeyPEMType)
)

// Key is a private key of one holder.
type Key struct {
	file   string
	id     string
	found  bool // in keys/, not named by a person: it may have no role any more
	signer signature.Signer
	memory memory
}

// ID is the key's TUF key ID.
func (k *Key) ID() string { return k.id }

// LoadKey reads a private key: PEM with PKCS#8 in the clear, or encrypted as
// sigstore's tools do (scrypt and NaCl secretbox). Ed25519 or ECDSA on P-256.
// A file that others than its owner can read is refused.
func LoadKey(file string, pass Passphrase) (*Key, error) {
	bad := func(err error) error { return fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err) }
	f, err := durable.OpenLink(file)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		err = bad(fmt.Errorf("others than its owner can read it (mode %04o): chmod 600, and count it as stolen if others have an account there", st.Mode().Perm()))
	}
	if err == nil && st.Size() > maxKeyFile {
		err = bad(fmt.Errorf("%d bytes, at most %d", st.Size(), maxKeyFile))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != plainKey && block.Type != encryptedKey && block.Type != "ENCRYPTED COSIGN PRIVATE KEY" {
		return nil, bad(errors.New("not a PEM file with PRIVATE KEY (PKCS#8), in the clear or encrypted as sigstore does"))
	}
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(b, func(bool) ([]byte, error) {
		if pass == nil {
			return nil, errors.New("it is encrypted and no passphrase was given")
		}
		return pass(file)
	})
	if err != nil {
		return nil, bad(err)
	}
	k, err := newKey(file, priv)
	if err != nil {
		return nil, bad(err)
	}
	return k, nil
}

func newKey(file string, priv crypto.PrivateKey) (*Key, error) {
	var hash crypto.Hash
	if _, ok := priv.(*ecdsa.PrivateKey); ok {
		hash = crypto.SHA256
	}
	holder, ok := priv.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", priv)
	}
	key, err := tufKey(holder.Public())
	if err != nil {
		return nil, err
	}
	id, err := key.ID()
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadSigner(priv, hash)
	if err != nil {
		return nil, err
	}
	k := &Key{file: file, id: id, signer: signer}
	if file != "" {
		if k.memory, err = readMemory(file); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func tufKey(public crypto.PublicKey) (*metadata.Key, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize != 256 {
			return nil, errors.New("ECDSA on P-256 or Ed25519 is needed")
		}
	default:
		return nil, fmt.Errorf("%T, ECDSA on P-256 or Ed25519 is needed", public)
	}
	return metadata.KeyFromPublicKey(public)
}

// publicKey reads a public key in PEM for a role.
func publicKey(data string) (*metadata.Key, error) {
	pub, _, err := snapshot.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	k, err := tufKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	return k, nil
}

// KeyID is the TUF key ID of a public key in PEM: the name that a root gives it.
func KeyID(public string) (string, error) {
	k, err := publicKey(public)
	if err != nil {
		return "", err
	}
	return k.ID()
}

// PublicKeyPEM is the public half of a private key file, to hand to whoever
// runs [Init] or [Repository.RotateKey].
func PublicKeyPEM(file string) (string, error) {
	k, err := LoadKey(file, nil)
	if err != nil {
		return "", err
	}
	pub, err := k.signer.PublicKey()
	if err != nil {
		return "", fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	return publicPEM(pub)
}

func publicPEM(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("%w: %w", snapshot.ErrKey, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// GenerateKeyFile makes an Ed25519 key for a role, writes the private half to
// a new file that its owner alone can read, encrypted where pass answers with
// a passphrase, and returns the public half in PEM.
func GenerateKeyFile(file string, pass Passphrase) (string, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	b, err := marshalKey(file, priv, pass)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", snapshot.ErrKey, file, err)
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	if err := durable.CreateFS(durable.OS, file, b, 0o600); err != nil {
		return "", fmt.Errorf("write key: %w", err)
	}
	if err := durable.OS.SyncDir(filepath.Dir(file)); err != nil {
		return "", err
	}
	return publicPEM(priv.Public())
}

func marshalKey(file string, priv ed25519.PrivateKey, pass Passphrase) ([]byte, error) {
	var secret []byte
	if pass != nil {
		var err error
		if secret, err = pass(file); err != nil {
			return nil, err
		}
	}
	if len(secret) == 0 {
		der, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: plainKey, Bytes: der}), nil
	}
	der, err := cryptoutils.MarshalPrivateKeyToEncryptedDER(priv, cryptoutils.StaticPasswordFunc(secret))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: encryptedKey, Bytes: der}), nil
}

// KeyFiles are the keys in the ceremony's own folder.
func (r *Repository) KeyFiles() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(r.dir, keysFolder, "*.pem"))
	slices.Sort(files)
	return files, err
}

// LoadKeys reads key files; none means every key in keys/.
func (r *Repository) LoadKeys(pass Passphrase, files ...string) ([]*Key, error) {
	found := len(files) == 0
	if found {
		var err error
		if files, err = r.KeyFiles(); err != nil {
			return nil, err
		}
	}
	var keys []*Key
	for _, f := range files {
		k, err := LoadKey(f, pass)
		if err != nil {
			return nil, err
		}
		k.found = found
		keys = append(keys, k)
	}
	return keys, nil
}

// memory is what a holder has seen, kept beside the key where no carrier
// comes: the network's first root, the newest that was published, and the
// highest numbers that the key has signed. A folder that says otherwise is an
// old one, or a stranger's.
type memory struct {
	Network  string        `json:"network"`
	First    digest.Digest `json:"firstRoot"`
	Root     int64         `json:"rootVersion"`
	Sequence int64         `json:"sequence"`
	Document digest.Digest `json:"document,omitzero"`
	Targets  int64         `json:"targetsVersion"`
	// Online is the term that this key signed a timestamp for when that was last
	// confirmed; 0: none was.
	Online snapshot.Duration `json:"onlineTerm,omitzero"`

	// What the key has signed, published or not.
	SignedRoot      mark  `json:"signedRoot,omitzero"`
	SignedTargets   mark  `json:"signedTargets,omitzero"`
	SignedOver      mark  `json:"signedOver,omitzero"` // the targets that a timestamp was for
	SignedSnapshot  int64 `json:"signedSnapshot,omitzero"`
	SignedTimestamp int64 `json:"signedTimestamp,omitzero"`
}

const (
	memorySuffix = ".seen"
	maxMemory    = 4 << 10
)

func readMemory(keyFile string) (memory, error) {
	var m memory
	b, err := durable.ReadFile(keyFile+memorySuffix, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m, json.RejectUnknownMembers(true))
	}
	if err != nil {
		return m, fmt.Errorf("what its holder has seen, %s: %w", keyFile+memorySuffix, err)
	}
	return m, nil
}

// check refuses a folder that is older than what the holder has seen, or of
// another network.
func (m memory) check(st *state, file string) error {
	if m.First == "" {
		return nil
	}
	hint := fmt.Sprintf("remembered in %s%s; remove that file if what it says was given up", file, memorySuffix)
	if m.Network != st.r.config.Network {
		return fmt.Errorf("%w: this key has signed for network %q, not %q (%s)", ErrForeign, m.Network, st.r.config.Network, hint)
	}
	first, err := st.first()
	if err != nil {
		return err
	}
	if first != m.First {
		return fmt.Errorf("%w: this key has signed under first root %s, here it is %s (%s)", ErrForeign, m.First, first, hint)
	}
	root, sequence := st.publishedVersion(), st.sequence()
	update := fmt.Sprintf("; bring the folder up to date with: rmodels snapshot update %s --from SITE", st.r.dir)
	switch {
	case root < m.Root:
		return fmt.Errorf("%w: this key's holder has seen root %d published, here it is %d (%s)%s", ErrBehind, m.Root, root, hint, update)
	case st.targetsVersion() < m.Targets || sequence < m.Sequence && root == m.Root:
		return fmt.Errorf("%w: this key's holder has seen snapshot %d published, here it is %d (%s)%s", ErrBehind, m.Sequence, sequence, hint, update)
	case sequence == m.Sequence && m.Document != "" && st.published.acc.Digest != m.Document:
		return fmt.Errorf("%w: this key's holder has seen snapshot %d as %s, here it is %s (%s)", ErrOtherLine, sequence, m.Document, st.published.acc.Digest, hint)
	}
	return nil
}

// first names the network by the first root, published or waiting.
func (st *state) first() (digest.Digest, error) {
	switch {
	case st.publishedErr != nil:
		return "", st.publishedErr
	case st.published != nil:
		return st.published.first(), nil
	case st.waiting != nil:
		return signedDigest(st.waiting.meta)
	}
	return "", fmt.Errorf("%w: %s has no root", snapshot.ErrInvalid, st.r.dir)
}

// remember keeps what the holders of keys have now seen. That this cannot be
// written takes no signature back: what was signed is kept already.
// online is the term that was confirmed for snapshot and timestamp, 0 for none.
func (st *state) remember(keys []*Key, online snapshot.Duration) (warnings []string) {
	first, err := st.first()
	if err != nil {
		return nil
	}
	for _, k := range keys {
		m := k.memory
		m.Network, m.First, m.Root, m.Sequence, m.Targets, m.Document = st.r.config.Network, first, st.publishedVersion(), st.sequence(), st.targetsVersion(), ""
		if st.document() != nil {
			m.Document = st.published.acc.Digest
		}
		if online > 0 && st.holds([]*Key{k}, st.inForce(), metadata.TIMESTAMP) {
			m.Online = online
		}
		if err := k.keep(m); err != nil {
			warnings = append(warnings, fmt.Sprintf("what was seen cannot be kept beside %s (%v): an older folder would not be noticed next time", k.file, err))
		}
	}
	return warnings
}
