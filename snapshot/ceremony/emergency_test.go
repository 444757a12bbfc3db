package ceremony

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// TestEmergency: revoke, remove, disable and renew work whatever the draft is
// and whatever waits.
func TestEmergency(t *testing.T) {
	states := map[string]func(*world){
		"nothing waits":    func(*world) {},
		"unsigned edits":   func(w *world) { w.must(w.open().AddModel(model("new"))) },
		"no draft":         func(w *world) { delete(w.folder.files, draftFile) },
		"a damaged draft":  func(w *world) { w.folder.files[draftFile] = []byte("{") },
		"an endless draft": func(w *world) { w.folder.files[draftFile] = huge },
		"a draft too large for nodes": func(w *world) {
			d := must1(w.open().Draft())(w.t)
			for i := range 70 {
				m := model(fmt.Sprintf("big%d", i))
				m.Validation.Request = fmt.Appendf(nil, `{"pad":%q}`, strings.Repeat("x", 65000))
				d.Models = append(d.Models, m)
			}
			w.must(w.open().storeDraft(d))
		},
		"a draft of another network": func(w *world) {
			d := must1(w.open().Draft())(w.t)
			d.Network = "other"
			w.must(w.open().storeDraft(d))
		},
		"one of two has signed": func(w *world) {
			w.must(w.open().AddModel(model("new")))
			w.must(w.sign("targets-1", false))
		},
		"a root waits": func(w *world) {
			w.must(w.open().RenewRoot())
			w.must(w.sign("root-1", true))
		},
		"damaged bundles": func(w *world) {
			w.must(w.open().AddBundle(digest.FromString("tiny"), []byte("{}")))
			w.release()
			w.folder.files[draftTargets+"/"+snapshot.BundleTarget(digest.FromString("tiny"))] = []byte("[")
		},
		"a trust root is lost": func(w *world) {
			w.must(w.open().AddTrustRoot("net", []byte(`{}`)))
			delete(w.folder.files, draftTargets+"/net.trusted_root.json")
		},
	}
	for name, make := range states {
		for _, flags := range [][]Flag{{Only}, nil} {
			t.Run(fmt.Sprint(name, flags), func(t *testing.T) {
				w := found(t, 1)
				make(w)
				w.must(w.open().Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site)))
				w.observe()
				r := w.open()
				w.must(r.Revoke(stolen, flags...))
				w.must(r.RemoveModel("tiny", "", flags...))
				before := must1(r.Status())(t)
				readable := len(flags) == 0 && name != "a trust root is lost"
				for _, holder := range []string{"targets-1", "targets-2", "online"} {
					_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirm: (&anyone{}).confirm})
					if err != nil && readable && strings.HasPrefix(holder, "targets") && before.Pending.Document == nil {
						continue // the draft got smaller, and is still too large
					}
					w.must(err)
				}
				w.must(w.publish())
				w.observe()
				doc := must1(w.open().published(t.Context()))(t).acc.Document
				if len(doc.Revocations) != 1 || len(flags) > 0 && len(doc.Models) != 0 {
					t.Errorf("%+v, %d models", doc.Revocations, len(doc.Models))
				}
			})
		}
	}
}

// TestSetAside: an emergency leaves the other edits out, and they are taken up
// again afterwards, with what was withdrawn.
func TestSetAside(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("new")))
	r := w.open()
	w.must(r.Revoke(stolen, Only))
	w.must(r.SetEnabled("tiny", "v1", false, Only))
	if d := must1(r.Draft())(t); len(d.Models) != 1 || d.Models[0].Enabled || len(d.Revocations) != 1 {
		t.Errorf("%+v", d)
	}
	wantErr(t, r.Resume(), ErrUnsigned)
	w.release()
	w.must(r.Resume())
	d := must1(w.open().Draft())(t)
	if len(d.Models) != 2 || len(d.Revocations) != 1 || d.Sequence != 2 {
		t.Errorf("%+v", d)
	}
	wantErr(t, r.Resume(), fs.ErrNotExist)
	w.release()
	w.must(w.open().Edit(func(s *snapshot.Snapshot) error { return nil }, Only))
	empty := &Repository{dir: "x", files: &memFolder{files: map[string][]byte{}}, config: repositoryConfig{Network: "testnet"}, readLine: readLine}
	wantErr(t, empty.Revoke(stolen, Only, Unlisted), ErrIncomplete, "nothing was published")
}

// TestTypos: a revocation of what nothing lists is refused, with what was
// probably meant.
func TestTypos(t *testing.T) {
	w := found(t, 1)
	ci := seededKey(t, 99)
	_, name, err := snapshot.ParseKey(ci.pem(t))
	w.must(err)
	w.must(w.open().Edit(func(s *snapshot.Snapshot) error {
		s.TrustRoots = map[string]snapshot.TrustRoot{"net": {Target: "net.trusted_root.json", Digest: digest.FromString("{}")}}
		s.Policies[0].Authorities = append(s.Policies[0].Authorities, snapshot.Authority{
			Name: "keyless", SignatureFormat: "bundle",
			Keyless: &snapshot.Keyless{TrustRootRef: "net", Identities: []snapshot.Identity{{Issuer: "https://accounts.example", Subject: "ci@example.org"}}},
		})
		w.folder.files[draftTargets+"/net.trusted_root.json"] = []byte("{}")
		return nil
	}))
	for text, rev := range map[string]snapshot.Revocation{
		"PEM file of ci in policy acme; its key is " + name.String(): {Key: digest.FromString(ci.pem(t))},
		"key of role targets":                   {Key: digest.NewDigestFromEncoded(digest.SHA256, w.keys["targets-1"].id)},
		`has issuer "https://accounts.example"`: {Identity: &snapshot.Identity{Issuer: "https://accounts.example/", Subject: "ci@example.org"}},
		`subject "ci@example.org"`:              {Identity: &snapshot.Identity{Issuer: "https://other.example", Subject: "ci@example.org"}},
		"--unlisted":                            {Digest: digest.FromString("tiny ")},
		"--unlisted ":                           {Key: digest.FromString("no key")},
	} {
		wantErr(t, w.open().Revoke(rev), ErrUnlisted, strings.TrimSpace(text))
		w.must(w.open().Revoke(rev, Unlisted))
	}
	for _, rev := range []snapshot.Revocation{
		{Digest: digest.FromString("tiny")},
		{Digest: digest.FromString("runtime")},
		{Key: name},
		{Identity: &snapshot.Identity{Issuer: "https://accounts.example", Subject: "ci@example.org"}},
	} {
		w.must(w.open().Revoke(rev))
	}
	// What the draft no longer lists is still at the nodes.
	w.must(w.open().RemoveModel("tiny", ""))
	w.must(w.open().Revoke(snapshot.Revocation{Digest: digest.FromString("tiny"), Reason: "again"}))
}

// TestSaidWhenMade: what nodes would refuse at the end is refused when it is
// made, and what a theft would make of a root is said.
func TestSaidWhenMade(t *testing.T) {
	many := make([]string, 65)
	for i := range many {
		many[i] = seededKey(t, 2000+uint64(i)).pem(t)
	}
	dir := filepath.Join(t.TempDir(), "ceremony")
	_, err := Init(dir, InitOptions{Network: "testnet", RootKeys: 81})
	wantErr(t, err, snapshot.ErrInvalid, "81 keys")
	if _, err := os.Stat(dir); err == nil {
		t.Error("something was made")
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(full, InitOptions{Network: "testnet"}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("%v", err)
	}
	_, err = Init(dir, InitOptions{Network: "testnet", RootPublicKeys: many[:40], TargetsPublicKeys: many[40:]})
	wantErr(t, err, snapshot.ErrInvalid, "keys, a root holds 64")
	r, err := Init(filepath.Join(t.TempDir(), "c"), InitOptions{
		Network: "testnet", RootPublicKeys: many[:1], TargetsPublicKeys: many[:2], OnlinePublicKey: many[1],
	})
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(must1(r.Status())(t).Pending.Warnings, "\n")
	for _, want := range []string{"roles root and targets", "roles targets and timestamp", "role root needs one signature"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q does not say %q", said, want)
		}
	}
	w := found(t, 1)
	for i := range 60 {
		if err = w.open().RotateKey("targets", "", seededKey(t, 3000+uint64(i)).pem(t)); err != nil {
			break
		}
	}
	wantErr(t, err, snapshot.ErrInvalid, "a root holds 64")
	// Files of a push: as many bundles as fit, and not one more.
	d := must1(w.open().Draft())(t)
	for i := range snapshot.MaxPushFiles {
		d.Models = append(d.Models, model(fmt.Sprintf("m%d", i)))
		w.folder.files[draftTargets+"/"+snapshot.BundleTarget(digest.FromString(fmt.Sprintf("m%d", i)))] = []byte(`[{}]`)
	}
	w.must(w.open().storeDraft(d))
	wantErr(t, w.open().AddBundle(digest.FromString("tiny"), []byte("{}")), snapshot.ErrTooLarge, "a push file holds 1024")
	wantErr(t, w.sign("targets-1", false), snapshot.ErrTooLarge)
	big := []byte(`"` + strings.Repeat("x", snapshot.MaxExtra-2) + `"`)
	w = found(t, 1)
	w.must(w.open().AddTrustRoot("one", big))
	wantErr(t, w.open().AddTrustRoot("two", []byte(`{}`)), snapshot.ErrTooLarge)
}

// TestKeyFiles: keys are made for their owner alone, in each holder's own
// directory, under passphrases; those that others can read are refused, and
// those that lie together are warned of.
func TestKeyFiles(t *testing.T) {
	dir, sticks := filepath.Join(t.TempDir(), "ceremony"), t.TempDir()
	asked := map[string]int{}
	pass := func(file string) ([]byte, error) {
		asked[filepath.Base(file)]++
		return []byte("secret of " + filepath.Base(file)), nil
	}
	alice, bob := filepath.Join(sticks, "alice"), filepath.Join(sticks, "bob")
	r, err := Init(dir, InitOptions{Network: "testnet", RootKeys: 2, TargetsKeys: 2, Holders: []string{alice, bob}, Passphrase: pass})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{alice + "/root-1.pem", alice + "/targets-1.pem", bob + "/root-2.pem", bob + "/targets-2.pem"} {
		st, err := os.Stat(file)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, st, err)
		}
		b := must1(os.ReadFile(file))(t)
		if !strings.Contains(string(b), "BEGIN ENCRYPTED SIGSTORE PRIVATE KEY") {
			t.Errorf("%s: %s", file, b)
		}
		_, err = LoadKey(file, nil)
		wantErr(t, err, snapshot.ErrKey, "no passphrase")
		_, err = LoadKey(file, func(string) ([]byte, error) { return []byte("wrong"), nil })
		wantErr(t, err, snapshot.ErrKey)
		if n := asked[filepath.Base(file)]; n != 1 {
			t.Errorf("asked %d times for %s", n, file)
		}
	}
	if files := must1(r.KeyFiles())(t); len(files) != 1 {
		t.Errorf("%q", files)
	}
	if said := must1(r.Status())(t).Pending.Warnings; slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "keys/ holds") }) {
		t.Errorf("%q", said)
	}
	key := must1(LoadKey(alice+"/targets-1.pem", pass))(t)
	_, err = r.Sign(SignOptions{Keys: []*Key{key}, Confirm: (&anyone{}).confirm})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(alice + "/targets-1.pem.seen"); err != nil {
		t.Error(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(alice+"/targets-1.pem", mode); err != nil {
			t.Fatal(err)
		}
		_, err = LoadKey(alice+"/targets-1.pem", pass)
		wantErr(t, err, snapshot.ErrKey, "chmod 600")
	}
	if err := durable.WriteFile(bob+"/targets-2.pem.seen", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = LoadKey(bob+"/targets-2.pem", pass)
	wantErr(t, err, snapshot.ErrKey, "has seen")
	together, err := Init(filepath.Join(t.TempDir(), "c"), InitOptions{Network: "testnet", Now: func() time.Time { return worldStart }})
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(must1(together.Status())(t).Pending.Warnings, "\n"); !strings.Contains(said, "keys/ holds 3 keys of role root") {
		t.Errorf("%q", said)
	}
	if _, err := GenerateKeyFile(bob+"/root-2.pem", nil); err == nil {
		t.Error("a key was overwritten")
	}
}
