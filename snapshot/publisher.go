package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/resultity/rmodels/internal/ociref"
)

// What a publisher needs of a node's rules: it reads and checks by the same
// code, so that nothing is signed or published that nodes refuse.

// TimestampFile names everything else in a repository; it is written last.
const TimestampFile = timestampFile

// Caps of a node on what it reads.
const (
	MaxExtra      = maxExtra       // bytes of all targets besides the document together
	MaxKeys       = maxKeys        // keys of one root, and signatures of one file
	MaxPushFiles  = maxBundleFiles // files of one push file
	MaxTrustRoots = maxTrustRoots  // trust roots of one document
)

// MetadataFile is where a consistent repository keeps version v of a role's
// metadata.
func MetadataFile(role string, v int64) string {
	if role == metadata.TIMESTAMP {
		return timestampFile
	}
	return fmt.Sprintf("%d.%s.json", v, role)
}

// TargetFile is where a consistent repository keeps a target.
func TargetFile(target, sha256hex string) string { return targetFile(target, sha256hex) }

// BundleTarget is the target that carries the signature bundles of a manifest.
func BundleTarget(manifest digest.Digest) string {
	return bundlesFolder + manifest.Encoded() + ".json"
}

// MaxMetadata is how many bytes of a role's metadata a node reads.
func MaxMetadata(role string) int64 {
	switch role {
	case metadata.ROOT:
		return maxRoot
	case metadata.TIMESTAMP:
		return maxTimestamp
	case metadata.SNAPSHOT:
		return maxMetaFile
	case metadata.TARGETS:
		return maxTargets
	}
	return 0
}

// CheckMetadata refuses metadata of a role that a node would not even begin to
// verify.
func CheckMetadata(role string, b []byte) error {
	if limit := MaxMetadata(role); int64(len(b)) > limit {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, role, len(b), limit)
	}
	return checkShape(role, b)
}

// CheckDigest accepts the one spelling of a SHA-256 digest.
func CheckDigest(d digest.Digest) error { return ociref.CheckDigest(d) }

// SignersOf lists the IDs of the role's keys whose signatures on m verify.
func SignersOf(root *metadata.Metadata[metadata.RootType], role string, m any) []string {
	return signersOf(root, role, m)
}

// RoleKeys names the distinct keys of a role by the digests of their public
// halves.
func RoleKeys(root *metadata.Metadata[metadata.RootType], role string) []digest.Digest {
	return roleKeys(root, role)
}

// KeyDigest is that of a key's SubjectPublicKeyInfo, as revocations name it.
func KeyDigest(k *metadata.Key) digest.Digest { return keyDigest(k) }

// PolicyKey is a key of a policy's authority by the digest that a revocation
// names.
type PolicyKey struct {
	Policy    string        `json:"policy"`
	Authority string        `json:"authority"`
	Digest    digest.Digest `json:"digest"`
}

// PolicyKeys are the keys that the document's policies name.
func (s *Snapshot) PolicyKeys() []PolicyKey {
	var all []PolicyKey
	for _, p := range s.Policies {
		for _, a := range p.Authorities {
			if a.Key == nil {
				continue
			}
			if _, d, err := ParseKey(a.Key.Data); err == nil {
				all = append(all, PolicyKey{p.Name, a.Name, d})
			}
		}
	}
	return all
}

// Chain is a first root and those that followed it, each verified by the one
// before, as a node walks them.
type Chain struct {
	tm *trustedmetadata.TrustedMetadata
}

// NewChain begins with a root that is trusted because it was handed over.
func NewChain(root []byte) (*Chain, error) {
	tm, err := startFrom(root)
	if err != nil {
		return nil, err
	}
	return &Chain{tm}, nil
}

// Root is the newest root.
func (c *Chain) Root() *metadata.Metadata[metadata.RootType] { return c.tm.Root }

// Next verifies b as the successor of the newest root and takes it.
func (c *Chain) Next(b []byte) error { return nextRoot(c.tm, b) }

// Follow takes every further root that src has.
func (c *Chain) Follow(ctx context.Context, src Source) error {
	for range maxRootUpdates {
		name := rootFile(c.tm.Root.Signed.Version + 1)
		b, err := src.Fetch(ctx, name, maxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return sourceError(name, err)
		}
		if err := c.Next(b); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d new roots at once", ErrTooLarge, maxRootUpdates)
}

// Seen is what a node holds when the next snapshot comes: the files of the
// last one, and the floor. The zero value is a new node's.
type Seen struct {
	Files       Files
	RootVersion int64
	Sequence    int64
	Digest      digest.Digest
	TargetsKeys []digest.Digest
}

// Accept says what a node that holds the newest root, and has seen what seen
// says, would accept from src at a time; also the files that it would keep.
// The zero time is one at which nothing has expired. A Chain accepts once.
func (c *Chain) Accept(ctx context.Context, src Source, network string, now time.Time, seen Seen) (*Accepted, Files, error) {
	if v := c.tm.Root.Signed.Version; v < seen.RootVersion {
		return nil, nil, fmt.Errorf("%w: newest root is version %d, %d was seen", ErrReplay, v, seen.RootVersion)
	}
	c.tm.RefTime = time.Time{} // whether a term is over is judged once all has verified
	s := &set{tm: c.tm, src: src, files: map[string][]byte{}, previous: seen.Files}
	acc, err := s.verify(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	fl := floor{Network: network, RootVersion: seen.RootVersion, Sequence: seen.Sequence, Digest: seen.Digest, TargetsKeys: seen.TargetsKeys}
	if err := fl.under(c.tm.Root).check(acc.Document, acc.Digest); err != nil {
		return nil, nil, err
	}
	acc.AcceptedAt = now
	acc.judge(now, "")
	if err := acc.late(now); err != nil {
		return nil, nil, err
	}
	return acc, s.files, nil
}
