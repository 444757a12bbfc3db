package ceremony

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// InitOptions says what a new publisher repository looks like. Zero values
// take the documented defaults.
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
	Terms           Terms
	Now             func() time.Time // default time.Now
}

// Terms say for how long signed metadata is valid, counted from signing.
type Terms struct {
	Root         snapshot.Duration `json:"root"`         // default 365 days
	Targets      snapshot.Duration `json:"targets"`      // default 30 days
	Online       snapshot.Duration `json:"online"`       // of snapshot and timestamp; default 7 days
	Document     snapshot.Duration `json:"document"`     // default 30 days
	OfflineGrace snapshot.Duration `json:"offlineGrace"` // default 14 days; part of the document
}

const day = snapshot.Duration(24 * time.Hour)

func (t *Terms) fill() {
	for _, d := range []struct {
		field *snapshot.Duration
		value snapshot.Duration
	}{{&t.Root, 365 * day}, {&t.Targets, 30 * day}, {&t.Online, 7 * day}, {&t.Document, 30 * day}, {&t.OfflineGrace, 14 * day}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// Repository is a publisher's ceremony directory:
//
//	repository.json     network and terms
//	keys/NAME.pem       private keys made by [Init]; may be moved away
//	draft/              the document as edited, and the targets beside it
//	staged/             what is being signed
//	metadata/           what was published last, as nodes pull it
//
// staged/ and draft/ hold no secrets: they are what travels between the
// machines of the key holders.
type Repository struct {
	// Now is the clock for signing and publishing; default time.Now.
	Now func() time.Time

	dir    string
	config repositoryConfig
}

type repositoryConfig struct {
	Network string `json:"network"`
	Terms   Terms  `json:"terms"`
}

const (
	repositoryFile = "repository.json"
	keysFolder     = "keys"
	draftFolder    = "draft"
	stagedFolder   = "staged"
	metadataFolder = "metadata"
)

func (r *Repository) path(parts ...string) string {
	return filepath.Join(append([]string{r.dir}, parts...)...)
}

// Dir is the ceremony directory.
func (r *Repository) Dir() string { return r.dir }

// Network is the network's name.
func (r *Repository) Network() string { return r.config.Network }

// Init lays out dir, makes the keys that it was not given, and
// writes the first root and an empty draft. The root is signed as far as the
// keys at hand go; [Repository.Sign] adds the rest.
func Init(dir string, o InitOptions) (*Repository, error) {
	if err := snapshot.CheckName(o.Network); err != nil {
		return nil, fmt.Errorf("%w: network name %w", snapshot.ErrInvalid, err)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: a repository is made in a new directory", dir)
	}
	o.Terms.fill()
	r := &Repository{Now: o.Now, dir: dir, config: repositoryConfig{o.Network, o.Terms}}
	now := r.now()
	for _, d := range []string{keysFolder, draftFolder, stagedFolder, metadataFolder} {
		mode := fs.FileMode(0o755)
		if d == keysFolder {
			mode = 0o700
		}
		if err := durable.MkdirAll(r.path(d), mode); err != nil {
			return nil, err
		}
	}
	root := metadata.Root(now.Add(o.Terms.Root.Std()))
	for _, role := range []struct {
		name      string
		public    []string
		make      int
		threshold int
	}{
		{metadata.ROOT, o.RootPublicKeys, o.RootKeys, o.RootThreshold},
		{metadata.TARGETS, o.TargetsPublicKeys, o.TargetsKeys, o.TargetsThreshold},
	} {
		if err := r.addRole(root, role.name, role.public, role.make, role.threshold); err != nil {
			return nil, err
		}
	}
	if err := r.addOnline(root, o.OnlinePublicKey); err != nil {
		return nil, err
	}
	b, err := root.ToBytes(true)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(r.path(stagedFolder, snapshot.MetadataFile(metadata.ROOT, 1)), b, 0o644); err != nil {
		return nil, err
	}
	if err := writeJSON(r.path(repositoryFile), r.config); err != nil {
		return nil, err
	}
	if err := writeJSON(r.path(draftFolder, snapshot.TargetName), r.emptyDraft(now)); err != nil {
		return nil, err
	}
	keys, err := r.loadKeys(nil)
	if err != nil {
		return nil, err
	}
	if err := r.signRoot(keys); err != nil {
		return nil, err
	}
	return r, nil
}

// now has whole seconds, as TUF writes times.
func (r *Repository) now() time.Time {
	if r.Now != nil {
		return r.Now().UTC().Truncate(time.Second)
	}
	return time.Now().UTC().Truncate(time.Second)
}

func (r *Repository) addRole(root *metadata.Metadata[metadata.RootType], role string, public []string, n, threshold int) error {
	var keys []*metadata.Key
	for _, p := range public {
		k, err := publicTUFKey(p)
		if err != nil {
			return fmt.Errorf("%s key: %w", role, err)
		}
		keys = append(keys, k)
	}
	if len(public) == 0 {
		if n == 0 {
			n = 3
		}
		for i := range n {
			k, err := r.makeKey(fmt.Sprintf("%s-%d", role, i+1))
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
	}
	if threshold == 0 {
		threshold = min(2, len(keys))
	}
	for _, k := range keys {
		if err := root.Signed.AddKey(k, role); err != nil {
			return err
		}
	}
	distinct := len(snapshot.RoleKeys(root, role))
	if threshold < 1 || threshold > distinct {
		return fmt.Errorf("%w: role %s with threshold %d and %d distinct keys", snapshot.ErrInvalid, role, threshold, distinct)
	}
	root.Signed.Roles[role].Threshold = threshold
	return nil
}

func (r *Repository) addOnline(root *metadata.Metadata[metadata.RootType], public string) (err error) {
	var k *metadata.Key
	if public == "" {
		k, err = r.makeKey("online")
	} else {
		k, err = publicTUFKey(public)
	}
	if err != nil {
		return fmt.Errorf("online key: %w", err)
	}
	if err := root.Signed.AddKey(k, metadata.SNAPSHOT); err != nil {
		return err
	}
	return root.Signed.AddKey(k, metadata.TIMESTAMP)
}

// makeKey writes a new Ed25519 key to keys/.
func (r *Repository) makeKey(name string) (*metadata.Key, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := marshalPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(r.path(keysFolder, name+".pem"), b, 0o600); err != nil {
		return nil, err
	}
	return metadata.KeyFromPublicKey(priv.Public())
}

func (r *Repository) emptyDraft(now time.Time) *snapshot.Snapshot {
	return &snapshot.Snapshot{
		APIVersion: snapshot.APIVersion, Kind: snapshot.Kind, Network: r.config.Network, Sequence: 1,
		Created: now, Expires: now.Add(r.config.Terms.Document.Std()),
		OfflineGrace: r.config.Terms.OfflineGrace, Default: "reject",
		Policies: []snapshot.Policy{}, Runtimes: []snapshot.Runtime{}, Models: []snapshot.Model{},
	}
}

// Open opens what [Init] wrote.
func Open(dir string) (*Repository, error) {
	b, err := os.ReadFile(filepath.Join(dir, repositoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no publisher repository: run rmodels snapshot init: %w", dir, err)
	}
	if err != nil {
		return nil, err
	}
	r := &Repository{dir: dir}
	if err := json.Unmarshal(b, &r.config, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", snapshot.ErrInvalid, filepath.Join(dir, repositoryFile), err)
	}
	r.config.Terms.fill()
	return r, nil
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o644)
}

// newestIn is the highest N of the files N.<role>.json in dir, 0 for none.
func newestIn(dir, role string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, e := range entries {
		var v int64
		if strings.HasSuffix(e.Name(), "."+role+".json") {
			if _, err := fmt.Sscanf(e.Name(), "%d.", &v); err == nil {
				newest = max(newest, v)
			}
		}
	}
	return newest, nil
}
