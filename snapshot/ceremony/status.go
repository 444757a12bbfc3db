package ceremony

import (
	"context"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// Status says how far the signatures of what is staged are, or else of what
// was published.
type Status struct {
	Sequence int64        `json:"sequence"`
	Roles    []RoleStatus `json:"roles"`
	// Complete: every role has reached its threshold, it can be published. A
	// root that waits is not waited for.
	Complete bool `json:"complete"`
	// Published: all of this was published already, nothing waits.
	Published bool `json:"published"`
	// Draft: it holds changes that no signature covers yet.
	Draft bool `json:"draft"`
	// Restarted: signatures of others were for another document and were
	// dropped; Pending says which.
	Restarted bool `json:"restarted,omitzero"`
	// Signed names what this signing was for; of Sign alone.
	Signed  []string `json:"signed,omitzero"`
	Pending *Pending `json:"pending"`
	Terms   []Term   `json:"terms"`
}

// RoleStatus is one role's state.
type RoleStatus struct {
	Role      string    `json:"role"`
	Version   int64     `json:"version"`
	Threshold int       `json:"threshold"`
	Signed    []string  `json:"signed"`  // IDs of keys whose signatures verify
	Missing   []string  `json:"missing"` // IDs of keys that may still sign
	Expires   time.Time `json:"expires,omitzero"`
	Complete  bool      `json:"complete"`
}

// Status reads the folder and changes nothing.
func (r *Repository) Status() (*Status, error) {
	st, err := r.read(context.Background())
	if err != nil {
		return nil, err
	}
	p, err := st.pending()
	if err != nil {
		return nil, err
	}
	return st.status(p)
}

func (st *state) status(p *Pending) (*Status, error) {
	root, err := st.mustRoot()
	if err != nil {
		return nil, err
	}
	s := &Status{Complete: true, Pending: p, Terms: append([]Term{}, st.calendar()...), Sequence: st.sequence()}
	add := func(role string, version int64, expires time.Time, m any) bool {
		x := RoleStatus{Role: role, Version: version, Threshold: root.Signed.Roles[role].Threshold, Expires: expires, Signed: []string{}, Missing: []string{}}
		if m != nil {
			x.Signed = append(x.Signed, snapshot.SignersOf(root, role, m)...)
			x.Complete = verifies(root, role, m)
		}
		for _, id := range root.Signed.Roles[role].KeyIDs {
			if !slices.Contains(x.Signed, id) {
				x.Missing = append(x.Missing, id)
			}
		}
		s.Roles = append(s.Roles, x)
		return x.Complete
	}
	s.Roles = append(s.Roles, st.rootStatus(root))
	s.Complete = s.Roles[0].Complete || st.published != nil
	set := st.staged
	if set == nil && st.document() != nil {
		if set, err = st.publishedSet(); err != nil {
			return nil, err
		}
	}
	complete := true
	if set == nil {
		for _, role := range roleNames[1:] {
			complete = add(role, 0, time.Time{}, nil) && complete
		}
	} else {
		s.Sequence = set.doc.Sequence
		complete = add(metadata.TARGETS, set.targetsMeta.Signed.Version, set.targetsMeta.Signed.Expires, set.targetsMeta)
		if set.snapMeta == nil || set.stampMeta == nil {
			add(metadata.SNAPSHOT, 0, time.Time{}, nil)
			add(metadata.TIMESTAMP, 0, time.Time{}, nil)
			complete = false
		} else {
			complete = add(metadata.SNAPSHOT, set.snapMeta.Signed.Version, set.snapMeta.Signed.Expires, set.snapMeta) && complete
			complete = add(metadata.TIMESTAMP, set.stampMeta.Signed.Version, set.stampMeta.Signed.Expires, set.stampMeta) && complete
		}
	}
	s.Draft = st.unsigned()
	s.Complete = s.Complete && complete && !s.Draft
	s.Published = s.Complete && st.staged == nil && st.waiting == nil
	return s, nil
}

// rootStatus is that of the root that waits, else of the published one.
func (st *state) rootStatus(root *rootMeta) RoleStatus {
	complete := true
	if st.waiting != nil {
		root, complete = st.waiting.meta, st.waiting.complete
	}
	role := root.Signed.Roles[metadata.ROOT]
	x := RoleStatus{Role: metadata.ROOT, Version: root.Signed.Version, Threshold: role.Threshold, Expires: root.Signed.Expires, Complete: complete, Signed: []string{}, Missing: []string{}}
	signed := st.rootSigned(root)
	for _, id := range st.rootSigners() {
		if slices.Contains(signed, id) {
			x.Signed = append(x.Signed, id)
		} else {
			x.Missing = append(x.Missing, id)
		}
	}
	return x
}

// rootSigners are the keys that may sign the root that waits: its own and
// those of the root before it, as TUF asks for both thresholds.
func (st *state) rootSigners() []string {
	var ids []string
	for _, root := range st.rootAuthorities() {
		for _, id := range root.Signed.Roles[metadata.ROOT].KeyIDs {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func (st *state) rootAuthorities() []*rootMeta {
	var all []*rootMeta
	if st.waiting != nil {
		all = append(all, st.waiting.meta)
	}
	if st.published != nil {
		all = append(all, st.published.root)
	}
	return all
}

// rootSigned are the keys whose signatures on a root verify.
func (st *state) rootSigned(root *rootMeta) []string {
	var ids []string
	for _, by := range st.rootAuthorities() {
		ids = append(ids, snapshot.SignersOf(by, metadata.ROOT, root)...)
	}
	return ids
}

// publishedSet is the published set as one that is staged.
func (st *state) publishedSet() (*stagedSet, error) {
	acc, files := st.published.acc, st.published.files
	s := &stagedSet{doc: acc.Document, targets: files[snapshot.MetadataFile(metadata.TARGETS, acc.TargetsVersion)]}
	var err error
	if s.targetsMeta, err = parseMeta[metadata.TargetsType](metadata.TARGETS, s.targets); err != nil {
		return nil, err
	}
	if s.snapMeta, err = parseMeta[metadata.SnapshotType](metadata.SNAPSHOT, files[snapshot.MetadataFile(metadata.SNAPSHOT, acc.SnapshotVersion)]); err != nil {
		return nil, err
	}
	s.stampMeta, err = parseMeta[metadata.TimestampType](metadata.TIMESTAMP, files[snapshot.TimestampFile])
	return s, err
}

// unsigned tells whether the draft says something that neither what is staged
// nor what was published says: publishing would hand out what it no longer
// says. A draft that cannot be read says nothing.
func (st *state) unsigned() bool {
	if st.draft == nil || st.draftErr != nil {
		return false
	}
	if st.staged != nil && len(st.staged.raw) > 0 {
		return !st.wanted()
	}
	return st.document() == nil || !sameContent(st.draft, st.document()) || len(st.fileChanges()) > 0
}
