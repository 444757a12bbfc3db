package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// asProgram makes the test binary behave as rmodels, for shells.
const asProgram = "RMODELS_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// TestThreeHolders runs the block of docs/publisher.md as it stands there: a
// network is founded by three holders and an office, an emergency revocation
// goes out, and a folder is brought up to date.
func TestThreeHolders(t *testing.T) {
	manual, err := os.ReadFile("../../docs/publisher.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- executed by TestThreeHolders -->\n```sh\n(.*?)```").FindStringSubmatch(string(manual))
	if block == nil {
		t.Fatal("docs/publisher.md has no block to execute")
	}
	dir, bin := t.TempDir(), t.TempDir() // the block begins in an empty directory
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(bin, "rmodels")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+asProgram+"=1 exec '"+self+"' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(bin, "none.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-eux", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "RMODELS_CONFIG="+config, "RMODELS_STATE_DIR="+filepath.Join(bin, "state"))
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, &out, &errs)
		}
		return out.String()
	}
	t.Log(sh(block[1]))
	// What is carried holds no secret, and only the office has the online key.
	secrets := sh(`grep -rlE 'PRIVATE KEY' . | sort | tr '\n' ' '`)
	if secrets != "./alice/root.key ./alice/targets.key ./bob/root.key ./bob/targets.key ./carol/root.key ./carol/targets.key ./office/online.key " {
		t.Errorf("private keys: %s", secrets)
	}
	shown := sh(`export RMODELS_NETWORK=testnet RMODELS_SNAPSHOT_SOURCE="$PWD/site"
		rmodels init --root office/pinned.json >/dev/null; rmodels sync >/dev/null; rmodels snapshot show -o json`)
	var acc struct {
		Document struct {
			Sequence    int64 `json:"sequence"`
			Revocations []struct {
				Reason string `json:"reason"`
			} `json:"revocations"`
		} `json:"document"`
	}
	if err := json.Unmarshal([]byte(shown), &acc); err != nil || acc.Document.Sequence != 2 || len(acc.Document.Revocations) != 1 || acc.Document.Revocations[0].Reason != "found harmful" {
		t.Errorf("%v: %s", err, shown)
	}
	if out := sh("rmodels snapshot status office/ceremony"); !strings.Contains(out, "nothing differs from what was published") {
		t.Errorf("%s", out)
	}
}

// TestWhole: a long value is wrapped, indented, and complete.
func TestWhole(t *testing.T) {
	text := strings.Repeat("0123456789", 2000) + " evil.example/**"
	var b strings.Builder
	whole(&b, "    + ", text)
	var joined strings.Builder
	for i, l := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if len(l) > 120 {
			t.Fatalf("a line of %d", len(l))
		}
		mark := "        "
		if i == 0 {
			mark = "    + "
		}
		rest, ok := strings.CutPrefix(l, mark)
		if !ok {
			t.Fatalf("line %d: %q", i, l)
		}
		joined.WriteString(rest)
	}
	if joined.String() != text {
		t.Error("something of it is not shown")
	}
}
