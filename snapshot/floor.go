package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
)

// floor is what a node never goes below again. It lives apart from the cache,
// so that a wiped cache does not open the way for a replay.
type floor struct {
	Network     string          `json:"network"`
	RootVersion int64           `json:"rootVersion"`
	Sequence    int64           `json:"sequence"`
	Digest      digest.Digest   `json:"digest,omitzero"`
	TargetsKeys []digest.Digest `json:"targetsKeys,omitzero"` // of root RootVersion
	Root        seenRoot        `json:"root,omitzero"`        // the newest root seen, which what was accepted need not have reached
	AcceptedAt  time.Time       `json:"acceptedAt,omitzero"`  // the latest time seen, as far as the accepted terms reach
	SeenAt      time.Time       `json:"seenAt,omitzero"`      // the same, as far as the accepted grace reaches; see clock.go
}

// seenRoot names a root by its version and what its keys signed.
type seenRoot struct {
	Version int64         `json:"version"`
	Digest  digest.Digest `json:"digest"`
}

// rootSeen names a root. Signatures that were added later do not make it
// another one.
func rootSeen(root *metadata.Metadata[metadata.RootType]) (seenRoot, error) {
	b, err := root.Signed.MarshalJSON() // with its members in order
	if err != nil {
		return seenRoot{}, fmt.Errorf("root %d: %w", root.Signed.Version, err)
	}
	return seenRoot{root.Signed.Version, digest.FromBytes(b)}, nil
}

// check fails where root is another one under the version that was seen.
func (s seenRoot) check(root *metadata.Metadata[metadata.RootType]) error {
	if root.Signed.Version != s.Version || s.Digest == "" {
		return nil
	}
	is, err := rootSeen(root)
	if err != nil {
		return err
	}
	if is != s {
		return fmt.Errorf("root %d is %s, this node has seen %s under this number: two roots", s.Version, is.Digest, s.Digest)
	}
	return nil
}

const maxFloor = 64 << 10

func readFloor(path string) (floor, bool, error) {
	b, err := readOwn(path, maxFloor)
	if errors.Is(err, fs.ErrNotExist) {
		return floor{}, false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return floor{}, false, notOwner(err)
	}
	var f floor
	if err == nil {
		err = json.Unmarshal(b, &f, json.RejectUnknownMembers(true))
	}
	if err != nil {
		return floor{}, false, fmt.Errorf("%w: floor %s: %v; without it a replay could not be told: restore it from a backup, or move it and the network's trust directory aside, "+
			"get the newest root from the publisher and run: rmodels init --network NETWORK --root ROOT.json", ErrTrustState, path, err)
	}
	f.Root.Version = max(f.Root.Version, f.RootVersion) // of a version that remembered no roots
	return f, true, nil
}

func (f floor) write(path string) error {
	b, err := json.Marshal(f, json.Deterministic(true))
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// under is the floor as it stands under root. The sequence goes back to zero
// when root replaced the targets keys, which means: those of the old ones that
// remain cannot reach the threshold. Whoever pushed the sequence far ahead
// with stolen keys has then lost, and an older document signed by the old keys
// does not verify any more, so nothing can be replayed.
func (f floor) under(root *metadata.Metadata[metadata.RootType]) floor {
	if root.Signed.Version <= f.RootVersion || len(f.TargetsKeys) == 0 {
		return f
	}
	kept := 0
	for _, k := range roleKeys(root, metadata.TARGETS) {
		if slices.Contains(f.TargetsKeys, k) {
			kept++
		}
	}
	if kept < root.Signed.Roles[metadata.TARGETS].Threshold {
		f.Sequence, f.Digest = 0, ""
	}
	return f
}

// check holds a document against the floor.
func (f floor) check(doc *Snapshot, d digest.Digest) error {
	if doc.Sequence < f.Sequence {
		return fmt.Errorf("%w: sequence %d, this node has accepted %d", ErrReplay, doc.Sequence, f.Sequence)
	}
	if doc.Sequence == f.Sequence && f.Digest != "" && d != f.Digest {
		return fmt.Errorf("%w: sequence %d was accepted with digest %s and comes back with %s: two documents under one number",
			ErrReplay, doc.Sequence, f.Digest, d)
	}
	return nil
}

// readOwn reads a file of the node's own state. Links are not followed: the
// directory belongs to the program.
func readOwn(path string, max int64) ([]byte, error) {
	f, err := durable.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readCapped(f, path, max)
}
