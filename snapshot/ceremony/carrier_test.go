package ceremony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// anyone confirms whatever is shown, and keeps it.
type anyone struct{ shown []*Pending }

func (a *anyone) confirm(p *Pending) error {
	a.shown = append(a.shown, p)
	return nil
}

// waits is a world in which a document and a root wait, each signed by one of
// the two holders that are needed.
func waits(t testing.TB) *world {
	w := found(t, 1)
	w.old = append(w.old, w.folder.clone())
	w.must(w.open().AddModel(model("good")))
	w.must(w.open().AddTrustRoot("net", []byte(`{"n":1}`)))
	w.must(w.sign("targets-1", false))
	w.must(w.open().RenewRoot())
	w.must(w.sign("root-1", true))
	w.evil = stranger(t)
	w.observe()
	return w
}

// TestCarrier: each file of the folder that travels is removed, emptied, made
// garbage, older and a stranger's in turn, and a further one is put there.
// Whatever the holders then do, nothing is signed that was not shown, and what
// is published is what honest holders saw.
func TestCarrier(t *testing.T) {
	start := waits(t)
	names := map[string]bool{}
	for _, m := range []*memFolder{start.folder, start.evil} {
		for name := range m.files {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for trick, b := range map[string]func(*world) []byte{
			"removed":    func(*world) []byte { return nil },
			"emptied":    func(*world) []byte { return []byte{} },
			"garbage":    func(*world) []byte { return []byte(`{"signed":{`) },
			"older":      func(w *world) []byte { return w.old[0].files[name] },
			"stranger's": func(w *world) []byte { return w.evil.files[name] },
			"endless":    func(*world) []byte { return huge },
		} {
			t.Run(trick+" "+short(name), func(t *testing.T) {
				w := start.fork(1)
				w.t = t
				if b := b(w); b != nil {
					w.folder.files[name] = b
				} else {
					delete(w.folder.files, name)
				}
				w.trail = []string{trick + " " + name}
				w.roundTrip()
				w.emergency()
			})
		}
	}
}

func short(name string) string {
	base := filepath.Base(name)
	if len(base) > 40 {
		base = base[:8] + "…" + base[len(base)-20:]
	}
	return filepath.Dir(name) + "/" + base
}

// roundTrip lets every holder sign what is there, and publishes. Refusals are
// fine; what goes through is held against what was shown.
func (w *world) roundTrip() {
	w.t.Helper()
	before := w.folder.clone()
	for _, holder := range []string{"targets-1", "targets-2", "root-1", "root-2", "online"} {
		seen := &anyone{}
		_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Root: strings.HasPrefix(holder, "root"), Confirm: func(p *Pending) error {
			if err := attentive(p); err != nil {
				return err
			}
			return seen.confirm(p)
		}})
		w.trail = append(w.trail, fmt.Sprintf("%s: %v", holder, err))
		changed := !maps.EqualFunc(before.files, w.folder.files, func(a, b []byte) bool { return string(a) == string(b) })
		if changed && len(seen.shown) == 0 && holder != "online" {
			w.fail("%s signed without having been shown", holder)
		}
		before = w.folder.clone()
	}
	err := w.publish()
	w.trail = append(w.trail, fmt.Sprintf("publish: %v", err))
	w.observe()
}

// TestStrangersRoot: a root of someone else's in staged/ is signed by nobody,
// replaces no root.json, and stops no document; one that follows, made by a
// thief of one root key, is signed only by who asked for it and looked.
func TestStrangersRoot(t *testing.T) {
	w := found(t, 1)
	w.evil = stranger(t)
	kept := string(w.folder.files[rootCopy])
	evil := w.evil.files["staged/2.root.json"]
	w.folder.files["staged/2.root.json"] = evil
	for _, holder := range []string{"root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3", "online"} {
		_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirm: (&anyone{}).confirm})
		w.must(err)
	}
	if string(w.folder.files["staged/2.root.json"]) != string(evil) || string(w.folder.files[rootCopy]) != kept {
		t.Error("a stranger's root was signed or kept")
	}
	w.must(w.publish())
	if w.site.files["2.root.json"] != nil {
		t.Error("a stranger's root was published")
	}
	// A successor by the network's own key: shown, and signed only with --root.
	w.must(w.open().Reset(true))
	w.must(w.open().SetThreshold("targets", 1))
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}})
	w.must(err)
	if st := must1(w.open().Status())(t); len(st.Roles[0].Signed) != 0 {
		t.Error("a root key signed a root that it was not asked to sign")
	}
	_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true})
	var u *UnconfirmedError
	if !errors.As(err, &u) || u.Pending.Root == nil || u.Pending.Root.Roles[1].Was != 2 || u.Pending.Root.Roles[1].Threshold != 1 {
		t.Fatalf("%v", err)
	}
	if !slices.ContainsFunc(u.Pending.Warnings, func(s string) bool { return strings.Contains(s, "role targets needs one signature") }) {
		t.Errorf("%q", u.Pending.Warnings)
	}
	_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true, Confirmed: digest.FromString("another")})
	wantErr(t, err, ErrUnconfirmed)
	st, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true, Confirmed: u.Pending.Digest})
	w.must(err)
	if len(st.Roles[0].Signed) != 1 {
		t.Errorf("%+v", st.Roles[0])
	}
	// The carrier changes it on the way to the second holder: the digest that
	// was agreed upon is for another root.
	w.must(w.open().SetThreshold("root", 1))
	_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-2"]}, Root: true, Confirmed: u.Pending.Digest})
	wantErr(t, err, ErrUnconfirmed)
}

// TestChangedOnTheWay: the carrier edits the draft between two signatures. The
// second holder is shown the edit with its values and whose signature it
// drops, and has to confirm.
func TestChangedOnTheWay(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	w.must(w.sign("targets-1", false))
	w.must(w.open().AddModel(model("evil")))
	w.must(w.open().Edit(func(s *snapshot.Snapshot) error {
		s.Policies[0].Images = append(s.Policies[0].Images, snapshot.ImageGlob{Glob: "evil.example/**"})
		return nil
	}))
	before := w.folder.clone()
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}})
	var u *UnconfirmedError
	if !errors.As(err, &u) {
		t.Fatal(err)
	}
	if !maps.EqualFunc(before.files, w.folder.files, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Error("something was written before it was confirmed")
	}
	p := u.Pending
	text := fmt.Sprintf("%+v", *p.Document)
	for _, want := range []string{"evil@v1", "good@v1", "evil.example/**", "policy"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not shown: %s", want, text)
		}
	}
	if len(p.Dropped) != 1 || p.Dropped[0].Keys[0] != w.keys["targets-1"].id || !strings.Contains(p.Dropped[0].Why, "the draft changed") {
		t.Errorf("%+v", p.Dropped)
	}
	// Status shows the same value.
	if st := must1(w.open().Status())(t); st.Pending.Digest != p.Digest || fmt.Sprint(st.Pending.Risks) != fmt.Sprint(p.Risks) {
		t.Errorf("%+v", st.Pending)
	}
	st, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}, Confirmed: p.Digest})
	w.must(err)
	if !st.Restarted || len(st.Roles[1].Signed) != 1 {
		t.Errorf("%+v", st)
	}
}

// TestAnotherKeyUnderAKnownID: differences are read by key ID, so a root that
// keeps an ID and changes its key is none.
func TestAnotherKeyUnderAKnownID(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().RenewRoot())
	m := must1(parseMeta[metadata.RootType](metadata.ROOT, w.folder.files["staged/2.root.json"]))(t)
	id := w.keys["targets-1"].id
	m.Signed.Keys[id] = must1(publicKey(seededKey(t, 66).pem(t)))(t)
	w.folder.files["staged/2.root.json"] = must1(m.ToBytes(true))(t)
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true, Confirm: (&anyone{}).confirm})
	wantErr(t, err, ErrIncomplete, "no root waits")
	p := must1(w.open().Status())(t).Pending
	if p.Root != nil || !strings.Contains(strings.Join(p.Warnings, "\n"), "is not the ID of its key") {
		t.Errorf("%+v", p)
	}
	w.emergency()
}

// forge replaces what is staged by what else the same draft could be dated to,
// signed by keys: the first holder's, or nobody's.
func (w *world) forge(change func(*snapshot.Snapshot, *targetsMeta), keys ...*Key) {
	w.t.Helper()
	doc := must1(snapshot.Parse(w.folder.files[stagedDocument]))(w.t)
	m := must1(parseMeta[metadata.TargetsType](metadata.TARGETS, w.folder.files[stagedTargets]))(w.t)
	change(doc, m)
	raw := must1(signedForm(doc))(w.t)
	custom := m.Signed.Targets[snapshot.TargetName].Custom
	m.Signed.Targets[snapshot.TargetName] = must1(metadata.TargetFile().FromBytes(snapshot.TargetName, raw, "sha256"))(w.t)
	m.Signed.Targets[snapshot.TargetName].Custom = custom
	m.ClearSignatures()
	for _, k := range keys {
		_, err := m.Sign(k.signer)
		w.must(err)
	}
	w.folder.files[stagedDocument], w.folder.files[stagedTargets] = raw, must1(m.ToBytes(true))(w.t)
}

// ownDates checks that what is staged is dated now, by the default terms, and
// holds no member that this ceremony does not write.
func (w *world) ownDates() {
	w.t.Helper()
	doc := must1(snapshot.Parse(w.folder.files[stagedDocument]))(w.t)
	if !doc.Created.Equal(w.now) || doc.Expires.Sub(doc.Created) != (30*day).Std() {
		w.t.Errorf("%s to %s was signed", doc.Created, doc.Expires)
	}
	m := must1(parseMeta[metadata.TargetsType](metadata.TARGETS, w.folder.files[stagedTargets]))(w.t)
	if m.Signed.Expires.Sub(w.now) != (30 * day).Std() {
		w.t.Errorf("targets until %s were signed", m.Signed.Expires)
	}
	for _, word := range []string{"x-evil", "custom"} {
		if strings.Contains(string(w.folder.files[stagedTargets]), word) {
			w.t.Errorf("the member %s was signed", word)
		}
	}
}

// forgeries are other metadata for the same draft.
var forgeries = map[string]func(*snapshot.Snapshot, *targetsMeta){
	"targets that end in a moment":     func(d *snapshot.Snapshot, m *targetsMeta) { m.Signed.Expires = d.Created.Add(12 * time.Second) },
	"a document that ends in a moment": func(d *snapshot.Snapshot, _ *targetsMeta) { d.Expires = d.Created.Add(20 * time.Second) },
	"a document of a later hour": func(d *snapshot.Snapshot, m *targetsMeta) {
		const ahead = 3500 * time.Second
		d.Created, d.Expires, m.Signed.Expires = d.Created.Add(ahead), d.Expires.Add(ahead), m.Signed.Expires.Add(ahead)
	},
	"a member that nobody knows": func(_ *snapshot.Snapshot, m *targetsMeta) { m.Signed.UnrecognizedFields = map[string]any{"x-evil": 1} },
	"a file's own member": func(_ *snapshot.Snapshot, m *targetsMeta) {
		custom := json.RawMessage(`{"x-evil":1}`)
		m.Signed.Targets[snapshot.TargetName].Custom = &custom
	},
}

// TestStagedByACarrier: what lies in staged/ and no holder has signed counts
// for nothing. Holders who confirmed the honest digest sign their own dates.
func TestStagedByACarrier(t *testing.T) {
	for name, change := range forgeries {
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			honest := must1(w.open().Status())(t).Pending.Digest
			before := w.folder.clone()
			w.must(w.sign("targets-1", false))
			w.forge(change)
			staged := w.folder.files
			w.folder = before
			w.folder.files[stagedDocument], w.folder.files[stagedTargets] = staged[stagedDocument], staged[stagedTargets]
			for _, holder := range []string{"targets-1", "targets-2"} {
				_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirmed: honest})
				w.must(err)
			}
			w.ownDates()
			w.must(w.sign("online", false))
			w.must(w.publish())
			w.observe()
		})
	}
}

// TestStagedByAHolder: the next holder signs no other dates and members either
// because one holder has: that signature is dropped, which is a risk.
func TestStagedByAHolder(t *testing.T) {
	for name, change := range forgeries {
		if name == "a document of a later hour" {
			continue // a holder's clock may be that far off
		}
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			honest := must1(w.open().Status())(t).Pending.Digest
			w.must(w.sign("targets-1", false))
			w.forge(change, w.keys["targets-1"])
			_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}, Confirmed: honest})
			u, ok := errors.AsType[*UnconfirmedError](err)
			if !ok || !strings.Contains(strings.Join(u.Pending.Risks, "; "), "would be dropped") {
				t.Fatalf("%v", err)
			}
			w.must(w.sign("targets-2", false))
			w.ownDates()
		})
	}
}

// TestDatesOfACarrier: a staged document that says what the draft says, and is
// dated to outlive everything, is signed by nobody, though a holder has; nor are
// terms that the carrier made longer taken over unseen.
func TestDatesOfACarrier(t *testing.T) {
	for name, forge := range map[string]func(*snapshot.Snapshot, *targetsMeta){
		"a document that outlives its term": func(d *snapshot.Snapshot, _ *targetsMeta) { d.Expires = d.Expires.AddDate(4, 0, 0) },
		"targets that outlive their term":   func(_ *snapshot.Snapshot, m *targetsMeta) { m.Signed.Expires = m.Signed.Expires.AddDate(4, 0, 0) },
		"a document of tomorrow": func(d *snapshot.Snapshot, m *targetsMeta) {
			d.Created, d.Expires, m.Signed.Expires = d.Created.AddDate(0, 0, 9), d.Expires.AddDate(0, 0, 9), m.Signed.Expires.AddDate(0, 0, 9)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			w.must(w.sign("targets-1", false))
			w.forge(forge, w.keys["targets-1"])
			w.must(w.sign("targets-2", false))
			w.ownDates()
		})
	}
	w := found(t, 1)
	w.folder.files[repositoryFile] = []byte(`{"network":"testnet","terms":{"root":"0s","targets":"40000h","online":"0s","document":"40000h","offlineGrace":"0s"}}`)
	w.must(w.open().AddModel(model("good")))
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}})
	wantErr(t, err, ErrUnconfirmed)
	if p := must1(w.open().Status())(t).Pending; !strings.Contains(strings.Join(p.Risks, "\n"), "would be valid for 40000h") {
		t.Errorf("%q", p.Risks)
	}
}

// TestRootOfACarrier: the term and the members of a root that waits are shown
// as risks, and a digest that was looked at before is not for them.
func TestRootOfACarrier(t *testing.T) {
	for name, c := range map[string]struct {
		forge func(*metadata.RootType)
		says  string
	}{
		"for years":           {func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(3, 0, 0) }, "longer than"},
		"for a moment":        {func(r *metadata.RootType) { r.Expires = worldStart.Add(8 * time.Second) }, "less than a third"},
		"not consistent":      {func(r *metadata.RootType) { r.ConsistentSnapshot = false }, "consistent_snapshot"},
		"a member":            {func(r *metadata.RootType) { r.UnrecognizedFields = map[string]any{"x-evil": 1} }, "members that"},
		"a member of a role":  {func(r *metadata.RootType) { r.Roles["targets"].UnrecognizedFields = map[string]any{"x-evil": 1} }, "members that"},
		"sooner than the one": {func(r *metadata.RootType) { r.Expires = r.Expires.AddDate(0, -1, 0) }, "the published one is until"},
	} {
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().RenewRoot())
			honest := must1(w.open().Status())(t).Pending
			if len(honest.Risks) != 0 {
				t.Fatalf("%q", honest.Risks)
			}
			m := must1(parseMeta[metadata.RootType](metadata.ROOT, w.folder.files["staged/2.root.json"]))(t)
			c.forge(&m.Signed)
			w.folder.files["staged/2.root.json"] = must1(m.ToBytes(true))(t)
			_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true, Confirmed: honest.Digest})
			u, ok := errors.AsType[*UnconfirmedError](err)
			if !ok || !strings.Contains(strings.Join(u.Pending.Risks, "; "), c.says) {
				t.Fatalf("%v", err)
			}
			// It is in nobody's way.
			_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["online"]}})
			w.must(err)
		})
	}
}

// TestRootOfCenturies: what nodes would take for a wrong clock is no root that
// waits.
func TestRootOfCenturies(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().RenewRoot())
	m := must1(parseMeta[metadata.RootType](metadata.ROOT, w.folder.files["staged/2.root.json"]))(t)
	m.Signed.Expires = m.Signed.Expires.AddDate(500, 0, 0)
	w.folder.files["staged/2.root.json"] = must1(m.ToBytes(true))(t)
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true, Confirm: (&anyone{}).confirm})
	wantErr(t, err, ErrIncomplete, "no root waits")
	if p := must1(w.open().Status())(t).Pending; p.Root != nil || !strings.Contains(strings.Join(p.Warnings, "; "), "is left alone") {
		t.Errorf("%+v", p)
	}
}

// TestChangedMeanwhile: who can write to the folder changes the draft while a
// holder reads what is shown. What was shown is what is signed, or nothing is.
func TestChangedMeanwhile(t *testing.T) {
	for _, root := range []bool{false, true} {
		w := found(t, 1)
		w.must(w.open().AddModel(model("good")))
		w.must(w.open().RenewRoot())
		_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"], w.keys["targets-1"]}, Root: root, Confirm: func(*Pending) error {
			d, err := parseDraft(w.folder.files[draftFile], "testnet")
			w.must(err)
			d.Models = append(d.Models, model("evil"))
			return writeJSON(w.folder, draftFile, d)
		}})
		if root {
			wantErr(t, err, ErrUnconfirmed, "changed while it was signed")
		} else {
			w.must(err)
		}
		if b := w.folder.files[stagedDocument]; strings.Contains(string(b), "evil") {
			t.Error("something else than what was shown was signed")
		}
	}
}

// TestLinks: a link in place of a folder is not followed: nothing outside is
// read, written or removed. One in place of a file is replaced, not followed.
func TestLinks(t *testing.T) {
	for _, dir := range []string{draftFolder, stagedFolder, metadataFolder} {
		t.Run(dir, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			here, outside := filepath.Join(t.TempDir(), "ceremony"), t.TempDir()
			w.must(unload(w.folder, here))
			w.must(os.MkdirAll(filepath.Join(here, dir), 0o755))
			w.must(os.CopyFS(outside, os.DirFS(filepath.Join(here, dir))))
			w.must(os.WriteFile(filepath.Join(outside, "targets.json"), []byte("kept"), 0o600))
			before := load(t, outside)
			w.must(os.RemoveAll(filepath.Join(here, dir)))
			w.must(os.Symlink(outside, filepath.Join(here, dir)))
			site := t.TempDir()
			for verb, do := range map[string]func(*Repository) error{
				"status": func(r *Repository) error { _, err := r.Status(); return err },
				"sign": func(r *Repository) error {
					_, err := r.Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
					return err
				},
				"publish": func(r *Repository) error { return r.Publish(t.Context(), PublishOptions{NewSite: true}, DirSite(site)) },
				"renew": func(r *Repository) error {
					return r.Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{NewSite: true}, DirSite(site))
				},
				"reset":  func(r *Repository) error { return r.Reset(true) },
				"edit":   func(r *Repository) error { return r.AddModel(model("more")) },
				"rotate": func(r *Repository) error { return r.RenewRoot() },
			} {
				r, err := Open(here)
				if err == nil {
					r.Now = func() time.Time { return w.now }
					err = do(r)
				}
				if !errors.Is(err, ErrHostile) {
					t.Errorf("%s: %v", verb, err)
				}
				if after := load(t, outside); !maps.EqualFunc(before.files, after.files, func(a, b []byte) bool { return string(a) == string(b) }) {
					t.Fatalf("%s changed what lies outside", verb)
				}
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		w := found(t, 1)
		here, outside := filepath.Join(t.TempDir(), "ceremony"), filepath.Join(t.TempDir(), "file")
		w.must(unload(w.folder, here))
		w.must(os.WriteFile(outside, w.folder.files[draftFile], 0o600))
		w.must(os.MkdirAll(filepath.Join(here, stagedFolder), 0o755))
		for _, name := range []string{stagedTargets, stagedDocument, stagedSnapshot, stagedStamp} {
			w.must(os.Symlink(outside, filepath.Join(here, name)))
		}
		r := must1(Open(here))(t)
		r.Now = func() time.Time { return w.now }
		_, err := r.Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
		w.must(err)
		w.must(r.Publish(t.Context(), PublishOptions{NewSite: true}, DirSite(t.TempDir())))
		if b := must1(os.ReadFile(outside))(t); string(b) != string(w.folder.files[draftFile]) {
			t.Error("a link was followed")
		}
	})
}

func unload(m *memFolder, dir string) error {
	for name, b := range m.files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// TestCrashPoints: each verb ends at each of its steps. Everything that nodes
// see is whole, and the same verb, or the next signer, goes on.
func TestCrashPoints(t *testing.T) {
	base := waits(t)
	ctx := context.Background()
	signed := base.fork(1)
	for _, holder := range []string{"targets-2", "root-2", "online"} {
		signed.must(signed.sign(holder, true))
	}
	behind := signed.fork(1)
	behind.must(behind.publish())
	behind.folder.files = maps.Clone(base.old[0].files)
	for name, c := range map[string]struct {
		from *world
		do   func(*world) error
	}{
		"edit":       {base, func(w *world) error { return w.open().AddModel(model("more")) }},
		"trust root": {base, func(w *world) error { return w.open().AddTrustRoot("net", []byte(`{"n":2}`)) }},
		"revoke --only": {base, func(w *world) error {
			return w.open().Revoke(snapshot.Revocation{Digest: digest.FromString("x")}, Only, Unlisted)
		}},
		"rotate":       {base, func(w *world) error { return w.open().RenewRoot() }},
		"sign targets": {base, func(w *world) error { return w.sign("targets-2", false) }},
		"sign root":    {base, func(w *world) error { return w.sign("root-2", true) }},
		"sign online":  {signed, func(w *world) error { return w.sign("online", false) }},
		"publish":      {signed, func(w *world) error { return w.publish() }},
		"renew": {base, func(w *world) error {
			return w.open().Renew(ctx, []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site))
		}},
		"update": {behind, func(w *world) error { return w.open().Update(ctx, newSite(w.site), UpdateOptions{}) }},
		"reset":  {base, func(w *world) error { return w.open().Reset(true) }},
	} {
		t.Run(name, func(t *testing.T) {
			points := 0
			for n := 1; ; n++ {
				w := c.from.fork(1)
				w.t = t
				w.observe()
				w.folder.crash, w.site.crash = w.folder.steps+n, w.site.steps+n
				err := c.do(w)
				w.folder.crash, w.site.crash = 0, 0
				w.observe()
				if err == nil {
					break
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("step %d: %v", n, err)
				}
				points++
				again := w.fork(1)
				again.t = t
				if err := c.do(again); err != nil {
					t.Errorf("after a crash at step %d the same command says: %v", n, err)
				}
				again.observe()
				w.emergency()
			}
			if points == 0 {
				t.Error("no step was taken")
			}
		})
	}
}

// TestOneFolder: two holders, an editor and a cron job work on one folder and
// one site at the same time, on disk. No command sees half of another's work.
func TestOneFolder(t *testing.T) {
	w := found(t, 1)
	here, site := filepath.Join(t.TempDir(), "ceremony"), t.TempDir()
	w.must(unload(w.folder, here))
	w.must(unload(w.site, site))
	open := func() *Repository {
		r, err := Open(here)
		if err != nil {
			t.Error(err)
			return nil
		}
		r.Now = func() time.Time { return w.now }
		return r
	}
	ctx := t.Context()
	expected := func(err error) bool {
		return err == nil || errors.Is(err, ErrIncomplete) || errors.Is(err, ErrUnsigned) || errors.Is(err, ErrUnconfirmed)
	}
	var wg sync.WaitGroup
	for name, do := range map[string]func(i int) error{
		"editor":         func(i int) error { return open().AddModel(model(fmt.Sprintf("m%d", i))) },
		"another editor": func(i int) error { return open().AddModel(model(fmt.Sprintf("n%d", i))) },
		"holder 1": func(int) error {
			_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}, Confirm: (&anyone{}).confirm})
			return err
		},
		"holder 2": func(int) error {
			_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}, Confirm: (&anyone{}).confirm})
			return err
		},
		"cron": func(int) error { return open().Renew(ctx, []*Key{seededKey(t, 21)}, PublishOptions{}, DirSite(site)) },
		"office": func(int) error {
			if _, err := open().Sign(SignOptions{Keys: []*Key{seededKey(t, 21)}}); err != nil {
				return err
			}
			return open().Publish(ctx, PublishOptions{}, DirSite(site))
		},
	} {
		wg.Go(func() {
			for i := range 12 {
				if err := do(i); !expected(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	// A node reads all the while and never sees anything but a whole set that
	// is not older.
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		seen := snapshot.Seen{}
		for {
			l, chain, err := readRoots(ctx, DirSite(site))
			if err != nil {
				t.Errorf("a node reads: %v", err)
				return
			}
			acc, files, err := chain.Accept(ctx, DirSite(site), "testnet", time.Time{}, seen)
			if err != nil {
				t.Errorf("a node reads: %v", err)
				return
			}
			seen = snapshot.Seen{Files: files, RootVersion: l.root.Signed.Version, Sequence: acc.Document.Sequence, Digest: acc.Digest}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(done)
	reader.Wait()
	// And it can be brought to an end.
	_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
	w.must(err)
	w.must(open().Publish(ctx, PublishOptions{}, DirSite(site)))
	doc := must1(open().published(ctx))(t).acc.Document
	for i := range 12 {
		for _, editor := range []string{"m", "n"} {
			if _, ok := doc.Model(fmt.Sprint(editor, i), "v1"); !ok {
				t.Errorf("an edit was lost: %s%d", editor, i)
			}
		}
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErr(t testing.TB, err, class error, words ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v is not of class %q", err, class)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}
