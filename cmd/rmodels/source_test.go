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
