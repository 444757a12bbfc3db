package policy

import (
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// AdmitDigests decides whether anything that an artifact consists of is
// revoked: its manifest, config, layers and files, as far as they are known.
func AdmitDigests(doc *snapshot.Snapshot, digests ...digest.Digest) Decision {
	revoked := map[digest.Digest]snapshot.Revocation{}
	for _, r := range doc.Revocations {
		if r.Digest != "" {
			revoked[r.Digest] = r
		}
	}
	for _, d := range digests {
		if r, ok := revoked[d]; ok {
			return refuse(ClassRevoked, "revocations", "it is revoked, or holds what is"+because(r), "content that is not revoked", d.String())
		}
	}
	return Decision{Allowed: true, Rule: "revocations", Reason: "nothing of it is revoked"}
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
