package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// Site is a place that nodes take snapshots from.
type Site interface {
	snapshot.Source
	// Lock keeps other publishers out where the place can do that.
	Lock(ctx context.Context) (unlock func(), err error)
	// Put writes the files of a set. Readers see the old set or the new one.
	Put(ctx context.Context, files map[string][]byte) error
	String() string
}

// DirSite is a directory that nodes pull from, over HTTPS or as it is.
func DirSite(dir string) Site { return dirSite{folderSource{dirFolder(dir), "."}, dir} }

type dirSite struct {
	folderSource
	dir string
}

func (s dirSite) String() string { return s.dir }

func (s dirSite) Lock(ctx context.Context) (func(), error) {
	if err := durable.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	return s.f.lock(ctx)
}

func (s dirSite) Put(_ context.Context, files map[string][]byte) error {
	return putAll(s.f, ".", files)
}

// putAll writes a set into a folder that may be read meanwhile. The timestamp,
// which names everything else, comes last; roots just before it, since a new
// root may end what the old timestamp names. What is there already stays.
func putAll(f folder, dir string, files map[string][]byte) error {
	rank := func(name string) int {
		switch {
		case name == snapshot.TimestampFile:
			return 2
		case strings.HasSuffix(name, ".root.json"):
			return 1
		}
		return 0
	}
	names := slices.SortedFunc(maps.Keys(files), func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		if d := len(a) - len(b); d != 0 && rank(a) == 1 { // 9.root.json before 10.root.json
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if old, err := f.read(path.Join(dir, name), int64(len(files[name]))); err == nil && string(old) == string(files[name]) {
			continue
		}
		if err := f.write(path.Join(dir, name), files[name]); err != nil {
			return fmt.Errorf("publish %s: %w", name, err)
		}
	}
	return nil
}

// BundleSite is a push file.
func BundleSite(file string) Site { return bundleSite(file) }

type bundleSite string

func (s bundleSite) String() string { return string(s) }

func (s bundleSite) Lock(context.Context) (func(), error) { return func() {}, nil }

func (s bundleSite) Put(_ context.Context, files map[string][]byte) error {
	b, err := snapshot.EncodeBundle(files)
	if err != nil {
		return err
	}
	return durable.WriteFile(string(s), b, 0o644)
}

func (s bundleSite) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	b, err := snapshot.ReadBundle(string(s))
	if err != nil {
		return nil, err
	}
	files, err := snapshot.ParseBundle(b)
	if err != nil {
		return nil, err
	}
	return files.Fetch(ctx, name, max)
}

// PublishOptions say what may be lost at a site.
type PublishOptions struct {
	// Unrevoke lets a revocation disappear that the site has.
	Unrevoke bool
	// Replace overwrites what is there though it does not verify, or though
	// nodes that have it will refuse this: after a theft or a damage.
	Replace bool
	// NewSite publishes where nothing was published before. The network's first
	// set needs no word for that, and neither does a push file.
	NewSite bool
	// Warn is told what a renewal did otherwise than the folder says; nil: nobody.
	Warn func(string)
}

// Publish makes what is staged final and writes the newest set to the sites,
// none meaning that it is only made final. What is staged must be complete;
// [ErrIncomplete] otherwise. Each site is read first: nothing is taken back.
func (r *Repository) Publish(ctx context.Context, o PublishOptions, sites ...Site) error {
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		next, err := st.nextLine(ctx)
		if err != nil {
			return err
		}
		return r.release(ctx, st, next, o, sites)
	})
}

// release takes a set that was verified to metadata/ and to the sites.
func (r *Repository) release(ctx context.Context, st *state, next *line, o PublishOptions, sites []Site) error {
	for _, s := range sites {
		if _, file := s.(bundleSite); !file && st.document() != nil && !o.NewSite && nothingAt(ctx, s) {
			return fmt.Errorf("%w: %s: is it misspelt, or not mounted? If it is new say --new-site", ErrNoSite, s)
		}
	}
	for _, s := range sites {
		unlock, err := s.Lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if err := r.compare(ctx, next, s, o); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	if err := r.finalize(ctx, st, next); err != nil {
		return err
	}
	for _, s := range sites {
		if err := s.Put(ctx, next.all()); err != nil {
			return err
		}
	}
	return nil
}

// nothingAt tells whether a place has nothing of a network, not even damaged.
func nothingAt(ctx context.Context, s Site) bool {
	for name, role := range map[string]string{snapshot.TimestampFile: metadata.TIMESTAMP, rootFile(1): metadata.ROOT} {
		if _, err := s.Fetch(ctx, name, snapshot.MaxMetadata(role)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// compare holds what would be published against what a site has.
func (r *Repository) compare(ctx context.Context, next *line, s Site, o PublishOptions) error {
	theirs, err := r.readLine(ctx, s, r.config.Network)
	if err != nil {
		if o.Replace || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("what is there does not verify: %w; if it is to be overwritten say --replace", err)
	}
	err = follows(ctx, next, theirs, folderSource{r.files, metadataFolder}, r.config.Network)
	switch {
	case errors.Is(err, ErrForeign):
		return err
	case err != nil && o.Replace:
	case err != nil:
		return fmt.Errorf("%w; bring this ceremony up to date with: rmodels snapshot update %s --from %s", err, r.dir, s)
	}
	if theirs == nil || theirs.acc == nil || o.Unrevoke {
		return nil
	}
	if lost := unrevoked(theirs.acc.Document, next.acc.Document); len(lost) > 0 {
		return fmt.Errorf("%w: %s, published in snapshot %d; if it is to be taken back say --unrevoke", ErrUnrevoked, revoked(lost[0]), theirs.acc.Document.Sequence)
	}
	return nil
}

// nextLine is what would be published: what was, with all that is complete of
// what is staged on top. It went through a node's own steps: those of a new
// node, and those of one that has what was published before.
func (st *state) nextLine(ctx context.Context) (*line, error) {
	if _, err := st.mustRoot(); err != nil {
		return nil, err
	}
	if err := st.lacking(); err != nil {
		return nil, err
	}
	if st.unsigned() {
		return nil, fmt.Errorf("%w: sign it first with: rmodels snapshot sign %s", ErrUnsigned, st.r.dir)
	}
	files := map[string][]byte{}
	if st.published != nil {
		files = st.published.all()
	}
	if st.waiting != nil && st.waiting.complete {
		files[rootFile(st.waiting.meta.Signed.Version)] = st.waiting.raw
	}
	if s := st.staged; s != nil {
		if len(s.raw) > 0 {
			files[snapshot.MetadataFile(metadata.TARGETS, s.targetsMeta.Signed.Version)] = s.targets
			own := maps.Clone(s.extra)
			own[snapshot.TargetName] = s.raw
			for name, b := range own {
				files[snapshot.TargetFile(name, s.targetsMeta.Signed.Targets[name].Hashes["sha256"].String())] = b
			}
		}
		files[snapshot.MetadataFile(metadata.SNAPSHOT, s.snapMeta.Signed.Version)] = s.snap
		files[snapshot.TimestampFile] = s.stamp
	}
	return st.rehearse(ctx, files)
}

// lacking says which signatures are missing, the root that waits left out
// where there is one to go on with.
func (st *state) lacking() error {
	s, err := st.status(nil)
	if err != nil {
		return err
	}
	var lacking []string
	for i, role := range s.Roles {
		if !role.Complete && (i > 0 || st.published == nil) {
			lacking = append(lacking, fmt.Sprintf("%s has %d of %d", role.Role, len(role.Signed), role.Threshold))
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("%w: %s; sign with the missing keys first", ErrIncomplete, strings.Join(lacking, ", "))
	}
	return nil
}

// rehearse takes files through a node's own steps.
func (st *state) rehearse(ctx context.Context, files map[string][]byte) (*line, error) {
	src := snapshot.Files(files)
	next, chain, err := readRoots(ctx, src)
	if err == nil && next == nil {
		err = fmt.Errorf("%w: %s is missing", snapshot.ErrInvalid, rootFile(1))
	}
	if err != nil {
		return nil, fmt.Errorf("a node would refuse this: %w", err)
	}
	for _, seen := range []snapshot.Seen{st.published.seen(), {}} {
		if chain == nil {
			if chain, err = next.chain(); err != nil {
				return nil, err
			}
		}
		if next.acc, next.files, err = chain.Accept(ctx, src, st.r.config.Network, st.now, seen); err != nil {
			return nil, fmt.Errorf("a node would refuse this: %w", err)
		}
		chain = nil // it accepts once
	}
	return next, nil
}

// finalize makes a set what was published last. The timestamp, which comes
// last, is what makes it so; a crash before it leaves the folder as it was,
// one after it leaves staged files that are known to be published.
func (r *Repository) finalize(ctx context.Context, st *state, next *line) error {
	if err := putAll(r.files, metadataFolder, next.all()); err != nil {
		return err
	}
	var err error
	if st.published, err = r.published(ctx); err != nil {
		return err
	}
	// The draft goes on from what is now published.
	if st.draft != nil && st.draft.Sequence != st.sequence() && sameContent(st.draft, st.document()) {
		if err := r.storeDraft(st.document()); err != nil {
			return err
		}
	}
	if err := r.keepRoot(&state{r: r, published: st.published}); err != nil {
		return err
	}
	if err := r.dropRoots(st.publishedVersion()); err != nil {
		return err
	}
	again, err := r.readFrom(ctx, st.published)
	if err != nil {
		return err
	}
	if again.staged == nil || len(again.staged.raw) == 0 {
		return r.dropStaged()
	}
	return r.dropOnline()
}

// Files are the newest set under its published names, made final first.
func (r *Repository) Files() (files map[string][]byte, err error) {
	ctx := context.Background()
	if err := r.Publish(ctx, PublishOptions{}); err != nil {
		return nil, err
	}
	l, err := r.published(ctx)
	if err != nil {
		return nil, err
	}
	return l.all(), nil
}

// BundleFile is the newest set as one push file, made final first.
func (r *Repository) BundleFile() ([]byte, error) {
	files, err := r.Files()
	if err != nil {
		return nil, err
	}
	return snapshot.EncodeBundle(files)
}

// Renew signs a new snapshot and timestamp over what was published last and
// publishes them at once, whatever waits for signatures meanwhile: it is what
// cron runs on the machine of the online key. A site that is ahead, because
// others published there, is taken over first.
func (r *Repository) Renew(ctx context.Context, keys []*Key, o PublishOptions, sites ...Site) error {
	for _, s := range sites {
		if err := r.Update(ctx, s, UpdateOptions{}); err != nil && !errors.Is(err, fs.ErrNotExist) && !o.Replace {
			return err
		}
	}
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		if st.publishedErr != nil {
			return st.publishedErr
		}
		if st.document() == nil {
			return fmt.Errorf("%w: nothing was published yet", ErrIncomplete)
		}
		for _, k := range keys {
			if err := k.memory.check(st, k.file); err != nil {
				return err
			}
		}
		acc, root := st.published.acc, st.published.root
		if !st.holds(keys, root, metadata.SNAPSHOT) || !st.holds(keys, root, metadata.TIMESTAMP) {
			return fmt.Errorf("%w: the online key is needed", snapshot.ErrKey)
		}
		if st.unmet(keys) {
			return fmt.Errorf("%w: this key has not signed for this network yet: look at it once with: rmodels snapshot sign %s", ErrUnconfirmed, r.dir)
		}
		targets := st.published.files[snapshot.MetadataFile(metadata.TARGETS, acc.TargetsVersion)]
		if err := st.renewed(keys, targets); err != nil {
			return err
		}
		term, why := st.onlineTerm(keys)
		if why != "" && o.Warn != nil {
			o.Warn(fmt.Sprintf("%s: the timestamp is for %s; if that is meant, confirm it once with: rmodels snapshot sign %s", why, term.Std(), r.dir))
		}
		on, err := st.makeOnline(root, acc.TargetsVersion, targets, term, keys)
		if err != nil {
			return err
		}
		files := st.published.all()
		files[snapshot.MetadataFile(metadata.SNAPSHOT, on.version)], files[snapshot.TimestampFile] = on.snapshot, on.timestamp
		next, err := st.rehearse(ctx, files)
		if err != nil {
			return err
		}
		if err := r.release(ctx, st, next, o, sites); err != nil {
			return err
		}
		st.remember(keys, 0)
		return nil
	})
}

// UpdateOptions say what is believed of a site.
type UpdateOptions struct {
	// Pinned is a copy of any of the network's roots that was kept elsewhere.
	Pinned []byte
	// Replace gives up what this ceremony has published, where the site has
	// another text under the same numbers.
	Replace bool
}

// Update takes over what a site has published: after a restore from a backup,
// on a second machine, where files were lost. It never goes back. What waits
// here for the same numbers is signed again.
//
// The site is held against the first root here. Where that is lost or in doubt
// the pinned one says which network is meant; without it the site's is taken,
// and each holder's key still refuses another than it has signed under.
func (r *Repository) Update(ctx context.Context, from snapshot.Source, o UpdateOptions) error {
	pinned := o.Pinned
	return r.locked(ctx, func() error {
		theirs, err := r.readLine(ctx, from, r.config.Network)
		if errors.Is(err, snapshot.ErrNetwork) && len(pinned) > 0 {
			// A root that was kept elsewhere says more than the folder does.
			// But a folder that holds a whole network of another name is not in
			// doubt: it is that one's.
			if ours, oerr := r.published(ctx); oerr == nil && ours != nil && ours.acc != nil && !o.Replace {
				return fmt.Errorf("%w: this folder is of network %q: %w; if it is to become the other's, give --replace", ErrForeign, r.config.Network, err)
			}
			if name := networkAt(ctx, from); name != "" {
				r.config.Network, r.lost = name, "the network's name was another"
				theirs, err = r.readLine(ctx, from, name)
			}
		}
		if err != nil {
			return err
		}
		if theirs == nil || theirs.acc == nil {
			return fmt.Errorf("nothing was published there: %w", fs.ErrNotExist)
		}
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		lost := st.publishedErr != nil || o.Replace
		if len(pinned) > 0 {
			if err := theirs.has(pinned); err != nil {
				return err
			}
			lost = lost || st.published != nil && st.published.has(pinned) != nil
		}
		switch history := (folderSource{r.files, metadataFolder}); {
		case lost:
			if o.Replace && st.published != nil && len(pinned) == 0 {
				if same, err := sameRoot(st.published.roots[0], theirs.roots[0]); err != nil || !same {
					return errors.Join(fmt.Errorf("%w: there is %s, here is %s", ErrForeign, theirs.first(), st.published.first()), err)
				}
			}
			if err := r.clearPublished(theirs); err != nil {
				return err
			}
		case st.published == nil && st.waiting != nil && len(pinned) == 0:
			ours, err := signedDigest(st.waiting.meta)
			if err != nil {
				return err
			}
			if first := theirs.first(); first != ours {
				return fmt.Errorf("%w: there is %s, here is %s", ErrForeign, first, ours)
			}
		case st.published != nil:
			if err := follows(ctx, theirs, st.published, history, r.config.Network); err != nil && (!errors.Is(err, errRenewed) || !theirs.renews(st.published)) {
				// More was published here than there is fine, another line is not.
				return follows(ctx, st.published, theirs, history, r.config.Network)
			}
		}
		if err := r.finalize(ctx, st, theirs); err != nil {
			return err
		}
		if r.lost != "" {
			if err := writeJSON(r.files, repositoryFile, r.config); err != nil {
				return err
			}
			r.lost = ""
		}
		return nil
	})
}

// has tells whether a root is one of the line's.
func (l *line) has(root []byte) error {
	for _, raw := range l.roots {
		if same, err := sameRoot(raw, root); err != nil || same {
			return err
		}
	}
	return fmt.Errorf("%w: the root that was kept is none of its roots", ErrForeign)
}

// clearPublished takes away what does not verify, so that nothing of it stands
// beside what comes in its place: roots beyond, and the timestamp first.
func (r *Repository) clearPublished(theirs *line) error {
	if err := r.files.remove(path.Join(metadataFolder, snapshot.TimestampFile)); err != nil {
		return err
	}
	versions, err := versionsIn(r.files, metadataFolder, metadata.ROOT)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v > int64(len(theirs.roots)) {
			if err := r.files.remove(path.Join(metadataFolder, rootFile(v))); err != nil {
				return err
			}
		}
	}
	return nil
}
