package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/resultity/rmodels/internal/durable"
)

// What other users can write decides neither who is spoken to nor as whom, and
// what they can read is no secret.
func TestFilesOfOthers(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const login = `{"auths":{"r.example":{"auth":"YTpi"}}}`
	for name, read := range map[string]func() error{
		"an authority":  func() error { _, err := Host{CAFile: put("ca", "", 0o666)}.tls(); return err },
		"a certificate": func() error { _, err := LoadKeyPair(put("cert", "", 0o666), put("key", "", 0o600)); return err },
		"a key":         func() error { _, err := LoadKeyPair(put("cert", "", 0o644), put("key", "", 0o644)); return err },
		"a hosts.toml": func() error {
			put("certs.d/r.example/hosts.toml", "", 0o666)
			_, err := readHosts(filepath.Join(dir, "certs.d"), "r.example")
			return err
		},
		"a docker config": func() error { return checkDockerConfig(put("docker.json", `{"credsStore":"x"}`, 0o664)) },
		"a docker login":  func() error { return checkDockerConfig(put("login.json", login, 0o644)) },
		"one by variable": func() error {
			t.Setenv("DOCKER_CONFIG", dir)
			put("config.json", login, 0o644)
			return checkDockerConfig("")
		},
		"system authorities": func() error { t.Setenv("SSL_CERT_FILE", put("bundle", "", 0o666)); return checkSystemRoots() },
		"a directory of authorities": func() error {
			t.Setenv("SSL_CERT_FILE", "")
			t.Setenv("SSL_CERT_DIR", "/nonexistent:"+filepath.Dir(put("roots/ca.pem", "", 0o666)))
			return checkSystemRoots()
		},
	} {
		if err := read(); !errors.Is(err, durable.ErrExposed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"a plain docker config": checkDockerConfig(put("plain.json", `{"auths":{"r.example":{}},"credsStore":"x"}`, 0o644)),
		"a docker login":        checkDockerConfig(put("mine.json", login, 0o600)),
		"no docker config":      checkDockerConfig(filepath.Join(dir, "absent.json")),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
