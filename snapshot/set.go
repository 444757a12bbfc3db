package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// set is one acceptance on its way through TUF's order: timestamp, snapshot,
// targets, target files.
type set struct {
	tm       *trustedmetadata.TrustedMetadata
	src      Source
	files    map[string][]byte // what verified, by name
	previous map[string][]byte // the files of the last acceptance: rollback is told against them
}

func (s *set) fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	b, err := s.src.Fetch(ctx, name, max)
	if err != nil {
		return nil, sourceError(name, err)
	}
	if int64(len(b)) > max { // sources are not trusted to keep the cap
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrTooLarge, name, max)
	}
	return b, nil
}

func capped(max, claimed int64) int64 {
	if claimed > 0 && claimed < max {
		return claimed
	}
	return max
}

func (s *set) verifyMetadata(ctx context.Context) error {
	// The old files first. Where the keys were rotated away they do not verify
	// and do not count, which is how TUF recovers from a fast-forward attack;
	// expired ones are still good for telling a rollback.
	oldTimestamp := s.previous[timestampFile]
	if oldTimestamp != nil && checkShape(metadata.TIMESTAMP, oldTimestamp) == nil {
		_ = guarded(func() error { _, err := s.tm.UpdateTimestamp(oldTimestamp); return err })
	}
	kept := s.tm.Timestamp
	b, err := s.fetch(ctx, timestampFile, maxTimestamp)
	if err != nil {
		return err
	}
	if err := checkShape(metadata.TIMESTAMP, b); err != nil {
		return err
	}
	err = guarded(func() error { _, err := s.tm.UpdateTimestamp(b); return err })
	if kept != nil && errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		b, err = oldTimestamp, nil
	}
	if err != nil {
		return classify(timestampFile, err)
	}
	s.files[timestampFile] = b

	// keep: the timestamp that is now trusted names the snapshot's version.
	meta := s.tm.Timestamp.Signed.Meta["snapshot.json"]
	if old := s.previousMeta(); old != nil {
		_ = guarded(func() error { _, err := s.tm.UpdateSnapshot(old, true); return err })
	}
	name := metaFile(meta.Version)
	if b, err = s.fetch(ctx, name, capped(maxMetaFile, meta.Length)); err != nil {
		return err
	}
	if err := checkShape(metadata.SNAPSHOT, b); err != nil {
		return err
	}
	if err := guarded(func() error { _, err := s.tm.UpdateSnapshot(b, false); return err }); err != nil {
		return classify(name, err)
	}
	s.files[name] = b

	meta = s.tm.Snapshot.Signed.Meta["targets.json"]
	name = targetsFile(meta.Version)
	if b, err = s.fetch(ctx, name, capped(maxTargets, meta.Length)); err != nil {
		return err
	}
	if err := checkShape(metadata.TARGETS, b); err != nil {
		return err
	}
	if err := guarded(func() error { _, err := s.tm.UpdateTargets(b); return err }); err != nil {
		return classify(name, err)
	}
	s.files[name] = b
	return nil
}

// previousMeta is the TUF snapshot.json of the last acceptance.
func (s *set) previousMeta() []byte {
	for name, b := range s.previous {
		if strings.HasSuffix(name, ".snapshot.json") && !strings.HasPrefix(name, targetsFolder) && checkShape(metadata.SNAPSHOT, b) == nil {
			return b
		}
	}
	return nil
}

// target fetches and verifies one target file.
func (s *set) target(ctx context.Context, name string, max int64) ([]byte, error) {
	tf := s.tm.Targets[metadata.TARGETS].Signed.Targets[name]
	if tf == nil {
		return nil, fmt.Errorf("%w: targets.json does not list %s", ErrInvalid, name)
	}
	sum := tf.Hashes["sha256"]
	if len(sum) != 32 {
		return nil, fmt.Errorf("%w: target %s has no SHA-256", ErrInvalid, name)
	}
	if tf.Length > max {
		return nil, fmt.Errorf("%w: target %s of %d bytes, at most %d", ErrTooLarge, name, tf.Length, max)
	}
	file := targetFile(name, sum.String())
	b, err := s.fetch(ctx, file, tf.Length)
	if err != nil {
		return nil, err
	}
	if err := guarded(func() error { return tf.VerifyLengthHashes(b) }); err != nil {
		return nil, classify("target "+name, err)
	}
	s.files[file] = b
	return b, nil
}

// verify runs the whole order and returns what was accepted, without times.
func (s *set) verify(ctx context.Context, network string) (*Accepted, error) {
	if err := s.verifyMetadata(ctx); err != nil {
		return nil, err
	}
	raw, err := s.target(ctx, TargetName, MaxDocument)
	if err != nil {
		return nil, err
	}
	doc, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	if doc.Network != network {
		return nil, fmt.Errorf("%w: it is for %q, this node is pinned to %q", ErrNetwork, doc.Network, network)
	}
	acc := &Accepted{Document: doc, Raw: raw, Digest: digest.FromBytes(raw)}
	left := int64(maxExtra)
	if err := s.trustRoots(ctx, acc, &left); err != nil {
		return nil, err
	}
	if err := s.bundles(ctx, acc, &left); err != nil {
		return nil, err
	}
	root, tg := s.tm.Root.Signed, s.tm.Targets[metadata.TARGETS]
	acc.Signers = signersOf(s.tm.Root, metadata.TARGETS, tg)
	acc.RootVersion, acc.RootExpires = root.Version, root.Expires
	acc.TimestampVersion, acc.TimestampExpires = s.tm.Timestamp.Signed.Version, s.tm.Timestamp.Signed.Expires
	acc.SnapshotVersion, acc.SnapshotExpires = s.tm.Snapshot.Signed.Version, s.tm.Snapshot.Signed.Expires
	acc.TargetsVersion, acc.TargetsExpires = tg.Signed.Version, tg.Signed.Expires
	return acc, nil
}

func (s *set) trustRoots(ctx context.Context, acc *Accepted, left *int64) error {
	acc.TrustRoots = map[string][]byte{}
	for name, r := range acc.Document.TrustRoots {
		b, err := s.target(ctx, r.Target, *left)
		if err != nil {
			return fmt.Errorf("trust root %s: %w", name, err)
		}
		if d := digest.FromBytes(b); d != r.Digest {
			return fmt.Errorf("%w: trust root %s: the document pins %s, target %s is %s", ErrSignature, name, r.Digest, r.Target, d)
		}
		*left -= int64(len(b))
		acc.TrustRoots[name] = b
	}
	return nil
}

// bundles loads the signature bundles that came as targets of their own for
// artifacts that the document lists: bundles/<hex>.json, a JSON array.
func (s *set) bundles(ctx context.Context, acc *Accepted, left *int64) error {
	acc.Bundles = map[digest.Digest][][]byte{}
	load := func(d digest.Digest) error {
		name := bundlesFolder + d.Encoded() + ".json"
		if s.tm.Targets[metadata.TARGETS].Signed.Targets[name] == nil || acc.Bundles[d] != nil {
			return nil
		}
		b, err := s.target(ctx, name, *left)
		if err != nil {
			return err
		}
		*left -= int64(len(b))
		var list []jsontext.Value
		if err := json.Unmarshal(b, &list); err != nil {
			return fmt.Errorf("%w: target %s: %w", ErrInvalid, name, err)
		}
		for _, v := range list {
			acc.Bundles[d] = append(acc.Bundles[d], v)
		}
		return nil
	}
	for _, m := range acc.Document.Models {
		if err := load(m.Digest()); err != nil {
			return err
		}
	}
	for _, r := range acc.Document.Runtimes {
		if err := load(r.Digest()); err != nil {
			return err
		}
	}
	return nil
}
