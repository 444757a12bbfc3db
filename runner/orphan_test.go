package runner_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// victim is the environment variable that makes this test binary a process
// that validates until it is killed. Its value is the state directory.
const victim = "RMODELS_TEST_VICTIM"

// TestVictim is the other process of TestKilledRun; alone it does nothing.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victim)
	if dir == "" {
		return
	}
	e := testEngine(t)
	j := fixtureJob(t, "deaf")
	j.StateDir = dir
	j.Runtime.StartTimeout = snapshot.Duration(time.Minute)
	j.Progress = func(ev progress.Event) { os.Stdout.WriteString("at: " + ev.Message + "\n") }
	_, err := e.Validate(t.Context(), j)
	t.Error("outlived its killing:", err)
}

// TestKilledRun kills a validating process with SIGKILL at each of its steps
// and expects the next one to clean up and go on.
func TestKilledRun(t *testing.T) {
	e := testEngine(t)
	for name, step := range map[string]string{
		"checking the image": "at: checking", "making the box": "at: starting", "waiting for health": "at: waiting",
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "runs")
			cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
			cmd.Env = append(os.Environ(), victim+"="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := false
			for sc := bufio.NewScanner(out); !seen && sc.Scan(); {
				seen = strings.HasPrefix(sc.Text(), step)
			}
			if !seen {
				t.Errorf("never reached %q", step)
			}
			cmd.Process.Kill()
			cmd.Wait()

			began := time.Now()
			removed, err := e.RemoveOrphans(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if step == "at: waiting" && len(removed) != 1 {
				t.Errorf("removed %v, want the one orphan", removed)
			}
			t.Logf("removed %v in %s", removed, time.Since(began))
			j := fixtureJob(t, "serve", "the right words")
			j.StateDir = dir
			if v := validate(t, e, j); !v.Passed {
				t.Errorf("the next run failed: %s: %s", v.Reason, v.Found)
			}
		})
	}
}

// TestOrphanWithoutRecord loses the record, so that the label alone tells.
func TestOrphanWithoutRecord(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	_, err := e.Keep(t.Context(), j, time.Minute, func(k runner.Kept) {
		// While the run lives it is nobody's orphan.
		if removed, err := e.RemoveOrphans(t.Context(), j.StateDir); err != nil || len(removed) > 0 {
			t.Errorf("a living run's box: removed %v, %v", removed, err)
		}
		if err := os.Remove(filepath.Join(j.StateDir, "box-"+k.Container+".json")); err != nil {
			t.Error(err)
		}
		if removed, err := e.RemoveOrphans(t.Context(), j.StateDir); err != nil || len(removed) != 1 || removed[0] != k.Container {
			t.Errorf("a box without a record: removed %v, %v", removed, err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, j)
}

func TestKeep(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	var kept runner.Kept
	v, err := e.Keep(t.Context(), j, 300*time.Millisecond, func(k runner.Kept) {
		kept = k
		if out := engineCLI(t, "ps", "--format", "{{.Names}}"); !strings.Contains(out, k.Container) {
			t.Errorf("%s is not running: %s", k.Container, out)
		}
		// One run at a time: the kept one holds the lock and says so.
		if _, err := e.Validate(t.Context(), j); !errors.Is(err, runner.ErrBusy) || !strings.Contains(err.Error(), "keep tiny@1.0.0") {
			t.Errorf("second run: %v", err)
		}
	})
	if err != nil || !v.Passed || kept.Verdict == nil || kept.Pid <= 1 || kept.Port != 8080 {
		t.Fatalf("%v, %+v, %+v", err, v, kept)
	}
	nothingLeft(t, j)
	if _, err := json.Marshal(kept); err != nil {
		t.Error(err)
	}
}

func TestAsk(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	j.Validation = snapshot.Validation{}
	var out strings.Builder
	v, err := e.Ask(t.Context(), j, "what?", &out)
	if err != nil || !v.Passed || out.String() != "the right words" {
		t.Errorf("%v, %+v, %q", err, v, out.String())
	}
	j.Runtime.Protocol = "openai-embeddings"
	out.Reset()
	v, err = e.Ask(t.Context(), j, "what?", &out)
	if err != nil || !v.Passed || out.String() != "3 dimensions, beginning with [0.6 0.8 0]" {
		t.Errorf("an embedding: %v, %+v, %q", err, v, out.String())
	}
	nothingLeft(t, j)
}
