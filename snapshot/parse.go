package snapshot

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

// MaxDocument bounds a document before it is decoded. A thousand models with
// three mirrors each take about 1.2 MB.
const MaxDocument = 4 << 20

// TargetName is the TUF target that holds the document. The major version is
// part of the name, so that a later format stands beside this one.
const TargetName = "snapshot.v1.json"

// Parse decodes a document and checks everything that can be checked without
// the node: members, ranges, names, references and cross-references. Every
// error matches [ErrInvalid] and names what is wrong by its path, up to
// [maxProblems] at once.
func Parse(b []byte) (*Snapshot, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("%w: document of %d bytes, at most %d", ErrTooLarge, len(b), MaxDocument)
	}
	var s Snapshot
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return &s, nil
}

// Model finds a listed model.
func (s *Snapshot) Model(name, version string) (Model, bool) {
	for _, m := range s.Models {
		if m.Name == name && m.Version == version {
			return m, true
		}
	}
	return Model{}, false
}

// Policy finds a policy by name.
func (s *Snapshot) Policy(name string) (Policy, bool) {
	for _, p := range s.Policies {
		if p.Name == name {
			return p, true
		}
	}
	return Policy{}, false
}

// Runtime finds a runtime by name.
func (s *Snapshot) Runtime(name string) (Runtime, bool) {
	for _, r := range s.Runtimes {
		if r.Name == name {
			return r, true
		}
	}
	return Runtime{}, false
}
