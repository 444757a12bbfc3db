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
	rmodels(exitOK, "snapshot", "sign", ceremony)
	rmodels(exitOK, "snapshot", "publish", ceremony, "--to", site, "--bundle", push)
	rmodels(exitOK, "snapshot", "publish", ceremony, "--to", repository)
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
		var p struct {
			Digest string `json:"digest"`
		}
		if err := json.Unmarshal([]byte(rmodels(exitOK, "snapshot", "diff", desk, "--output", "json")), &p); err != nil {
			t.Fatal(err)
		}
		return p.Digest
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
	rmodels(exitOK, "snapshot", "sign", desk, "--key", online)
	push := filepath.Join(dir, "push.json")
	rmodels(exitOK, "snapshot", "publish", desk, "--bundle", push)
	at := []string{"--state-dir", filepath.Join(dir, "state"), "--network", "lab"}
	rmodels(exitOK, append([]string{"init", "--root", filepath.Join(desk, "root.json")}, at...)...)
	rmodels(exitOK, append([]string{"snapshot", "apply", push}, at...)...)
}
