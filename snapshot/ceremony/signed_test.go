package ceremony

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// TestSignedIsRemembered: a revocation was published, and folder and site are
// put back to before. No key has met the folder since, but each knows what it
// signed: the online key renews nothing below it, holders sign no second text
// under a number unasked, and what was signed but not published can be given up.
func TestSignedIsRemembered(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site)))
	folder, site := w.folder.clone(), w.site.clone()
	w.must(w.open().Revoke(stolen))
	for _, holder := range []string{"targets-1", "targets-2", "online"} {
		w.must(w.sign(holder, false))
	}
	w.must(w.publish())
	stamp := must1(w.open().published(t.Context()))(t).acc.TimestampVersion
	w.folder, w.site = folder, site
	online := []*Key{w.keys["online"]}

	wantErr(t, w.open().Renew(t.Context(), online, PublishOptions{}, newSite(w.site)), ErrBehind, "targets 2", "update")
	before := w.folder.clone()
	_, err := w.open().Sign(SignOptions{Keys: online})
	wantErr(t, err, ErrUnconfirmed)
	w.must(w.open().AddModel(model("another")))
	p := must1(w.open().Status())(t).Pending
	for _, key := range []string{"targets-1", "online"} {
		_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys[key]}, Confirmed: p.Digest})
		u, ok := errors.AsType[*UnconfirmedError](err)
		if !ok || !strings.Contains(strings.Join(u.Pending.Risks, "\n"), "this key has signed") || u.Pending.Digest == p.Digest {
			t.Fatalf("%s: signed without its risk in the digest: %v", key, err)
		}
	}
	if string(before.files[stagedTargets]) != string(w.folder.files[stagedTargets]) {
		t.Error("it was signed nevertheless")
	}
	// What was never published is given up with the digest of just that.
	for _, key := range []string{"targets-1", "targets-2", "online"} {
		o := SignOptions{Keys: []*Key{w.keys[key]}}
		_, err = w.open().Sign(o)
		u, ok := errors.AsType[*UnconfirmedError](err)
		if !ok {
			t.Fatal(err)
		}
		o.Confirmed = u.Pending.Digest
		_, err = w.open().Sign(o)
		w.must(err)
	}
	w.must(w.publish())
	if v := must1(w.open().published(t.Context()))(t).acc.TimestampVersion; v <= stamp {
		t.Errorf("timestamp %d, and %d was signed before", v, stamp)
	}
	w.must(w.open().Renew(t.Context(), online, PublishOptions{}, newSite(w.site)))
}

// TestSignedBelow: what would be signed under a lower number than the key has
// signed is refused, and a root under the same number is a risk.
func TestSignedBelow(t *testing.T) {
	w := found(t, 1)
	old := w.folder.clone()
	w.must(w.open().AddModel(model("good")))
	w.release()
	w.must(w.open().AddModel(model("more")))
	w.must(w.sign("targets-1", false))
	seen := w.keys["targets-1"].memory
	w.keys["targets-1"].memory = memory{SignedTargets: seen.SignedTargets} // all but what was signed
	w.folder = old.clone()
	wantErr(t, w.sign("targets-1", false), ErrBehind, "targets 3", "update")

	w.must(w.open().RenewRoot())
	w.must(w.sign("root-1", true))
	w.folder = old.clone()
	w.must(w.open().SetThreshold("root", 3))
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"]}, Root: true})
	u, ok := errors.AsType[*UnconfirmedError](err)
	if !ok || !strings.Contains(strings.Join(u.Pending.Risks, "\n"), "another root 2") {
		t.Errorf("%v", err)
	}
}

// TestSignedFirstOnDisk: what is signed stands beside the key before a
// signature leaves; where it cannot be written nothing is signed.
func TestSignedFirstOnDisk(t *testing.T) {
	w := found(t, 1)
	file := filepath.Join(t.TempDir(), "online.key")
	online := w.keys["online"]
	online.file = file
	renew := func() error { return w.open().Renew(t.Context(), []*Key{online}, PublishOptions{}, newSite(w.site)) }
	for _, c := range []struct {
		name string
		now  func() error
	}{{"renew", renew}, {"sign", func() error { return w.sign("online", false) }}, {"renew over what is signed", renew}} {
		name, now := c.name, c.now
		was := online.memory
		w.must(os.RemoveAll(file + memorySuffix))
		w.must(os.MkdirAll(file+memorySuffix+"/in the way", 0o700))
		before := w.folder.clone()
		wantErr(t, now(), snapshot.ErrKey, "beside it")
		// A staged one may have been given up, and none is new.
		if b := string(w.folder.files[stagedStamp]); b != "" && b != string(before.files[stagedStamp]) || string(before.files["metadata/timestamp.json"]) != string(w.folder.files["metadata/timestamp.json"]) {
			t.Errorf("%s: a signature left", name)
		}
		w.must(os.RemoveAll(file + memorySuffix))
		w.must(now())
		m := must1(readMemory(file))(t)
		if m.SignedTimestamp <= was.SignedTimestamp || m.SignedOver.Version != 1 || m.SignedOver.Digest == "" {
			t.Errorf("%s: %+v", name, m)
		}
	}
	// A crash at the first step that writes a signature: it is known already.
	w.must(w.open().AddModel(model("good")))
	w.folder.crash = w.folder.steps + 1
	if err := w.sign("targets-1", false); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if m := w.keys["targets-1"].memory.SignedTargets; m.Version != 2 {
		t.Errorf("%+v", m)
	}
}
