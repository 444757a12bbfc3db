package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

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
		"system authorities": func() error { t.Setenv("SSL_CERT_FILE", put("bundle", "", 0o666)); return CheckSystemRoots() },
		"a directory of authorities": func() error {
			t.Setenv("SSL_CERT_FILE", "")
			t.Setenv("SSL_CERT_DIR", "/nonexistent:"+filepath.Dir(put("roots/ca.pem", "", 0o666)))
			return CheckSystemRoots()
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

// TestSystemRoots: authorities that variables name are files of this user, also
// where links lead to them, and nothing is waited for.
func TestSystemRoots(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"good", "open", "fifo", "fifolink", "devlink", "openlink", "writable", "goodlink/sub"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) error { return os.Symlink(to, at(name)) }
	for _, err := range []error{
		os.WriteFile(at("good/ca.pem"), nil, 0o644), os.WriteFile(at("open/ca.pem"), nil, 0o644), os.WriteFile(at("writable/ca.pem"), nil, 0o644),
		os.Chmod(at("open"), 0o777), os.Chmod(at("writable/ca.pem"), 0o666),
		unix.Mkfifo(at("fifo/pipe"), 0o600), link(at("fifo/pipe"), "fifolink/ca.pem"), link("/dev/zero", "devlink/ca.pem"),
		link("../open/ca.pem", "openlink/ca.pem"), link("../good/ca.pem", "goodlink/ca.pem"), link("absent", "goodlink/gone.pem"), link("../good", "goodlink/dir"),
		link(at("writable/ca.pem"), "openlink/writable.pem"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		file, dir string
		want      error
	}{
		{file: at("fifo/pipe"), want: durable.ErrNotRegular},
		{file: at("fifolink/ca.pem"), want: durable.ErrNotRegular},
		{file: "/dev/zero", want: durable.ErrNotRegular},
		{file: at("openlink/ca.pem"), want: durable.ErrExposed},
		{file: at("openlink/writable.pem"), want: durable.ErrExposed},
		{file: at("goodlink/ca.pem")},
		{file: at("absent")},
		{dir: at("fifo"), want: durable.ErrNotRegular},
		{dir: "/nonexistent:" + at("fifolink"), want: durable.ErrNotRegular},
		{dir: at("devlink"), want: durable.ErrNotRegular},
		{dir: at("openlink"), want: durable.ErrExposed},
		{dir: at("goodlink") + ":" + at("good")},
	} {
		t.Setenv("SSL_CERT_FILE", c.file)
		t.Setenv("SSL_CERT_DIR", c.dir)
		if err := CheckSystemRoots(); !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, ErrTLS) {
			t.Errorf("file %q, directory %q: %v, want %v", c.file, c.dir, err, c.want)
		}
	}
}
