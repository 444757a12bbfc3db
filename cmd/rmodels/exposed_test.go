package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A configuration that other users can write names the program that runs as
// this one; a file that it names decides who is spoken to, and as whom.
func TestConfigurationOfOthers(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	wide := filepath.Join(dir, "wide")
	if err := os.Mkdir(wide, 0o755); err != nil {
		t.Fatal(err)
	}
	put("wide/config.toml", "", 0o600)
	if err := os.Chmod(wide, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ config, words string }{
		"mode 0666":              {put("a.toml", "", 0o666), "chmod go-w"},
		"mode 0664":              {put("b.toml", "", 0o664), "chmod go-w"},
		"a directory of 0777":    {filepath.Join(wide, "config.toml"), "can be replaced"},
		"a password for all":     {put("c.toml", "[hosts.\"r.example\"]\npassword = \"x\"\n", 0o644), "chmod 0600"},
		"a password file of all": {put("d.toml", "[hosts.\"r.example\"]\npassword-file = \""+put("pw", "x", 0o644)+"\"\n", 0o600), "chmod 0600"},
	} {
		for _, variable := range []bool{false, true} {
			args := []string{"-o", "json", "list", "--state-dir", dir, "--network", "n"}
			t.Setenv("RMODELS_CONFIG", "")
			if variable {
				t.Setenv("RMODELS_CONFIG", c.config)
			} else {
				args = append(args, "--config", c.config)
			}
			var out, errs bytes.Buffer
			code := run(args, &out, &errs)
			if code != exitUnexpected || !json.Valid(errs.Bytes()) || !strings.Contains(errs.String(), `"state"`) ||
				!strings.Contains(errs.String(), "cannot be trusted") || !strings.Contains(errs.String(), c.words) {
				t.Errorf("%s, variable %t: exit code %d\n%s%s", name, variable, code, &out, &errs)
			}
		}
	}
	if os.Geteuid() == 0 {
		theirs := put("e.toml", "", 0o644)
		if err := os.Chown(theirs, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		if code := run([]string{"list", "--config", theirs}, &out, &errs); code != exitUnexpected || !strings.Contains(errs.String(), "chown it to root") {
			t.Errorf("another user's: exit code %d\n%s%s", code, &out, &errs)
		}
	}
	t.Setenv("RMODELS_CONFIG", "")
	var out, errs bytes.Buffer
	if code := run([]string{"list", "--state-dir", dir, "--network", "n", "--config", put("f.toml", "", 0o644)}, &out, &errs); code != exitUsage {
		t.Errorf("a good one: exit code %d\n%s%s", code, &out, &errs)
	}
}

// Files that a command reads whole are bounded, and a FIFO is not waited for.
func TestNamedFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(long, 1<<30); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ceremony := filepath.Join(dir, "ceremony")
	var out, errs bytes.Buffer
	if code := run([]string{"snapshot", "init", ceremony, "--network", "n", "--config", empty}, &out, &errs); code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, &out, &errs)
	}
	for _, file := range []string{fifo, long, "/dev/zero"} {
		for name, args := range map[string][]string{
			"the configuration": {"list", "--config", file},
			"a root":            {"init", "--config", empty, "--network", "n", "--state-dir", filepath.Join(dir, "state"), "--root", file},
			"an entry":          {"snapshot", "add", "model", ceremony, file},
			"a signing key":     {"sign", "--config", empty, "--key", file, "r.example/m@sha256:" + strings.Repeat("0", 64)},
			"a new key":         {"snapshot", "rotate", ceremony, "--role", "targets", "--new", file},
			"a push file":       {"snapshot", "apply", "--config", empty, "--network", "n", "--state-dir", dir, file},
		} {
			var out, errs bytes.Buffer
			if code := run(args, &out, &errs); code == exitOK || errs.Len() == 0 {
				t.Errorf("%s, %s: exit code %d\n%s%s", name, file, code, &out, &errs)
			} else if name != "a push file" && code != exitUsage {
				t.Errorf("%s, %s: exit code %d\n%s%s", name, file, code, &out, &errs)
			}
		}
	}
}
