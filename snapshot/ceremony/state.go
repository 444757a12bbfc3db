package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// state is the whole folder, read once. What was published is verified from
// the first root on; what is staged or drafted counts only where it follows
// that. Everything else is named in problems and left alone.
type state struct {
	r        *Repository
	now      time.Time
	problems []string

	published    *line // nil: nothing was published
	publishedErr error // metadata/ does not verify

	waiting  *waitingRoot // nil: no root waits
	draft    *snapshot.Snapshot
	draftErr error
	extra    map[string][]byte // targets beside the draft
	staged   *stagedSet        // nil: none that follows what was published
	late     *stagedSet        // staged, but it does not follow: for telling what was dropped
	lateWhy  string
}

// waitingRoot is a staged root that follows the published one.
type waitingRoot struct {
	raw      []byte
	meta     *rootMeta
	complete bool // enough holders have signed it
}

// stagedSet is the staged document and what signs it.
type stagedSet struct {
	doc                       *snapshot.Snapshot
	raw, targets, snap, stamp []byte
	extra                     map[string][]byte // targets beside the document
	targetsMeta               *targetsMeta
	snapMeta                  *snapshotMeta
	stampMeta                 *timestampMeta
	complete                  bool // enough holders have signed the targets
	online                    bool // snapshot and timestamp are next and belong to them
}

func (st *state) problem(format string, args ...any) {
	st.problems = append(st.problems, fmt.Sprintf(format, args...))
}

// read reads the folder. It fails only where the disk does; what does not
// verify is part of the state.
func (r *Repository) read(ctx context.Context) (*state, error) {
	return r.readFrom(ctx, nil)
}

// readFrom is read where what was published is known: it was just verified,
// under the lock that still holds.
func (r *Repository) readFrom(ctx context.Context, published *line) (*state, error) {
	// Through a link in place of a folder nothing is read, and nothing removed.
	for _, dir := range []string{draftFolder, stagedFolder, metadataFolder} {
		if _, err := r.files.list(dir); err != nil {
			return nil, err
		}
	}
	st := &state{r: r, now: r.now()}
	if r.lost != "" {
		st.problem("%s", r.lost)
	}
	if st.published = published; published == nil {
		st.published, st.publishedErr = r.published(ctx)
	}
	if st.publishedErr != nil {
		st.problem("%v", st.publishedErr)
	}
	if err := st.readWaiting(); err != nil {
		return nil, err
	}
	st.readDraft()
	st.readStaged()
	return st, nil
}

// publishedVersion is that of the root published last, 0 for none.
func (st *state) publishedVersion() int64 {
	if st.published == nil {
		return 0
	}
	return st.published.root.Signed.Version
}

func (st *state) readWaiting() error {
	versions, err := st.r.stagedRoots()
	if err != nil {
		return err
	}
	if st.publishedErr != nil {
		return nil // nothing to follow
	}
	next := st.publishedVersion() + 1
	for _, v := range versions {
		name := stagedFolder + "/" + rootFile(v)
		if v != next {
			if v > next {
				st.problem("%s is left alone: root %d would be next", name, next)
			}
			continue // of an earlier round
		}
		w, err := st.waitingRoot(name, v)
		if err != nil {
			st.problem("%s is left alone: %v", name, err)
			continue
		}
		st.waiting = w
	}
	return nil
}

func (st *state) waitingRoot(name string, v int64) (*waitingRoot, error) {
	raw, err := st.r.files.read(name, snapshot.MaxMetadata(metadata.ROOT))
	if err != nil {
		return nil, err
	}
	m, err := parseMeta[metadata.RootType](metadata.ROOT, raw)
	if err != nil {
		return nil, err
	}
	if m.Signed.Version != v {
		return nil, fmt.Errorf("%w: it says that it is root %d", snapshot.ErrInvalid, m.Signed.Version)
	}
	if !st.now.Before(m.Signed.Expires) {
		return nil, fmt.Errorf("%w: it expired at %s", snapshot.ErrExpired, m.Signed.Expires.Format(time.RFC3339))
	}
	// Nodes take a root of many years for a wrong clock, and publish refuses it.
	if m.Signed.Expires.Sub(st.now) > maxTerm.Std()+clockSkew {
		return nil, fmt.Errorf("%w: it expires at %s, at most %s ahead are possible", snapshot.ErrInvalid, m.Signed.Expires.Format(time.RFC3339), maxTerm.Std())
	}
	if err := checkRoles(m); err != nil {
		return nil, err
	}
	w := &waitingRoot{raw: raw, meta: m}
	if st.published == nil {
		_, err = snapshot.NewChain(raw)
	} else {
		chain, cerr := st.published.chain()
		if cerr != nil {
			return nil, cerr
		}
		err = chain.Next(raw)
	}
	w.complete = err == nil
	return w, nil
}

// inForce is the root under which documents are signed now: one that waits
// counts when enough holders have signed it.
func (st *state) inForce() *rootMeta {
	if st.waiting != nil && (st.waiting.complete || st.published == nil) {
		return st.waiting.meta
	}
	if st.published != nil {
		return st.published.root
	}
	return nil
}

// mustRoot is inForce where nothing goes on without one.
func (st *state) mustRoot() (*rootMeta, error) {
	if st.publishedErr != nil {
		return nil, st.publishedErr
	}
	root := st.inForce()
	if root == nil {
		return nil, fmt.Errorf("%w: %s has no root", snapshot.ErrInvalid, st.r.dir)
	}
	return root, nil
}

// completeRoot is the newest root that enough holders have signed.
func (st *state) completeRoot() ([]byte, error) {
	switch {
	case st.publishedErr != nil:
		return nil, st.publishedErr
	case st.waiting != nil && st.waiting.complete:
		return st.waiting.raw, nil
	case st.published != nil:
		return st.published.roots[len(st.published.roots)-1], nil
	}
	return nil, fmt.Errorf("%w: no root has reached its threshold", ErrIncomplete)
}

// document is what was published last, nil for nothing.
func (st *state) document() *snapshot.Snapshot {
	if st.published == nil || st.published.acc == nil {
		return nil
	}
	return st.published.acc.Document
}

func (st *state) targetsVersion() int64 {
	if st.document() == nil {
		return 0
	}
	return st.published.acc.TargetsVersion
}

func (st *state) sequence() int64 {
	if st.document() == nil {
		return 0
	}
	return st.document().Sequence
}

func (st *state) readDraft() {
	b, err := st.r.files.read(draftFile, maxDraft)
	if errors.Is(err, fs.ErrNotExist) && st.document() != nil {
		st.problem("the draft is gone: it begins again from snapshot %d", st.sequence())
		st.draft = st.document()
	} else if err == nil {
		st.draft, err = parseDraft(b, st.r.config.Network)
	}
	if st.draft == nil {
		st.draftErr = fmt.Errorf("draft %s: %w", st.r.dir+"/"+draftFile, err)
		st.problem("%v", st.draftErr)
		return
	}
	if st.extra, err = st.r.extraTargets(st.draft, func(why string) { st.problem("%s", why) }); err == nil {
		err = st.limits(st.draft, st.extra)
	}
	if err != nil {
		st.draftErr = err
		st.problem("%v", err)
	}
}

func (st *state) readStaged() {
	read := func(name, role string) []byte {
		b, err := st.r.files.read(name, snapshot.MaxMetadata(role))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			st.problem("%s is left alone: %v", name, err)
		}
		return b
	}
	raw, err := st.r.files.read(stagedDocument, snapshot.MaxDocument)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			st.problem("%s is left alone: %v", stagedDocument, err)
		}
	}
	s := &stagedSet{raw: raw, targets: read(stagedTargets, metadata.TARGETS), snap: read(stagedSnapshot, metadata.SNAPSHOT), stamp: read(stagedStamp, metadata.TIMESTAMP)}
	if st.publishedErr != nil || len(s.raw) == 0 && len(s.targets) == 0 && len(s.snap) == 0 {
		return
	}
	if why := st.judgeStaged(s); why != "" {
		st.late, st.lateWhy = s, why
		return
	}
	st.staged = s
}

// judgeStaged says why what is staged does not follow what was published;
// empty when it does.
func (st *state) judgeStaged(s *stagedSet) string {
	root := st.inForce()
	if root == nil {
		return "there is no root"
	}
	var err error
	if len(s.targets) == 0 {
		if len(s.raw) > 0 {
			return "it has no targets.json"
		}
		// Snapshot and timestamp alone, over what was published.
		if st.document() == nil {
			return "nothing was published"
		}
		s.targets = st.published.files[snapshot.MetadataFile(metadata.TARGETS, st.targetsVersion())]
		s.doc = st.document()
	} else if why := st.judgeDocument(root, s); why != "" {
		return why
	}
	if s.targetsMeta, err = parseMeta[metadata.TargetsType](metadata.TARGETS, s.targets); err != nil {
		return err.Error()
	}
	s.complete = verifies(root, metadata.TARGETS, s.targetsMeta)
	st.judgeOnline(root, s)
	if len(s.raw) == 0 && !s.online {
		return "snapshot and timestamp do not follow what was published"
	}
	return ""
}

// judgeDocument takes a document that a holder has signed already, as this
// ceremony dates and lists it. Whatever else lies there is somebody's draft of
// metadata, and nobody's signature goes under it.
func (st *state) judgeDocument(root *rootMeta, s *stagedSet) string {
	tg, err := parseMeta[metadata.TargetsType](metadata.TARGETS, s.targets)
	if err != nil {
		return err.Error()
	}
	s.targetsMeta = tg
	if len(snapshot.SignersOf(root, metadata.TARGETS, tg)) == 0 {
		return "no holder has signed it"
	}
	if s.doc, err = snapshot.Parse(s.raw); err != nil {
		return err.Error()
	}
	terms := st.r.config.Terms
	switch next := st.targetsVersion() + 1; {
	case tg.Signed.Version != next:
		return fmt.Sprintf("it has version %d, %d is next: another was published meanwhile", tg.Signed.Version, next)
	case s.doc.Sequence != st.sequence()+1:
		return fmt.Sprintf("it has sequence %d, %d is next: another was published meanwhile", s.doc.Sequence, st.sequence()+1)
	case s.doc.Network != st.r.config.Network:
		return fmt.Sprintf("it is for network %.80q", s.doc.Network)
	case !st.now.Before(s.doc.Expires) || !st.now.Before(tg.Signed.Expires):
		return fmt.Sprintf("it was dated %s and has expired", s.doc.Created.Format(time.RFC3339))
	case s.doc.Created.After(st.now.Add(clockSkew)) || s.doc.Expires.Sub(s.doc.Created) != terms.Document.Std():
		return fmt.Sprintf("it is dated %s and expires %s: other than this ceremony's terms", s.doc.Created.Format(time.RFC3339), s.doc.Expires.Format(time.RFC3339))
	}
	if s.extra, err = st.r.extraTargets(s.doc, func(string) {}); err != nil {
		return err.Error()
	}
	own, err := st.targetsFor(s.raw, s.extra, s.doc.Created)
	if err != nil {
		return err.Error()
	}
	if !sameSigned(own, tg) {
		return fmt.Sprintf("its targets.json (expires %s) is not what this ceremony's terms and files make of it", tg.Signed.Expires.Format(time.RFC3339))
	}
	return ""
}

// clockSkew is how far the clocks of two holders may be apart.
const clockSkew = time.Hour

// targetsFor is the one metadata that this ceremony puts up for a document of
// a date.
func (st *state) targetsFor(raw []byte, extra map[string][]byte, created time.Time) (*targetsMeta, error) {
	tg := metadata.Targets(created.Add(st.r.config.Terms.Targets.Std()))
	tg.Signed.Version = st.targetsVersion() + 1
	files := maps.Clone(extra)
	if files == nil {
		files = map[string][]byte{}
	}
	files[snapshot.TargetName] = raw
	for name, b := range files {
		tf, err := metadata.TargetFile().FromBytes(name, b, "sha256")
		if err != nil {
			return nil, err
		}
		tg.Signed.Targets[name] = tf
	}
	return tg, nil
}

// sameSigned tells whether two texts are the same but for their signatures,
// members that nobody knows included.
func sameSigned[T metadata.Roles](a, b *metadata.Metadata[T]) bool {
	x, err := signedDigest(a)
	if err != nil {
		return false
	}
	y, err := signedDigest(b)
	return err == nil && x == y
}

// judgeOnline takes snapshot and timestamp where they are next and belong to
// the targets.
func (st *state) judgeOnline(root *rootMeta, s *stagedSet) {
	snap, err1 := parseMeta[metadata.SnapshotType](metadata.SNAPSHOT, s.snap)
	stamp, err2 := parseMeta[metadata.TimestampType](metadata.TIMESTAMP, s.stamp)
	if err1 != nil || err2 != nil || !verifies(root, metadata.SNAPSHOT, snap) || !verifies(root, metadata.TIMESTAMP, stamp) {
		return
	}
	wantSnap, wantStamp := st.nextOnline()
	pins := func(m *metadata.MetaFiles, v int64, b []byte) bool {
		return m != nil && m.Version == v && m.Length == int64(len(b)) && m.Hashes["sha256"].String() == digest.FromBytes(b).Encoded()
	}
	if snap.Signed.Version < wantSnap || stamp.Signed.Version < wantStamp ||
		!pins(snap.Signed.Meta["targets.json"], s.targetsMeta.Signed.Version, s.targets) ||
		!pins(stamp.Signed.Meta["snapshot.json"], snap.Signed.Version, s.snap) {
		return
	}
	s.snapMeta, s.stampMeta, s.online = snap, stamp, true
}

// nextOnline are the next versions of snapshot and timestamp.
func (st *state) nextOnline() (snap, stamp int64) {
	if st.document() == nil {
		return 1, 1
	}
	return st.published.acc.SnapshotVersion + 1, st.published.acc.TimestampVersion + 1
}

func verifies(root *rootMeta, role string, m any) bool {
	r := root.Signed.Roles[role]
	return r != nil && len(distinct(root, snapshot.SignersOf(root, role, m))) >= r.Threshold
}

// distinct are the keys behind some key IDs, each once in whatever spelling.
func distinct(root *rootMeta, ids []string) []digest.Digest {
	var all []digest.Digest
	for _, id := range ids {
		if d := snapshot.KeyDigest(root.Signed.Keys[id]); !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	return all
}
