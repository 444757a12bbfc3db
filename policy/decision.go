package policy

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Class groups refusals by what an operator does about them; one place in the
// CLI maps classes to exit codes.
type Class string

const (
	ClassListing       Class = "listing"       // the snapshot does not list it
	ClassPolicy        Class = "policy"        // the policy cannot admit it: image outside every glob, unknown policy
	ClassRevoked       Class = "revoked"       // withdrawn by digest, key or identity
	ClassSignature     Class = "signature"     // not enough distinct signers, or a signature for something else
	ClassAttestation   Class = "attestation"   // a required attestation is missing
	ClassLayout        Class = "layout"        // counts, sizes, media types or paths as claimed by the manifest
	ClassContent       Class = "content"       // what the files hold
	ClassCompatibility Class = "compatibility" // this node cannot run it
)

// Decision is the answer to one question of admission. Its zero value is a
// refusal.
type Decision struct {
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule"`           // the exact rule that decided, as a path: "policies[acme].threshold"
	Reason  string `json:"reason"`         // one sentence
	Class   Class  `json:"class,omitzero"` // of a refusal
	// Expected and Found state what the rule wanted and what was there.
	Expected   string    `json:"expected,omitzero"`
	Found      string    `json:"found,omitzero"`
	Signers    []Signer  `json:"signers,omitzero"`    // those whose signature verified
	Rejected   []Reject  `json:"rejected,omitzero"`   // evidence that counted for nothing, and why
	Shortfalls []string  `json:"shortfalls,omitzero"` // of a compatibility decision
	Time       time.Time `json:"time,omitzero"`       // of a signature decision
}

// Signer is an authority whose signature or attestation verified.
type Signer struct {
	Authority     string             `json:"authority"`
	Format        string             `json:"format"`        // bundle or legacy
	PredicateType string             `json:"predicateType"` // of the in-toto statement; empty for legacy
	Key           digest.Digest      `json:"key,omitzero"`  // SHA-256 of the SubjectPublicKeyInfo
	Identity      *snapshot.Identity `json:"identity,omitzero"`
	Time          time.Time          `json:"time,omitzero"` // from a log or timestamp authority, when there was one
	Source        string             `json:"source,omitzero"`
	Evidence      digest.Digest      `json:"evidence"` // of the payload as found
}

// Reject is a piece of evidence that did not count.
type Reject struct {
	Source   string        `json:"source,omitzero"`
	Evidence digest.Digest `json:"evidence"`
	Reason   string        `json:"reason"`
}
