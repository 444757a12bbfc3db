package ceremony_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// TestCeremony: three holders, each with one key on a machine of its own; what
// travels between them holds no secret.
func TestCeremony(t *testing.T) {
	holders := t.TempDir()
	var public []string
	for _, h := range []string{"root-a", "root-b", "root-c", "targets-a", "targets-b", "targets-c", "online"} {
		public = append(public, holderKey(t, filepath.Join(holders, h+".pem")))
	}
	key := func(h string) string { return filepath.Join(holders, h+".pem") }
	c := &clock{start}
	dir := filepath.Join(t.TempDir(), "ceremony")
	repo, err := ceremony.Init(dir, ceremony.InitOptions{
		Network: "mainnet", RootPublicKeys: public[:3], TargetsPublicKeys: public[3:6], OnlinePublicKey: public[6], Now: c.now,
	})
	check(t, err)
	if entries, err := os.ReadDir(filepath.Join(dir, "keys")); err != nil || len(entries) > 0 {
		t.Errorf("keys/ holds %v (%v)", entries, err)
	}
	if _, err := repo.RootJSON(); err == nil {
		t.Error("an unsigned root was handed out")
	}
	// carry moves the ceremony to another machine.
	carry := func() {
		t.Helper()
		next := filepath.Join(t.TempDir(), "ceremony")
		check(t, os.CopyFS(next, os.DirFS(dir)))
		dir = next
		repo, err = ceremony.Open(dir)
		check(t, err)
		repo.Now = c.now
	}
	check(t, repo.AddPolicy(testPolicy()))
	check(t, repo.AddRuntime(testRuntime()))
	check(t, repo.AddModel(testModel("tiny", "v1")))
	steps := []struct {
		key      string
		complete bool
	}{
		{"root-a", false}, {"targets-a", false}, {"root-c", false}, {"online", false}, {"targets-c", false}, {"online", true},
	}
	for i, s := range steps {
		carry()
		res := signWith(t, repo, key(s.key))
		if res.Complete != s.complete || res.Restarted {
			t.Errorf("step %d %s: %+v", i, s.key, res)
		}
		if !res.Complete {
			_, err = repo.BundleFile()
			wantErr(t, err, ceremony.ErrIncomplete)
		}
	}
	b, err := repo.BundleFile()
	check(t, err)
	root, err := repo.RootJSON()
	check(t, err)
	n := newNode(t, "mainnet", root)
	acc := must1(n.Apply(b, c.now()))(t)
	if len(acc.Signers) != 2 || acc.Document.Sequence != 1 {
		t.Errorf("%+v", acc)
	}

	// The draft changes between two signatures: they are for another document.
	check(t, repo.SetEnabled("tiny", "v1", false))
	signWith(t, repo, key("targets-a"))
	check(t, repo.AddModel(testModel("tiny", "v2")))
	res := signWith(t, repo, key("targets-b"))
	if !res.Restarted || res.Complete {
		t.Errorf("%+v", res)
	}
	signWith(t, repo, key("targets-c"))
	res = signWith(t, repo, key("online"))
	if !res.Complete || res.Sequence != 2 {
		t.Errorf("%+v", res)
	}
	b, err = repo.BundleFile()
	check(t, err)
	acc = must1(n.Apply(b, c.now()))(t)
	if acc.Document.Sequence != 2 || len(acc.Document.Models) != 2 || acc.Document.Models[0].Enabled {
		t.Errorf("%+v", acc.Document)
	}

	// A key of no role is a mistake to be told.
	holderKey(t, key("stranger"))
	keys := must1(repo.LoadKeys(nil, key("stranger")))(t)
	_, err = repo.Sign(ceremony.SignOptions{Keys: keys})
	wantErr(t, err, snapshot.ErrKey, "stranger")
}

// holderKey makes a key file and returns the public half.
func holderKey(t *testing.T, file string) string {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	check(t, err)
	check(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	pub, err := ceremony.PublicKeyPEM(file)
	check(t, err)
	return pub
}

// TestRenew: the online key alone keeps a snapshot fresh.
func TestRenew(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	acc := must1(n.Apply(net.release(), net.now()))(t)
	for i := range 4 {
		net.forward(6 * days)
		next := must1(n.Apply(net.release("online"), net.now()))(t)
		if next.Changed || next.Digest != acc.Digest || next.TimestampVersion != int64(i+2) || next.Freshness != snapshot.Fresh {
			t.Errorf("%+v", next)
		}
	}
	// Beyond the targets' term the online key is not enough.
	net.forward(7 * days)
	signWith(t, net.repo, net.key("online"))
	_, err := net.repo.BundleFile()
	wantErr(t, err, snapshot.ErrExpired)
	acc = must1(n.Apply(net.release("targets-1", "targets-2", "online"), net.now()))(t)
	if acc.Document.Sequence != 2 || !acc.Changed {
		t.Errorf("%+v", acc)
	}
}

func TestDraft(t *testing.T) {
	net := newNetwork(t)
	r := net.repo
	wantErr(t, r.RemoveModel("none", ""), fs.ErrNotExist, "none")
	wantErr(t, r.SetEnabled("tiny", "v9", false), fs.ErrNotExist, "tiny@v9")
	bad := testModel("bad", "v1")
	bad.Policy = "nobody"
	wantErr(t, r.AddModel(bad), snapshot.ErrInvalid, "policy")
	if d := must1(r.Draft())(t); len(d.Models) != 1 {
		t.Error("a refused edit was stored")
	}
	check(t, r.AddModel(testModel("tiny", "v2")))
	check(t, r.SetEnabled("tiny", "", false))
	m := testModel("tiny", "v1")
	m.Size = 5
	check(t, r.AddModel(m))
	d := must1(r.Draft())(t)
	if len(d.Models) != 2 || d.Models[0].Size != 5 || !d.Models[0].Enabled || d.Models[1].Enabled {
		t.Errorf("%+v", d.Models)
	}
	check(t, r.RemoveModel("tiny", "v1"))
	check(t, r.RemoveModel("tiny", ""))
	if d := must1(r.Draft())(t); len(d.Models) != 0 {
		t.Errorf("%+v", d.Models)
	}
	if _, err := ceremony.Init(net.dir, ceremony.InitOptions{Network: "mainnet"}); err == nil {
		t.Error("made over an existing repository")
	}
}

// TestTargets: trust roots and bundles travel as targets of their own.
func TestTargets(t *testing.T) {
	net := newNetwork(t)
	check(t, net.repo.AddTrustRoot("net", []byte(`{"mediaType":"x"}`)))
	d := testDigest("tinyv1")
	check(t, net.repo.AddBundle(d, []byte(`{"one":1}`)))
	check(t, net.repo.AddBundle(d, []byte(`{"two":2}`)))
	check(t, net.repo.AddBundle(d, []byte(`{"two":2}`)))
	check(t, net.repo.AddBundle(testDigest("unlisted"), []byte(`{}`)))
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	acc := must1(n.Current(net.now()))(t)
	if string(acc.TrustRoots["net"]) != `{"mediaType":"x"}` || len(acc.Bundles) != 1 || len(acc.Bundles[d]) != 2 {
		t.Errorf("%v %v", acc.TrustRoots, acc.Bundles)
	}
	to := t.TempDir()
	check(t, net.repo.Publish(t.Context(), ceremony.PublishOptions{NewSite: true}, ceremony.DirSite(to)))
	other := newNode(t, "mainnet", net.root())
	if acc := must1(other.Pull(t.Context(), snapshot.DirSource(to), net.now()))(t); len(acc.Bundles[d]) != 2 {
		t.Errorf("%v", acc.Bundles)
	}
}

// renewed are the files of a published directory.
func renewed(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[name], err = fs.ReadFile(root, name)
		}
		return err
	})
	return files, err
}

// TestRenewMeanwhile: the online key keeps the published snapshot fresh while
// the next one waits for signatures, and that one is complete afterwards.
func TestRenewMeanwhile(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	signWith(t, net.repo, net.key("targets-1"), net.key("online"))
	net.forward(6 * days)
	online := must1(net.repo.LoadKeys(nil, net.key("online")))(t)
	to := t.TempDir()
	check(t, net.repo.Renew(t.Context(), online, ceremony.PublishOptions{NewSite: true}, ceremony.DirSite(to)))
	files := must1(renewed(to))(t)
	acc := must1(n.Apply(must1(snapshot.EncodeBundle(files))(t), net.now()))(t)
	if acc.Document.Sequence != 1 || acc.TimestampVersion != 2 || acc.Changed {
		t.Errorf("%+v", acc)
	}
	must1(newNode(t, "mainnet", net.root()).Pull(t.Context(), snapshot.DirSource(to), net.now()))(t)
	acc = must1(n.Apply(net.release("targets-2", "online"), net.now()))(t)
	if acc.Document.Sequence != 2 || len(acc.Signers) != 2 || acc.TimestampVersion != 3 {
		t.Errorf("%+v", acc)
	}
	other := must1(net.repo.LoadKeys(nil, net.key("targets-1")))(t)
	wantErr(t, net.repo.Renew(t.Context(), other, ceremony.PublishOptions{}), snapshot.ErrKey, "online key")
}

func TestRotateErrors(t *testing.T) {
	net := newNetwork(t)
	net.release()
	wantErr(t, net.repo.RotateKey("targets", "ffff", ""), snapshot.ErrKey)
	wantErr(t, net.repo.RotateKey("nobody", "", ""), snapshot.ErrKey)
	wantErr(t, net.repo.SetThreshold("nobody", 1), snapshot.ErrKey)
	wantErr(t, net.repo.SetThreshold("targets", 4), snapshot.ErrInvalid)
	wantErr(t, net.repo.SetThreshold("targets", 0), snapshot.ErrInvalid)
	wantErr(t, net.repo.RotateKey("targets", "", rsa1024), snapshot.ErrKey)
	st := must1(net.repo.Status())(t)
	for _, r := range st.Roles {
		if r.Role == metadata.TARGETS {
			check(t, net.repo.RotateKey("targets", r.Signed[0][:12], ""))
			wantErr(t, net.repo.RotateKey("targets", r.Signed[1], ""), snapshot.ErrInvalid) // 1 key for a threshold of 2
		}
	}
	check(t, net.repo.RenewRoot())
	// One root holder alone does not complete the root.
	res := signWith(t, net.repo, net.key("root-1"), net.key("targets-2"), net.key("targets-3"), net.key("online"))
	if !res.Complete || res.Roles[0].Complete || len(res.Roles[0].Missing) != 2 {
		t.Errorf("%+v", res)
	}
	// Nor does it wait for it: the document goes out under the root before.
	check(t, net.repo.Publish(t.Context(), ceremony.PublishOptions{}))
	if st := must1(net.repo.Status())(t); st.Pending.Root == nil || st.Roles[0].Version != 2 || st.Roles[0].Complete {
		t.Errorf("%+v", st)
	}
	if res := signWith(t, net.repo, net.key("root-2"), net.key("targets-2"), net.key("targets-3"), net.key("online")); !res.Complete {
		t.Errorf("%+v", res)
	}
}

// No key signs a list of which every node would refuse a part; the online key
// still renews what is published.
func TestSignRefusesWhatNoNodeCanUse(t *testing.T) {
	n := newNetwork(t)
	n.release()
	check(t, n.repo.Edit(func(s *snapshot.Snapshot) error {
		s.Runtimes[0].Env = map[string]string{"LD_PRELOAD": "/x.so"}
		return nil
	}))
	sign := func(files ...string) error {
		keys := must1(n.repo.LoadKeys(nil, files...))(t)
		_, err := n.repo.Sign(ceremony.SignOptions{Keys: keys, Root: true, Confirm: func(*ceremony.Pending) error { return nil }})
		return err
	}
	wantErr(t, sign(), snapshot.ErrInvalid, "LD_PRELOAD")
	check(t, sign(n.key("online")))
}
