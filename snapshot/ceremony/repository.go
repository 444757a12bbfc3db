package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// Terms say for how long signed metadata is valid, counted from signing.
type Terms struct {
	Root         snapshot.Duration `json:"root"`         // default 365 days
	Targets      snapshot.Duration `json:"targets"`      // default 30 days
	Online       snapshot.Duration `json:"online"`       // of snapshot and timestamp; default 7 days
	Document     snapshot.Duration `json:"document"`     // default 30 days
	OfflineGrace snapshot.Duration `json:"offlineGrace"` // default 14 days; part of the document
}

const (
	day     = snapshot.Duration(24 * time.Hour)
	maxTerm = 5 * 366 * day // as nodes bound a document's

	defaultRoot   = 365 * day
	defaultOnline = 7 * day
)

func (t *Terms) fill() {
	for _, d := range []struct {
		field *snapshot.Duration
		value snapshot.Duration
	}{{&t.Root, defaultRoot}, {&t.Targets, 30 * day}, {&t.Online, defaultOnline}, {&t.Document, 30 * day}, {&t.OfflineGrace, 14 * day}} {
		if *d.field <= 0 || *d.field > maxTerm {
			*d.field = d.value
		}
	}
}

// Repository is a publisher's ceremony directory:
//
//	repository.json     network and terms
//	root.json           the newest root that enough holders have signed, for nodes to pin
//	keys/NAME.pem       private keys made by [Init]; may be moved away
//	draft/              the document as edited, and the targets beside it
//	staged/             what is being signed
//	metadata/           what was published last, as nodes pull it
//
// All but keys/ holds no secrets: it is what travels between the machines of
// the key holders, and it is read as what a stranger may have replaced.
type Repository struct {
	// Now is the clock for signing and publishing; default time.Now.
	Now func() time.Time

	dir    string
	files  folder
	config repositoryConfig
	lost   string // why the configuration had to be guessed

	readLine func(context.Context, snapshot.Source, string) (*line, error) // a seam for tests that read one text often
}

type repositoryConfig struct {
	Network string `json:"network"`
	Terms   Terms  `json:"terms"`
}

// Entries of a ceremony directory.
const (
	repositoryFile = "repository.json"
	rootCopy       = "root.json"
	keysFolder     = "keys"
	draftFolder    = "draft"
	stagedFolder   = "staged"
	metadataFolder = "metadata"

	draftFile      = draftFolder + "/" + snapshot.TargetName
	asideFile      = draftFolder + "/aside." + snapshot.TargetName
	draftTargets   = draftFolder + "/targets"
	stagedDocument = stagedFolder + "/" + snapshot.TargetName
	stagedTargets  = stagedFolder + "/targets.json"
	stagedSnapshot = stagedFolder + "/snapshot.json"
	stagedStamp    = stagedFolder + "/" + snapshot.TimestampFile

	maxConfig = 64 << 10
	// maxDraft is what is read of a draft: more than nodes take, so that one
	// that grew too large can still be made smaller.
	maxDraft = 4 * snapshot.MaxDocument
)

// Dir is the ceremony directory.
func (r *Repository) Dir() string { return r.dir }

// Network is the network's name.
func (r *Repository) Network() string { return r.config.Network }

// Open opens what [Init] wrote.
func Open(dir string) (*Repository, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("%s holds no ceremony: run rmodels snapshot init: %w", dir, err)
	}
	return open(dir, dirFolder(dir))
}

// Rebuild is [Open] for a folder that was lost: one that is missing, or holds
// nothing that says which network it was, is that of what a place has
// published. [Repository.Update] from there, with a root that was kept
// elsewhere, verifies it and fills the folder.
func Rebuild(ctx context.Context, dir string, from snapshot.Source) (*Repository, error) {
	r, err := Open(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	files := dirFolder(dir)
	names, lerr := files.list(".")
	if lerr != nil {
		return nil, lerr
	}
	for _, name := range names {
		if !slices.Contains([]string{repositoryFile, rootCopy, keysFolder, draftFolder, stagedFolder, metadataFolder}, name) {
			return nil, err // somebody's other directory
		}
	}
	name := networkAt(ctx, from)
	if snapshot.CheckName(name) != nil {
		return nil, err
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	r = &Repository{dir: dir, files: files, config: repositoryConfig{Network: name}, lost: "the folder was rebuilt: terms are the defaults", readLine: readLine}
	r.config.Terms.fill()
	return r, nil
}

func open(dir string, files folder) (*Repository, error) {
	r := &Repository{dir: dir, files: files, readLine: readLine}
	b, err := files.read(repositoryFile, maxConfig)
	if err == nil {
		if err = json.Unmarshal(b, &r.config, json.RejectUnknownMembers(true)); err == nil {
			err = snapshot.CheckName(r.config.Network)
		}
	}
	if err != nil {
		// The name also stands in what was signed, and terms have defaults: a
		// lost file may not be in the way of a revocation.
		name := r.guessNetwork()
		if name == "" {
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%s holds no ceremony: run rmodels snapshot init: %w", dir, err)
			}
			return nil, fmt.Errorf("%w: %s: %w", snapshot.ErrInvalid, path.Join(dir, repositoryFile), err)
		}
		r.config = repositoryConfig{Network: name}
		r.lost = fmt.Sprintf("%s cannot be read (%v): the network's name is taken from its documents, terms are the defaults", repositoryFile, err)
	}
	r.config.Terms.fill()
	return r, nil
}

func (r *Repository) guessNetwork() string {
	if name := networkAt(context.Background(), folderSource{r.files, metadataFolder}); name != "" {
		return name
	}
	for _, name := range []string{draftFile, stagedDocument} {
		if b, err := r.files.read(name, snapshot.MaxDocument); err == nil {
			if doc, err := snapshot.Parse(b); err == nil {
				return doc.Network
			}
		}
	}
	return ""
}

// networkAt is the name in what a place has published, not verified: it is
// held against the signatures by whoever reads the place under that name.
func networkAt(ctx context.Context, src snapshot.Source) string {
	name, role := snapshot.TimestampFile, metadata.TIMESTAMP
	for {
		b, err := src.Fetch(ctx, name, snapshot.MaxMetadata(role))
		if err != nil || snapshot.CheckMetadata(role, b) != nil {
			return ""
		}
		var m struct {
			Signed struct {
				Meta map[string]struct {
					Version int64 `json:"version"`
				} `json:"meta"`
				Targets map[string]struct {
					Hashes map[string]string `json:"hashes"`
				} `json:"targets"`
			} `json:"signed"`
		}
		if json.Unmarshal(b, &m) != nil {
			return ""
		}
		switch role {
		case metadata.TIMESTAMP:
			role = metadata.SNAPSHOT
			name = snapshot.MetadataFile(role, m.Signed.Meta["snapshot.json"].Version)
		case metadata.SNAPSHOT:
			role = metadata.TARGETS
			name = snapshot.MetadataFile(role, m.Signed.Meta["targets.json"].Version)
		default:
			b, err := src.Fetch(ctx, snapshot.TargetFile(snapshot.TargetName, m.Signed.Targets[snapshot.TargetName].Hashes["sha256"]), snapshot.MaxDocument)
			if err != nil {
				return ""
			}
			doc, err := snapshot.Parse(b)
			if err != nil {
				return ""
			}
			return doc.Network
		}
	}
}

// now has whole seconds, as TUF writes times.
func (r *Repository) now() time.Time {
	if r.Now != nil {
		return r.Now().UTC().Truncate(time.Second)
	}
	return time.Now().UTC().Truncate(time.Second)
}

// published reads metadata/ as a place of its own.
func (r *Repository) published(ctx context.Context) (*line, error) {
	l, err := r.readLine(ctx, folderSource{r.files, metadataFolder}, r.config.Network)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; bring it up to date with: rmodels snapshot update %s --from SITE", ErrPublished, err, r.dir)
	}
	return l, nil
}

// locked runs do while no other process works on the directory.
func (r *Repository) locked(ctx context.Context, do func() error) error {
	unlock, err := r.files.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

func (r *Repository) emptyDraft(now time.Time) *snapshot.Snapshot {
	return &snapshot.Snapshot{
		APIVersion: snapshot.APIVersion, Kind: snapshot.Kind, Network: r.config.Network, Sequence: 1,
		Created: now, Expires: now.Add(r.config.Terms.Document.Std()),
		OfflineGrace: r.config.Terms.OfflineGrace, Default: "reject",
		Policies: []snapshot.Policy{}, Runtimes: []snapshot.Runtime{}, Models: []snapshot.Model{},
	}
}

func writeJSON(f folder, name string, v any) error {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	return f.write(name, append(b, '\n'))
}

// RootJSON is the newest root that enough holders have signed, the one to pin
// on new nodes.
func (r *Repository) RootJSON() ([]byte, error) {
	st, err := r.read(context.Background())
	if err != nil {
		return nil, err
	}
	return st.completeRoot()
}

// keepRoot writes root.json.
func (r *Repository) keepRoot(st *state) error {
	b, err := st.completeRoot()
	if errors.Is(err, ErrIncomplete) {
		return nil
	}
	if err != nil {
		return err
	}
	if old, err := r.files.read(rootCopy, int64(len(b))); err == nil && string(old) == string(b) {
		return nil
	}
	return r.files.write(rootCopy, b)
}

// versionsIn are the N of the files N.<role>.json in a folder, in order.
func versionsIn(f folder, dir, role string) ([]int64, error) {
	names, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, n := range names {
		if base, ok := strings.CutSuffix(n, "."+role+".json"); ok {
			if v, err := strconv.ParseInt(base, 10, 64); err == nil && strconv.FormatInt(v, 10) == base && v > 0 {
				all = append(all, v)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// stagedRoots are the roots that lie in staged/.
func (r *Repository) stagedRoots() ([]int64, error) {
	return versionsIn(r.files, stagedFolder, metadata.ROOT)
}
