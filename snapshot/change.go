package snapshot

import (
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Change is one difference between two documents.
type Change struct {
	Verb    string   `json:"verb"`             // added, removed, changed
	Kind    string   `json:"kind"`             // model, runtime, policy, trust root, revocation, or a member of the document
	Name    string   `json:"name,omitzero"`    // of the model, runtime, …
	Members []string `json:"members,omitzero"` // of the entry, that differ
}

// Changes says in what the accepted document differs from the one that this
// node accepted before it; nil when there was none.
func (a *Accepted) Changes() ([]Change, error) {
	if a.previous == nil {
		return nil, nil
	}
	old, err := Parse(a.previous)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s, accepted before: %w", a.Previous, err)
	}
	return Compare(old, a.Document)
}

// Compare lists what became of a document: entries first by kind, then by
// name. Sequence, created and expires differ in every document and are left
// out.
func Compare(old, now *Snapshot) ([]Change, error) {
	before, err := entries(old)
	if err != nil {
		return nil, err
	}
	after, err := entries(now)
	if err != nil {
		return nil, err
	}
	var all []Change
	for _, kind := range []string{"model", "runtime", "policy", "trust root", "revocation", ""} {
		for _, name := range slices.Sorted(maps.Keys(union(before[kind], after[kind]))) {
			was, is := before[kind][name], after[kind][name]
			c := Change{Kind: kind, Name: name}
			if kind == "" { // a member of the document itself
				c = Change{Kind: name}
			}
			switch {
			case was == nil:
				c.Verb = "added"
			case is == nil:
				c.Verb = "removed"
			default:
				c.Verb = "changed"
				for member := range union(was, is) {
					if string(was[member]) != string(is[member]) {
						c.Members = append(c.Members, member)
					}
				}
				if len(c.Members) == 0 {
					continue
				}
				slices.Sort(c.Members)
				if kind == "" && c.Members[0] == "" {
					c.Members = nil
				}
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// members is an entry of a document by its members' names.
type members map[string]jsontext.Value

// entries are a document's entries by kind and name.
func entries(s *Snapshot) (map[string]map[string]members, error) {
	out := map[string]map[string]members{}
	add := func(kind, name string, v any) error {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("compare %s %s: %w", kind, name, err)
		}
		m := members{}
		if json.Unmarshal(b, &m) != nil { // no object
			m = members{"": b}
		}
		if out[kind] == nil {
			out[kind] = map[string]members{}
		}
		if name == "" {
			name = string(b)
		}
		out[kind][name] = m
		return nil
	}
	for _, m := range s.Models {
		if err := add("model", m.ID(), m); err != nil {
			return nil, err
		}
	}
	for _, r := range s.Runtimes {
		if err := add("runtime", r.Name, r); err != nil {
			return nil, err
		}
	}
	for _, p := range s.Policies {
		if err := add("policy", p.Name, p); err != nil {
			return nil, err
		}
	}
	for name, r := range s.TrustRoots {
		if err := add("trust root", name, r); err != nil {
			return nil, err
		}
	}
	for _, r := range s.Revocations {
		if err := add("revocation", "", r); err != nil {
			return nil, err
		}
	}
	for name, v := range map[string]any{"settings": s.Settings, "sources": s.Sources, "offlineGrace": s.OfflineGrace, "extensions": s.Extensions} {
		if err := add("", name, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func union[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return all
}
