package runner_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// llamaServer packs the root filesystem that "make runtime" builds from
// Debian's packages.
func llamaServer(t testing.TB) runner.Image {
	t.Helper()
	root := os.Getenv("RMODELS_TEST_RUNTIME")
	if root == "" {
		root = "../.cache/runtime/rootfs"
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/llama-server")); err != nil {
		t.Fatalf("%v: this test needs a real engine; build it with: make runtime (or set RMODELS_TEST_RUNTIME)", err)
	}
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			files = append(files, file{name: name + "/", mode: 0o755})
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			files = append(files, file{name: name, link: target})
		default:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files = append(files, file{name: name, mode: int64(fi.Mode().Perm()), body: b})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packImage(t, "llama-server", ocispec.ImageConfig{}, files...)
}

// realJob is a run of llama-server on a generated model.
func realJob(t testing.TB, o tinygguf.Options) runner.Job {
	t.Helper()
	var b bytes.Buffer
	if err := tinygguf.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	j := fixtureJob(t)
	if err := os.WriteFile(filepath.Join(j.ModelDir, "model.gguf"), b.Bytes(), 0o444); err != nil {
		t.Fatal(err)
	}
	j.Image = llamaServer(t)
	j.Runtime = snapshot.Runtime{
		Name: "llama-cpp", Version: "0.7.0", Protocol: "openai-chat", Port: 8080, Health: "/health", GPU: "none",
		Entrypoint: []string{"/usr/bin/llama-server"},
		Args: []string{
			"--model", "{{.Model}}", "--host", "127.0.0.1", "--port", "{{.Port}}", "--threads", "2",
			"--ctx-size", "512", "--parallel", "1", "--offline",
		},
		Memory: 2 << 30, CPUs: 2, StartTimeout: snapshot.Duration(time.Minute),
	}
	j.Validation.Request = jsontext.Value(`{"messages":[{"role":"user","content":"ping"}],"max_tokens":24,"temperature":0}`)
	j.Validation.Timeout = snapshot.Duration(time.Minute)
	j.Validation.Deterministic = true
	return j
}

func TestRealEngine(t *testing.T) {
	e := testEngine(t)
	chain := tinygguf.Options{Mode: tinygguf.Chain, Words: strings.Fields("the model files answer from a sealed box")}
	want, err := tinygguf.Answer(chain)
	if err != nil {
		t.Fatal(err)
	}
	j := realJob(t, chain)
	j.Validation.Expect = snapshot.Expect{Exact: want}
	first := validate(t, e, j)
	if !first.Passed || first.Tokens < 8 || first.PeakMemory == 0 {
		t.Fatalf("%s: %s", first.Reason, first.Found)
	}
	// Behind the store's back the model is cut short.
	if err := os.Truncate(filepath.Join(j.ModelDir, "model.gguf"), 100_000); err != nil {
		t.Fatal(err)
	}
	if v := validate(t, e, j); v.Passed || v.Cause != runner.CauseExit {
		t.Errorf("a truncated model: %s, %s: %s", v.Cause, v.Reason, v.Found)
	}
	// Another model's file in its place answers, but not this.
	var other bytes.Buffer
	if err := tinygguf.Write(&other, tinygguf.Options{Mode: tinygguf.Chain, Words: strings.Fields("nobody vouches for me")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(j.ModelDir, "model.gguf"), other.Bytes(), 0o444); err != nil {
		t.Fatal(err)
	}
	if v := validate(t, e, j); v.Passed || v.Cause != runner.CauseAnswer || !strings.Contains(v.Found, "nobody vouches for me") {
		t.Errorf("another model: %s, %s: %s", v.Cause, v.Reason, v.Found)
	}
}

// TestRealEngineIsDeterministic: random weights give the same text each time.
func TestRealEngineIsDeterministic(t *testing.T) {
	e := testEngine(t)
	j := realJob(t, tinygguf.Options{Mode: tinygguf.Random, Words: strings.Fields("alpha beta gamma delta epsilon zeta"), Seed: 7})
	j.Validation.Expect = snapshot.Expect{Regexp: `.`}
	var first *runner.Verdict
	for i := range runsOf(t, 2) {
		v := validate(t, e, j)
		if !v.Passed {
			t.Fatalf("run %d: %s: %s", i, v.Reason, v.Found)
		}
		if first == nil {
			first = v
		}
		for _, c := range runner.Compare(first, v, true) {
			if c.Kind == "answer" {
				t.Errorf("run %d: %+v", i, c)
			}
		}
	}
	if first.AnswerDigest == "" {
		t.Error("no digest of the answer")
	}
}
