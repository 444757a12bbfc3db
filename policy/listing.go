package policy

import (
	"fmt"

	"github.com/resultity/rmodels/snapshot"
)

// Listed decides whether the snapshot lists the model and has not revoked its
// digest. Whether it is enabled is not asked here: a disabled model may stay
// installed, it may not be used.
func Listed(doc *snapshot.Snapshot, name, version string) Decision {
	id := name + "@" + version
	if doc == nil {
		return refuse(ClassListing, "models", "there is no accepted snapshot", brief(id), "none")
	}
	m, ok := doc.Model(name, version)
	if !ok {
		found := "no model of that name"
		for _, other := range doc.Models {
			if other.Name == name {
				found = "version " + other.Version
			}
		}
		return refuse(ClassListing, "models", "the snapshot does not list the model", brief(id), found)
	}
	if d := AdmitDigests(doc, m.Digest()); !d.Allowed {
		return d
	}
	return Decision{Allowed: true, Rule: "models[" + id + "]", Reason: fmt.Sprintf("listed by snapshot %d", doc.Sequence)}
}
