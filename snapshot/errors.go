package snapshot

import "errors"

// Classes of refusal. An error of this package matches exactly one of the
// rejection classes with [errors.Is]; every rejection also matches
// [ErrRejected], so that a caller can tell "the network's word did not
// verify" from "the disk failed".
var (
	ErrRejected  = errors.New("snapshot rejected")
	ErrReplay    = rejection("snapshot is older than one already accepted")
	ErrExpired   = rejection("snapshot or its metadata has expired")
	ErrSignature = rejection("snapshot is not signed by enough trusted keys")
	ErrNetwork   = rejection("snapshot is for another network")
	ErrInvalid   = rejection("snapshot is not well formed")
	ErrTooLarge  = rejection("snapshot is larger than allowed")

	// ErrNone: nothing was accepted on this node yet.
	ErrNone = errors.New("no snapshot accepted yet")
	// ErrNotPinned: the trust directory holds no pinned root.
	ErrNotPinned = errors.New("no network pinned")
	// ErrPinned: another network or another root is pinned already.
	ErrPinned = errors.New("another root is pinned")
	// ErrCache: what was accepted last is damaged on this node's disk. The next
	// acceptance replaces it.
	ErrCache = errors.New("stored snapshot is damaged")
	// ErrTrustState: the pinned root, a root that followed it, or the floor is
	// damaged on this node's disk. Nothing is accepted until a person has mended
	// it: who would heal it from the network believes whoever answers there.
	ErrTrustState = errors.New("stored trust state is damaged")
	// ErrNotOwner: the trust state is another user's, and this one may not read
	// it; nothing is known about it.
	ErrNotOwner = errors.New("trust state belongs to another user")
	// ErrFloorLost: the floor was deleted from this node's disk. It was raised
	// again from the cache; who deleted it wanted something older accepted.
	ErrFloorLost = errors.New("the floor was lost")
	// ErrClock: a signed time lies so far ahead of this node's time that one of
	// the two clocks is wrong.
	ErrClock = errors.New("the snapshot's times do not fit this node's clock")
	// ErrSource: the source could not be reached or answered with an error;
	// nothing is known about the snapshot.
	ErrSource = errors.New("snapshot source failed")
	// ErrKey: a key file that does not parse or does not fit its role.
	ErrKey = errors.New("unusable key")
)

type rejectionClass struct{ text string }

func rejection(text string) error { return &rejectionClass{text} }

func (r *rejectionClass) Error() string { return r.text }

// Is makes every class a kind of ErrRejected.
func (r *rejectionClass) Is(target error) bool { return target == ErrRejected }
