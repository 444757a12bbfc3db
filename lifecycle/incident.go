package lifecycle

import (
	"errors"
	"fmt"
	"slices"
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

// unloggedMax bounds the incidents that a record keeps for the log.
const unloggedMax = 8

// report stores a record that failed a check, together with the incident, in
// one write, and then logs the incident (invariant 3). A log that does not take
// it holds nothing up: the record keeps it, and the next pass logs it.
func (n *Node) report(r *Record, in Incident) error {
	r.Unlogged = append(r.Unlogged, n.note(in))
	if over := len(r.Unlogged) - unloggedMax; over > 0 {
		r.Unlogged = slices.Delete(r.Unlogged, 0, over)
	}
	return errors.Join(n.save(r), n.logKept(r))
}

// logKept logs the incidents that a record keeps for the log, each once.
func (n *Node) logKept(r *Record) error {
	if len(r.Unlogged) == 0 {
		return nil
	}
	for len(r.Unlogged) > 0 {
		in := r.Unlogged[0]
		logged, err := readIncidents(n.auditPath(), in.same, 1)
		if err == nil && len(logged) == 0 { // else it was logged by a process that died before it said so
			err = n.record(Entry{Incident: &in})
		}
		if err != nil {
			return fmt.Errorf("kept for the next pass to log: %w", err)
		}
		r.Unlogged = r.Unlogged[1:]
	}
	r.Unlogged = nil
	return n.models.write(r.ID(), r)
}

// same tells whether the log's form of an incident is of this one: long texts
// are cut there.
func (in Incident) same(logged Incident) bool {
	return in.Kind == logged.Kind && in.Model == logged.Model && in.Version == logged.Version &&
		in.Digest == logged.Digest && in.Snapshot == logged.Snapshot && in.Time.Equal(logged.Time)
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
