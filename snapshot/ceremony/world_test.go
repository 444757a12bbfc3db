package ceremony

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// errCrash ends a process at one step of what it does to a folder.
var errCrash = errors.New("the process ended here")

// memory folder: the same steps as on disk, each done or not begun.
type memFolder struct {
	files map[string][]byte
	steps int // taken so far
	crash int // the step at which the process ends; 0: none
}

func (m *memFolder) step() error {
	m.steps++
	if m.crash > 0 && m.steps >= m.crash {
		return errCrash
	}
	return nil
}

func (m *memFolder) read(name string, max int64) ([]byte, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: %s", snapshot.ErrTooLarge, name)
	}
	return b, nil
}

func (m *memFolder) write(name string, b []byte) error {
	if err := m.step(); err != nil {
		return err
	}
	m.files[name] = slices.Clone(b)
	return nil
}

func (m *memFolder) remove(name string) error {
	if _, ok := m.files[name]; !ok {
		return nil
	}
	if err := m.step(); err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}

func (m *memFolder) list(dir string) ([]string, error) {
	var names []string
	for name := range m.files {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok && !strings.Contains(rest, "/") {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memFolder) lock(context.Context) (func(), error) { return func() {}, nil }

func (m *memFolder) clone() *memFolder { return &memFolder{files: maps.Clone(m.files)} }

// memSite is a published directory in memory.
type memSite struct {
	folderSource
	m *memFolder
}

func newSite(m *memFolder) memSite { return memSite{folderSource{m, "."}, m} }

func (s memSite) String() string                                   { return "site" }
func (s memSite) Lock(context.Context) (func(), error)             { return func() {}, nil }
func (s memSite) Put(_ context.Context, f map[string][]byte) error { return putAll(s.m, ".", f) }

func seededKey(t testing.TB, seed uint64) *Key {
	t.Helper()
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], seed)
	k, err := newKey("", ed25519.NewKeyFromSeed(b[:]))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *Key) pem(t testing.TB) string {
	t.Helper()
	pub, err := k.signer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := publicPEM(pub)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// world is one network: its folder, its site, its holders, and a node that
// follows the site.
type world struct {
	t       testing.TB
	folder  *memFolder
	site    *memFolder
	now     time.Time
	keys    map[string]*Key // by holder
	pinned  []byte          // the first root, as the publisher's people keep it
	seen    snapshot.Seen   // by the node
	rng     *rand.Rand
	models  int
	old     []*memFolder // backups and sticks
	evil    *memFolder   // a stranger's ceremony of the same name
	trail   []string
	memo    *memo
	another bool // this folder has published another text under the site's numbers
}

// memo remembers the last reading of each text: verifying signatures is a
// function of the bytes, and most walks read the same bytes.
type memo struct{ known map[string][]reading }

// reading is what one readLine asked for, and what came of it.
type reading struct {
	asked []answer
	line  *line
	err   error
}

type answer struct {
	name string
	max  int64
	b    []byte
	err  error
}

// asking records what is asked.
type asking struct {
	snapshot.Source
	asked []answer
}

func (a *asking) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	b, err := a.Source.Fetch(ctx, name, max)
	a.asked = append(a.asked, answer{name, max, b, err})
	return b, err
}

func (m *memo) readLine(ctx context.Context, src snapshot.Source, network string) (*line, error) {
	first, _ := src.Fetch(ctx, snapshot.TimestampFile, 1<<20)
	key := network + string(first)
	for _, r := range m.known[key] {
		if !slices.ContainsFunc(r.asked, func(a answer) bool {
			b, err := src.Fetch(ctx, a.name, a.max)
			return !bytes.Equal(b, a.b) || (err == nil) != (a.err == nil)
		}) {
			return r.line, r.err
		}
	}
	a := &asking{Source: src}
	l, err := readLine(ctx, a, network)
	if len(m.known) > 500 {
		clear(m.known)
	}
	m.known[key] = append(m.known[key], reading{a.asked, l, err})
	return l, err
}

var worldStart = time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC)

// found makes a network in memory with one published snapshot.
func found(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{t: t, now: worldStart, keys: map[string]*Key{}, memo: &memo{map[string][]reading{}}, site: &memFolder{files: map[string][]byte{}}}
	var root, targets []string
	for i := range uint64(3) {
		w.keys[fmt.Sprintf("root-%d", i+1)] = seededKey(t, seed+i)
		w.keys[fmt.Sprintf("targets-%d", i+1)] = seededKey(t, seed+10+i)
		root = append(root, w.keys[fmt.Sprintf("root-%d", i+1)].pem(t))
		targets = append(targets, w.keys[fmt.Sprintf("targets-%d", i+1)].pem(t))
	}
	w.keys["online"] = seededKey(t, seed+20)
	dir := filepath.Join(t.TempDir(), "ceremony")
	_, err := Init(dir, InitOptions{
		Network: "testnet", RootPublicKeys: root, TargetsPublicKeys: targets, OnlinePublicKey: w.keys["online"].pem(t),
		Now: func() time.Time { return w.now },
	})
	w.must(err)
	w.folder = load(t, dir)
	r := w.open()
	w.must(r.AddPolicy(snapshot.Policy{
		Name: "acme", Images: []snapshot.ImageGlob{{Glob: "registry.example/**"}}, Threshold: 1,
		Authorities: []snapshot.Authority{{Name: "ci", SignatureFormat: "bundle", Key: &snapshot.Key{Data: seededKey(t, 99).pem(t)}}},
	}))
	w.must(r.AddRuntime(snapshot.Runtime{
		Name: "llama", Version: "1.2.3", Policy: "acme", Reference: "registry.example/rt/llama@" + digest.FromString("runtime").String(),
		Protocol: "openai-chat", Port: 8080, Args: []string{"-m", "{{.Model}}"}, GPU: "none",
	}))
	w.must(r.AddModel(model("tiny")))
	for _, holder := range []string{"root-1", "root-2", "targets-1", "targets-2", "online"} {
		w.must(w.sign(holder, true))
	}
	w.must(w.publish())
	w.pinned = w.site.files["1.root.json"]
	return w
}

func load(t testing.TB, dir string) *memFolder {
	t.Helper()
	m := &memFolder{files: map[string][]byte{}}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			m.files[name], err = fs.ReadFile(root, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func model(name string) snapshot.Model {
	return snapshot.Model{
		Name: name, Version: "v1", Enabled: true, Policy: "acme",
		Reference: "registry.example/acme/" + name + "@" + digest.FromString(name).String(), Size: 1000,
		Compat:     snapshot.Compat{Runtime: "llama"},
		Validation: snapshot.Validation{Request: []byte(`{"messages":[]}`), Expect: snapshot.Expect{Contains: "x"}},
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(errors.Join(err, errors.New(strings.Join(w.trail, "; "))))
	}
}

func (w *world) open() *Repository {
	r, err := open("ceremony", w.folder)
	if err != nil { // nothing that says which network it is: the stranger's hands went too far
		r = &Repository{dir: "ceremony", files: w.folder, config: repositoryConfig{Network: "testnet"}, lost: "gone"}
		r.config.Terms.fill()
	}
	r.readLine = w.memo.readLine
	r.Now = func() time.Time { return w.now }
	return r
}

// attentive is a holder who reads what is shown: nothing of a stranger's, and
// no revocation lost.
func attentive(p *Pending) error {
	bad := func(why string) error { return fmt.Errorf("%w: %s", ErrUnconfirmed, why) }
	if slices.Contains(p.Signs, metadata.ROOT) {
		for _, r := range p.Root.Roles {
			if r.Was > 0 && len(r.Kept) == 0 && len(r.Added) > 1 {
				return bad("a root of strangers")
			}
		}
	}
	if p.Document != nil {
		for _, c := range p.Document.Changes {
			if strings.Contains(c.Name, "evil") && c.Verb != "removed" {
				return bad("a stranger's model")
			}
			if c.Kind == "revocation" && c.Verb == "removed" {
				return bad("a revocation is lost")
			}
		}
	}
	return nil
}

func (w *world) sign(holder string, root bool) error {
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Root: root, Confirm: attentive})
	return err
}

func (w *world) publish() error {
	return w.open().Publish(context.Background(), PublishOptions{}, newSite(w.site))
}

// observe is the node: it takes what the site has, and never goes back.
func (w *world) observe() {
	w.t.Helper()
	l, chain, err := readRoots(context.Background(), newSite(w.site))
	if err != nil || l == nil {
		w.fail("the site's roots: %v", err)
		return
	}
	acc, files, err := chain.Accept(context.Background(), newSite(w.site), "testnet", time.Time{}, w.seen)
	if err != nil {
		w.fail("a node that follows the site refuses it: %v", err)
		return
	}
	old := w.seen
	w.seen = snapshot.Seen{Files: files, RootVersion: acc.RootVersion, Sequence: acc.Document.Sequence, Digest: acc.Digest, TargetsKeys: snapshot.RoleKeys(l.root, metadata.TARGETS)}
	if old.Sequence == 0 {
		return
	}
	for name, b := range old.Files {
		if strings.HasSuffix(name, "."+snapshot.TargetName) {
			before, err := snapshot.Parse(b)
			w.must(err)
			if lost := unrevoked(before, acc.Document); len(lost) > 0 {
				w.fail("the revocation of %s is gone", revoked(lost[0]))
			}
		}
	}
	for _, m := range acc.Document.Models {
		if strings.Contains(m.Name, "evil") {
			w.fail("%s was published", m.Name)
		}
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter: %s", fmt.Sprintf(format, args...), strings.Join(w.trail, "; "))
}
