package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/resultity/rmodels/internal/durable"
)

// Apply accepts a push file. Nothing changes on the node unless every step
// verifies, with one exception that TUF asks for: a new root that verifies is
// kept even when what follows does not.
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
	if err == nil || !o.good || !errors.Is(err, ErrRejected) {
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
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := t.verify(ctx, src, now, t.keepRoot)
	if err != nil {
		return nil, err
	}
	if err := t.store(c); err != nil {
		return nil, err
	}
	return c.accepted(), nil
}

// candidate is a snapshot that passed every step.
type candidate struct {
	acc *Accepted
	set *set
	ref time.Time // what was taken for the present
}

// accepted is the candidate as it is once it is stored.
func (c *candidate) accepted() *Accepted {
	c.acc.AcceptedAt = c.ref
	c.acc.judge(c.ref, "")
	return c.acc
}

// verify runs every step of an acceptance on what src brings. Each root that
// verifies goes to keep at once; nothing else is written.
func (t *Trust) verify(ctx context.Context, src Source, now time.Time, keep func(version int64, root []byte) error) (*candidate, error) {
	tm, err := t.walk(0)
	if err != nil {
		return nil, err
	}
	rec, had, err := t.readRecord()
	if err != nil && !errors.Is(err, ErrCache) { // a damaged cache is healed by an acceptance
		return nil, err
	}
	fl, err := t.readFloor()
	if err != nil {
		return nil, err
	}
	ref := latest(now, fl.AcceptedAt, rec.AcceptedAt)
	tm.RefTime = ref
	if err := updateRoots(ctx, tm, src, keep); err != nil {
		return nil, err
	}
	if v := tm.Root.Signed.Version; v < fl.RootVersion {
		return nil, fmt.Errorf("%w: newest root offered is version %d, this node has seen %d", ErrReplay, v, fl.RootVersion)
	}
	if had {
		if fl, err = t.raise(fl, rec); err != nil {
			return nil, err
		}
	}
	s := &set{tm: tm, src: src, files: map[string][]byte{}}
	if had {
		s.previous = rec.Files
	}
	acc, err := s.verify(ctx, t.pin.Network)
	if err != nil {
		return nil, err
	}
	if ref.After(acc.Document.Expires) {
		return nil, fmt.Errorf("%w: the document expired at %s, it is %s", ErrExpired, stamp(acc.Document.Expires), stamp(ref))
	}
	if err := fl.under(tm.Root).check(acc.Document, acc.Digest); err != nil {
		return nil, err
	}
	acc.Changed = acc.Digest != rec.Digest
	acc.follows(rec.Previous)
	if acc.Changed {
		acc.follows(rec.document())
	}
	return &candidate{acc, s, ref}, nil
}

// raise lifts the floor to the last acceptance where it lies below: after a
// crash between the two writes, and where the floor was deleted alone.
func (t *Trust) raise(f floor, rec record) (floor, error) {
	if f.Digest == rec.Digest {
		return f, nil
	}
	doc, err := Parse(rec.document())
	if err != nil || doc.Sequence <= f.Sequence {
		return f, nil
	}
	tm, err := t.walk(rec.RootVersion)
	if err != nil {
		return f, err
	}
	f.Sequence, f.Digest, f.RootVersion = doc.Sequence, rec.Digest, max(f.RootVersion, rec.RootVersion)
	f.TargetsKeys = roleKeys(tm.Root, metadata.TARGETS)
	return f, nil
}

// updateRoots walks from the node's newest root to the source's, one version
// at a time; each that verifies is kept.
func updateRoots(ctx context.Context, tm *trustedmetadata.TrustedMetadata, src Source, keep func(version int64, root []byte) error) error {
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
		if err := keep(next, b); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d new roots at once", ErrTooLarge, maxRootUpdates)
}

func (t *Trust) keepRoot(version int64, root []byte) error {
	if err := durable.WriteFile(t.rootPath(version), root, 0o600); err != nil {
		return fmt.Errorf("keep root %d: %w", version, err)
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
	acc, s, ref := c.acc, c.set, c.ref
	b, err := json.Marshal(record{ref, acc.RootVersion, acc.Digest, s.files, acc.previous}, json.Deterministic(true))
	if err != nil {
		return err
	}
	if len(b) > maxRecord {
		return fmt.Errorf("%w: %d bytes to keep, at most %d", ErrTooLarge, len(b), maxRecord)
	}
	if err := durable.WriteFile(filepath.Join(t.dir, acceptedFile), b, 0o600); err != nil {
		return fmt.Errorf("keep accepted snapshot: %w", err)
	}
	fl := floor{t.pin.Network, acc.RootVersion, acc.Document.Sequence, acc.Digest, ref, roleKeys(s.tm.Root, metadata.TARGETS)}
	if err := fl.write(t.floorPath); err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	return nil
}

// Current verifies the last accepted snapshot again, as of the time of its
// acceptance, and judges its freshness by now. [ErrNone] when nothing was
// accepted yet.
func (t *Trust) Current(now time.Time) (*Accepted, error) {
	rec, ok, err := t.readRecord()
	if err != nil {
		return nil, err
	}
	fl, err := t.readFloor()
	if err != nil {
		return nil, err
	}
	if !ok {
		if fl.Sequence > 0 {
			return nil, fmt.Errorf("%w in %s, though sequence %d was once: the cache was lost, fetch or apply a snapshot", ErrNone, t.dir, fl.Sequence)
		}
		return nil, fmt.Errorf("%w: fetch or apply one", ErrNone)
	}
	tm, err := t.walk(rec.RootVersion)
	if err != nil {
		return nil, err
	}
	if tm.Root.Signed.Version != rec.RootVersion {
		return nil, fmt.Errorf("%w: it needs root %d, stored in %s are those up to %d", ErrCache, rec.RootVersion, t.dir, tm.Root.Signed.Version)
	}
	tm.RefTime = rec.AcceptedAt
	s := &set{tm: tm, src: Files(rec.Files), files: map[string][]byte{}}
	acc, err := s.verify(context.Background(), t.pin.Network)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrCache, filepath.Join(t.dir, acceptedFile), err)
	}
	if err := fl.under(tm.Root).check(acc.Document, acc.Digest); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrCache, filepath.Join(t.dir, acceptedFile), err)
	}
	acc.AcceptedAt = rec.AcceptedAt
	acc.follows(rec.Previous)
	superseded, err := t.superseded(acc, rec)
	if err != nil {
		return nil, err
	}
	acc.judge(latest(now, rec.AcceptedAt, fl.AcceptedAt), superseded)
	return acc, nil
}

// superseded tells whether a root that came after the acceptance still bears
// the accepted signatures. If it does not, its keys were replaced, perhaps
// because they were stolen: what is active stays, nothing new starts.
func (t *Trust) superseded(acc *Accepted, rec record) (string, error) {
	tm, err := t.walk(0)
	if err != nil {
		return "", err
	}
	if tm.Root.Signed.Version == rec.RootVersion {
		return "", nil
	}
	tm.RefTime = rec.AcceptedAt
	acc.RootExpires = tm.Root.Signed.Expires
	s := &set{tm: tm, src: Files(rec.Files), files: map[string][]byte{}}
	if err := s.verifyMetadata(context.Background()); err != nil {
		return fmt.Sprintf("root %d replaced keys that signed it", tm.Root.Signed.Version), nil
	}
	return "", nil
}

// follows notes the document that was accepted before.
func (a *Accepted) follows(document []byte) {
	if document != nil {
		a.Previous, a.previous = digest.FromBytes(document), document
	}
}

// judge sets the terms and the freshness.
func (a *Accepted) judge(now time.Time, superseded string) {
	terms := []struct {
		what string
		at   time.Time
	}{
		{"root", a.RootExpires},
		{"timestamp", a.TimestampExpires},
		{"snapshot", a.SnapshotExpires},
		{"targets", a.TargetsExpires},
		{"document", a.Document.Expires},
	}
	first := terms[0]
	for _, t := range terms[1:] {
		if t.at.Before(first.at) {
			first = t
		}
	}
	a.StaleAt = first.at
	a.ExpiredAt = first.at.Add(a.Document.OfflineGrace.Std())
	switch {
	case now.After(a.ExpiredAt):
		a.Freshness = Expired
		a.Reason = fmt.Sprintf("%s expired at %s and the grace of %s has passed", first.what, stamp(first.at), a.Document.OfflineGrace)
	case now.After(a.StaleAt):
		a.Freshness = Stale
		a.Reason = fmt.Sprintf("%s expired at %s", first.what, stamp(first.at))
	case superseded != "":
		a.Freshness, a.Reason = Stale, superseded
	default:
		a.Freshness, a.Reason = Fresh, ""
	}
}

func latest(ts ...time.Time) time.Time {
	var m time.Time
	for _, t := range ts {
		if t.After(m) {
			m = t
		}
	}
	return m.UTC()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
