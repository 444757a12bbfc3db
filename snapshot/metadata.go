package snapshot

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Caps on metadata, fetched or pushed. A root with 64 keys takes about 20 KiB.
const (
	maxRoot        = 256 << 10
	maxTimestamp   = 16 << 10
	maxMetaFile    = 256 << 10 // TUF's snapshot.json
	maxTargets     = 1 << 20
	maxKeys        = 64
	maxRootUpdates = 256
	maxExtra       = 4 << 20 // all targets besides the document together
)

// Layout of a consistent TUF repository.
const (
	timestampFile = "timestamp.json"
	targetsFolder = "targets/"
	bundlesFolder = "bundles/"
)

func rootFile(v int64) string    { return fmt.Sprintf("%d.root.json", v) }
func metaFile(v int64) string    { return fmt.Sprintf("%d.snapshot.json", v) }
func targetsFile(v int64) string { return fmt.Sprintf("%d.targets.json", v) }

// targetFile is where a consistent repository keeps a target:
// targets/<folder>/<sha256>.<name>.
func targetFile(target, sha256hex string) string {
	folder := ""
	if len(target) > len(bundlesFolder) && target[:len(bundlesFolder)] == bundlesFolder {
		folder, target = bundlesFolder, target[len(bundlesFolder):]
	}
	return targetsFolder + folder + sha256hex + "." + target
}

// classify gives an error of go-tuf its class. Metadata that is too old in any
// of TUF's ways is a replay; everything that no class fits is ErrInvalid.
func classify(what string, err error) error {
	class := ErrInvalid
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrRejected), errors.Is(err, ErrSource):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, &metadata.ErrExpiredMetadata{}):
		class = ErrExpired
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}), errors.Is(err, &metadata.ErrLengthOrHashMismatch{}):
		class = ErrSignature
	case errors.Is(err, &metadata.ErrBadVersionNumber{}):
		class = ErrReplay
	}
	return fmt.Errorf("%w: %s: %w", class, what, err)
}

// guarded runs a step of go-tuf. It dereferences members that hostile
// metadata may leave out; checkShape refuses those that are known, and a panic
// from any other is a refusal and not the end of the program.
func guarded(step func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: metadata that the library could not take: %v", ErrInvalid, r)
		}
	}()
	return step()
}

type metadataShape struct {
	Signed struct {
		Type    string                   `json:"_type"`
		Version int64                    `json:"version"`
		Keys    map[string]*keyShape     `json:"keys"`
		Roles   map[string]*roleShape    `json:"roles"`
		Meta    map[string]*versionShape `json:"meta"`
		Targets map[string]*struct {
			Length int64             `json:"length"`
			Hashes map[string]string `json:"hashes"`
		} `json:"targets"`
	} `json:"signed"`
	Signatures []struct {
		KeyID string `json:"keyid"`
		Sig   string `json:"sig"`
	} `json:"signatures"`
}

type keyShape struct {
	Type  string `json:"keytype"`
	Value struct {
		Public string `json:"public"`
	} `json:"keyval"`
}

type roleShape struct {
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

type versionShape struct {
	Version int64 `json:"version"`
}

// checkShape refuses metadata that is not one JSON value without duplicate
// members, of the wrong role, or without the members that go-tuf takes for
// granted.
func checkShape(role string, b []byte) error {
	var m metadataShape
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, role, err)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrInvalid, role, fmt.Sprintf(format, args...))
	}
	if m.Signed.Type != role {
		return bad("is metadata of role %q", clip(m.Signed.Type))
	}
	if m.Signed.Version < 1 {
		return bad("version %d", m.Signed.Version)
	}
	if n := len(m.Signatures); n > maxKeys {
		return bad("%d signatures, at most %d", n, maxKeys)
	}
	need := func(name string) error {
		if m.Signed.Meta[name] == nil || m.Signed.Meta[name].Version < 1 {
			return bad("does not name the version of %s", name)
		}
		return nil
	}
	switch role {
	case metadata.ROOT:
		return checkRootShape(m, bad)
	case metadata.TIMESTAMP:
		return need("snapshot.json")
	case metadata.SNAPSHOT:
		for name, v := range m.Signed.Meta {
			if v == nil {
				return bad("%q has no version", clip(name))
			}
		}
		return need("targets.json")
	}
	for name, t := range m.Signed.Targets {
		if t == nil || t.Length < 0 {
			return bad("target %q has no length", clip(name))
		}
	}
	return nil
}

func checkRootShape(m metadataShape, bad func(string, ...any) error) error {
	if n := len(m.Signed.Keys); n > maxKeys {
		return bad("%d keys, at most %d", n, maxKeys)
	}
	for id, k := range m.Signed.Keys {
		if k == nil {
			return bad("key %q is null", clip(id))
		}
		if k.Type == metadata.KeyTypeEd25519 && len(k.Value.Public) != 64 {
			return bad("key %q: an ed25519 key has 64 hex digits", clip(id))
		}
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r := m.Signed.Roles[name]
		switch {
		case r == nil:
			return bad("has no role %s", name)
		case r.Threshold < 1:
			return bad("role %s has threshold %d, at least 1 is needed (CVE-2026-23992)", name, r.Threshold)
		case len(r.KeyIDs) > maxKeys:
			return bad("role %s has %d keys, at most %d", name, len(r.KeyIDs), maxKeys)
		}
		for _, id := range r.KeyIDs {
			if m.Signed.Keys[id] == nil {
				return bad("role %s names key %q, which is not listed", name, clip(id))
			}
		}
	}
	return nil
}

// signersOf lists the IDs of the role's keys whose signatures on m verify.
func signersOf(root *metadata.Metadata[metadata.RootType], role string, m any) []string {
	var ids []string
	for _, id := range root.Signed.Roles[role].KeyIDs {
		one := metadata.Metadata[metadata.RootType]{Signed: metadata.RootType{
			Keys:  root.Signed.Keys,
			Roles: map[string]*metadata.Role{role: {KeyIDs: []string{id}, Threshold: 1}},
		}}
		if guarded(func() error { return one.VerifyDelegate(role, m) }) == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// roleKeys names the keys of a role by the digest of their public halves, so
// that the same key under a second ID or in another spelling is still the same
// key.
func roleKeys(root *metadata.Metadata[metadata.RootType], role string) []digest.Digest {
	set := map[digest.Digest]bool{}
	for _, id := range root.Signed.Roles[role].KeyIDs {
		if k := root.Signed.Keys[id]; k != nil {
			set[keyDigest(k)] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// keyDigest is that of the SubjectPublicKeyInfo; a key that is none counts by
// its text.
func keyDigest(k *metadata.Key) digest.Digest {
	if pub, err := k.ToPublicKey(); err == nil {
		if der, err := x509.MarshalPKIXPublicKey(pub); err == nil {
			return digest.FromBytes(der)
		}
	}
	return digest.FromString(k.Type + " " + k.Value.PublicKey)
}
