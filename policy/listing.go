package policy

import "github.com/resultity/rmodels/snapshot"

// Listed decides whether the snapshot lists the model and enables it.
func Listed(doc *snapshot.Snapshot, name, version string) Decision {
	return Decision{Rule: "default", Reason: "nothing is admitted", Class: ClassListing}
}
