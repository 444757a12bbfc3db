package oci_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

func hostsDir(t *testing.T, registry, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, registry), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, registry, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestHostsFile(t *testing.T) {
	own, mirror, second := newRegistry(t), newRegistry(t), newRegistry(t)
	ref := own.model("org/m", file{"a", noise(1, 5000)})
	mirror.model("org/m", file{"a", noise(1, 5000)})
	asked := make(chan string, 100)
	mirror.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		asked <- req.URL.Path + "?" + req.URL.RawQuery
		req.URL.Path = strings.TrimPrefix(req.URL.Path, "/proxy")
		next.ServeHTTP(w, req)
	})
	content := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s/proxy/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n[host.'http://%s']\n  capabilities = [\"push\"]\n", own.name, mirror.name, second.name)
	host, port, _ := strings.Cut(own.name, ":")
	c := newClient(t, oci.Options{HostsDir: hostsDir(t, host+"_"+port+"_", content)})
	if a := resolve(t, c, ref); a.From != own.repository("org/m") || len(a.Sources) != 1 {
		t.Fatalf("without leave: from %s, sources %v", a.From, a.Sources)
	}
	mirrors, err := c.HostMirrors(ref)
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Resolve(background(t), ref, mirrors)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Sources) != 2 || a.From != mirror.repository("org/m")+"?ns="+own.name {
		t.Fatalf("from %s, sources %v", a.From, a.Sources)
	}
	if got := <-asked; !strings.HasPrefix(got, "/proxy/v2/org/m/manifests/") || !strings.Contains(got, "ns="+strings.ReplaceAll(own.name, ":", "%3A")) {
		t.Errorf("the mirror was asked for %s", got)
	}
	st, l := newStore(t)
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if res.Sources[a.From] != a.Size() {
		t.Errorf("bytes came from %v", res.Sources)
	}
	if _, err := c.Evidence(background(t), ref, mirrors); err != nil {
		t.Errorf("evidence: %v", err)
	}
	mirror.server.Close()
	if a, err := c.Resolve(background(t), ref, mirrors); err != nil || a.From != own.repository("org/m") {
		t.Errorf("without the mirror: %v", err)
	}
}

func TestHostsFileRefuses(t *testing.T) {
	ref := oci.Reference{Registry: "registry.example", Repository: "m", Digest: someDigest}
	for name, content := range map[string]string{
		"skip_verify": "[host.\"https://m.example\"]\nskip_verify = true\n",
		"header":      "[host.\"https://m.example\"]\n[host.\"https://m.example\".header]\nx = \"y\"\n",
		"no CA file":  "[host.\"https://m.example\"]\nca = \"missing.pem\"\n",
		"odd scheme":  "[host.\"ftp://m.example\"]\n",
		"credentials": "[host.\"https://u:p@m.example\"]\n",
		"no TOML":     "[[[",
		"ca is odd":   "ca = 7\n",
	} {
		c := newClient(t, oci.Options{HostsDir: hostsDir(t, "registry.example", content)})
		if _, err := c.Resolve(background(t), ref, nil); err == nil || errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
