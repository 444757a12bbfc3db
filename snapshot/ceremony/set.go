package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// ErrIncomplete: a role has not reached its threshold yet.
var ErrIncomplete = errors.New("signatures are missing")

// publishedDocument is the document published last and the version of the
// targets metadata that lists it; nil and 0 when nothing was.
func (r *Repository) publishedDocument() (*snapshot.Snapshot, int64, error) {
	v, err := newestIn(r.path(metadataFolder), metadata.TARGETS)
	if err != nil || v == 0 {
		return nil, 0, err
	}
	tg, err := readMeta[metadata.TargetsType](r.path(metadataFolder, snapshot.MetadataFile(metadata.TARGETS, v)))
	if err != nil {
		return nil, 0, err
	}
	tf := tg.Signed.Targets[snapshot.TargetName]
	if tf == nil {
		return nil, 0, fmt.Errorf("%w: published targets do not list %s", snapshot.ErrInvalid, snapshot.TargetName)
	}
	doc, err := r.readDocument(r.path(metadataFolder, snapshot.TargetFile(snapshot.TargetName, tf.Hashes["sha256"].String())))
	if err == nil && doc == nil {
		err = fmt.Errorf("%w: published document of targets version %d is missing", snapshot.ErrInvalid, v)
	}
	return doc, v, err
}

// Status says how far each role's signatures are and when each expires: of
// what is staged, else of what was published.
func (r *Repository) Status() (*SignResult, error) {
	root, err := r.newestRoot()
	if err != nil {
		return nil, err
	}
	res := &SignResult{Complete: true}
	add := func(role string, version int64, expires time.Time, signed []string, complete bool) {
		s := RoleStatus{Role: role, Version: version, Threshold: root.Signed.Roles[role].Threshold, Signed: signed, Expires: expires, Complete: complete}
		for _, id := range root.Signed.Roles[role].KeyIDs {
			if !slices.Contains(signed, id) {
				s.Missing = append(s.Missing, id)
			}
		}
		res.Roles = append(res.Roles, s)
		res.Complete = res.Complete && complete
	}
	complete := root.VerifyDelegate(metadata.ROOT, root) == nil
	if prev, err := r.previousRoot(root); err != nil {
		return nil, err
	} else if prev != nil {
		complete = complete && prev.VerifyDelegate(metadata.ROOT, root) == nil
	}
	add(metadata.ROOT, root.Signed.Version, root.Signed.Expires, snapshot.SignersOf(root, metadata.ROOT, root), complete)

	_, tg, err := r.newestTargets()
	if err != nil {
		return nil, err
	}
	if tg == nil {
		add(metadata.TARGETS, 0, time.Time{}, nil, false)
	} else {
		add(metadata.TARGETS, tg.Signed.Version, tg.Signed.Expires, snapshot.SignersOf(root, metadata.TARGETS, tg), root.VerifyDelegate(metadata.TARGETS, tg) == nil)
	}
	snap, ts, err := r.newestOnline(tg)
	if err != nil {
		return nil, err
	}
	if snap == nil || ts == nil {
		add(metadata.SNAPSHOT, 0, time.Time{}, nil, false)
		add(metadata.TIMESTAMP, 0, time.Time{}, nil, false)
	} else {
		add(metadata.SNAPSHOT, snap.Signed.Version, snap.Signed.Expires, snapshot.SignersOf(root, metadata.SNAPSHOT, snap), root.VerifyDelegate(metadata.SNAPSHOT, snap) == nil)
		add(metadata.TIMESTAMP, ts.Signed.Version, ts.Signed.Expires, snapshot.SignersOf(root, metadata.TIMESTAMP, ts), root.VerifyDelegate(metadata.TIMESTAMP, ts) == nil)
	}
	doc, err := r.readDocument(r.path(stagedFolder, snapshot.TargetName))
	if err == nil && doc == nil {
		doc, _, err = r.publishedDocument()
	}
	if err != nil {
		return nil, err
	}
	if doc != nil {
		res.Sequence = doc.Sequence
	}
	if res.Draft, err = r.Changed(); err != nil {
		return nil, err
	}
	res.Complete = res.Complete && !res.Draft
	return res, nil
}

// newestOnline reads snapshot and timestamp: staged, else published when
// nothing of the targets is staged either.
func (r *Repository) newestOnline(tg *targetsMeta) (*metadata.Metadata[metadata.SnapshotType], *metadata.Metadata[metadata.TimestampType], error) {
	snapPath, tsPath := r.path(stagedFolder, "snapshot.json"), r.path(stagedFolder, snapshot.TimestampFile)
	if _, err := os.Stat(snapPath); errors.Is(err, fs.ErrNotExist) {
		v, err := newestIn(r.path(metadataFolder), metadata.SNAPSHOT)
		if err != nil || v == 0 {
			return nil, nil, err
		}
		snapPath, tsPath = r.path(metadataFolder, snapshot.MetadataFile(metadata.SNAPSHOT, v)), r.path(metadataFolder, snapshot.TimestampFile)
	}
	snap, err := readMeta[metadata.SnapshotType](snapPath)
	if err != nil {
		return nil, nil, err
	}
	if tg == nil || snap.Signed.Meta["targets.json"] == nil || snap.Signed.Meta["targets.json"].Version != tg.Signed.Version {
		return nil, nil, nil
	}
	ts, err := readMeta[metadata.TimestampType](tsPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	return snap, ts, err
}

// RootJSON is the newest complete root, the one to pin on new nodes.
func (r *Repository) RootJSON() ([]byte, error) {
	for _, folder := range []string{stagedFolder, metadataFolder} {
		v, err := newestIn(r.path(folder), metadata.ROOT)
		if err != nil {
			return nil, err
		}
		if v == 0 {
			continue
		}
		b, err := os.ReadFile(r.path(folder, snapshot.MetadataFile(metadata.ROOT, v)))
		if err != nil {
			return nil, err
		}
		if _, err := snapshot.NewChain(b); err == nil {
			return b, nil
		} else if folder == metadataFolder {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: no root has reached its threshold", ErrIncomplete)
}

// finalize moves what is staged to metadata/ once a node would accept it.
func (r *Repository) finalize() error {
	st, err := r.Status()
	if err != nil {
		return err
	}
	if !st.Complete {
		var lacking []string
		for _, role := range st.Roles {
			if !role.Complete {
				lacking = append(lacking, fmt.Sprintf("%s has %d of %d", role.Role, len(role.Signed), role.Threshold))
			}
		}
		return fmt.Errorf("%w: %s; sign with the missing keys first", ErrIncomplete, strings.Join(lacking, ", "))
	}
	files, err := r.stagedFiles()
	if err != nil {
		return err
	}
	if err := r.rehearse(files); err != nil {
		return fmt.Errorf("a node would refuse this: %w", err)
	}
	if err := writeSet(r.path(metadataFolder), files); err != nil {
		return err
	}
	staged, err := os.ReadDir(r.path(stagedFolder))
	if err != nil {
		return err
	}
	for _, e := range staged {
		if err := os.Remove(r.path(stagedFolder, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// stagedFiles are the staged files under their published names.
func (r *Repository) stagedFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	take := func(name, as string) error {
		b, err := os.ReadFile(r.path(stagedFolder, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		files[as] = b
		return err
	}
	root, err := r.stagedRoot()
	if err != nil {
		return nil, err
	}
	if root != nil {
		if err := take(snapshot.MetadataFile(metadata.ROOT, root.Signed.Version), snapshot.MetadataFile(metadata.ROOT, root.Signed.Version)); err != nil {
			return nil, err
		}
	}
	tg, err := readMeta[metadata.TargetsType](r.path(stagedFolder, "targets.json"))
	if err == nil {
		if err := take("targets.json", snapshot.MetadataFile(metadata.TARGETS, tg.Signed.Version)); err != nil {
			return nil, err
		}
		for name, tf := range tg.Signed.Targets {
			from := r.targetPath(name)
			if name == snapshot.TargetName {
				from = r.path(stagedFolder, snapshot.TargetName)
			}
			b, err := os.ReadFile(from)
			if err != nil {
				return nil, err
			}
			files[snapshot.TargetFile(name, tf.Hashes["sha256"].String())] = b
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	snap, err := readMeta[metadata.SnapshotType](r.path(stagedFolder, "snapshot.json"))
	if err == nil {
		if err := take("snapshot.json", snapshot.MetadataFile(metadata.SNAPSHOT, snap.Signed.Version)); err != nil {
			return nil, err
		}
		if err := take(snapshot.TimestampFile, snapshot.TimestampFile); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return files, nil
}

// overlay reads staged files before published ones.
type overlay struct {
	top  snapshot.Files
	base snapshot.Source
}

func (o overlay) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	b, err := o.top.Fetch(ctx, name, max)
	if errors.Is(err, fs.ErrNotExist) {
		return o.base.Fetch(ctx, name, max)
	}
	return b, err
}

// rehearse takes the set through a node's own steps, from the first root on.
func (r *Repository) rehearse(files map[string][]byte) error {
	ctx := context.Background()
	src := overlay{files, snapshot.DirSource(r.path(metadataFolder))}
	first, err := src.Fetch(ctx, snapshot.MetadataFile(metadata.ROOT, 1), snapshot.MaxMetadata(metadata.ROOT))
	if err != nil {
		return err
	}
	chain, err := snapshot.NewChain(first)
	if err != nil {
		return err
	}
	if err := chain.Follow(ctx, src); err != nil {
		return err
	}
	_, err = chain.Accept(ctx, src, r.config.Network, r.now())
	return err
}

// writeSet writes files into a repository that may be read meanwhile: the
// timestamp, which names everything else, comes last.
func writeSet(dir string, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for name := range files {
		if name != snapshot.TimestampFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if _, ok := files[snapshot.TimestampFile]; ok {
		names = append(names, snapshot.TimestampFile)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile(path, files[name], 0o644); err != nil {
			return fmt.Errorf("publish %s: %w", name, err)
		}
	}
	return nil
}

// publishedFiles are the files that a node needs: every root and the newest
// set.
func (r *Repository) publishedFiles() (map[string][]byte, error) {
	files := map[string][]byte{}
	take := func(name string) error {
		b, err := os.ReadFile(r.path(metadataFolder, name))
		files[name] = b
		return err
	}
	newest := map[string]int64{}
	for _, role := range []string{metadata.ROOT, metadata.SNAPSHOT, metadata.TARGETS} {
		v, err := newestIn(r.path(metadataFolder), role)
		if err != nil {
			return nil, err
		}
		if v == 0 {
			return nil, fmt.Errorf("%w: nothing was published yet", ErrIncomplete)
		}
		newest[role] = v
	}
	names := []string{snapshot.TimestampFile, snapshot.MetadataFile(metadata.SNAPSHOT, newest[metadata.SNAPSHOT]), snapshot.MetadataFile(metadata.TARGETS, newest[metadata.TARGETS])}
	for v := range newest[metadata.ROOT] {
		names = append(names, snapshot.MetadataFile(metadata.ROOT, v+1))
	}
	tg, err := readMeta[metadata.TargetsType](r.path(metadataFolder, snapshot.MetadataFile(metadata.TARGETS, newest[metadata.TARGETS])))
	if err != nil {
		return nil, err
	}
	for name, tf := range tg.Signed.Targets {
		names = append(names, snapshot.TargetFile(name, tf.Hashes["sha256"].String()))
	}
	for _, name := range names {
		if err := take(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// hasStaged tells whether anything waits to be published.
func (r *Repository) hasStaged() (bool, error) {
	entries, err := os.ReadDir(r.path(stagedFolder))
	return len(entries) > 0, err
}

// Files are the newest set under its published names, made final first: what
// a publisher pushes to an OCI repository.
func (r *Repository) Files() (map[string][]byte, error) {
	staged, err := r.hasStaged()
	if err != nil {
		return nil, err
	}
	if staged {
		if err := r.finalize(); err != nil {
			return nil, err
		}
	}
	return r.publishedFiles()
}

// Publish writes the newest set to a directory as nodes pull it. What is
// staged must be complete and is made final; [ErrIncomplete] otherwise.
func (r *Repository) Publish(to string) error {
	files, err := r.Files()
	if err != nil {
		return err
	}
	return writeSet(to, files)
}

// BundleFile is the newest set as one push file; like [Repository.Publish].
func (r *Repository) BundleFile() ([]byte, error) {
	files, err := r.Files()
	if err != nil {
		return nil, err
	}
	return snapshot.EncodeBundle(files)
}

// Changed reports whether the draft says something else than the newest
// document that was staged for signing or published: then publishing would
// hand out what it no longer says.
func (r *Repository) Changed() (bool, error) {
	draft, err := r.Draft()
	if err != nil {
		return false, err
	}
	doc, err := r.readDocument(r.path(stagedFolder, snapshot.TargetName))
	if err == nil && doc == nil {
		doc, _, err = r.publishedDocument()
	}
	if err != nil || doc == nil {
		return true, err
	}
	same, err := sameContent(draft, doc)
	return !same, err
}
