package ceremony

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// SignOptions say who signs what.
type SignOptions struct {
	Keys []*Key
	// Root lets root keys sign the root that waits. Without it they sign
	// nothing: a root hands the network over.
	Root bool
	// Confirm is shown all that would be signed before anything is; an error
	// ends the signing. It is called for every signature of root and targets.
	Confirm func(*Pending) error
	// Confirmed is the digest of what was confirmed elsewhere, as status shows
	// it. A root or a document is signed with this or Confirm alone, and the
	// online key signs what has risks, or under a first root, with them alone.
	Confirmed digest.Digest
}

// Sign signs what is due with the keys that are given. It may be called on one
// machine with some keys and on another with others: signatures are added
// until each role's threshold is reached. The draft is staged under the next
// sequence, and dated, when it differs from what is staged and a targets key
// is at hand, also when nothing differs and nothing is staged (the terms begin
// anew). With the online key alone it renews snapshot and timestamp.
func (r *Repository) Sign(o SignOptions) (s *Status, err error) {
	ctx := context.Background()
	err = r.locked(ctx, func() error {
		s, err = r.sign(ctx, o)
		return err
	})
	return s, err
}

// signing is one run of Sign.
type signing struct {
	*state
	o       SignOptions
	pending *Pending
	shown   digest.Digest // of the draft that was confirmed
	signed  []string
	agreed  snapshot.Duration // the term that the online key was confirmed for, 0: it was not
}

func (r *Repository) sign(ctx context.Context, o SignOptions) (*Status, error) {
	st, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := st.mustRoot(); err != nil {
		return nil, err
	}
	p, err := st.pendingFor(&o)
	if err != nil {
		return nil, err
	}
	s := &signing{state: st, o: o, pending: p}
	if s.shown, err = st.drafted(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{s.root, s.targets, s.online} {
		before := len(s.signed)
		if err := step(); err != nil {
			return nil, err
		}
		if len(s.signed) == before {
			continue
		}
		// What a step wrote is read and verified like everything else.
		if s.state, err = r.readFrom(ctx, st.published); err != nil {
			return nil, err
		}
	}
	if len(s.signed) == 0 {
		p.Warnings = append(p.Warnings, "these keys signed nothing: what they may sign has their signatures, or their role has ended")
	}
	p.Warnings = append(p.Warnings, s.remember(o.Keys, s.agreed)...)
	// A first root is kept for nodes when a holder has just signed it: nothing
	// else says that it is this network's.
	if s.published != nil || slices.Contains(s.signed, metadata.ROOT) {
		if err := r.keepRoot(s.state); err != nil {
			return nil, err
		}
	}
	res, err := s.status(p)
	if err != nil {
		return nil, err
	}
	res.Restarted, res.Signed = len(p.Dropped) > 0 && slices.Contains(s.signed, metadata.TARGETS), s.signed
	return res, nil
}

// pendingFor is what the keys would sign, after all that could refuse it.
func (st *state) pendingFor(o *SignOptions) (*Pending, error) {
	for _, k := range o.Keys {
		if err := k.memory.check(st, k.file); err != nil {
			return nil, err
		}
	}
	root := st.inForce()
	targets := st.holds(o.Keys, root, metadata.TARGETS)
	if targets && st.draftErr != nil {
		return nil, st.draftErr
	}
	if targets && st.draft != nil { // the online key alone renews what was signed before a rule came
		if err := st.draft.CheckRunnable(); err != nil {
			return nil, err
		}
	}
	for _, k := range o.Keys {
		if !k.found && !st.inAnyRole(k) {
			return nil, fmt.Errorf("%w: %s is a key of no role of root %d", snapshot.ErrKey, k.file, root.Signed.Version)
		}
	}
	p, err := st.pending()
	if err != nil {
		return nil, err
	}
	signsRoot := o.Root && st.waiting != nil && slices.ContainsFunc(o.Keys, func(k *Key) bool { return slices.Contains(st.rootSigners(), k.id) })
	if o.Root && st.waiting == nil && !targets && !st.holds(o.Keys, root, metadata.TIMESTAMP) {
		return nil, fmt.Errorf("%w: no root waits for signatures; stage one with: rmodels snapshot rotate %s", ErrIncomplete, st.r.dir)
	}
	if !o.Root && st.waiting != nil && !st.waiting.complete {
		p.Warnings = append(p.Warnings, fmt.Sprintf("root %d waits; root keys sign it only with: rmodels snapshot sign %s --root", st.waiting.meta.Signed.Version, st.r.dir))
	}
	if signsRoot {
		p.Signs = append(p.Signs, metadata.ROOT)
	}
	if targets {
		p.Signs = append(p.Signs, metadata.TARGETS)
	}
	// What the online key signs is known once the targets are complete: Signed
	// of the status says it.
	online := st.holds(o.Keys, root, metadata.SNAPSHOT) && st.holds(o.Keys, root, metadata.TIMESTAMP)
	if online {
		if _, why := st.onlineTerm(o.Keys); why != "" {
			p.Risks = append(p.Risks, why)
		} else if term, was := p.Terms.Online, st.confirmedOnline(o.Keys); term < was {
			p.Warnings = append(p.Warnings, fmt.Sprintf("snapshot and timestamp would be valid for %s, this key has signed for %s", term.Std(), was.Std()))
		}
	}
	if err := st.repeats(o.Keys, p, signsRoot, targets, online); err != nil {
		return nil, err
	}
	unmet := online && st.unmet(o.Keys)
	// What a root that waits has is its holders' to judge: it stops no withdrawal.
	needs := signsRoot || targets || online && len(p.Risks) > len(st.rootRisks()) || unmet
	look := "it has to be looked at first"
	if unmet {
		look = "nothing says yet that the first root is the network's: compare the digest with what its holders have signed"
	}
	switch {
	case o.Confirmed != "" && o.Confirmed != p.Digest:
		return p, &UnconfirmedError{p, fmt.Sprintf("what was confirmed is %s, what would be signed is %s", o.Confirmed, p.Digest)}
	case o.Confirmed != "":
	case o.Confirm != nil && needs:
		if err := o.Confirm(p); err != nil {
			return nil, err
		}
	case needs:
		return p, &UnconfirmedError{p, look}
	}
	return p, nil
}

// unmet tells whether the online key cannot know the network yet: its first
// root was never published, or this key has not signed under it before. A
// folder that a stranger founded for this key looks the same.
func (st *state) unmet(keys []*Key) bool {
	return st.published == nil || slices.ContainsFunc(keys, func(k *Key) bool {
		return k.memory.First == "" && st.holds([]*Key{k}, st.inForce(), metadata.TIMESTAMP)
	})
}

// UnconfirmedError carries what would have been signed.
type UnconfirmedError struct {
	Pending *Pending
	why     string
}

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("%v: %s; after a look, sign with --yes %s", ErrUnconfirmed, e.why, e.Pending.Digest)
}

func (e *UnconfirmedError) Unwrap() error { return ErrUnconfirmed }

// holds tells whether one of keys has a role.
func (st *state) holds(keys []*Key, root *rootMeta, role string) bool {
	return slices.ContainsFunc(keys, func(k *Key) bool { return slices.Contains(root.Signed.Roles[role].KeyIDs, k.id) })
}

func (st *state) inAnyRole(k *Key) bool {
	for _, root := range st.rootAuthorities() {
		for _, role := range root.Signed.Roles {
			if slices.Contains(role.KeyIDs, k.id) {
				return true
			}
		}
	}
	return false
}

// root signs the root that waits.
func (s *signing) root() error {
	if !s.o.Root || s.waiting == nil {
		return nil
	}
	m := s.waiting.meta
	now, err := markOf(m.Signed.Version, m)
	if err != nil {
		return err
	}
	if err := note(s.o.Keys, s.rootSigners(), func(x *memory) { x.SignedRoot = now }); err != nil {
		return err
	}
	changed, err := addSignatures(m, s.o.Keys, s.rootSigners(), s.rootSigned(m))
	if err != nil || !changed {
		return err
	}
	s.signed = append(s.signed, metadata.ROOT)
	return writeMeta(s.r.files, stagedFolder+"/"+rootFile(m.Signed.Version), m)
}

// targets stages the draft when there is reason to, and signs it.
func (s *signing) targets() error {
	root := s.inForce()
	if !s.holds(s.o.Keys, root, metadata.TARGETS) || s.draft == nil || s.draftErr != nil {
		return nil
	}
	// The folder was read again since: whoever can write to it does not wait
	// for a lock.
	if now, err := s.drafted(); err != nil || now != s.shown {
		return errors.Join(fmt.Errorf("%w: the draft changed while it was signed", ErrUnconfirmed), err)
	}
	var raw []byte
	var tg *targetsMeta
	if s.wanted() {
		tg = s.staged.targetsMeta
	} else {
		var err error
		if raw, tg, err = s.newTargets(); err != nil {
			return err
		}
	}
	now, err := markOf(tg.Signed.Version, tg)
	if err != nil {
		return err
	}
	if err := note(s.o.Keys, root.Signed.Roles[metadata.TARGETS].KeyIDs, func(x *memory) { x.SignedTargets = now }); err != nil {
		return err
	}
	changed, err := addSignatures(tg, s.o.Keys, root.Signed.Roles[metadata.TARGETS].KeyIDs, snapshot.SignersOf(root, metadata.TARGETS, tg))
	if err != nil || !changed {
		return err
	}
	s.signed = append(s.signed, metadata.TARGETS)
	// Snapshot pins the targets file by hash, which changes now.
	if err := s.r.dropOnline(); err != nil {
		return err
	}
	if raw != nil {
		// A crash after this leaves a document that its targets.json does not
		// list: it counts for nothing and is staged again.
		if err := s.r.files.write(stagedDocument, raw); err != nil {
			return err
		}
	}
	return writeMeta(s.r.files, stagedTargets, tg)
}

// newTargets dates the draft and puts it up for signature.
func (s *state) newTargets() ([]byte, *targetsMeta, error) {
	doc, err := clone(s.draft)
	if err != nil {
		return nil, nil, err
	}
	doc.Sequence, doc.Created, doc.Expires = s.sequence()+1, s.now, s.now.Add(s.r.config.Terms.Document.Std())
	if err := doc.Check(); err != nil {
		return nil, nil, err
	}
	raw, err := signedForm(doc)
	if err != nil {
		return nil, nil, err
	}
	tg, err := s.targetsFor(raw, s.extra, s.now)
	return raw, tg, err
}

// online writes snapshot and timestamp over complete targets, staged or
// published.
func (s *signing) online() error {
	root := s.inForce()
	if !s.holds(s.o.Keys, root, metadata.SNAPSHOT) || !s.holds(s.o.Keys, root, metadata.TIMESTAMP) {
		return nil
	}
	set := s.staged
	if set == nil {
		if s.document() == nil {
			return nil
		}
		var err error
		if set, err = s.publishedSet(); err != nil {
			return err
		}
	}
	if !verifies(root, metadata.TARGETS, set.targetsMeta) {
		return nil
	}
	on, err := s.makeOnline(root, set.targetsMeta.Signed.Version, set.targets, s.r.config.Terms.Online, s.o.Keys)
	if err != nil {
		return err
	}
	s.signed = append(s.signed, metadata.SNAPSHOT, metadata.TIMESTAMP)
	// What nobody confirmed does not become the measure of the next term: by
	// small steps it would go down to nothing.
	if _, why := s.onlineTerm(s.o.Keys); why != "" || s.o.Confirmed != "" {
		s.agreed = s.r.config.Terms.Online
	}
	if err := s.r.files.write(stagedSnapshot, on.snapshot); err != nil {
		return err
	}
	return s.r.files.write(stagedStamp, on.timestamp)
}

// online is a snapshot and the timestamp that names it.
type online struct {
	version             int64
	snapshot, timestamp []byte
}

// onlineTerm is for how long the online key signs without being asked: the
// ceremony's term, but neither longer than that which this key was confirmed
// for before, or the default, nor less than a third of it. The folder travels
// and may say anything; why names what it says beyond.
func (st *state) onlineTerm(keys []*Key) (term snapshot.Duration, why string) {
	term, limit := st.r.config.Terms.Online, st.confirmedOnline(keys)
	says := fmt.Sprintf("snapshot and timestamp would be valid for %s, this key has signed for %s", term.Std(), limit.Std())
	switch {
	case term > limit:
		return limit, says + ": nodes that are cut off would go on for longer"
	case tooShort(term.Std(), limit.Std()):
		return limit, says + tooShortFor
	}
	return term, ""
}

// confirmedOnline is the term that the online key was confirmed for.
func (st *state) confirmedOnline(keys []*Key) snapshot.Duration {
	limit := defaultOnline
	for _, k := range keys {
		if k.memory.Online > 0 && slices.Contains(st.inForce().Signed.Roles[metadata.TIMESTAMP].KeyIDs, k.id) {
			limit = k.memory.Online
		}
	}
	return limit
}

// makeOnline signs the next snapshot and timestamp over a targets file.
func (st *state) makeOnline(root *rootMeta, targetsVersion int64, targets []byte, term snapshot.Duration, keys []*Key) (online, error) {
	expires := st.now.Add(term.Std())
	var on online
	var stamp int64
	on.version, stamp = st.nextOnline()
	// No number is used twice, also where the folder has forgotten it.
	ids := root.Signed.Roles[metadata.TIMESTAMP].KeyIDs
	for _, k := range keys {
		if slices.Contains(ids, k.id) {
			on.version, stamp = max(on.version, k.memory.SignedSnapshot+1), max(stamp, k.memory.SignedTimestamp+1)
		}
	}
	tg, err := parseMeta[metadata.TargetsType](metadata.TARGETS, targets)
	if err != nil {
		return online{}, err
	}
	over, err := markOf(targetsVersion, tg)
	if err != nil {
		return online{}, err
	}
	if err := note(keys, ids, func(m *memory) { m.SignedOver, m.SignedSnapshot, m.SignedTimestamp = over, on.version, stamp }); err != nil {
		return online{}, err
	}
	snap := metadata.Snapshot(expires)
	snap.Signed.Version = on.version
	snap.Signed.Meta["targets.json"] = pinnedMeta(targetsVersion, targets)
	if _, err = addSignatures(snap, keys, root.Signed.Roles[metadata.SNAPSHOT].KeyIDs, nil); err != nil {
		return online{}, err
	}
	if on.snapshot, err = snap.ToBytes(true); err != nil {
		return online{}, err
	}
	ts := metadata.Timestamp(expires)
	ts.Signed.Version = stamp
	ts.Signed.Meta["snapshot.json"] = pinnedMeta(on.version, on.snapshot)
	if _, err = addSignatures(ts, keys, root.Signed.Roles[metadata.TIMESTAMP].KeyIDs, nil); err != nil {
		return online{}, err
	}
	on.timestamp, err = ts.ToBytes(true)
	return on, err
}

// pinnedMeta names a metadata file by version, length and hash: with the hash
// no mix of old and new files fits together.
func pinnedMeta(version int64, b []byte) *metadata.MetaFiles {
	m := metadata.MetaFile(version)
	sum := sha256.Sum256(b)
	m.Length, m.Hashes = int64(len(b)), metadata.Hashes{"sha256": sum[:]}
	return m
}
