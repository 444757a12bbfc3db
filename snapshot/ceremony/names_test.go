package ceremony

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// TestDraftOfAnEarlierVersion: earlier versions left a draft that says what was
// published under the number of its first. Nothing would be undone by an edit
// of it.
func TestDraftOfAnEarlierVersion(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	w.release()
	w.folder.files[draftFile] = []byte(strings.Replace(string(w.folder.files[draftFile]), `"sequence": 2`, `"sequence": 1`, 1))
	if d := must1(w.open().Draft())(t); d.Sequence != 1 {
		t.Fatalf("the draft is of %d", d.Sequence)
	}
	w.must(w.open().AddModel(model("better")))
	p := must1(w.open().Status())(t).Pending
	if len(p.Risks) > 0 || p.Document.Begun != 2 {
		t.Errorf("begun from %d: %q", p.Document.Begun, p.Risks)
	}
}

// TestShortDigest: what is printed short may be typed short, where it is the
// beginning of one artifact that is listed.
func TestShortDigest(t *testing.T) {
	w := found(t, 1)
	full := digest.FromString("tiny")
	for _, short := range []string{full.Encoded()[:12], full.String()[:40]} {
		before := w.folder.clone()
		w.must(w.open().Revoke(snapshot.Revocation{Digest: digest.Digest(short), Reason: "found harmful"}))
		c := must1(w.open().Status())(t).Pending.Document.Changes
		if len(c) != 1 || !slices.Equal(c[0].Hits, []string{"model tiny@v1"}) || !strings.Contains(c[0].Name, full.String()) {
			t.Errorf("%s: %+v", short, c)
		}
		w.folder = before
	}
	for _, wrong := range []string{full.Encoded()[:11], digest.FromString("none").Encoded()[:20], "sha256:", "tiny"} {
		wantErr(t, w.open().Revoke(snapshot.Revocation{Digest: digest.Digest(wrong), Reason: "x"}), ErrUnlisted, "not a full digest")
		wantErr(t, w.open().Revoke(snapshot.Revocation{Digest: digest.Digest(wrong), Reason: "x"}, Unlisted), ErrUnlisted, "not a full digest")
	}
	// Two artifacts that begin alike.
	w.must(w.open().Edit(func(s *snapshot.Snapshot) error {
		m := model("twin")
		last := byte('0')
		if full[len(full)-1] == last {
			last = '1'
		}
		m.Reference = "registry.example/acme/twin@" + string(full[:len(full)-1]) + string(last)
		s.Models = append(s.Models, m)
		return nil
	}))
	wantErr(t, w.open().Revoke(snapshot.Revocation{Digest: digest.Digest(full.Encoded()[:12])}), ErrUnlisted, "2 that are listed begin so")
}

// TestRevocationNamesWhatItHits: a holder is shown what goes out of use, also
// where a key is revoked.
func TestRevocationNamesWhatItHits(t *testing.T) {
	w := found(t, 1)
	_, name, err := snapshot.ParseKey(seededKey(t, 99).pem(t))
	w.must(err)
	w.must(w.open().Revoke(snapshot.Revocation{Key: name, Reason: "stolen"}))
	c := must1(w.open().Status())(t).Pending.Document.Changes
	if len(c) != 1 || fmt.Sprint(c[0].Hits) != "[signatures of model tiny@v1 signatures of runtime llama]" {
		t.Errorf("%+v", c)
	}
}

// TestPublishedIsSaid: after publishing nothing is to be handed out.
func TestPublishedIsSaid(t *testing.T) {
	w := found(t, 1)
	if s := must1(w.open().Status())(t); !s.Published || !s.Complete {
		t.Errorf("%+v", s)
	}
	w.must(w.sign("online", false))
	if s := must1(w.open().Status())(t); s.Published || !s.Complete {
		t.Errorf("%+v", s)
	}
}

// TestNothingAside: it is said in words that no edits wait.
func TestNothingAside(t *testing.T) {
	w := found(t, 1)
	err := w.open().Resume()
	wantErr(t, err, ErrNoneAside)
	if strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), asideFile) {
		t.Error(err)
	}
}

// TestUpdateKeepsTheNetwork: a folder that holds a whole network does not become
// another's by an update, also where a root of the other is given.
func TestUpdateKeepsTheNetwork(t *testing.T) {
	w := found(t, 1)
	dir := filepath.Join(t.TempDir(), "other")
	other := must1(Init(dir, InitOptions{Network: "othernet", Now: func() time.Time { return w.now }}))(t)
	keys := must1(other.LoadKeys(nil))(t)
	_, err := other.Sign(SignOptions{Keys: keys, Root: true, Confirm: func(*Pending) error { return nil }})
	w.must(err)
	site := &memFolder{files: map[string][]byte{}}
	w.must(other.Publish(t.Context(), PublishOptions{}, newSite(site)))
	before := w.folder.clone()
	for _, pinned := range [][]byte{nil, site.files["1.root.json"]} {
		if err := w.open().Update(t.Context(), newSite(site), UpdateOptions{Pinned: pinned}); !errors.Is(err, ErrForeign) && !errors.Is(err, snapshot.ErrNetwork) {
			t.Errorf("pinned %t: %v", pinned != nil, err)
		}
		if !maps.EqualFunc(before.files, w.folder.files, func(a, b []byte) bool { return string(a) == string(b) }) {
			t.Fatal("the folder was changed")
		}
	}
	w.must(w.open().Update(t.Context(), newSite(site), UpdateOptions{Pinned: site.files["1.root.json"], Replace: true}))
	if name := w.open().Network(); name != "othernet" {
		t.Errorf("network %s", name)
	}
}
