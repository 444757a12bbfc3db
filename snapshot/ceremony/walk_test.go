package ceremony

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

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
// for each holder. RMODELS_WALKS says how many; make walks takes 10,000.
func TestWalks(t *testing.T) {
	walks := 100
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
