package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// State is where a model version stands on this node.
type State string

const (
	Absent   State = "Absent"   // not on the node; the record says why
	Pending  State = "Pending"  // bytes and signatures verified, tree built, not validated
	Active   State = "Active"   // validated; the only state that may be used
	Inactive State = "Inactive" // installed, but the snapshot disables or no longer lists it
	Failed   State = "Failed"   // a check failed; nobody can acquire it
	Archived State = "Archived" // in cold storage, restored by digest
)

// leavesTo is the life cycle: from each state to those that may follow it.
var leavesTo = map[State][]State{
	Absent:   {Pending, Failed},
	Pending:  {Active, Failed, Inactive, Absent},
	Active:   {Inactive, Failed, Pending, Archived, Absent},
	Inactive: {Pending, Active, Failed, Archived, Absent},
	Failed:   {Pending, Inactive, Absent},
	Archived: {Pending, Failed, Absent},
}

// Installed reports whether a model in this state has its tree on the node.
// A Failed one may have (quarantine) or not: its record's Tree tells.
func (s State) Installed() bool { return s == Pending || s == Active || s == Inactive }

// Transition is one move of a model version, kept in its record.
type Transition struct {
	At       time.Time     `json:"at"`
	From     State         `json:"from"`
	To       State         `json:"to"`
	By       string        `json:"by"` // the command that moved it
	Why      string        `json:"why"`
	Snapshot digest.Digest `json:"snapshot,omitzero"`
}

// historyKept bounds the transitions in a record; older ones fall off.
const historyKept = 50

// move changes the record's state and remembers why. A move to the state that
// holds already updates the reason alone.
func (r *Record) move(to State, by, why string, snap digest.Digest, now time.Time) error {
	if r.State == to {
		r.Reason = why
		r.Updated = now
		return nil
	}
	if !slices.Contains(leavesTo[r.State], to) {
		return fmt.Errorf("%s: no way from %s to %s", r.ID(), r.State, to)
	}
	r.History = append(r.History, Transition{At: now, From: r.State, To: to, By: by, Why: why, Snapshot: snap})
	if n := len(r.History) - historyKept; n > 0 {
		r.History = slices.Delete(r.History, 0, n)
	}
	r.State, r.Reason, r.Updated = to, why, now
	return nil
}
