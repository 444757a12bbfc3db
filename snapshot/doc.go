// Package snapshot owns the network's configuration snapshot: the document and
// why a node may believe it.
//
// # The document
//
// [Parse] decodes strictly (unknown, duplicate and trailing data are errors)
// and checks every range, name, reference and cross-reference. A newer major
// version is another TUF target beside this one; "extensions" may be ignored.
//
// # Trust
//
// The document is a target of a TUF repository. A node pins the first root
// ([Pin]) and takes new snapshots by push ([Trust.Apply], one file) or pull
// ([Trust.Pull], from a [Source]: HTTPS, a directory, an OCI repository); both
// run the same steps. A pull is [Trust.Fetch], into memory and without a lock,
// and [Trust.Accept] of what it brought, under the lock and without a network:
//
//		own state → new roots, each kept → timestamp → snapshot → targets →
//		target files → strict decode → network → floor → stored, durably
//
//	 1. Nothing changes unless every step verified; the last good snapshot stays.
//	    New roots alone are kept at once, as TUF asks. A newer set that is not
//	    fresh is in force for what it withdraws, and activates nothing.
//	 2. Time never runs backwards, as far as signed terms reach: the reference
//	    time is the later of the clock and the latest time seen (clock.go).
//	 3. The floor {sequence, digest, newest root seen, time seen} lives apart from
//	    the cache and only rises. Its sequence goes back when a new root replaced
//	    the targets keys. A floor that is gone is raised from the cache, and told.
//	 4. One sequence has one digest.
//	 5. Stored bytes are verified again whenever they are read ([Trust.Current]);
//	    the time decides only whether they are fresh, stale or expired. What is
//	    written first is read last, so that readers need no lock.
//	 6. Damage to the roots or the floor stops the node ([ErrTrustState]) until a
//	    person pins anew; damage to the cache is mended by the next acceptance.
//	 7. Everything from outside is bounded before it is decoded, and strict JSON.
//
// On disk, in the trust directory: pin.json (network and first root),
// roots/N.root.json, accepted.json (the files of the last acceptance, in one
// piece, so that they change together), lock. The floor is a file elsewhere.
//
// # Publishing
//
// Package ceremony, below this one, holds the publisher's side.
//
// The package never fetches a Sigstore root, follows no TUF delegations, and
// does not decide what an artifact must look like: that is package policy.
package snapshot
