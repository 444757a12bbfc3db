// Package policy decides what a node admits. Every decision is pure: it is
// handed an accepted snapshot, bytes and facts, reads nothing else, and
// returns a [Decision] that names the rule, what it expected and what it
// found. The zero Decision is a refusal.
//
// # The questions
//
//   - [Listed]: does the snapshot list the model, and is its digest not revoked?
//   - [AdmitSignatures]: did enough distinct authorities sign this manifest, and
//     are the attestations there that the policy asks for? Models and runtime
//     images go the same way.
//   - [Compatible]: can this node run it? If not, everything that is lacking.
//   - [AdmitLayout]: may the layers be fetched, by what the manifest says?
//   - [AdmitContent]: may an engine see the files, by what they hold?
//
// # Invariants
//
//  1. Trust comes from the snapshot alone. Keys, identities and trust roots are
//     the policy's; what an artifact carries (key hints, certificates, chains,
//     annotations) selects nothing and is believed only after a signature by
//     one of them verified.
//  2. A signature counts for the pinned manifest digest and nothing else.
//  3. An attestation never counts as a signature, and a signature never as an
//     attestation: the predicate type is checked. Who may only attest does not
//     sign.
//  4. A threshold counts distinct authorities with distinct keys or identities,
//     never bundles.
//  5. What is revoked does not count, whoever else vouches for it.
//  6. What cannot be parsed, or can be read in two ways, is refused.
//  7. Sizes are bounded before anything is decoded or allocated.
//  8. Nothing is fetched: all verification is offline.
//
// The publisher's half, [SignBundle], [SignAttestation] and [SignLegacy],
// writes what cosign writes.
package policy
