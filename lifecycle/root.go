package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/resultity/rmodels/cas"
)

// rooting is what a record asks of the store.
type rooting int

const (
	unrooted rooting = iota // no root: the next collection frees its bytes
	kept                    // a root that a collection which is short of space may drop
	pinned                  // a root that stays whatever happens
)

// rooting is the one place that derives a model's root from its record. What
// may be used, what is on its way there and what is kept in quarantine for the
// next attempt is pinned; what the snapshot disables or has revoked makes way.
func (r *Record) rooting() rooting {
	switch {
	case r.State == Pending, r.State == Active:
		return pinned
	case r.State == Failed && r.Tree != "" && r.Cause != CauseRevoked:
		return pinned
	case r.State == Inactive, r.State == Failed && r.Tree != "":
		return kept
	}
	return unrooted
}

// save makes a record durable together with the root that it asks for: a pin
// comes before the record that needs it, and goes after the record that no
// longer does, so that a crash between the two keeps more, never less. Active
// is not written without a pin. A store that does not answer holds up no other
// state: what is withdrawn is so, and the error says what is left to do.
func (n *Node) save(r *Record) error {
	r.bound()
	ctx, cancel := context.WithTimeout(context.Background(), rootWait)
	defer cancel()
	var pinErr error
	if r.rooting() == pinned {
		pinErr = n.pin(ctx, r, true)
		switch {
		case pinErr != nil && r.State == Active:
			return treeFailure(r, pinErr)
		case errors.Is(pinErr, cas.ErrNotFound) && r.State == Failed: // a collection was first
			r.Tree, r.Receipt, pinErr = "", nil, nil
		case errors.Is(pinErr, cas.ErrNotFound): // the next look at the tree says so
			pinErr = nil
		}
	}
	if err := n.models.write(r.ID(), r); err != nil {
		return errors.Join(err, pinErr)
	}
	switch r.rooting() {
	case kept:
		return unlessAbsent(n.pin(ctx, r, false))
	case unrooted:
		return n.dropRoot(ctx, r)
	}
	return pinErr
}

// rootingOf is what is asked for a root that is there. An Absent record, like
// none, says nothing of bytes: it may have been made in the place of a damaged
// one.
func (n *Node) rootingOf(r *Record, ref cas.Ref) rooting {
	if r.State == Absent {
		return n.rootingUnrecorded(r.ID(), ref)
	}
	return r.rooting()
}

// rootWait bounds how long a record waits for the store's lock, which nobody
// holds for more than milliseconds.
const rootWait = 10 * time.Second

func (n *Node) pin(ctx context.Context, r *Record, pinned bool) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	return st.Pin(ctx, n.modelRef(r.ID()), pinned)
}

// dropRoot takes a model's root out of the store, so that gc frees its bytes.
func (n *Node) dropRoot(ctx context.Context, r *Record) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	if ref, err := st.Ref(n.modelRef(r.ID())); err == nil && n.rootingOf(r, ref) != unrooted {
		return nil
	}
	if err := st.DeleteRef(ctx, n.modelRef(r.ID())); unlessAbsent(err) != nil {
		return fmt.Errorf("drop the root of %s: %w", r.ID(), err)
	}
	return nil
}

// freedByGC is why a model is Absent that was kept for later when the disk ran
// full: no failed check.
const freedByGC = "freed by gc while it was Inactive"

// freed is what a record says once gc has dropped the root that it kept for
// later.
func (r *Record) freed() {
	r.Tree, r.Receipt, r.Verdict, r.Holds = "", nil, nil, ""
	if r.State == Inactive {
		r.State, r.Reason = Absent, freedByGC
	}
}

// evicted notes that gc freed a model that was kept for later.
func (n *Node) evicted(r *Record) error {
	gone, err := n.isEvicted(r)
	if err != nil || !gone {
		return err
	}
	if r.State == Inactive {
		if err := r.move(Absent, n.o.By, freedByGC, "", n.now()); err != nil {
			return err
		}
	}
	r.freed()
	return n.save(r)
}

// isEvicted reports whether gc freed what the record keeps for later.
func (n *Node) isEvicted(r *Record) (bool, error) {
	if r.rooting() != kept {
		return false, nil
	}
	st, err := n.store()
	if err != nil {
		return false, err
	}
	_, err = st.Ref(n.modelRef(r.ID()))
	return errors.Is(err, cas.ErrNotFound), unlessAbsent(err)
}

// settleRoots makes the roots of this network's models what their records ask
// for, where a crash, a full disk or an older version left something else. A
// collector lets go of what they keep in vain, and leaves missing pins to its
// own look at the records.
func (n *Node) settleRoots(ctx context.Context, ids []string, collecting bool) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	refs, _, err := st.ReadRefs() // of one that cannot be read the pass tells at its end
	if err != nil {
		return err
	}
	rooted := make(map[string]bool, len(refs))
	for _, ref := range refs {
		id, ok := strings.CutPrefix(ref.Name, n.modelRef(""))
		if !ok {
			continue
		}
		rooted[id] = true
		if collecting && !ref.Pinned {
			continue
		}
		if err := n.settleRoot(ctx, id, ref); err != nil {
			return err
		}
	}
	for _, id := range ids {
		var r Record
		if rooted[id] || n.models.read(id, &r) != nil || r.rooting() != kept {
			continue
		}
		if _, err := n.locked(ctx, id, n.evicted); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
	}
	return nil
}

// settleRoot drops a root that no record stands for, and sets the pin that the
// record asks for.
func (n *Node) settleRoot(ctx context.Context, id string, ref cas.Ref) error {
	wanted := func() (rooting, error) {
		var r Record
		err := n.models.read(id, &r)
		if errors.Is(err, fs.ErrNotExist) {
			return n.rootingUnrecorded(id, ref), nil
		}
		return n.rootingOf(&r, ref), err
	}
	fits := func(w rooting) bool { return w != unrooted && ref.Pinned == (w == pinned) }
	if w, err := wanted(); err != nil || fits(w) {
		return err
	}
	lk, err := n.models.lock(ctx, id)
	if errors.Is(err, ErrBusy) {
		return nil // at work: a model's record comes after its root
	} else if err != nil {
		return err
	}
	defer lk.Unlock()
	w, err := wanted()
	if err != nil || fits(w) {
		return err
	}
	st, err := n.store()
	if err != nil {
		return err
	}
	if w == unrooted {
		return unlessAbsent(st.DeleteRef(ctx, ref.Name))
	}
	if w == pinned {
		if err := n.unpinned(id); err != nil {
			return err
		}
	}
	return unlessAbsent(st.Pin(ctx, ref.Name, w == pinned))
}

// rootingUnrecorded is what is asked for a root that no record stands for. A
// model that the snapshot lists with that content keeps its bytes: its record
// was damaged, lost or not written yet, and the next pass builds it anew. Where
// no snapshot tells, nothing goes.
func (n *Node) rootingUnrecorded(id string, ref cas.Ref) rooting {
	acc, err := n.Current()
	if err != nil {
		return pinned
	}
	name, version, _ := strings.Cut(id, "@")
	if m, ok := acc.Document.Model(name, version); ok && m.Enabled && m.Digest() == ref.Tree {
		return pinned
	}
	return unrooted
}

// unpinned records that a model was found whose root a collection could have
// dropped, although its record says that it stays.
func (n *Node) unpinned(id string) error {
	name, version, _ := strings.Cut(id, "@")
	return n.incident(Incident{
		Kind: CauseState, Model: name, Version: version, Expected: "a pinned root in the store", Found: "a root that a collection may drop",
		Source: n.modelRef(id), Reason: "the model's root was not pinned", Action: "pinned; nothing was freed",
	})
}
