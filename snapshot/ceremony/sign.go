package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// SignResult says how far the signatures of what is staged are.
type SignResult struct {
	Sequence int64        `json:"sequence"`
	Roles    []RoleStatus `json:"roles"`
	// Complete: every role has reached its threshold, it can be published.
	Complete bool `json:"complete"`
	// Draft: it holds changes that no signature covers yet.
	Draft bool `json:"draft"`
	// Restarted: the draft had changed since others signed, so that their
	// signatures were for another document and were dropped.
	Restarted bool `json:"restarted,omitzero"`
}

// RoleStatus is one role's state.
type RoleStatus struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Threshold int       `json:"threshold"`
	Signed    []string  `json:"signed"`  // IDs of keys whose signatures verify
	Missing   []string  `json:"missing"` // IDs of keys that may still sign
	Expires   time.Time `json:"expires,omitzero"`
	Complete  bool      `json:"complete"`
}

type (
	rootMeta    = metadata.Metadata[metadata.RootType]
	targetsMeta = metadata.Metadata[metadata.TargetsType]
)

// Sign signs what is due with the given private key files, none meaning every
// key in keys/. It may be called on one machine with some keys and on another
// with others: signatures are added until each role's threshold is reached.
// The draft is staged under the next sequence when it differs from what was
// staged or published, or when a targets key is at hand and nothing is staged
// (the terms begin anew). With the online key alone it renews snapshot and
// timestamp.
func (r *Repository) Sign(keyFiles ...string) (*SignResult, error) {
	keys, err := r.loadKeys(keyFiles)
	if err != nil {
		return nil, err
	}
	now := r.now()
	if err := r.signRoot(keys); err != nil {
		return nil, err
	}
	root, err := r.newestRoot()
	if err != nil {
		return nil, err
	}
	restarted, err := r.stage(now, root, keys)
	if err != nil {
		return nil, err
	}
	if err := r.signTargets(root, keys); err != nil {
		return nil, err
	}
	if err := r.signOnline(now, root, keys); err != nil {
		return nil, err
	}
	res, err := r.Status()
	if err != nil {
		return nil, err
	}
	res.Restarted = restarted
	used := map[string]bool{}
	for _, role := range root.Signed.Roles {
		for _, id := range role.KeyIDs {
			used[id] = true
		}
	}
	for _, k := range keys {
		if len(keyFiles) > 0 && !used[k.id] {
			if prev, err := r.previousRoot(root); err != nil || prev == nil || prev.Signed.Keys[k.id] == nil {
				return nil, fmt.Errorf("%w: %s is a key of no role of root %d", snapshot.ErrKey, k.file, root.Signed.Version)
			}
		}
	}
	return res, nil
}

func readMeta[T metadata.Roles](path string) (*metadata.Metadata[T], error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var m metadata.Metadata[T]
	if _, err := m.FromBytes(b); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", snapshot.ErrInvalid, path, err)
	}
	return &m, nil
}

func writeMeta[T metadata.Roles](path string, m *metadata.Metadata[T]) error {
	b, err := m.ToBytes(true)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o644)
}

// addSignatures signs m with those of keys that allowed names and that have
// not signed it yet; changed tells whether any was added.
func addSignatures[T metadata.Roles](m *metadata.Metadata[T], keys []tufKey, allowed []string) (changed bool, err error) {
	for _, k := range keys {
		if !slices.Contains(allowed, k.id) || slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == k.id }) {
			continue
		}
		if _, err := m.Sign(k.signer); err != nil {
			return changed, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, k.file, err)
		}
		changed = true
	}
	return changed, nil
}

// stagedRoot is the root that waits for signatures, nil when there is none.
func (r *Repository) stagedRoot() (*rootMeta, error) {
	v, err := newestIn(r.path(stagedFolder), metadata.ROOT)
	if err != nil || v == 0 {
		return nil, err
	}
	return readMeta[metadata.RootType](r.path(stagedFolder, snapshot.MetadataFile(metadata.ROOT, v)))
}

func (r *Repository) publishedRoot() (*rootMeta, error) {
	v, err := newestIn(r.path(metadataFolder), metadata.ROOT)
	if err != nil || v == 0 {
		return nil, err
	}
	return readMeta[metadata.RootType](r.path(metadataFolder, snapshot.MetadataFile(metadata.ROOT, v)))
}

// newestRoot is the staged root, else the published one.
func (r *Repository) newestRoot() (*rootMeta, error) {
	root, err := r.stagedRoot()
	if err == nil && root == nil {
		root, err = r.publishedRoot()
	}
	if err == nil && root == nil {
		err = fmt.Errorf("%w: %s has no root", snapshot.ErrInvalid, r.dir)
	}
	return root, err
}

// previousRoot is the published root that a staged one follows.
func (r *Repository) previousRoot(root *rootMeta) (*rootMeta, error) {
	p, err := r.publishedRoot()
	if err != nil || p == nil || p.Signed.Version >= root.Signed.Version {
		return nil, err
	}
	return p, nil
}

// signRoot signs a staged root with keys of its own root role and of the root
// before it: TUF asks for both thresholds.
func (r *Repository) signRoot(keys []tufKey) error {
	root, err := r.stagedRoot()
	if err != nil || root == nil {
		return err
	}
	allowed := slices.Clone(root.Signed.Roles[metadata.ROOT].KeyIDs)
	if prev, err := r.previousRoot(root); err != nil {
		return err
	} else if prev != nil {
		allowed = append(allowed, prev.Signed.Roles[metadata.ROOT].KeyIDs...)
	}
	changed, err := addSignatures(root, keys, allowed)
	if err != nil || !changed {
		return err
	}
	return writeMeta(r.path(stagedFolder, snapshot.MetadataFile(metadata.ROOT, root.Signed.Version)), root)
}

// stage puts the draft up for signature when there is reason to.
func (r *Repository) stage(now time.Time, root *rootMeta, keys []tufKey) (restarted bool, err error) {
	draft, err := r.Draft()
	if err != nil {
		return false, err
	}
	extra, err := r.extraTargets(draft)
	if err != nil {
		return false, err
	}
	staged, err := r.readDocument(r.path(stagedFolder, snapshot.TargetName))
	if err != nil {
		return false, err
	}
	if staged != nil {
		same, err := sameContent(draft, staged)
		if err != nil {
			return false, err
		}
		if same && r.sameTargets(extra) {
			return false, nil
		}
		restarted = true
	} else if !slices.ContainsFunc(keys, func(k tufKey) bool {
		return slices.Contains(root.Signed.Roles[metadata.TARGETS].KeyIDs, k.id)
	}) {
		return false, nil // none that could sign it is at hand
	}
	published, version, err := r.publishedDocument()
	if err != nil {
		return false, err
	}
	draft.Sequence = 1
	if published != nil {
		draft.Sequence = published.Sequence + 1
	}
	draft.Created, draft.Expires = now, now.Add(r.config.Terms.Document.Std())
	if err := draft.Check(); err != nil {
		return false, err
	}
	return restarted, r.writeStaged(draft, extra, version+1, now)
}

func (r *Repository) writeStaged(doc *snapshot.Snapshot, extra map[string][]byte, version int64, now time.Time) error {
	if err := r.dropStagedOnline(); err != nil {
		return err
	}
	raw, err := json.Marshal(doc, json.Deterministic(true), jsontext.WithIndent(" "))
	if err != nil {
		return err
	}
	if len(raw) > snapshot.MaxDocument {
		return fmt.Errorf("%w: document of %d bytes, at most %d", snapshot.ErrTooLarge, len(raw), snapshot.MaxDocument)
	}
	tg := metadata.Targets(now.Add(r.config.Terms.Targets.Std()))
	tg.Signed.Version = version
	files := maps.Clone(extra)
	files[snapshot.TargetName] = raw
	for name, b := range files {
		tf, err := metadata.TargetFile().FromBytes(name, b, "sha256")
		if err != nil {
			return err
		}
		tg.Signed.Targets[name] = tf
	}
	// The metadata last: a crash leaves a document without signatures, and
	// the next Sign stages it again.
	if err := durable.WriteFile(r.path(stagedFolder, snapshot.TargetName), raw, 0o644); err != nil {
		return err
	}
	return writeMeta(r.path(stagedFolder, "targets.json"), tg)
}

func (r *Repository) dropStagedOnline() error {
	for _, f := range []string{"snapshot.json", snapshot.TimestampFile} {
		if err := os.Remove(r.path(stagedFolder, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *Repository) readDocument(path string) (*snapshot.Snapshot, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return snapshot.Parse(b)
}

// sameTargets tells whether the staged metadata lists exactly extra besides
// the document itself, as it is staged.
func (r *Repository) sameTargets(extra map[string][]byte) bool {
	tg, err := readMeta[metadata.TargetsType](r.path(stagedFolder, "targets.json"))
	if err != nil || len(tg.Signed.Targets) != len(extra)+1 {
		return false
	}
	raw, err := os.ReadFile(r.path(stagedFolder, snapshot.TargetName))
	if err != nil || tg.Signed.Targets[snapshot.TargetName] == nil || tg.Signed.Targets[snapshot.TargetName].VerifyLengthHashes(raw) != nil {
		return false
	}
	for name, b := range extra {
		if tf := tg.Signed.Targets[name]; tf == nil || tf.VerifyLengthHashes(b) != nil {
			return false
		}
	}
	return true
}

func (r *Repository) signTargets(root *rootMeta, keys []tufKey) error {
	path := r.path(stagedFolder, "targets.json")
	tg, err := readMeta[metadata.TargetsType](path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	changed, err := addSignatures(tg, keys, root.Signed.Roles[metadata.TARGETS].KeyIDs)
	if err != nil || !changed {
		return err
	}
	// Snapshot pins the targets file by hash, which has just changed.
	if err := r.dropStagedOnline(); err != nil {
		return err
	}
	return writeMeta(path, tg)
}

// signOnline writes snapshot and timestamp over complete targets, staged or
// published.
func (r *Repository) signOnline(now time.Time, root *rootMeta, keys []tufKey) error {
	can := func(role string) bool {
		return slices.ContainsFunc(keys, func(k tufKey) bool { return slices.Contains(root.Signed.Roles[role].KeyIDs, k.id) })
	}
	if !can(metadata.SNAPSHOT) || !can(metadata.TIMESTAMP) {
		return nil
	}
	targetsBytes, tg, err := r.newestTargets()
	if err != nil || tg == nil || root.VerifyDelegate(metadata.TARGETS, tg) != nil {
		return err
	}
	on, err := r.makeOnline(now, root, tg.Signed.Version, targetsBytes, keys)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.path(stagedFolder, "snapshot.json"), on.snapshot, 0o644); err != nil {
		return err
	}
	return durable.WriteFile(r.path(stagedFolder, snapshot.TimestampFile), on.timestamp, 0o644)
}

// online is a snapshot and the timestamp that names it.
type online struct {
	version             int64
	snapshot, timestamp []byte
}

// makeOnline signs the next snapshot and timestamp over a targets file.
func (r *Repository) makeOnline(now time.Time, root *rootMeta, targetsVersion int64, targets []byte, keys []tufKey) (online, error) {
	published, err := newestIn(r.path(metadataFolder), metadata.SNAPSHOT)
	if err != nil {
		return online{}, err
	}
	var stamped int64
	if ts, err := readMeta[metadata.TimestampType](r.path(metadataFolder, snapshot.TimestampFile)); err == nil {
		stamped = ts.Signed.Version
	} else if !errors.Is(err, fs.ErrNotExist) {
		return online{}, err
	}
	expires := now.Add(r.config.Terms.Online.Std())
	on := online{version: published + 1}
	snap := metadata.Snapshot(expires)
	snap.Signed.Version = on.version
	if snap.Signed.Meta["targets.json"], err = pinnedMeta(targetsVersion, targets); err != nil {
		return online{}, err
	}
	if _, err := addSignatures(snap, keys, root.Signed.Roles[metadata.SNAPSHOT].KeyIDs); err != nil {
		return online{}, err
	}
	if on.snapshot, err = snap.ToBytes(true); err != nil {
		return online{}, err
	}
	ts := metadata.Timestamp(expires)
	ts.Signed.Version = stamped + 1
	if ts.Signed.Meta["snapshot.json"], err = pinnedMeta(on.version, on.snapshot); err != nil {
		return online{}, err
	}
	if _, err := addSignatures(ts, keys, root.Signed.Roles[metadata.TIMESTAMP].KeyIDs); err != nil {
		return online{}, err
	}
	on.timestamp, err = ts.ToBytes(true)
	return on, err
}

// pinnedMeta names a metadata file by version, length and hash: with the hash
// no mix of old and new files fits together.
func pinnedMeta(version int64, b []byte) (*metadata.MetaFiles, error) {
	tf, err := metadata.TargetFile().FromBytes("", b, "sha256")
	if err != nil {
		return nil, err
	}
	m := metadata.MetaFile(version)
	m.Length, m.Hashes = tf.Length, tf.Hashes
	return m, nil
}

// newestTargets is the staged targets metadata, else the published one.
func (r *Repository) newestTargets() ([]byte, *targetsMeta, error) {
	path := r.path(stagedFolder, "targets.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		v, verr := newestIn(r.path(metadataFolder), metadata.TARGETS)
		if verr != nil || v == 0 {
			return nil, nil, verr
		}
		path = r.path(metadataFolder, snapshot.MetadataFile(metadata.TARGETS, v))
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, err
	}
	var m targetsMeta
	if _, err := m.FromBytes(b); err != nil {
		return nil, nil, fmt.Errorf("%w: %s: %w", snapshot.ErrInvalid, path, err)
	}
	return b, &m, nil
}
