package snapshot

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Freshness is how far an accepted snapshot may still be acted upon. The zero
// value is none of the constants and therefore permits nothing: compare with
// [Fresh], never with "not expired".
type Freshness string

const (
	// Fresh: everything may be done.
	Fresh Freshness = "fresh"
	// Stale: something expired less than offlineGrace ago. What is active
	// stays; nothing new is activated.
	Stale Freshness = "stale"
	// Expired: beyond the grace. settings.expired decides.
	Expired Freshness = "expired"
)

// Accepted is a snapshot that verified, with all that a decision or a receipt
// needs. It is read-only for its users.
type Accepted struct {
	Document   *Snapshot     `json:"document"`
	Raw        []byte        `json:"-"`
	Digest     digest.Digest `json:"digest"` // of Raw
	AcceptedAt time.Time     `json:"acceptedAt"`
	Freshness  Freshness     `json:"freshness"`
	// Reason says in words why Freshness is not [Fresh]; empty when it is.
	Reason string `json:"reason,omitzero"`
	// StaleAt is when the first of the metadata's or the document's terms ends,
	// ExpiredAt is StaleAt plus the document's offlineGrace.
	StaleAt   time.Time `json:"staleAt"`
	ExpiredAt time.Time `json:"expiredAt"`
	// Signers are the TUF key IDs of the targets role whose signatures verified.
	Signers []string `json:"signers"`

	RootVersion      int64 `json:"rootVersion"`
	TimestampVersion int64 `json:"timestampVersion"`
	SnapshotVersion  int64 `json:"snapshotVersion"`
	TargetsVersion   int64 `json:"targetsVersion"`

	RootExpires      time.Time `json:"rootExpires"`
	TimestampExpires time.Time `json:"timestampExpires"`
	SnapshotExpires  time.Time `json:"snapshotExpires"`
	TargetsExpires   time.Time `json:"targetsExpires"`

	// Changed is set by Apply and Pull when the document differs from the one
	// accepted before. Previous is the digest of the last accepted document that
	// differs from this one, empty for the first; see [Accepted.Changes].
	Changed  bool          `json:"changed"`
	Previous digest.Digest `json:"previous,omitzero"`
	previous []byte

	// TrustRoots holds the bytes of each Sigstore trusted_root.json by its name
	// in [Snapshot.TrustRoots], verified against the digest pinned there.
	TrustRoots map[string][]byte `json:"-"`
	// Bundles holds signature bundles that came with the snapshot, by the
	// digest of the artifact's manifest. They are as untrusted as any other.
	Bundles map[digest.Digest][][]byte `json:"-"`
}
