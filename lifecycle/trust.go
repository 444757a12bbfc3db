package lifecycle

import (
	"context"
	"errors"
	"time"

	"github.com/resultity/rmodels/snapshot"
)

// witness writes down the time before anything is decided by it, and reports a
// floor that is gone. No failure of it holds up what comes after: what the
// snapshot withdraws is withdrawn on a full disk, too.
func (n *Node) witness(ctx context.Context, t *snapshot.Trust) error {
	err := t.Witness(ctx, n.now())
	if !errors.Is(err, snapshot.ErrFloorLost) {
		return err
	}
	return errors.Join(err, n.incident(Incident{
		Kind: CauseState, Expected: "the floor below which no snapshot is accepted, in " + n.floorPath(), Found: err.Error(),
		Reason: "the floor was deleted", Action: "it was raised again from the last accepted snapshot; find out who may write there",
	}))
}

// ForgetTime takes the clock's time for the latest that this node has seen,
// and returns which that was. It is for a clock that was ahead and is right
// now.
func (n *Node) ForgetTime(ctx context.Context) (was, now time.Time, err error) {
	t, err := n.trust()
	if err != nil {
		return was, now, err
	}
	now = n.now()
	was, err = t.ForgetTime(ctx, now)
	return was, now, err
}
