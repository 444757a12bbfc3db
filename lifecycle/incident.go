package lifecycle

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
)

// Incident is one failed check with its evidence; see [Entry].
type Incident struct {
	Time     time.Time     `json:"time"`
	Kind     Cause         `json:"kind"` // which check failed
	Model    string        `json:"model,omitzero"`
	Version  string        `json:"version,omitzero"`
	Digest   digest.Digest `json:"digest,omitzero"` // the artifact or blob that was checked
	Expected string        `json:"expected,omitzero"`
	Found    string        `json:"found,omitzero"`
	Source   string        `json:"source,omitzero"` // where the bytes came from
	Reason   string        `json:"reason"`
	Action   string        `json:"action,omitzero"` // what the node did about it
	Snapshot digest.Digest `json:"snapshot,omitzero"`
}

// readIncidents returns the newest limit incidents that keep accepts, oldest first; limit 0
// means all. A line that a crash tore is skipped.
func readIncidents(path string, keep func(Incident) bool, limit int) ([]Incident, error) {
	var all []Incident
	err := auditLines(path, func(line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Incident != nil && (keep == nil || keep(*e.Incident)) {
			all = append(all, *e.Incident)
			if limit > 0 && len(all) > 2*limit {
				all = append(all[:0], all[len(all)-limit:]...)
			}
		}
		return nil
	})
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	return all, err
}
