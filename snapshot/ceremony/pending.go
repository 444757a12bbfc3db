package ceremony

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// Pending is what the next signatures would be for: the difference to what was
// published, nothing else. Status, diff, sign and publish show the same value,
// and a confirmation names its digest.
type Pending struct {
	// Digest is of the difference and of what it is to: a confirmation that
	// names it is for nothing else. Dates are set when signed: the terms that
	// they follow from are in it instead.
	Digest  digest.Digest `json:"digest"`
	Network string        `json:"network"`
	// Terms say for how long what is signed is valid; the offline grace is that
	// of the draft.
	Terms Terms `json:"terms"`
	// Signs are the roles that the keys at hand would sign for, of root and
	// targets; of Sign alone. A root that only waits is shown and not signed.
	Signs    []string        `json:"signs,omitzero"`
	Root     *RootChange     `json:"root,omitzero"`     // a root that waits for signatures or for publication
	Document *DocumentChange `json:"document,omitzero"` // nil: nothing differs from what was published
	Dropped  []Dropped       `json:"dropped,omitzero"`  // signatures that no longer count
	// Keys are the keys that a root here names, by key ID, and their digests
	// (SHA-256 of the SubjectPublicKeyInfo, which keygen prints).
	Keys map[string]digest.Digest `json:"keys,omitzero"`
	// Risks have to be confirmed before any key signs: what nodes could not take
	// back, or what tired hands would overlook.
	Risks    []string `json:"risks,omitzero"`
	Warnings []string `json:"warnings,omitzero"`
}

// RootChange is what a root that waits does to the published one.
type RootChange struct {
	Version int64        `json:"version"`
	Against int64        `json:"against"` // version of the published root, 0 for none
	Expires time.Time    `json:"expires"`
	Roles   []RoleChange `json:"roles"`
}

// RoleChange is what becomes of a role's keys and threshold.
type RoleChange struct {
	Role      string   `json:"role"`
	Threshold int      `json:"threshold"`
	Was       int      `json:"was"` // threshold before
	Added     []string `json:"added"`
	Removed   []string `json:"removed"`
	Kept      []string `json:"kept"`
}

// DocumentChange is what the document that would be signed does to the
// published one.
type DocumentChange struct {
	Sequence int64     `json:"sequence"`
	Against  int64     `json:"against"`          // sequence of the published document, 0 for none
	Begun    int64     `json:"begun"`            // sequence of the published document that the draft was begun from
	Dated    time.Time `json:"dated,omitzero"`   // of what is staged already
	Expires  time.Time `json:"expires,omitzero"` // of what is staged already
	Changes  []Change  `json:"changes"`
	Files    []string  `json:"files"` // trust roots and bundles that come, go or change
}

// Change is one difference with the values before and after.
type Change struct {
	snapshot.Change
	Values []Value `json:"values"`
	// Hits are the models and runtimes that a revocation takes out of use, as
	// far as the documents at hand say.
	Hits []string `json:"hits,omitzero"`
}

// Value is a member before and after; empty where there was or is none.
type Value struct {
	Member string `json:"member,omitzero"`
	Was    string `json:"was,omitzero"`
	Is     string `json:"is,omitzero"`
}

// Dropped says whose signatures no longer count, and why.
type Dropped struct {
	Role string   `json:"role"`
	Keys []string `json:"keys"`
	Why  string   `json:"why"`
}

// pending computes the difference. It needs no key.
func (st *state) pending() (*Pending, error) {
	p := &Pending{Network: st.r.config.Network, Terms: st.r.config.Terms, Warnings: slices.Clone(st.problems)}
	var content []byte
	p.Keys = map[string]digest.Digest{}
	for _, by := range st.rootAuthorities() {
		for id, k := range by.Signed.Keys {
			p.Keys[id] = snapshot.KeyDigest(k)
		}
	}
	root := st.inForce()
	if st.waiting != nil {
		p.Root = st.rootChange()
		p.Risks = append(p.Risks, st.rootRisks()...)
		p.Warnings = append(p.Warnings, weaknesses(st.waiting.meta)...)
	} else if root != nil {
		p.Warnings = append(p.Warnings, weaknesses(root)...)
	}
	if root != nil {
		p.Warnings = append(p.Warnings, st.r.togetherness(root)...)
	}
	if st.draft != nil && st.draftErr == nil {
		var err error
		p.Terms.OfflineGrace = st.draft.OfflineGrace
		if p.Document, content, err = st.documentChange(); err != nil {
			return nil, err
		}
		st.risks(p)
		st.dropped(p)
		st.dates(p)
	}
	if st.aside() {
		p.Warnings = append(p.Warnings, "edits of the draft were set aside: once this is published, take them up with: rmodels snapshot resume "+st.r.dir)
	}
	var err error
	p.Digest, err = st.digest(p, content)
	return p, err
}

// drafted is of the draft and the files beside it.
func (st *state) drafted() (digest.Digest, error) {
	if st.draft == nil {
		return "", nil
	}
	content, err := contentOf(st.draft)
	if err != nil {
		return "", err
	}
	h := digest.SHA256.Digester()
	fmt.Fprintf(h.Hash(), "%d %s\n", len(content), content)
	for _, name := range slices.Sorted(maps.Keys(st.extra)) {
		fmt.Fprintf(h.Hash(), "%s %s\n", name, digest.FromBytes(st.extra[name]))
	}
	return h.Digest(), nil
}

// digest is of all that the signatures would be for.
func (st *state) digest(p *Pending, content []byte) (digest.Digest, error) {
	sum := struct {
		Network         string                   `json:"network"`
		Root            digest.Digest            `json:"root"`
		AgainstRoot     digest.Digest            `json:"againstRoot"`
		Document        digest.Digest            `json:"document"`
		AgainstDocument digest.Digest            `json:"againstDocument"`
		Files           map[string]digest.Digest `json:"files"`
		Dropped         []Dropped                `json:"dropped"`
		Terms           Terms                    `json:"terms"`
		Risks           []string                 `json:"risks"`
	}{Network: p.Network, Document: digest.FromBytes(content), Files: map[string]digest.Digest{}, Dropped: p.Dropped, Terms: p.Terms, Risks: p.Risks}
	var err error
	if st.waiting != nil {
		if sum.Root, err = signedDigest(st.waiting.meta); err != nil {
			return "", err
		}
	}
	if st.published != nil {
		if sum.AgainstRoot, err = signedDigest(st.published.root); err != nil {
			return "", err
		}
	}
	if st.document() != nil {
		sum.AgainstDocument = st.published.acc.Digest
	}
	for name, b := range st.extra {
		sum.Files[name] = digest.FromBytes(b)
	}
	b, err := json.Marshal(sum, json.Deterministic(true))
	return digest.FromBytes(b), err
}

func (st *state) rootChange() *RootChange {
	now := st.waiting.meta
	c := &RootChange{Version: now.Signed.Version, Against: st.publishedVersion(), Expires: now.Signed.Expires}
	for _, name := range roleNames {
		rc := RoleChange{Role: name, Threshold: now.Signed.Roles[name].Threshold, Added: []string{}, Removed: []string{}, Kept: []string{}}
		var was []string
		if st.published != nil {
			old := st.published.root.Signed.Roles[name]
			rc.Was, was = old.Threshold, old.KeyIDs
		}
		for _, id := range now.Signed.Roles[name].KeyIDs {
			if slices.Contains(was, id) { // the same key: checkRoles holds an ID against its key
				rc.Kept = append(rc.Kept, id)
			} else {
				rc.Added = append(rc.Added, id)
			}
		}
		for _, id := range was {
			if !slices.Contains(rc.Kept, id) {
				rc.Removed = append(rc.Removed, id)
			}
		}
		c.Roles = append(c.Roles, rc)
	}
	return c
}

func (st *state) documentChange() (*DocumentChange, []byte, error) {
	content, err := contentOf(st.draft)
	if err != nil {
		return nil, nil, err
	}
	old := st.document()
	c := &DocumentChange{Sequence: st.sequence() + 1, Against: st.sequence(), Begun: st.draft.Sequence, Changes: []Change{}, Files: []string{}}
	if old == nil {
		old, c.Begun = &snapshot.Snapshot{OfflineGrace: st.draft.OfflineGrace}, 0
	}
	changes, err := snapshot.Compare(old, st.draft)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range changes {
		c.Changes = append(c.Changes, Change{x, values(x, old, st.draft), hits(x, old, st.draft)})
	}
	c.Files = st.fileChanges()
	if st.staged != nil && len(st.staged.raw) > 0 && sameContent(st.staged.doc, st.draft) {
		c.Dated, c.Expires = st.staged.doc.Created, st.staged.doc.Expires
	}
	if len(c.Changes) == 0 && len(c.Files) == 0 && c.Dated.IsZero() && st.document() != nil {
		return nil, content, nil
	}
	return c, content, nil
}

func (st *state) fileChanges() []string {
	was := map[string]digest.Digest{}
	if st.document() != nil {
		if tg, err := parseMeta[metadata.TargetsType](metadata.TARGETS, st.published.files[snapshot.MetadataFile(metadata.TARGETS, st.targetsVersion())]); err == nil {
			for name, tf := range tg.Signed.Targets {
				if name != snapshot.TargetName {
					was[name] = digest.NewDigestFromEncoded(digest.SHA256, tf.Hashes["sha256"].String())
				}
			}
		}
	}
	all := []string{}
	for _, name := range slices.Sorted(maps.Keys(st.extra)) {
		d := digest.FromBytes(st.extra[name])
		switch old, ok := was[name]; {
		case !ok:
			all = append(all, "added "+name+" "+d.String())
		case old != d:
			all = append(all, "changed "+name+" "+d.String())
		}
		delete(was, name)
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		all = append(all, "removed "+name)
	}
	return all
}

// risks are what tired hands would sign without noticing.
func (st *state) risks(p *Pending) {
	for _, rev := range unrevoked(st.document(), st.draft) {
		p.Risks = append(p.Risks, fmt.Sprintf("the published revocation of %s would disappear", revoked(rev)))
	}
	if old := st.document(); old != nil {
		p.compareTerms("it", st.r.config.Terms.Document.Std(), old.Expires.Sub(old.Created))
		p.compareTerms("its targets", st.r.config.Terms.Targets.Std(), st.published.acc.TargetsExpires.Sub(old.Created))
	}
	if c := p.Document; c != nil && c.Against > 0 && c.Begun != c.Against && len(c.Changes) > 0 {
		p.Risks = append(p.Risks, fmt.Sprintf("the draft was begun from snapshot %d, and %d is published: what came since would be undone; "+
			"to begin again from it: rmodels snapshot reset", c.Begun, c.Against))
	}
}

// compareTerms names a term that grew, or shrank. It is the terms that are
// compared, also where a holder has dated it already: the risks are in the
// digest, which the next holder compares with that one's.
func (p *Pending) compareTerms(what string, is, was time.Duration) {
	says := fmt.Sprintf("%s would be valid for %s, the published one is for %s", what, is, was)
	switch {
	case is > was:
		p.Risks = append(p.Risks, says+": nodes that are cut off would go on for longer")
	case tooShort(is, was):
		p.Risks = append(p.Risks, says+tooShortFor)
	case is < was:
		p.Warnings = append(p.Warnings, says)
	}
}

// tooShort tells whether a term is less than a third of the one before: nodes
// are warned at a third, so a term beyond leaves no time to sign again.
func tooShort(is, was time.Duration) bool { return is < was/3 }

const tooShortFor = ": nodes would stop taking it while its holders still count on the term before"

// dropped says whose signatures do not count any more.
func (st *state) dropped(p *Pending) {
	root := st.inForce()
	if root == nil {
		return
	}
	add := func(s *stagedSet, why string) {
		if s == nil || len(s.raw) == 0 || len(s.targets) == 0 {
			return
		}
		tg, err := parseMeta[metadata.TargetsType](metadata.TARGETS, s.targets)
		if err != nil {
			return
		}
		if keys := snapshot.SignersOf(root, metadata.TARGETS, tg); len(keys) > 0 {
			p.Dropped = append(p.Dropped, Dropped{metadata.TARGETS, keys, why})
		}
	}
	switch {
	case st.staged != nil && len(st.staged.raw) > 0 && !st.wanted():
		add(st.staged, "they are for another document: the draft changed since")
	case st.late != nil && !st.latePublished():
		add(st.late, st.lateWhy)
	}
	for _, d := range p.Dropped {
		p.Risks = append(p.Risks, fmt.Sprintf("what %d of the holders of role %s signed would be dropped: %s", len(d.Keys), d.Role, d.Why))
	}
}

// latePublished tells whether what is staged is only what was published
// already, as a crash leaves it.
func (st *state) latePublished() bool {
	return st.document() != nil && string(st.late.raw) == string(st.published.acc.Raw)
}

// wanted tells whether what is staged is what the draft says.
func (st *state) wanted() bool {
	if st.staged == nil || len(st.staged.raw) == 0 || st.draft == nil || !sameContent(st.staged.doc, st.draft) || len(st.staged.extra) != len(st.extra) {
		return false
	}
	for name, b := range st.extra {
		if string(st.staged.extra[name]) != string(b) {
			return false
		}
	}
	return true
}

// dates warns before what was dated when the first holder signed runs out
// while the others are asked.
func (st *state) dates(p *Pending) {
	if st.wanted() {
		if left, term := st.staged.doc.Expires.Sub(st.now), st.staged.doc.Expires.Sub(st.staged.doc.Created); left < term/3 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("what is signed was dated %s and expires %s: sign again soon after it is published",
				st.staged.doc.Created.Format(time.RFC3339), st.staged.doc.Expires.Format(time.RFC3339)))
		}
	}
	if st.document() == nil {
		return
	}
	for _, x := range st.calendar() {
		if left := x.Expires.Sub(st.now); left < x.soon {
			p.Warnings = append(p.Warnings, x.warning(st.now))
		}
	}
}

// Term is when something that was published expires, and who renews it.
type Term struct {
	What    string    `json:"what"`
	Expires time.Time `json:"expires"`
	Renew   string    `json:"renew"`
	soon    time.Duration
}

func (t Term) warning(now time.Time) string {
	verb := "expires"
	if !now.Before(t.Expires) {
		verb = "expired"
	}
	return fmt.Sprintf("the published %s %s %s: %s", t.What, verb, t.Expires.Format(time.RFC3339), t.Renew)
}

// calendar says what of the published set expires when.
func (st *state) calendar() []Term {
	if st.document() == nil {
		return nil
	}
	acc, t := st.published.acc, st.r.config.Terms
	third := func(d snapshot.Duration) time.Duration { return d.Std() / 3 }
	dir := st.r.dir
	return []Term{
		{"root", acc.RootExpires, "root holders: rmodels snapshot rotate " + dir + " --renew, then sign --root", third(t.Root) / 4},
		{"targets", acc.TargetsExpires, "targets holders: rmodels snapshot sign " + dir, third(t.Targets)},
		{"document", acc.Document.Expires, "targets holders: rmodels snapshot sign " + dir, third(t.Document)},
		{"timestamp", acc.TimestampExpires, "online key: rmodels snapshot renew " + dir, third(t.Online)},
	}
}
