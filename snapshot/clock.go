package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/internal/durable"
)

// What a node's clock is believed.
//
// The floor remembers the latest time that the node has seen, so that a clock
// that goes back revives nothing that this node saw expire. A clock may also
// have been ahead once, by years, and that must not stop the node for years.
// So the time seen is believed only as far as signed terms reach: beyond the
// end of all that was accepted it decides nothing. There are two such ends.
//
//   - floor.SeenAt reaches to the end of the accepted set's grace. By it the set
//     itself is judged: what was stale or expired stays so.
//   - floor.AcceptedAt reaches to the end of the accepted set's first term. By
//     it what is offered is judged: the same set again is as stale as it was,
//     and a publisher's later set has later terms, so that a clock that was
//     ahead, whenever and however far, does not keep it out.
//
// What a clock ahead costs is then what it costs while it is ahead, and after
// that until the publisher's next renewal; [Trust.ForgetTime] shortens even
// this. What it leaves open: whoever sets the clock back and has signed sets
// that are newer than all that this node was ever offered can pass them off as
// fresh, one after the other, until the newest.

// noticeably is how much the time must have advanced to be written down again.
const noticeably = time.Hour

// Witness is the first step of a pass: it writes down the time, and raises the
// floor where it lies below what is stored. A floor that is gone, though
// [Pin] wrote one, is raised again from the cache and told as [ErrFloorLost].
func (t *Trust) Witness(ctx context.Context, now time.Time) error {
	lock, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	old, found, err := t.readFloor()
	if err != nil {
		return err
	}
	tm, err := t.walk(0, old.Root)
	if err != nil {
		return err
	}
	rec, _, err := t.readRecord()
	if err != nil && !errors.Is(err, ErrCache) {
		return err
	}
	fl, raised, err := t.raise(old, tm.Root, rec)
	if err != nil {
		return err
	}
	acc, err := t.current(fl, now)
	switch {
	case err == nil:
		fl = fl.note(acc, now)
		raised = raised || fl.advanced(old, acc)
	case errors.Is(err, ErrNone), errors.Is(err, ErrCache): // no term that a time could be believed by
	default:
		return err
	}
	if found && !raised {
		return nil
	}
	if err := fl.write(t.floorPath); err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	if !found {
		return fmt.Errorf("%w: %s is gone; it was raised again from what is stored in %s: sequence %d, root %d", ErrFloorLost, t.floorPath, t.dir, fl.Sequence, fl.Root.Version)
	}
	return nil
}

// note takes a time for seen, as far as the terms of what was accepted reach.
func (f floor) note(acc *Accepted, now time.Time) floor {
	f.AcceptedAt = latest(f.AcceptedAt, earliest(now, pastEnd(acc.StaleAt)))
	f.SeenAt = latest(f.SeenAt, earliest(now, pastEnd(acc.ExpiredAt)))
	return f
}

// pastEnd is the first time at which a term is over.
func pastEnd(term time.Time) time.Time { return term.Add(time.Second) }

// advanced tells whether the time seen moved by enough to be written down: by
// itself, or past the end of a term.
func (f floor) advanced(old floor, acc *Accepted) bool {
	if f.SeenAt.Sub(old.SeenAt) >= noticeably {
		return true
	}
	for _, end := range []time.Time{acc.StaleAt, acc.ExpiredAt} {
		if f.SeenAt.After(end) && !old.SeenAt.After(end) {
			return true
		}
	}
	return false
}

// ForgetTime takes now for the latest time that this node has seen, and returns
// which it was before. It is for a person who knows that the clock was ahead
// and is right now.
func (t *Trust) ForgetTime(ctx context.Context, now time.Time) (was time.Time, err error) {
	lock, err := t.lock(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer lock.Unlock()
	fl, _, err := t.readFloor()
	if err != nil {
		return time.Time{}, err
	}
	rec, had, err := t.readRecord()
	if err != nil && !errors.Is(err, ErrCache) {
		return time.Time{}, err
	}
	was = latest(fl.SeenAt, fl.AcceptedAt, rec.AcceptedAt)
	if had && rec.AcceptedAt.After(now) {
		rec.AcceptedAt = now.UTC()
		b, err := json.Marshal(rec, json.Deterministic(true))
		if err != nil {
			return was, err
		}
		if err := durable.WriteFile(filepath.Join(t.dir, acceptedFile), b, 0o600); err != nil {
			return was, fmt.Errorf("keep accepted snapshot: %w", err)
		}
	}
	fl.AcceptedAt, fl.SeenAt = earliest(fl.AcceptedAt, now), earliest(fl.SeenAt, now)
	if err := fl.write(t.floorPath); err != nil {
		return was, fmt.Errorf("write floor: %w", err)
	}
	return was, nil
}
