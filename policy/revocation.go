package policy

import (
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Revoked finds the revocation of any of the digests: an artifact's manifest
// and, where they are known, its config and layers.
func Revoked(doc *snapshot.Snapshot, digests ...digest.Digest) (snapshot.Revocation, bool) {
	for _, r := range doc.Revocations {
		if r.Digest == "" {
			continue
		}
		for _, d := range digests {
			if r.Digest == d {
				return r, true
			}
		}
	}
	return snapshot.Revocation{}, false
}

func revokedKey(doc *snapshot.Snapshot, d digest.Digest) (snapshot.Revocation, bool) {
	for _, r := range doc.Revocations {
		if r.Key != "" && r.Key == d {
			return r, true
		}
	}
	return snapshot.Revocation{}, false
}

func revokedIdentity(doc *snapshot.Snapshot, id snapshot.Identity) (snapshot.Revocation, bool) {
	for _, r := range doc.Revocations {
		if r.Identity != nil && *r.Identity == id {
			return r, true
		}
	}
	return snapshot.Revocation{}, false
}

func because(r snapshot.Revocation) string {
	if r.Reason == "" {
		return ""
	}
	return " (" + brief(r.Reason) + ")"
}
