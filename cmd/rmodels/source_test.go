package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// TestSources: from an empty directory to a node that accepts, by each of the
// ways in which a snapshot travels.
func TestSources(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.toml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RMODELS_CONFIG", none)
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	rmodels := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(append(args, "--host", host+";plain-http=true"), &out, &errs); got != want {
			t.Fatalf("rmodels %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
		}
		return out.String()
	}
	dir := t.TempDir()
	ceremony, site, push := filepath.Join(dir, "ceremony"), filepath.Join(dir, "site"), filepath.Join(dir, "push.json")
	repository := "oci://" + host + "/net/snapshots:lab"
	rmodels(exitOK, "snapshot", "init", ceremony, "--network", "lab")
	rmodels(exitUsage, "snapshot", "sign", ceremony) // without a terminal nothing is signed that was not named
	rmodels(exitOK, "snapshot", "sign", ceremony, "--yes", digestIn(t, rmodels(exitOK, "snapshot", "diff", ceremony, "--output", "json")))
	rmodels(exitOK, "snapshot", "publish", ceremony, "--to", site, "--bundle", push)
	rmodels(exitOK, "snapshot", "publish", ceremony, "--to", repository, "--new-site")
	for name, source := range map[string]string{"directory": site, "OCI repository": repository, "push": ""} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			at := func(want int, args ...string) string {
				t.Helper()
				return rmodels(want, append(args, "--state-dir", state, "--config", filepath.Join(state, "config.toml"))...)
			}
			at(exitOK, "init", "--network", "lab", "--root", filepath.Join(ceremony, "root.json"), "--snapshot-source", source)
			if source == "" {
				at(exitOK, "snapshot", "apply", push)
			} else {
				at(exitOK, "sync")
			}
			var shown struct {
				Document struct {
					Network  string `json:"network"`
					Sequence int64  `json:"sequence"`
				} `json:"document"`
				Signers []string `json:"signers"`
			}
			if err := json.Unmarshal([]byte(at(exitOK, "snapshot", "show", "--output", "json")), &shown); err != nil {
				t.Fatal(err)
			}
			if shown.Document.Network != "lab" || shown.Document.Sequence != 1 || len(shown.Signers) != 3 {
				t.Errorf("%+v", shown)
			}
		})
	}
	rmodels(exitUsage, "sync", "--state-dir", filepath.Join(dir, "none"), "--network", "lab", "--snapshot-source", "ftp://x")
	rmodels(exitUsage, "snapshot", "publish", ceremony, "--to", "oci://"+host+"/UPPER")
}

// TestOwnKeys: each holder makes a key on a machine of their own and signs
// there; the ceremony directory never holds a secret but the online key.
func TestOwnKeys(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.toml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RMODELS_CONFIG", none)
	rmodels := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(args, &out, &errs); got != want {
			t.Fatalf("rmodels %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
		}
		return out.String()
	}
	// looked is the digest of what a holder has looked at.
	looked := func(desk string) string {
		t.Helper()
		return digestIn(t, rmodels(exitOK, "snapshot", "diff", desk, "--output", "json"))
	}
	key := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"alice-root", "bob-root", "alice", "bob"} {
		rmodels(exitOK, "keygen", key(name))
	}
	// carry takes the directory to the next holder, without keys.
	carry := func(from, to string) string {
		t.Helper()
		to = filepath.Join(dir, to)
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(to, "keys")); err != nil {
			t.Fatal(err)
		}
		return to
	}
	desk := filepath.Join(dir, "ceremony")
	rmodels(exitOK, "snapshot", "init", desk, "--network", "lab", "--root-public-key", key("alice-root.pub"), "--root-public-key", key("bob-root.pub"),
		"--targets-public-key", key("alice.pub"), "--targets-public-key", key("bob.pub"))
	secrets, err := os.ReadDir(filepath.Join(desk, "keys"))
	if err != nil || len(secrets) != 1 || secrets[0].Name() != "online.pem" {
		t.Errorf("in keys: %v, %v", secrets, err)
	}
	online := filepath.Join(desk, "keys", "online.pem")
	desk = carry(desk, "alice's")
	rmodels(exitUsage, "snapshot", "sign", desk, "--root", "--key", key("alice-root.key"))
	rmodels(exitUsage, "snapshot", "sign", desk, "--root", "--key", key("alice-root.key"), "--yes", "sha256:"+strings.Repeat("0", 64))
	rmodels(exitOK, "snapshot", "sign", desk, "--root", "--yes", looked(desk), "--key", key("alice-root.key"), "--key", key("alice.key"))
	if _, err := os.Stat(filepath.Join(desk, "root.json")); err == nil {
		t.Error("a root of one signature is there to be pinned")
	}
	desk = carry(desk, "bob's")
	rmodels(exitOK, "snapshot", "sign", desk, "--root", "--yes", looked(desk), "--key", key("bob-root.key"), "--key", key("bob.key"))
	desk = carry(desk, "office")
	rmodels(exitUsage, "snapshot", "sign", desk, "--key", online) // whose root is it that came back?
	rmodels(exitOK, "snapshot", "sign", desk, "--key", online, "--yes", looked(desk))
	push := filepath.Join(dir, "push.json")
	rmodels(exitOK, "snapshot", "publish", desk, "--bundle", push)
	at := []string{"--state-dir", filepath.Join(dir, "state"), "--network", "lab"}
	rmodels(exitOK, append([]string{"init", "--root", filepath.Join(desk, "root.json")}, at...)...)
	rmodels(exitOK, append([]string{"snapshot", "apply", push}, at...)...)
}

// digestIn is the member of that name of what a command printed.
func digestIn(t *testing.T, printed string) string {
	t.Helper()
	var p struct {
		Digest string `json:"digest"`
	}
	if err := json.Unmarshal([]byte(printed), &p); err != nil || p.Digest == "" {
		t.Fatalf("%v: %s", err, printed)
	}
	return p.Digest
}

// TestRefusalsOfACeremonyAreSaid: what would take a network back is refused
// with its reason and with what a publisher does about it, not a node.
func TestRefusalsOfACeremonyAreSaid(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.toml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RMODELS_CONFIG", none)
	said := ""
	rmodels := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(args, &out, &errs); got != want {
			t.Fatalf("rmodels %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
		}
		said = errs.String()
		return out.String()
	}
	dir := t.TempDir()
	desk, backup, other, site := filepath.Join(dir, "desk"), filepath.Join(dir, "backup"), filepath.Join(dir, "other"), filepath.Join(dir, "site")
	sign := func(desk string) {
		t.Helper()
		rmodels(exitOK, "snapshot", "sign", desk, "--yes", digestIn(t, rmodels(exitOK, "snapshot", "diff", desk, "--output", "json")))
	}
	rmodels(exitOK, "snapshot", "init", desk, "--network", "lab")
	rmodels(exitUsage, "snapshot", "publish", desk, "--to", site) // signatures are missing: not an accident
	sign(desk)
	rmodels(exitOK, "snapshot", "publish", desk, "--to", site)
	if err := os.CopyFS(backup, os.DirFS(desk)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(filepath.Join(backup, "keys"), func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(name, 0o600)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sign(desk)
	rmodels(exitOK, "snapshot", "publish", desk, "--to", site)
	rmodels(exitOK, "snapshot", "init", other, "--network", "lab")
	sign(other)
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"snapshot", "publish", backup, "--to", site}, []string{"this ceremony is behind what was published", "next:", "snapshot update DIR --from SITE"}},
		{[]string{"snapshot", "publish", other, "--to", site}, []string{"another network's root", "next:", "--pinned FILE"}},
	} {
		rmodels(exitSnapshot, x.args...)
		for _, want := range x.want {
			if !strings.Contains(said, want) {
				t.Errorf("%q does not say %q", said, want)
			}
		}
		if strings.Contains(said, "the node goes on") {
			t.Errorf("a node's hint: %s", said)
		}
	}
}

// TestKeygenNamesAKey: both names of a key are printed where it is made, and
// its public half is a name, too.
func TestKeygenNamesAKey(t *testing.T) {
	dir := t.TempDir()
	rmodels := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(args, &out, &errs); got != want {
			t.Fatalf("rmodels %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, &out, &errs)
		}
		return out.String() + errs.String()
	}
	key := func(name string) string { return filepath.Join(dir, name) }
	printed := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		printed[name] = rmodels(exitOK, "keygen", key(name))
	}
	if out := rmodels(exitUsage, "keygen", key("gone/d")); !strings.Contains(out, key("gone")+":") {
		t.Errorf("the directory that is missing is not named: %s", out)
	}
	rmodels(exitOK, "keygen", key("d"))
	desk := key("desk")
	rmodels(exitOK, "snapshot", "init", desk, "--network", "lab", "--online-public-key", key("c.pub"),
		"--root-public-key", key("a.pub"), "--targets-public-key", key("a.pub"), "--targets-public-key", key("b.pub"))
	diff := rmodels(exitOK, "snapshot", "diff", desk)
	for name, out := range printed {
		for _, what := range []string{"digest ", "key ID "} {
			_, rest, ok := strings.Cut(out, what)
			if id, _, _ := strings.Cut(rest, " "); !ok || !strings.Contains(diff, what+id) {
				t.Errorf("%s: %s%s is not in %s", name, what, id, diff)
			}
		}
	}
	rmodels(exitOK, "snapshot", "rotate", desk, "--role", "targets", "--old", key("b.pub"), "--new", key("d.pub"))
	_, id, _ := strings.Cut(printed["b"], "key ID ")
	id, _, _ = strings.Cut(id, " ")
	if out := rmodels(exitOK, "snapshot", "diff", desk); strings.Contains(out, id) {
		t.Errorf("%s has its role still: %s", id, out)
	}
}

// TestEnableOfWhatIsRevoked: the model stays out of use, and that is said.
func TestEnableOfWhatIsRevoked(t *testing.T) {
	dir := t.TempDir()
	desk := filepath.Join(dir, "desk")
	r, err := ceremony.Init(desk, ceremony.InitOptions{Network: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	for i, add := range []func() error{
		func() error {
			public, err := ceremony.GenerateKeyFile(filepath.Join(dir, "ci.key"), nil)
			if err != nil {
				return err
			}
			return r.AddPolicy(snapshot.Policy{
				Name: "acme", Images: []snapshot.ImageGlob{{Glob: "registry.example/**"}}, Threshold: 1,
				Authorities: []snapshot.Authority{{Name: "ci", SignatureFormat: "bundle", Key: &snapshot.Key{Data: public}}},
			})
		},
		func() error {
			return r.AddRuntime(snapshot.Runtime{
				Name: "llama", Version: "1.2.3", Policy: "acme", Reference: "registry.example/rt/llama@" + digest.FromString("rt").String(),
				Protocol: "openai-chat", Port: 8080, Args: []string{"-m", "{{.Model}}"}, GPU: "none",
			})
		},
		func() error {
			return r.AddModel(snapshot.Model{
				Name: "tiny", Version: "v1", Policy: "acme", Reference: "registry.example/acme/tiny@" + digest.FromString("tiny").String(), Size: 1,
				Compat:     snapshot.Compat{Runtime: "llama"},
				Validation: snapshot.Validation{Request: []byte(`{"messages":[]}`), Expect: snapshot.Expect{Contains: "x"}},
			})
		},
	} {
		if err := add(); err != nil {
			t.Fatal(i, err)
		}
	}
	for _, args := range [][]string{{"enable", desk, "tiny@v1"}, {"revoke", desk, "--digest", digest.FromString("tiny").String()}, {"enable", desk, "tiny@v1"}} {
		var out, errs bytes.Buffer
		if got := run(append([]string{"snapshot"}, args...), &out, &errs); got != exitOK {
			t.Fatalf("%q: %d %s", args, got, &errs)
		}
		if args[0] == "revoke" {
			continue
		}
		d, err := r.Draft()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "is revoked") != (len(d.Revocations) > 0) {
			t.Errorf("%d revocations: %s", len(d.Revocations), &out)
		}
	}
}

// TestCeremonyIsNoNode: what is wrong with a ceremony's folder or keys is said
// without a node's hint, and a key without a role is wrong usage.
func TestCeremonyIsNoNode(t *testing.T) {
	dir := t.TempDir()
	desk, broken := filepath.Join(dir, "desk"), filepath.Join(dir, "broken")
	if _, err := ceremony.Init(desk, ceremony.InitOptions{Network: "lab"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ceremony.GenerateKeyFile(filepath.Join(dir, "stranger.key"), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "repository.json"), []byte(`{"network": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		want int
		args []string
	}{
		{exitUsage, []string{"sign", desk, "--key", filepath.Join(dir, "stranger.key")}},
		{exitUsage, []string{"publish", desk, "--to", filepath.Join(dir, "site")}},
		{exitUsage, []string{"resume", desk}},
		{exitSnapshot, []string{"status", broken}},
	} {
		var out, errs bytes.Buffer
		got := run(append([]string{"snapshot"}, x.args...), &out, &errs)
		if got != x.want || !strings.HasPrefix(errs.String(), "rmodels: ") && x.args[0] != "sign" {
			t.Errorf("%q: exit code %d, want %d: %s", x.args, got, x.want, &errs)
		}
		if strings.Contains(errs.String(), "the node goes on") {
			t.Errorf("%q: a node's hint: %s", x.args, &errs)
		}
	}
}
