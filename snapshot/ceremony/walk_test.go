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
	"runtime"
	"slices"
	"strconv"
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

// verb is one thing that happens to the folder.
type verb struct {
	name string
	do   func(*world) error
}

func (w *world) holder(role string) string {
	var all []string
	for name := range w.keys {
		if strings.HasPrefix(name, role) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all[w.rng.IntN(len(all))]
}

var verbs = []verb{
	{"add a model", func(w *world) error { w.models++; return w.open().AddModel(model(fmt.Sprintf("m%d", w.models))) }},
	{"disable", func(w *world) error { return w.open().SetEnabled("tiny", "v1", w.rng.IntN(2) == 0) }},
	{"remove", func(w *world) error { return w.open().RemoveModel(fmt.Sprintf("m%d", w.models), "") }},
	{"revoke", func(w *world) error {
		w.models++
		return w.open().Revoke(snapshot.Revocation{Digest: digest.FromString(fmt.Sprint("r", w.models))}, Unlisted)
	}},
	{"revoke --only", func(w *world) error {
		w.models++
		return w.open().Revoke(snapshot.Revocation{Digest: digest.FromString(fmt.Sprint("r", w.models))}, Unlisted, Only)
	}},
	{"add bundle", func(w *world) error {
		return w.open().AddBundle(digest.FromString("tiny"), fmt.Appendf(nil, `{"n":%d}`, w.rng.IntN(3)))
	}},
	{"add trust root", func(w *world) error { return w.open().AddTrustRoot("net", fmt.Appendf(nil, `{"n":%d}`, w.rng.IntN(3))) }},
	{"sign targets", func(w *world) error { return w.sign(w.holder("targets"), false) }},
	{"sign targets", func(w *world) error { return w.sign(w.holder("targets"), false) }},
	{"sign root", func(w *world) error { return w.sign(w.holder("root"), true) }},
	{"sign online", func(w *world) error { return w.sign("online", false) }},
	{"publish", func(w *world) error { return w.publish() }},
	{"publish", func(w *world) error { return w.publish() }},
	{"renew root", func(w *world) error { return w.open().RenewRoot() }},
	{"rotate targets", func(w *world) error {
		name := fmt.Sprintf("targets-%d", len(w.keys))
		k := seededKey(w.t, 1000+uint64(len(w.keys)))
		old := w.keys[w.holder("targets")]
		if err := w.open().RotateKey("targets", old.id, k.pem(w.t)); err != nil {
			return err
		}
		w.keys[name] = k
		return nil
	}},
	{"renew", func(w *world) error {
		return w.open().Renew(context.Background(), []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site))
	}},
	{"update", func(w *world) error { return w.open().Update(context.Background(), newSite(w.site), UpdateOptions{}) }},
	{"reset", func(w *world) error { return w.open().Reset(w.rng.IntN(2) == 0) }},
	{"resume", func(w *world) error { return w.open().Resume() }},
	{"days pass", func(w *world) error { w.now = w.now.Add(time.Duration(w.rng.IntN(12*24)) * time.Hour); return nil }},
	{"a backup is made", func(w *world) error { w.old = append(w.old, w.folder.clone()); return nil }},
}

var huge = make([]byte, maxDraft+1)

// tricks are what a carrier can do to the folder.
var tricks = []verb{
	{"a file is removed", func(w *world) error { delete(w.folder.files, w.anyFile(w.folder)); return nil }},
	{"a file is garbage", func(w *world) error { w.folder.files[w.anyFile(w.folder)] = []byte("{"); return nil }},
	{"a file is emptied", func(w *world) error { w.folder.files[w.anyFile(w.folder)] = nil; return nil }},
	{"a file is older", func(w *world) error {
		if len(w.old) == 0 {
			return nil
		}
		from := w.old[w.rng.IntN(len(w.old))]
		name := w.anyFile(from)
		w.folder.files[name] = from.files[name]
		return nil
	}},
	{"a file is a stranger's", func(w *world) error {
		name := w.anyFile(w.evil)
		w.folder.files[name] = w.evil.files[name]
		return nil
	}},
	{"a folder is older", func(w *world) error {
		if len(w.old) == 0 {
			return nil
		}
		w.replace(w.old[w.rng.IntN(len(w.old))])
		return nil
	}},
	{"a folder is a stranger's", func(w *world) error { w.replace(w.evil); return nil }},
	{"all is older", func(w *world) error {
		if len(w.old) > 0 {
			w.folder.files = maps.Clone(w.old[w.rng.IntN(len(w.old))].files)
		}
		return nil
	}},
	{"the draft gets a stranger's model", func(w *world) error {
		s, err := parseDraft(w.folder.files[draftFile], "testnet")
		if err != nil {
			return nil //nolint:nilerr // nothing to change
		}
		s.Models = append(s.Models, model(fmt.Sprintf("evil%d", len(s.Models))))
		return writeJSON(w.folder, draftFile, s)
	}},
	{"the draft grows", func(w *world) error {
		w.folder.files[draftFile] = huge
		return nil
	}},
	{"another network's name", func(w *world) error {
		w.folder.files[repositoryFile] = []byte(`{"network":"other","terms":{}}`)
		return nil
	}},
	{"the next root is a stranger's", func(w *world) error {
		w.folder.files["staged/2.root.json"] = w.evil.files["staged/2.root.json"]
		return nil
	}},
}

func (w *world) anyFile(m *memFolder) string {
	names := slices.Sorted(maps.Keys(m.files))
	return names[w.rng.IntN(len(names))]
}

func (w *world) replace(by *memFolder) {
	dir := []string{draftFolder, stagedFolder, metadataFolder}[w.rng.IntN(3)] + "/"
	maps.DeleteFunc(w.folder.files, func(name string, _ []byte) bool { return strings.HasPrefix(name, dir) })
	for name, b := range by.files {
		if strings.HasPrefix(name, dir) {
			w.folder.files[name] = b
		}
	}
}

// stranger is a ceremony of the same network's name with other keys, a root
// that waits, and a model of its own.
func stranger(t testing.TB) *memFolder {
	w := found(t, 5000)
	r := w.open()
	w.must(r.AddModel(model("evil")))
	w.must(r.RenewRoot())
	var keys []*Key
	for _, holder := range []string{"root-1", "root-2", "targets-1", "targets-2", "online"} {
		keys = append(keys, w.keys[holder])
	}
	_, err := r.Sign(SignOptions{Keys: keys, Root: true, Confirm: func(*Pending) error { return nil }})
	w.must(err)
	return w.folder
}

// step does something at random, perhaps with a crash in it.
func (w *world) step() {
	table := verbs
	if w.rng.IntN(3) == 0 {
		table = tricks
	}
	v := table[w.rng.IntN(len(table))]
	name := v.name
	if w.rng.IntN(4) == 0 {
		n := 1 + w.rng.IntN(8)
		w.folder.crash, w.site.crash = w.folder.steps+n, w.site.steps+n
		name += fmt.Sprintf(" (crash at %d)", n)
	}
	sites := w.site.steps
	err := v.do(w)
	w.folder.crash, w.site.crash = 0, 0
	if err != nil {
		name += " [refused]"
	}
	w.trail = append(w.trail, name)
	if w.site.steps != sites {
		w.observe()
	}
}

// state names all that what comes next depends on.
func (w *world) state() digest.Digest {
	h := digest.SHA256.Digester()
	for _, m := range []*memFolder{w.folder, w.site} {
		for _, name := range slices.Sorted(maps.Keys(m.files)) {
			fmt.Fprintf(h.Hash(), "%s %d ", name, len(m.files[name]))
			if len(m.files[name]) < maxDraft {
				h.Hash().Write(m.files[name])
			}
		}
	}
	fmt.Fprint(h.Hash(), w.now)
	for _, name := range slices.Sorted(maps.Keys(w.keys)) {
		fmt.Fprint(h.Hash(), name, w.keys[name].memory)
	}
	return h.Digest()
}

// emergency revokes a model: one holder revokes and signs, the others sign,
// the online key's signs and publishes. Nobody needs a third command.
func (w *world) emergency() {
	w.t.Helper()
	w.trail = append(w.trail, "EMERGENCY")
	bad := digest.FromString("harmful")
	ctx := context.Background()
	// rmodels snapshot revoke DIR --digest … --unlisted --only --from SITE --pinned ROOT
	r := w.open()
	w.must(r.Update(ctx, newSite(w.site), UpdateOptions{Pinned: w.pinned, Replace: w.another}))
	w.must(r.Revoke(snapshot.Revocation{Digest: bad}, Only, Unlisted))
	signed := 0
	for _, holder := range slices.Sorted(maps.Keys(w.keys)) {
		if strings.HasPrefix(holder, "targets") && signed < 2 {
			st, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirm: attentive})
			if err == nil {
				if len(st.Signed) > 0 { // else a root that is complete took its role away
					signed++
				}
			} else if !errors.Is(err, snapshot.ErrKey) { // one that was rotated away
				w.must(fmt.Errorf("%s: %w", holder, err))
			}
		}
	}
	if signed < 2 {
		w.fail("%d holders could sign", signed)
	}
	w.must(w.sign("online", false))
	w.must(w.publish())
	w.observe()
	for name, b := range w.seen.Files {
		if strings.HasSuffix(name, "."+snapshot.TargetName) {
			doc, err := snapshot.Parse(b)
			w.must(err)
			for _, rev := range doc.Revocations {
				if rev.Digest == bad {
					return
				}
			}
		}
	}
	w.fail("the revocation was not published")
}

// fork is the same world, to be walked another way.
func (w *world) fork(seed uint64) *world {
	c := *w
	c.rng = rand.New(rand.NewPCG(seed, 7))
	c.folder, c.site = w.folder.clone(), w.site.clone()
	c.old, c.trail = slices.Clone(w.old), slices.Clone(w.trail)
	c.keys = map[string]*Key{}
	for name, k := range w.keys {
		copied := *k
		c.keys[name] = &copied
	}
	return &c
}

// TestWalks: after any history of verbs, carriers' tricks and crashes, nodes
// were never taken back, nothing of a stranger's was published, no revocation
// was lost, and an emergency revocation is published with at most two commands
// for each holder.
func TestWalks(t *testing.T) {
	walks := 200
	if n, err := strconv.Atoi(os.Getenv("RMODELS_WALKS")); err == nil {
		walks = n
	}
	const branch = 8 // walks that share their first steps
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			start := found(t, 1)
			start.evil = stranger(t)
			start.observe()
			ended := map[digest.Digest]bool{}
			for seed := worker; seed < walks/branch; seed += workers {
				w := start.fork(uint64(seed))
				for range 3 + w.rng.IntN(5) {
					w.step()
				}
				for i := range uint64(branch) {
					c := w.fork(uint64(seed)<<8 + i)
					c.trail = append(c.trail, fmt.Sprintf("seed %d.%d", seed, i))
					for range 1 + c.rng.IntN(3) {
						c.step()
					}
					if s := c.state(); !ended[s] { // what comes next depends on nothing else
						ended[s] = true
						c.emergency()
					}
				}
			}
		})
	}
}
