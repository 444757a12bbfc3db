package ceremony

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// all signs with every holder that is needed, each confirming what is shown.
func (w *world) all() {
	w.t.Helper()
	var keys []*Key
	for _, holder := range []string{"targets-1", "targets-2", "online"} {
		keys = append(keys, w.keys[holder])
	}
	_, err := w.open().Sign(SignOptions{Keys: keys, Confirm: (&anyone{}).confirm})
	w.must(err)
}

func (w *world) release() {
	w.t.Helper()
	w.all()
	w.must(w.publish())
	w.observe()
}

var stolen = snapshot.Revocation{Digest: digest.FromString("tiny"), Reason: "stolen"}

// forget is what holders have seen, lost.
func (w *world) forget() {
	for _, k := range w.keys {
		k.memory = memory{}
	}
}

// TestNothingGoesBack: what was published is not taken back by an older
// backup, by a second machine, by a late stick, by a stranger's folder, nor by
// a document that lacks a revocation. The site says so also where no key does.
func TestNothingGoesBack(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(w *world) error
		class error
	}{
		"an older backup": {func(w *world) error {
			old := w.folder.clone()
			w.must(w.open().Revoke(stolen))
			w.release()
			w.folder = old
			return w.publish()
		}, ErrBehind},
		"an older backup, signed again": {func(w *world) error {
			old := w.folder.clone()
			w.must(w.open().Revoke(stolen))
			w.release()
			w.folder = old
			w.forget()
			w.must(w.open().AddModel(model("other")))
			w.all()
			return w.publish()
		}, ErrOtherLine},
		"an older backup, ahead in numbers": {func(w *world) error {
			old := w.folder.clone()
			w.must(w.open().Revoke(stolen))
			w.release()
			w.folder = old
			w.forget()
			for range 3 {
				w.all()
				w.must(w.open().Publish(t.Context(), PublishOptions{}))
			}
			return w.publish()
		}, ErrOtherLine},
		"a second machine": {func(w *world) error {
			other := w.folder.clone()
			w.must(w.open().AddModel(model("good")))
			w.all()
			mine := w.folder
			w.folder = other
			w.forget()
			w.must(w.open().Revoke(stolen))
			w.release()
			w.folder = mine
			return w.publish()
		}, ErrOtherLine},
		"a merge of metadata": {func(w *world) error {
			other := w.folder.clone()
			w.must(w.open().AddModel(model("good")))
			w.all()
			mine := w.folder
			w.folder = other
			w.forget()
			w.must(w.open().Revoke(stolen))
			w.release()
			for name, b := range w.folder.files {
				if strings.HasPrefix(name, metadataFolder+"/") {
					mine.files[name] = b
				}
			}
			w.folder = mine
			return w.publish()
		}, ErrUnsigned},
		"a late stick": {func(w *world) error {
			w.must(w.open().AddModel(model("good")))
			w.all()
			stick := w.folder.clone()
			w.must(w.publish())
			w.must(w.open().Revoke(stolen))
			w.release()
			for name, b := range stick.files {
				if !strings.HasPrefix(name, metadataFolder+"/") {
					w.folder.files[name] = b
				}
			}
			return w.publish()
		}, ErrUnsigned},
		"a stranger's folder": {func(w *world) error {
			w.folder = stranger(t)
			return w.publish()
		}, ErrForeign},
		"a revocation is missing": {func(w *world) error {
			w.must(w.open().Revoke(stolen))
			w.release()
			w.must(w.open().Edit(func(s *snapshot.Snapshot) error { s.Revocations = nil; return nil }))
			w.all()
			return w.publish()
		}, ErrUnrevoked},
	} {
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.observe()
			wantErr(t, c.do(w), c.class)
			w.observe()
			if w.another = c.class == ErrOtherLine; w.another {
				w.forget() // what they saw of it is given up with it
			}
			// And from here a revocation goes out as from anywhere.
			w.emergency()
		})
	}
}

// TestLateStick: signing what came back says what would be undone, and is
// refused until exactly that is confirmed; reset begins again.
func TestLateStick(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	w.all()
	stick := w.folder.clone()
	w.must(w.publish())
	w.must(w.open().Revoke(stolen))
	w.release()
	for name, b := range stick.files {
		if !strings.HasPrefix(name, metadataFolder+"/") {
			w.folder.files[name] = b
		}
	}
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}})
	wantErr(t, err, ErrUnconfirmed)
	p := must1(w.open().Status())(t).Pending
	for _, want := range []string{"the published revocation of digest " + stolen.Digest.String(), "was begun from snapshot 1, and 3 is published", "another was published meanwhile"} {
		if !strings.Contains(strings.Join(p.Risks, "\n"), want) {
			t.Errorf("risks %q do not say %q", p.Risks, want)
		}
	}
	w.must(w.open().Reset(false))
	if p := must1(w.open().Status())(t).Pending; len(p.Risks) > 0 || p.Document != nil {
		t.Errorf("%+v", p)
	}
	w.release()
}

// TestHoldersRemember: a key refuses a folder that is older than what its
// holder has seen, another line, and another network, before anything is
// signed.
func TestHoldersRemember(t *testing.T) {
	w := found(t, 1)
	old := w.folder.clone()
	w.must(w.open().AddModel(model("good")))
	w.release()
	w.all() // the holders meet the folder again: now they have seen snapshot 2
	newest := w.folder
	sign := func() error {
		_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}, Confirm: (&anyone{}).confirm})
		return err
	}
	w.folder = old.clone()
	wantErr(t, sign(), ErrBehind, "snapshot 2", "update")
	wantErr(t, w.open().Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{}), ErrBehind)
	w.folder = stranger(t)
	wantErr(t, sign(), ErrForeign, "first root")
	w.folder = newest
	w.must(sign())
	// Another text under the number that was seen.
	w.folder = old.clone()
	kept := *w.keys["targets-1"]
	w.forget()
	w.must(w.open().AddModel(model("another")))
	w.all()
	w.must(w.open().Publish(t.Context(), PublishOptions{}))
	*w.keys["targets-1"] = kept
	wantErr(t, sign(), ErrOtherLine)
	wantErr(t, w.open().Update(t.Context(), newSite(w.site), UpdateOptions{}), ErrOtherLine)
	w.must(w.open().Update(t.Context(), newSite(w.site), UpdateOptions{Replace: true}))
	w.must(w.open().Reset(false))
	w.must(sign())
}

// TestUpdate: a backup and a second machine take over what was published; a
// stranger's site is refused, and so is another line.
func TestUpdate(t *testing.T) {
	w := found(t, 1)
	backup := w.folder.clone()
	w.must(w.open().AddModel(model("good")))
	w.must(w.open().AddTrustRoot("net", []byte(`{"n":1}`)))
	w.release()
	w.must(w.open().RenewRoot())
	w.must(w.sign("root-1", true))
	w.must(w.sign("root-2", true))
	w.release()
	w.folder = backup
	w.must(w.open().Update(t.Context(), newSite(w.site), UpdateOptions{}))
	st := must1(w.open().Status())(t)
	if st.Sequence != 3 || st.Roles[0].Version != 2 || st.Pending.Document == nil || len(st.Pending.Risks) == 0 {
		t.Errorf("%+v: the draft of the backup is older, and it has to be said", st.Pending)
	}
	w.must(w.open().Reset(false))
	w.must(w.open().AddModel(model("more")))
	w.release()
	foreign := stranger(t)
	site := &memFolder{files: map[string][]byte{}}
	for name, b := range foreign.files {
		if rest, ok := strings.CutPrefix(name, metadataFolder+"/"); ok {
			site.files[rest] = b
		}
	}
	wantErr(t, w.open().Update(t.Context(), newSite(site), UpdateOptions{}), ErrForeign)
	wantErr(t, w.open().Update(t.Context(), newSite(site), UpdateOptions{Pinned: w.pinned}), ErrForeign)
	// All that says which network it is was replaced: the root that was kept
	// elsewhere brings it back.
	w.folder = foreign.clone()
	wantErr(t, w.open().Update(t.Context(), newSite(w.site), UpdateOptions{}), ErrForeign)
	w.must(w.open().Update(t.Context(), newSite(w.site), UpdateOptions{Pinned: w.pinned}))
	if st := must1(w.open().Status())(t); st.Sequence != 4 {
		t.Errorf("%+v", st)
	}
	w.emergency()
}

// TestSiteDamaged: what does not verify at a site is not taken for nothing; it
// is overwritten when that was asked for.
func TestSiteDamaged(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	w.all()
	w.site.files[snapshot.TimestampFile] = []byte("{")
	err := w.publish()
	if err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Fatalf("%v", err)
	}
	w.must(w.open().Publish(t.Context(), PublishOptions{Replace: true}, newSite(w.site)))
	w.observe()
}

// TestPublishAfterTheft: a thief of targets and online keys has published under
// high numbers; with new keys the ceremony publishes over it.
func TestPublishAfterTheft(t *testing.T) {
	w := found(t, 1)
	w.observe()
	thief := w.fork(1)
	thief.forget()
	for i := range 5 {
		thief.must(thief.open().AddModel(model(fmt.Sprint("theft", i))))
		thief.release()
	}
	w.site.files = maps.Clone(thief.site.files)
	w.seen = thief.seen
	w.all()
	wantErr(t, w.publish(), ErrBehind)
	for i, old := range []string{"targets-1", "targets-2", "targets-3"} {
		k := seededKey(t, 70+uint64(i))
		w.must(w.open().RotateKey("targets", w.keys[old].id, k.pem(t)))
		w.keys[old] = k
	}
	k := seededKey(t, 80)
	w.must(w.open().RotateKey(RoleOnline, w.keys["online"].id, k.pem(t)))
	w.keys["online"] = k
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"], w.keys["root-2"]}, Root: true, Confirm: (&anyone{}).confirm})
	w.must(err)
	w.release()
	if w.seen.Sequence != 2 {
		t.Errorf("the node has %d", w.seen.Sequence)
	}
}

// TestDatedWhenSigned: a document that waited for its second holder until it
// expired is dated anew, and whose signature that drops is said. Before, the
// holder is warned.
func TestDatedWhenSigned(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	w.must(w.sign("targets-1", false))
	w.now = w.now.Add(22 * 24 * time.Hour)
	p := must1(w.open().Status())(t).Pending
	if !slices.ContainsFunc(p.Warnings, func(s string) bool { return strings.Contains(s, "what is signed was dated 2026-11-22") }) {
		t.Errorf("%q", p.Warnings)
	}
	w.now = w.now.Add(9 * 24 * time.Hour)
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}})
	wantErr(t, err, ErrUnconfirmed)
	p = must1(w.open().Status())(t).Pending
	if len(p.Dropped) != 1 || !strings.Contains(p.Dropped[0].Why, "has expired") {
		t.Errorf("%+v", p.Dropped)
	}
	w.must(w.sign("targets-2", false))
	w.must(w.sign("targets-1", false))
	w.must(w.sign("online", false))
	w.must(w.publish())
	w.observe()
	if doc := must1(w.open().published(t.Context()))(t).acc.Document; !doc.Created.Equal(w.now) {
		t.Errorf("created %s, signed %s", doc.Created, w.now)
	}
}
