package ceremony

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// RoleOnline names snapshot and timestamp together: one key signs both.
const RoleOnline = "online"

var roleNames = []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}

// InitOptions says what a new ceremony looks like. Zero values take the
// documented defaults.
type InitOptions struct {
	Network          string
	RootKeys         int // keys to make; default 3, none when RootPublicKeys is set
	RootThreshold    int // default 2, or 1 for a single key
	TargetsKeys      int // keys to make; default 3, none when TargetsPublicKeys is set
	TargetsThreshold int // default 2, or 1 for a single key
	// RootPublicKeys and TargetsPublicKeys are the public halves (PEM) of keys
	// that their holders made on machines of their own and keep there.
	RootPublicKeys, TargetsPublicKeys []string
	// OnlinePublicKey is the public half of the key for snapshot and timestamp;
	// empty: one is made.
	OnlinePublicKey string
	// Holders are directories, one for each holder, such as their memory
	// sticks: the first root key and the first targets key go to the first, and
	// so on. None: all keys are made in keys/.
	Holders []string
	// Passphrase is asked for the passphrase of each key that is made; nil: they
	// stay in the clear.
	Passphrase Passphrase
	Terms      Terms
	Now        func() time.Time // default time.Now
}

// Init lays out dir, makes the keys that it was not given, and writes the
// first root and an empty draft. The root is signed as far as the keys made
// here go; [Repository.Sign] adds the rest.
func Init(dir string, o InitOptions) (*Repository, error) {
	if err := snapshot.CheckName(o.Network); err != nil {
		return nil, fmt.Errorf("%w: network name %w", snapshot.ErrInvalid, err)
	}
	for role, n := range map[string]int{
		metadata.ROOT: max(o.RootKeys, len(o.RootPublicKeys)), metadata.TARGETS: max(o.TargetsKeys, len(o.TargetsPublicKeys)),
	} {
		if n > snapshot.MaxKeys {
			return nil, fmt.Errorf("%w: %d keys of role %s, a root holds %d in all", snapshot.ErrInvalid, n, role, snapshot.MaxKeys)
		}
	}
	f := dirFolder(dir)
	if names, err := f.list("."); err == nil && len(names) > 0 {
		return nil, fmt.Errorf("%s is not empty: a ceremony is made in a new directory", dir)
	}
	o.Terms.fill()
	r := &Repository{Now: o.Now, dir: dir, files: f, config: repositoryConfig{o.Network, o.Terms}, readLine: readLine}
	if err := durable.MkdirAll(filepath.Join(dir, keysFolder), 0o700); err != nil {
		return nil, err
	}
	m := &maker{r: r, o: o}
	root, err := m.root()
	if err != nil {
		return nil, err
	}
	if _, err := addSignatures(root, m.keys, root.Signed.Roles[metadata.ROOT].KeyIDs, nil); err != nil {
		return nil, err
	}
	if err := writeMeta(r.files, stagedFolder+"/"+rootFile(1), root); err != nil {
		return nil, err
	}
	if err := r.storeDraft(r.emptyDraft(r.now())); err != nil {
		return nil, err
	}
	if err := writeJSON(r.files, repositoryFile, r.config); err != nil {
		return nil, err
	}
	st, err := r.read(context.Background())
	if err != nil {
		return nil, err
	}
	return r, r.keepRoot(st)
}

// maker makes keys and the first root of them.
type maker struct {
	r    *Repository
	o    InitOptions
	keys []*Key
}

func (m *maker) root() (*rootMeta, error) {
	root := metadata.Root(m.r.now().Add(m.o.Terms.Root.Std()))
	for _, role := range []struct {
		name      string
		public    []string
		make      int
		threshold int
	}{
		{metadata.ROOT, m.o.RootPublicKeys, m.o.RootKeys, m.o.RootThreshold},
		{metadata.TARGETS, m.o.TargetsPublicKeys, m.o.TargetsKeys, m.o.TargetsThreshold},
	} {
		keys, err := m.roleKeys(role.name, role.public, role.make)
		if err != nil {
			return nil, fmt.Errorf("%s key: %w", role.name, err)
		}
		for _, k := range keys {
			if err := root.Signed.AddKey(k, role.name); err != nil {
				return nil, err
			}
		}
		root.Signed.Roles[role.name].Threshold = role.threshold
		if role.threshold == 0 {
			root.Signed.Roles[role.name].Threshold = min(2, len(keys))
		}
	}
	var k *metadata.Key
	var err error
	if m.o.OnlinePublicKey == "" {
		k, err = m.key(filepath.Join(m.r.dir, keysFolder, "online.pem"), nil) // what cron runs can ask nobody
	} else {
		k, err = publicKey(m.o.OnlinePublicKey)
	}
	if err != nil {
		return nil, fmt.Errorf("online key: %w", err)
	}
	for _, name := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := root.Signed.AddKey(k, name); err != nil {
			return nil, err
		}
	}
	return root, checkRoles(root)
}

func (m *maker) roleKeys(role string, public []string, n int) ([]*metadata.Key, error) {
	var keys []*metadata.Key
	for _, p := range public {
		k, err := publicKey(p)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(public) > 0 {
		return keys, nil
	}
	if n == 0 {
		n = 3
	}
	for i := range n {
		dir := filepath.Join(m.r.dir, keysFolder)
		if len(m.o.Holders) > 0 {
			dir = m.o.Holders[i%len(m.o.Holders)]
		}
		k, err := m.key(filepath.Join(dir, fmt.Sprintf("%s-%d.pem", role, i+1)), m.o.Passphrase)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// key makes one key file.
func (m *maker) key(file string, pass Passphrase) (*metadata.Key, error) {
	secret := pass
	if pass != nil { // asked once, for writing and for signing the first root
		b, err := pass(file)
		if err != nil {
			return nil, err
		}
		secret = func(string) ([]byte, error) { return b, nil }
	}
	public, err := GenerateKeyFile(file, secret)
	if err != nil {
		return nil, err
	}
	k, err := LoadKey(file, secret)
	if err != nil {
		return nil, err
	}
	m.keys = append(m.keys, k)
	return publicKey(public)
}

// RotateKey stages a root in which the role ("root", "targets" or
// [RoleOnline]) has public (PEM) in place of the key oldID. An empty oldID adds
// a key, an empty public removes one. The staged root then needs signatures:
// of the root keys before it and of its own.
//
// To recover from stolen targets keys replace the online key too: the version
// of the targets metadata, which a thief may have pushed far ahead, is
// remembered under the old online key alone.
func (r *Repository) RotateKey(role, oldID, public string) error {
	return r.editRoot(func(root *rootMeta) error {
		names, err := tufRoles(role)
		if err != nil {
			return err
		}
		for _, name := range names {
			if oldID != "" {
				id, err := findKey(root, name, oldID)
				if err != nil {
					return err
				}
				if err := root.Signed.RevokeKey(id, name); err != nil {
					return fmt.Errorf("%w: %w", snapshot.ErrKey, err)
				}
			}
			if public == "" {
				continue
			}
			k, err := publicKey(public)
			if err != nil {
				return err
			}
			if err := root.Signed.AddKey(k, name); err != nil {
				return fmt.Errorf("%w: %w", snapshot.ErrKey, err)
			}
		}
		return nil
	})
}

// SetThreshold stages a root in which the role needs n distinct keys.
func (r *Repository) SetThreshold(role string, n int) error {
	return r.editRoot(func(root *rootMeta) error {
		names, err := tufRoles(role)
		if err != nil {
			return err
		}
		for _, name := range names {
			root.Signed.Roles[name].Threshold = n
		}
		return nil
	})
}

// RenewRoot stages the same root with a new term.
func (r *Repository) RenewRoot() error { return r.editRoot(func(*rootMeta) error { return nil }) }

func tufRoles(role string) ([]string, error) {
	switch role {
	case metadata.ROOT, metadata.TARGETS:
		return []string{role}, nil
	case RoleOnline:
		return []string{metadata.SNAPSHOT, metadata.TIMESTAMP}, nil
	}
	return nil, fmt.Errorf("%w: role %.80q, must be %s, %s or %s", snapshot.ErrKey, role, metadata.ROOT, metadata.TARGETS, RoleOnline)
}

// findKey takes a key ID of the role or the digest of its key, or the beginning
// of exactly one.
func findKey(root *rootMeta, role, id string) (string, error) {
	var found []string
	if root.Signed.Roles[role] != nil {
		for _, k := range root.Signed.Roles[role].KeyIDs {
			d := snapshot.KeyDigest(root.Signed.Keys[k])
			if strings.HasPrefix(k, id) || strings.HasPrefix(d.String(), id) || strings.HasPrefix(d.Encoded(), id) {
				found = append(found, k)
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%w: %d keys of role %s begin with %.80q; snapshot status lists them", snapshot.ErrKey, len(found), role, id)
	}
	return found[0], nil
}

// editRoot changes the root that waits, or stages the published one's
// successor. Signatures that it had are for another text and are dropped.
func (r *Repository) editRoot(change func(*rootMeta) error) error {
	ctx := context.Background()
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		root, err := st.nextRoot()
		if err != nil {
			return err
		}
		root.ClearSignatures()
		root.Signed.Expires = st.now.Add(r.config.Terms.Root.Std())
		if err := change(root); err != nil {
			return err
		}
		if err := checkRoles(root); err != nil {
			return err
		}
		b, err := root.ToBytes(true)
		if err != nil {
			return err
		}
		if limit := snapshot.MaxMetadata(metadata.ROOT); int64(len(b)) > limit/2 { // as much again for signatures
			return fmt.Errorf("%w: root of %d bytes before signatures, nodes take %d with them", snapshot.ErrTooLarge, len(b), limit)
		}
		// Snapshot and timestamp under the old root may need another key.
		if err := r.dropOnline(); err != nil {
			return err
		}
		return r.files.write(stagedFolder+"/"+rootFile(root.Signed.Version), b)
	})
}

// nextRoot is a copy of the root that waits, else of the published one with
// the next version.
func (st *state) nextRoot() (*rootMeta, error) {
	if st.publishedErr != nil {
		return nil, st.publishedErr
	}
	if st.waiting != nil {
		return parseMeta[metadata.RootType](metadata.ROOT, st.waiting.raw)
	}
	if st.published == nil {
		return nil, fmt.Errorf("%w: %s has no root", snapshot.ErrInvalid, st.r.dir)
	}
	root, err := parseMeta[metadata.RootType](metadata.ROOT, st.published.roots[len(st.published.roots)-1])
	if err == nil {
		root.Signed.Version++
	}
	return root, err
}

// checkRoles refuses a root that nodes would refuse, or that nobody could
// satisfy.
func checkRoles(root *rootMeta) error {
	if n := len(root.Signed.Keys); n > snapshot.MaxKeys {
		return fmt.Errorf("%w: %d keys, a root holds %d in all", snapshot.ErrInvalid, n, snapshot.MaxKeys)
	}
	for id, k := range root.Signed.Keys {
		// Differences are shown by ID: another key under a known ID would pass
		// for the one that people know.
		if own, err := tufID(k); err != nil || own != id {
			return errors.Join(fmt.Errorf("%w: key %.80q is not the ID of its key", snapshot.ErrInvalid, id), err)
		}
	}
	for _, name := range roleNames {
		role := root.Signed.Roles[name]
		if role == nil {
			return fmt.Errorf("%w: no role %s", snapshot.ErrInvalid, name)
		}
		if n := len(snapshot.RoleKeys(root, name)); role.Threshold < 1 || role.Threshold > n {
			return fmt.Errorf("%w: role %s with threshold %d and %d distinct keys", snapshot.ErrInvalid, name, role.Threshold, n)
		}
	}
	if unknown := slices.DeleteFunc(slices.Collect(maps.Keys(root.Signed.Roles)), func(n string) bool { return slices.Contains(roleNames, n) }); len(unknown) > 0 {
		return fmt.Errorf("%w: unknown roles %.80q", snapshot.ErrInvalid, unknown)
	}
	return nil
}

// written is the root as this ceremony writes it: without members that nobody
// knows, and consistent.
func written(root *rootMeta) *rootMeta {
	own := metadata.Root(root.Signed.Expires)
	own.Signed.Version = root.Signed.Version
	for id, k := range root.Signed.Keys {
		own.Signed.Keys[id] = &metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: metadata.KeyVal{PublicKey: k.Value.PublicKey}}
	}
	for name, r := range root.Signed.Roles {
		own.Signed.Roles[name] = &metadata.Role{KeyIDs: r.KeyIDs, Threshold: r.Threshold}
	}
	return own
}

// rootRisks says what a root that waits has beside its keys: it travels, and
// whoever carries it may have written it.
func (st *state) rootRisks() (all []string) {
	if st.waiting == nil {
		return nil
	}
	root := st.waiting.meta
	if !root.Signed.ConsistentSnapshot {
		all = append(all, "the root that waits says that files are published without their versions (consistent_snapshot): they are not, and other TUF clients would not find them")
	}
	own := written(root)
	own.Signed.ConsistentSnapshot = root.Signed.ConsistentSnapshot
	if !sameSigned(own, root) {
		all = append(all, "the root that waits has members that this ceremony does not write")
	}
	term := min(st.r.config.Terms.Root, defaultRoot).Std()
	until := root.Signed.Expires.Format(time.RFC3339)
	switch left := root.Signed.Expires.Sub(st.now); {
	case left > term+clockSkew:
		all = append(all, fmt.Sprintf("the root that waits would be valid until %s, longer than %s", until, term))
	case tooShort(left, max(st.r.config.Terms.Root, defaultRoot).Std()):
		all = append(all, fmt.Sprintf("the root that waits would be valid until %s, for less than a third of its term", until))
	case st.published != nil && root.Signed.Expires.Before(st.published.root.Signed.Expires):
		all = append(all, fmt.Sprintf("the root that waits would be valid until %s, the published one is until %s", until, st.published.root.Signed.Expires.Format(time.RFC3339)))
	}
	return all
}

// tufID computes the ID of a key anew.
func tufID(k *metadata.Key) (string, error) {
	fresh := metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value, UnrecognizedFields: k.UnrecognizedFields}
	return fresh.ID()
}

// weaknesses says what one theft would do under a root: it may be meant, but
// not unnoticed.
func weaknesses(root *rootMeta) (all []string) {
	in := map[string][]string{}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS, metadata.TIMESTAMP, metadata.SNAPSHOT} {
		if name == metadata.SNAPSHOT && slices.Equal(root.Signed.Roles[name].KeyIDs, root.Signed.Roles[metadata.TIMESTAMP].KeyIDs) {
			continue
		}
		for _, id := range root.Signed.Roles[name].KeyIDs {
			d := snapshot.KeyDigest(root.Signed.Keys[id]).String()
			if !slices.Contains(in[d], name) {
				in[d] = append(in[d], name)
			}
		}
	}
	for _, d := range slices.Sorted(maps.Keys(in)) {
		if roles := in[d]; len(roles) > 1 {
			all = append(all, fmt.Sprintf("one key (%s) has the roles %s: its theft is the theft of each", d, strings.Join(roles, " and ")))
		}
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS} {
		if root.Signed.Roles[name].Threshold == 1 {
			all = append(all, fmt.Sprintf("role %s needs one signature: the theft of one key is enough", name))
		}
	}
	return all
}

// togetherness warns while keys of several holders lie in keys/.
func (r *Repository) togetherness(root *rootMeta) (all []string) {
	files, err := r.KeyFiles()
	if err != nil {
		return nil
	}
	if n := len(files); n > 1 {
		for _, name := range []string{metadata.ROOT, metadata.TARGETS} {
			t := root.Signed.Roles[name].Threshold
			here := 0
			for _, f := range files {
				if strings.HasPrefix(filepath.Base(f), name+"-") {
					here++
				}
			}
			if here >= t && here > 0 {
				all = append(all, fmt.Sprintf("keys/ holds %d keys of role %s, %d of which are enough: give each to its holder, and remove it here", here, name, t))
			}
		}
	}
	return all
}

func writeMeta[T metadata.Roles](f folder, name string, m *metadata.Metadata[T]) error {
	b, err := m.ToBytes(true)
	if err != nil {
		return err
	}
	return f.write(name, b)
}

// addSignatures signs m with those of keys that allowed names and whose
// signatures do not stand in valid. One under such a key's ID that is not
// valid is replaced: someone put it there to keep the holder's out.
func addSignatures[T metadata.Roles](m *metadata.Metadata[T], keys []*Key, allowed, valid []string) (changed bool, err error) {
	for _, k := range keys {
		if !slices.Contains(allowed, k.id) || slices.Contains(valid, k.id) {
			continue
		}
		m.Signatures = slices.DeleteFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == k.id })
		if _, err := m.Sign(k.signer); err != nil {
			return changed, fmt.Errorf("%w: %s: %w", snapshot.ErrKey, k.file, err)
		}
		changed = true
	}
	return changed, nil
}
