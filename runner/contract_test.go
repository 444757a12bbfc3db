package runner_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// TestOtherEngines runs the contract on each engine of RMODELS_TEST_ENGINES:
// lines of "name path global-flags…". nerdctl has the other tests.
func TestOtherEngines(t *testing.T) {
	given := strings.TrimSpace(os.Getenv("RMODELS_TEST_ENGINES"))
	if given == "" {
		t.Log("RMODELS_TEST_ENGINES names no docker and no podman: neither was tried")
	}
	for line := range strings.Lines(given) {
		f := strings.Fields(line)
		if len(f) < 2 {
			t.Fatalf("RMODELS_TEST_ENGINES: %q is not: name path flags…", line)
		}
		t.Run(f[0], func(t *testing.T) {
			e, err := runner.FindEngine(t.Context(), runner.EngineOptions{Name: f[0], Path: f[1], Args: f[2:], Probe: buildStatic(t, "./probe/rmodels-probe")})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(e.Version())
			look := func(args ...string) func() string {
				return func() string {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					out, err := exec.CommandContext(ctx, f[1], slices.Concat(f[2:], args)...).Output()
					if err != nil {
						t.Fatal(err)
					}
					return strings.TrimSpace(string(out))
				}
			}
			contract(t, e, look("ps", "-a", "--format", "{{.Names}}"), look("images", "--format", "{{.Repository}}:{{.Tag}}"))
		})
	}
}

func contract(t *testing.T, e *runner.Engine, names, images func() string) {
	run := func(t *testing.T, j runner.Job, cause runner.Cause, found string) {
		t.Helper()
		j.Runtime.StartTimeout = snapshot.Duration(15 * time.Second)
		v, err := e.Validate(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		if v.Cause != cause || !strings.Contains(v.Found, found) {
			t.Errorf("cause %s (%s), found %q, log %q; want %s, %q", v.Cause, v.Reason, v.Found, v.LogTail, cause, found)
		}
		if left := names(); left != "" {
			t.Errorf("containers left: %s", left)
		}
	}
	t.Run("good", func(t *testing.T) { run(t, fixtureJob(t, "serve", "the right words"), runner.CausePassed, "") })
	t.Run("wrong answer", func(t *testing.T) { run(t, fixtureJob(t, "serve", "other"), runner.CauseAnswer, "other") })
	t.Run("exits", func(t *testing.T) { run(t, fixtureJob(t, "exit"), runner.CauseExit, "no such model") })
	t.Run("flood", func(t *testing.T) {
		j := fixtureJob(t, "flood")
		j.Validation.Expect.Exact = "ok"
		run(t, j, runner.CausePassed, "")
	})
	t.Run("memory", func(t *testing.T) {
		j := fixtureJob(t, "hog")
		j.Runtime.Memory = 96 << 20
		run(t, j, runner.CauseMemory, "limit")
	})
	t.Run("program", func(t *testing.T) {
		j := fixtureJob(t, "say", "the right")
		j.Runtime.Protocol, j.Runtime.Port, j.Validation.Request = "exec", 0, jsontext.Value(`{"args":["words"]}`)
		j.Validation.Expect.Exact = "the right words\n"
		run(t, j, runner.CausePassed, "")
	})
	t.Run("volumes", func(t *testing.T) {
		j := fixtureJob(t, "serve", "the right words")
		j.Image = packImage(t, "hostile", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Volumes: map[string]struct{}{"/data": {}}, Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}}, fixtureFile(t))
		run(t, j, runner.CausePassed, "")
	})
	t.Run("refused image", func(t *testing.T) {
		j := fixtureJob(t, "serve", "the right words")
		j.Image = packImage(t, "hostile", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Env: []string{"LD_PRELOAD=/x.so"}}, fixtureFile(t))
		if _, err := e.Validate(t.Context(), j); !errors.Is(err, runner.ErrImage) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("orphan", func(t *testing.T) {
		j := fixtureJob(t, "serve", "the right words")
		if _, err := e.Keep(t.Context(), j, time.Minute, func(k runner.Kept) {
			os.Remove(j.StateDir + "/box-" + k.Container + ".json")
			if removed, err := e.RemoveOrphans(t.Context(), j.StateDir); err != nil || len(removed) != 1 {
				t.Errorf("removed %v, %v", removed, err)
			}
		}); err != nil {
			t.Error(err)
		}
		if left := names(); left != "" {
			t.Errorf("containers left: %s", left)
		}
	})
	t.Run("loaded images go", func(t *testing.T) {
		j := fixtureJob(t, "serve", "the right words")
		if before := images(); !strings.Contains(before, j.Image.Name) {
			t.Fatalf("%s is not among %s", j.Image.Name, before)
		}
		if removed, err := e.RemoveImages(t.Context(), j.StateDir, "", []digest.Digest{j.Image.Manifest}); err != nil || slices.Contains(removed, j.Image.Name) {
			t.Errorf("a kept image: removed %v, %v", removed, err)
		}
		if removed, err := e.RemoveImages(t.Context(), j.StateDir, "", nil); err != nil || !slices.Contains(removed, j.Image.Name) {
			t.Errorf("removed %v, %v", removed, err)
		}
		if left := images(); strings.Contains(left, "rmodels.invalid") {
			t.Errorf("images left: %s", left)
		}
	})
}
