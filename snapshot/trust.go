package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
)

const (
	pinFile      = "pin.json"
	rootsFolder  = "roots"
	acceptedFile = "accepted.json"
	lockFile     = "lock"
	maxRecord    = 24 << 20 // the caps of all files and of one more document, in base64
)

// Trust is one node's view of one network: the pinned root, what was accepted
// last, and the floor below which nothing is accepted again. Its methods may
// be called from several goroutines and several processes: acceptance holds a
// lock on the directory, reading needs none.
type Trust struct {
	dir, floorPath string
	pin            pin
}

// pin is the network's name and its first root as the operator confirmed them.
type pin struct {
	Network string        `json:"network"`
	Digest  digest.Digest `json:"digest"`
	Root    []byte        `json:"root"`
}

// record is the last accepted set of files, with the time that the acceptance
// took for the present.
type record struct {
	AcceptedAt  time.Time         `json:"acceptedAt"`
	RootVersion int64             `json:"rootVersion"`
	Digest      digest.Digest     `json:"digest"`
	Files       map[string][]byte `json:"files"`
	Previous    []byte            `json:"previous,omitzero"` // the last accepted document that differs; for people, nothing is decided by it
}

// document is the accepted document; nil where the record is damaged.
func (r record) document() []byte {
	for name, b := range r.Files {
		if strings.HasSuffix(name, "."+TargetName) && digest.FromBytes(b) == r.Digest {
			return b
		}
	}
	return nil
}

// Pin records root as the first root of network. Doing it again with the same
// root changes nothing; another root or network is refused with [ErrPinned].
// The floor of an earlier installation is kept.
func Pin(dir, floorPath, network string, root []byte) error {
	if err := CheckName(network); err != nil {
		return fmt.Errorf("%w: network name %w", ErrInvalid, err)
	}
	tm, err := startFrom(root)
	if err != nil {
		return err
	}
	p := pin{network, digest.FromBytes(root), root}
	if old, err := readPin(dir); err == nil {
		if old.Network == p.Network && old.Digest == p.Digest {
			return nil
		}
		return fmt.Errorf("%w: %s holds network %q with root %s, asked for %q with %s; to begin anew remove that directory and %s",
			ErrPinned, dir, old.Network, old.Digest, network, p.Digest, floorPath)
	} else if !errors.Is(err, ErrNotPinned) {
		return err
	}
	fl, ok, err := readFloor(floorPath)
	if err != nil {
		return err
	}
	if ok && fl.Network != network {
		return fmt.Errorf("%w: floor %s is of network %q, not %q", ErrPinned, floorPath, fl.Network, network)
	}
	if err := fl.Root.check(tm.Root); err != nil {
		return fmt.Errorf("%w: floor %s: %w; to begin anew remove it, too", ErrPinned, floorPath, err)
	}
	if !ok {
		seen, err := rootSeen(tm.Root)
		if err != nil {
			return err
		}
		if err := (floor{Network: network, RootVersion: seen.Version, Root: seen}).write(floorPath); err != nil {
			return fmt.Errorf("pin network %s: %w", network, err)
		}
	}
	if err := durable.MkdirAll(filepath.Join(dir, rootsFolder), 0o700); err != nil {
		return fmt.Errorf("pin network %s: %w", network, err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, pinFile), b, 0o600); err != nil {
		return fmt.Errorf("pin network %s: %w", network, err)
	}
	return nil
}

func readPin(dir string) (pin, error) {
	b, err := readOwn(filepath.Join(dir, pinFile), 2*maxRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return pin{}, fmt.Errorf("%w in %s: run rmodels init with the network's root", ErrNotPinned, dir)
	}
	if err != nil {
		return pin{}, stopped(filepath.Join(dir, pinFile), dir, "", err)
	}
	var p pin
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return pin{}, stopped(filepath.Join(dir, pinFile), dir, "", err)
	}
	if d := digest.FromBytes(p.Root); d != p.Digest {
		return pin{}, stopped(filepath.Join(dir, pinFile), dir, p.Network, fmt.Errorf("digest %s expected, %s found", p.Digest, d))
	}
	return p, nil
}

// stopped says what a person does about damaged trust state. The floor is kept
// on purpose: it goes on refusing what is older.
func stopped(file, dir, network string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return notOwner(err)
	}
	if network == "" {
		network = "NETWORK"
	}
	return fmt.Errorf("%w: %s: %v; restore it from a backup, or pin the network anew: move %s aside, get the newest root from the publisher and run: rmodels init --network %s --root ROOT.json",
		ErrTrustState, file, err, dir, network)
}

// notOwner is for state that is as good as it was, but not for this user.
func notOwner(err error) error {
	return fmt.Errorf("%w: %w; run as its owner", ErrNotOwner, err)
}

// OpenTrust opens what [Pin] wrote; [ErrNotPinned] when it did not.
func OpenTrust(dir, floorPath string) (*Trust, error) {
	p, err := readPin(dir)
	if err != nil {
		return nil, err
	}
	return &Trust{dir: dir, floorPath: floorPath, pin: p}, nil
}

// Network is the name that was pinned.
func (t *Trust) Network() string { return t.pin.Network }

// PinnedRoot is the digest of the root that was pinned.
func (t *Trust) PinnedRoot() digest.Digest { return t.pin.Digest }

// startFrom loads a root that is trusted because it was handed over.
func startFrom(root []byte) (tm *trustedmetadata.TrustedMetadata, err error) {
	if len(root) > maxRoot {
		return nil, fmt.Errorf("%w: root of %d bytes, at most %d", ErrTooLarge, len(root), maxRoot)
	}
	if err := checkShape(metadata.ROOT, root); err != nil {
		return nil, err
	}
	err = guarded(func() error { tm, err = trustedmetadata.New(root); return err })
	if err != nil {
		return nil, classify("root", err)
	}
	return tm, nil
}

// nextRoot verifies b as the successor of tm's root.
func nextRoot(tm *trustedmetadata.TrustedMetadata, b []byte) error {
	name := rootFile(tm.Root.Signed.Version + 1)
	if len(b) > maxRoot {
		return fmt.Errorf("%w: %s of %d bytes, at most %d", ErrTooLarge, name, len(b), maxRoot)
	}
	if err := checkShape(metadata.ROOT, b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return classify(name, guarded(func() error { _, err := tm.UpdateRoot(b); return err }))
}

// walk loads the pinned root and every later one that the node has verified
// and stored before, up to version limit (0: all), verifying each again. The
// one that was seen is the one that is stored.
func (t *Trust) walk(limit int64, seen seenRoot) (*trustedmetadata.TrustedMetadata, error) {
	tm, err := startFrom(t.pin.Root)
	if err == nil {
		err = seen.check(tm.Root)
	}
	if err != nil {
		return nil, stopped(filepath.Join(t.dir, pinFile), t.dir, t.pin.Network, err)
	}
	for limit == 0 || tm.Root.Signed.Version < limit {
		path := t.rootPath(tm.Root.Signed.Version + 1)
		b, err := readOwn(path, maxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err == nil {
			err = nextRoot(tm, b)
		}
		if err == nil {
			err = seen.check(tm.Root)
		}
		if err != nil {
			return nil, stopped(path, t.dir, t.pin.Network, err)
		}
	}
	return tm, nil
}

func (t *Trust) rootPath(version int64) string {
	return filepath.Join(t.dir, rootsFolder, rootFile(version))
}

func (t *Trust) readRecord() (record, bool, error) {
	b, err := readOwn(filepath.Join(t.dir, acceptedFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return record{}, false, notOwner(err)
	}
	if err != nil {
		return record{}, false, fmt.Errorf("%w: %v", ErrCache, err)
	}
	var r record
	if err := json.Unmarshal(b, &r, json.RejectUnknownMembers(true)); err != nil {
		return record{}, false, fmt.Errorf("%w: %s: %v", ErrCache, filepath.Join(t.dir, acceptedFile), err)
	}
	return r, true, nil
}

// readFloor reads the floor; found is false where there is none, though [Pin]
// wrote one.
func (t *Trust) readFloor() (fl floor, found bool, err error) {
	fl, found, err = readFloor(t.floorPath)
	if err != nil {
		return floor{}, false, err
	}
	if !found {
		return floor{Network: t.pin.Network}, false, nil
	}
	if fl.Network != t.pin.Network {
		return floor{}, false, fmt.Errorf("%w: floor %s is of network %q, not %q", ErrNetwork, t.floorPath, fl.Network, t.pin.Network)
	}
	return fl, true, nil
}

// lockWait bounds how long an acceptance waits for another, which holds the
// lock while it verifies what it has in memory and stores it.
const lockWait = 10 * time.Second

// lock makes acceptance one at a time among all processes of the node.
func (t *Trust) lock(ctx context.Context) (*filelock.Lock, error) {
	l, err := filelock.Take(ctx, filepath.Join(t.dir, lockFile), filelock.Exclusive, lockWait)
	if errors.Is(err, fs.ErrPermission) {
		return nil, notOwner(err)
	}
	if err == nil { // what one that was killed left: it is in nobody's way
		_ = durable.RemoveTemporary(t.dir)
		_ = durable.RemoveTemporary(filepath.Join(t.dir, rootsFolder))
		_ = durable.RemoveTemporary(filepath.Dir(t.floorPath), filepath.Base(t.floorPath)) // the directory is other networks', too
	}
	return l, err
}
