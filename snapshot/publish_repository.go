package snapshot

import "time"

// InitOptions says what a new publisher repository looks like. Zero values
// take the documented defaults.
type InitOptions struct {
	Network          string
	RootKeys         int // default 3
	RootThreshold    int // default 2
	TargetsKeys      int // default 3
	TargetsThreshold int // default 2
	// Terms: how long each role's metadata is valid from signing.
	RootTerm, TargetsTerm, OnlineTerm time.Duration // defaults 365, 30 and 7 days
	DocumentTerm                      time.Duration // default 30 days
	OfflineGrace                      time.Duration // default 14 days
	Now                               time.Time     // default time.Now()
}

// Repository is a publisher's ceremony directory.
type Repository struct{ dir string }

// InitRepository creates keys, the first root and an empty draft.
func InitRepository(dir string, o InitOptions) (*Repository, error) { return nil, ErrKey }

// OpenRepository opens what InitRepository wrote.
func OpenRepository(dir string) (*Repository, error) { return nil, ErrKey }

// RootJSON is the root to pin on nodes (the newest).
func (r *Repository) RootJSON() ([]byte, error) { return nil, ErrKey }

// Draft reads the document as drafted.
func (r *Repository) Draft() (*Snapshot, error) { return nil, ErrKey }

// Edit changes the draft and stores it when the result is well formed.
func (r *Repository) Edit(change func(*Snapshot) error) error { return ErrKey }

// AddModel adds or replaces (same name and version) a model in the draft.
func (r *Repository) AddModel(m Model) error { return ErrKey }

// AddRuntime adds or replaces (same name) a runtime in the draft.
func (r *Repository) AddRuntime(rt Runtime) error { return ErrKey }

// AddPolicy adds or replaces (same name) a policy in the draft.
func (r *Repository) AddPolicy(p Policy) error { return ErrKey }

// SetEnabled enables or disables a listed model.
func (r *Repository) SetEnabled(name, version string, enabled bool) error { return ErrKey }

// RemoveModel drops a model; version "" drops every version.
func (r *Repository) RemoveModel(name, version string) error { return ErrKey }

// SignResult says how far each role's signatures are.
type SignResult struct {
	Sequence int64        `json:"sequence"`
	Roles    []RoleStatus `json:"roles"`
	Complete bool         `json:"complete"`
}

// RoleStatus is one role's state.
type RoleStatus struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Threshold int       `json:"threshold"`
	Signed    []string  `json:"signed"`  // key IDs
	Missing   []string  `json:"missing"` // key IDs that may still sign
	Expires   time.Time `json:"expires"`
}

// Sign signs with the given key files ("" or none: every key in keys/).
func (r *Repository) Sign(now time.Time, keyFiles ...string) (*SignResult, error) { return nil, ErrKey }

// Publish writes the signed set to a directory as nodes pull it.
func (r *Repository) Publish(to string) error { return ErrKey }

// BundleFile is the signed set as one push file.
func (r *Repository) BundleFile() ([]byte, error) { return nil, ErrKey }
