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
