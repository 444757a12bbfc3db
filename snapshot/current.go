package snapshot

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// Current verifies the last accepted snapshot again and judges its freshness by
// now, or by the latest time that this node has seen. [ErrNone] when nothing
// was accepted yet.
func (t *Trust) Current(now time.Time) (*Accepted, error) {
	// The floor first, then the record, then the roots: an acceptance writes
	// them in the opposite order, so what is read later is never older than
	// what was read before, and nobody who reads meanwhile takes a state that
	// moves for one that is damaged.
	fl, _, err := t.readFloor()
	if err != nil {
		return nil, err
	}
	return t.current(fl, now)
}

// current reads the record after the floor.
func (t *Trust) current(fl floor, now time.Time) (*Accepted, error) {
	rec, ok, err := t.readRecord()
	if err != nil {
		return nil, err
	}
	if !ok {
		if fl.Sequence > 0 {
			return nil, fmt.Errorf("%w in %s, though sequence %d was once: the cache was lost, fetch or apply a snapshot", ErrNone, t.dir, fl.Sequence)
		}
		return nil, fmt.Errorf("%w: fetch or apply one", ErrNone)
	}
	tm, err := t.walk(rec.RootVersion, fl.Root)
	if err != nil {
		return nil, err
	}
	if tm.Root.Signed.Version != rec.RootVersion {
		return nil, fmt.Errorf("%w: it needs root %d, stored in %s are those up to %d", ErrCache, rec.RootVersion, t.dir, tm.Root.Signed.Version)
	}
	tm.RefTime = time.Time{} // the terms are judged below
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
	superseded, err := t.superseded(acc, rec, fl)
	if err != nil {
		return nil, err
	}
	acc.judge(latest(now, rec.AcceptedAt, fl.AcceptedAt, fl.SeenAt), superseded)
	return acc, nil
}

// superseded tells whether a root that came after the acceptance still bears
// the accepted signatures. If it does not, its keys were replaced, perhaps
// because they were stolen: what is active stays, nothing new starts. The same
// where that root was seen and is not here, as after a restore from a backup.
func (t *Trust) superseded(acc *Accepted, rec record, fl floor) (string, error) {
	tm, err := t.walk(0, fl.Root)
	if err != nil {
		return "", err
	}
	if v := tm.Root.Signed.Version; v < fl.Root.Version {
		return fmt.Sprintf("this node has seen root %d, and holds those up to %d: the trust directory is older than the floor; fetch a snapshot", fl.Root.Version, v), nil
	}
	if tm.Root.Signed.Version == rec.RootVersion {
		return "", nil
	}
	tm.RefTime = time.Time{}
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

// term is until when one part of a set may be acted upon.
type term struct {
	what string
	at   time.Time
}

func (a *Accepted) terms() []term {
	return []term{
		{"root", a.RootExpires},
		{"timestamp", a.TimestampExpires},
		{"snapshot", a.SnapshotExpires},
		{"targets", a.TargetsExpires},
		{"document", a.Document.Expires},
	}
}

// judge sets the terms and the freshness.
func (a *Accepted) judge(now time.Time, superseded string) {
	terms := a.terms()
	first := terms[0]
	for _, t := range terms[1:] {
		if t.at.Before(first.at) {
			first = t
		}
	}
	a.StaleAt = first.at
	a.ExpiredAt = first.at.Add(a.Document.OfflineGrace.Std())
	untimely := a.untimely(now)
	switch {
	case now.After(a.ExpiredAt):
		a.Freshness = Expired
		a.Reason = fmt.Sprintf("%s expired at %s and the grace of %s has passed", first.what, stamp(first.at), a.Document.OfflineGrace)
	case now.After(a.StaleAt):
		a.Freshness = Stale
		a.Reason = fmt.Sprintf("%s expired at %s", first.what, stamp(first.at))
	case untimely != "":
		a.Freshness, a.Reason = Stale, untimely
	case superseded != "":
		a.Freshness, a.Reason = Stale, superseded
	default:
		a.Freshness, a.Reason = Fresh, ""
	}
}

// Caps on what a signed time may say. Beyond them it is no term but a mistake,
// of the publisher's clock or of this node's.
const (
	maxAhead = 24 * time.Hour            // of a document's creation, before this node's time
	maxTerms = 10 * 366 * 24 * time.Hour // of the metadata's terms; the document's own is checked by Parse
)

// untimely says which of the signed times does not fit the present.
func (a *Accepted) untimely(now time.Time) string {
	if now.IsZero() { // of a publisher's rehearsal: a time at which no term is over
		return ""
	}
	if c := a.Document.Created; c.Sub(now) > maxAhead {
		return fmt.Sprintf("it was created at %s, and this node's time is %s: one of the two clocks is wrong", stamp(c), stamp(now))
	}
	for _, t := range a.terms() {
		if t.at.Sub(now) > maxTerms {
			return fmt.Sprintf("%s expires at %s, more than ten years after this node's time, %s: that is no term, or the clock is wrong", t.what, stamp(t.at), stamp(now))
		}
	}
	return ""
}

// late is the error of an acceptance that is not fresh at the time of its own
// acceptance, and nil where it is.
func (a *Accepted) late(now time.Time) error {
	switch {
	case a.Freshness == Fresh:
		return nil
	case now.After(a.StaleAt):
		return fmt.Errorf("%w: %s, and it is %s", ErrExpired, a.Reason, stamp(now))
	}
	return fmt.Errorf("%w: %s", ErrClock, a.Reason)
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

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		a = b
	}
	return a.UTC()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
