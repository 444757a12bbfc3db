package ceremony

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
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
