package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/resultity/rmodels/internal/durable"
)

// Apply accepts a push file. Nothing changes on the node unless every step
// verifies, with one exception that TUF asks for: a new root that verifies is
// kept even when what follows does not.
//
// A set that verifies and is newer than what the node holds, but is not fresh,
// comes with an error that matches [ErrExpired] or [ErrClock], and is accepted
// all the same: what it revokes, disables or drops is in force, and since its
// Freshness is not [Fresh] nothing is activated by it. So neither a clock that
// is wrong nor a source that is late keeps a revocation from a node.
func (t *Trust) Apply(bundle []byte, now time.Time) (*Accepted, error) {
	src, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	return t.take(context.Background(), src, now)
}

// Pull fetches what it needs from src and accepts it: [Trust.Fetch], then
// [Trust.Accept].
func (t *Trust) Pull(ctx context.Context, src Source, now time.Time) (*Accepted, error) {
	o, err := t.Fetch(ctx, src, now)
	if err != nil {
		return nil, err
	}
	return t.Accept(ctx, o, now)
}

// Accept takes what [Trust.Fetch] brought, by the same steps as [Trust.Apply];
// nothing is waited for but other acceptances. An offer that another
// acceptance has overtaken since it was fetched is no replay: the newer
// snapshot is returned, unchanged.
func (t *Trust) Accept(ctx context.Context, o *Offer, now time.Time) (*Accepted, error) {
	acc, err := t.take(ctx, o, now)
	if acc != nil || !o.good || !errors.Is(err, ErrRejected) {
		return acc, err
	}
	cur, cerr := t.Current(now)
	if cerr != nil || cur.AcceptedAt.Equal(o.after.AcceptedAt) && cur.Digest == o.after.Digest {
		return nil, err
	}
	return cur, nil
}

// take runs every step under the lock, keeps each new root and stores what
// verified.
func (t *Trust) take(ctx context.Context, src Source, now time.Time) (*Accepted, error) {
	lock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	c, err := t.verify(ctx, src, now, t.keepRoot)
	if err != nil {
		return nil, err
	}
	if err := t.store(c); err != nil {
		return nil, err
	}
	return c.acc, c.late
}

// candidate is a snapshot that passed every step.
type candidate struct {
	acc  *Accepted
	set  *set
	ref  time.Time // what was taken for the present
	late error     // why it is not fresh; nil: it is
}

// verify runs every step of an acceptance on what src brings. Each root that
// verifies goes to keep at once; nothing else is written.
func (t *Trust) verify(ctx context.Context, src Source, now time.Time, keep keepRoot) (*candidate, error) {
	fl, _, err := t.readFloor() // before the rest, as in Current
	if err != nil {
		return nil, err
	}
	rec, had, err := t.readRecord()
	if err != nil && !errors.Is(err, ErrCache) { // a damaged cache is healed by an acceptance
		return nil, err
	}
	tm, err := t.walk(0, fl.Root)
	if err != nil {
		return nil, err
	}
	if fl, _, err = t.raise(fl, tm.Root, rec); err != nil {
		return nil, err
	}
	ref := latest(now, fl.AcceptedAt, rec.AcceptedAt)
	tm.RefTime = time.Time{} // whether a term is over is judged once all has verified
	if err := updateRoots(ctx, tm, src, fl.Root, keep); err != nil {
		return nil, err
	}
	if v := tm.Root.Signed.Version; v < fl.Root.Version {
		return nil, fmt.Errorf("%w: newest root offered is version %d, this node has seen %d", ErrReplay, v, fl.Root.Version)
	}
	s := &set{tm: tm, src: src, files: map[string][]byte{}}
	if had {
		s.previous = rec.Files
	}
	acc, err := s.verify(ctx, t.pin.Network)
	if err != nil {
		return nil, err
	}
	if err := fl.under(tm.Root).check(acc.Document, acc.Digest); err != nil {
		return nil, err
	}
	acc.Changed = acc.Digest != rec.Digest
	acc.follows(rec.Previous)
	if acc.Changed {
		acc.follows(rec.document())
	}
	acc.judge(ref, "")
	acc.AcceptedAt = earliest(ref, pastEnd(acc.StaleAt))
	late := acc.late(ref)
	if late != nil && maps.EqualFunc(s.files, rec.Files, bytes.Equal) {
		return nil, late // it is the one that is held
	}
	return &candidate{acc, s, ref, late}, nil
}

// raise lifts the floor to the newest stored root and to the last acceptance
// where it lies below: after a crash between two writes, and where the floor
// was deleted alone.
func (t *Trust) raise(f floor, newest *metadata.Metadata[metadata.RootType], rec record) (raised floor, changed bool, err error) {
	if v := newest.Signed.Version; v > f.Root.Version || v == f.Root.Version && f.Root.Digest == "" {
		if f.Root, err = rootSeen(newest); err != nil {
			return f, false, err
		}
		changed = true
	}
	if f.Digest == rec.Digest {
		return f, changed, nil
	}
	doc, err := Parse(rec.document())
	if err != nil || doc.Sequence <= f.Sequence {
		return f, changed, nil
	}
	tm, err := t.walk(rec.RootVersion, f.Root)
	if err != nil {
		return f, changed, err
	}
	f.Sequence, f.Digest, f.RootVersion = doc.Sequence, rec.Digest, max(f.RootVersion, rec.RootVersion)
	f.TargetsKeys = roleKeys(tm.Root, metadata.TARGETS)
	f.AcceptedAt, f.SeenAt = latest(f.AcceptedAt, rec.AcceptedAt), latest(f.SeenAt, rec.AcceptedAt)
	return f, true, nil
}

// updateRoots walks from the node's newest root to the source's, one version
// at a time; each that verifies is kept. The one that the node saw before is
// the one that it takes again.
func updateRoots(ctx context.Context, tm *trustedmetadata.TrustedMetadata, src Source, seen seenRoot, keep keepRoot) error {
	for range maxRootUpdates {
		next := tm.Root.Signed.Version + 1
		b, err := src.Fetch(ctx, rootFile(next), maxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return sourceError(rootFile(next), err)
		}
		if err := nextRoot(tm, b); err != nil {
			return err
		}
		if err := seen.check(tm.Root); err != nil {
			return fmt.Errorf("%w: %w", ErrReplay, err)
		}
		if err := keep(tm.Root, b); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d new roots at once", ErrTooLarge, maxRootUpdates)
}

// keepRoot takes a root that verified, and its bytes.
type keepRoot func(root *metadata.Metadata[metadata.RootType], b []byte) error

// keepRoot stores a root, then remembers it beside the floor: a trust directory
// that comes back from a backup does not make the node forget it.
func (t *Trust) keepRoot(root *metadata.Metadata[metadata.RootType], b []byte) error {
	version := root.Signed.Version
	if err := durable.WriteFile(t.rootPath(version), b, 0o600); err != nil {
		return fmt.Errorf("keep root %d: %w", version, err)
	}
	fl, _, err := t.readFloor()
	if err != nil {
		return err
	}
	if version <= fl.Root.Version {
		return nil
	}
	if fl.Root, err = rootSeen(root); err != nil {
		return err
	}
	if err := fl.write(t.floorPath); err != nil {
		return fmt.Errorf("remember root %d: %w", version, err)
	}
	return nil
}

func sourceError(name string, err error) error {
	if errors.Is(err, ErrRejected) || errors.Is(err, ErrSource) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrInvalid, name)
	}
	return fmt.Errorf("%w: %s: %w", ErrSource, name, err)
}

// store makes the accepted set the last good one, then raises the floor. In
// this order a crash between the two leaves a floor that is too low by one
// step, which [Trust.raise] repairs, and never one above all that is stored.
func (t *Trust) store(c *candidate) error {
	acc, s := c.acc, c.set
	b, err := json.Marshal(record{acc.AcceptedAt, acc.RootVersion, acc.Digest, s.files, acc.previous}, json.Deterministic(true))
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return fmt.Errorf("%w: %d bytes to keep, at most %d", ErrTooLarge, len(b), maxRecord)
	}
	if err := durable.WriteFile(filepath.Join(t.dir, acceptedFile), b, 0o600); err != nil {
		return fmt.Errorf("keep accepted snapshot: %w", err)
	}
	root, err := rootSeen(s.tm.Root)
	if err != nil {
		return err
	}
	fl := floor{
		Network: t.pin.Network, RootVersion: acc.RootVersion, Sequence: acc.Document.Sequence, Digest: acc.Digest,
		TargetsKeys: roleKeys(s.tm.Root, metadata.TARGETS), Root: root,
	}
	fl = fl.note(acc, c.ref)
	if err := fl.write(t.floorPath); err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	return nil
}
