package runner_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

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
	j := fixtureJob(t, strings.Fields(os.Getenv(victim+"_PART"))...)
	j.Image = packImage(t, "victim", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"for": os.Getenv(victim + "_IMAGE")}}, fixtureFile(t))
	j.Runtime.StartTimeout, j.Validation.Timeout = snapshot.Duration(time.Minute), snapshot.Duration(time.Minute)
	tell := func(what string) { os.Stdout.WriteString("at: " + what + "\n") }
	j.Progress = func(ev progress.Event) { tell(ev.Message) }
	_, err := e.Keep(t.Context(), j, time.Minute, func(runner.Kept) { tell("keeping") })
	t.Error("outlived its killing:", err)
}

// TestKilledRun kills a validating process with SIGKILL in each of its phases
// and expects the next one to clean up and go on.
func TestKilledRun(t *testing.T) {
	e := testEngine(t)
	fixtureFile(t)
	shared := filepath.Join(t.TempDir(), "runs") // has the proofs, once they are made
	for _, c := range []struct {
		name, step, part, image string
		made                    bool // killed once a container is there
	}{
		{"looking for the image", "at: checking", "deaf", "", false},
		{"loading the image", "at: loading", "deaf", t.Name() + time.Now().String(), false},
		{"making the probe's box", "at: proving", "deaf", "", false},
		{"in the probe's box", "at: proving", "deaf", "", true},
		{"making the engine's box", "at: starting", "deaf", "", false},
		{"waiting for health", "at: waiting", "deaf", "", true},
		{"while it answers", "at: asking", "endless", "", true},
		{"after the answer", "at: asking", "serve the right words", "", false},
		{"while it is kept", "at: keeping", "serve the right words", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shared
			if c.step == "at: proving" {
				dir = filepath.Join(t.TempDir(), "runs")
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
			cmd.Env = append(os.Environ(), victim+"="+dir, victim+"_PART="+c.part, victim+"_IMAGE="+c.image, victim+"_FIXTURES="+fixtures(), victim+"_DATA="+dataRoot(), "TMPDIR="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := false
			for sc := bufio.NewScanner(out); !seen && sc.Scan(); {
				seen = strings.HasPrefix(sc.Text(), c.step)
			}
			if !seen {
				t.Errorf("never reached %q", c.step)
			}
			for deadline := time.Now().Add(20 * time.Second); c.made && time.Now().Before(deadline); {
				if strings.TrimSpace(engineCLI(t, "ps", "-q")) != "" {
					break
				}
			}
			cmd.Process.Kill()
			cmd.Wait()

			began := time.Now()
			removed, err := e.RemoveOrphans(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if c.made && len(removed) != 1 {
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

// TestOrphanInTheMaking: the owner died while the engine made its box. The
// engine's call holds the record, and waits for a reader of the box's output.
func TestOrphanInTheMaking(t *testing.T) {
	e := testEngine(t)
	dir := t.TempDir()
	owner := exec.Command("true")
	if err := owner.Run(); err != nil {
		t.Fatal(err)
	}
	const name = "rmodels-0123456789abcdef"
	text := fmt.Sprintf(`{"container":%q,"engine":"nerdctl","model":"m@1","pid":%d}`, name, owner.Process.Pid)
	path, fifo := filepath.Join(dir, "box-"+name+".json"), filepath.Join(dir, "box-"+name+".log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	call := exec.Command("sh", "-c", "echo made > "+fifo)
	call.ExtraFiles = []*os.File{f}
	if err := call.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close() // the call's alone now
	began := time.Now()
	if removed, err := e.RemoveOrphans(t.Context(), dir); err != nil || len(removed) != 1 || removed[0] != name {
		t.Errorf("removed %v, %v", removed, err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	if err := call.Wait(); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestOrphanOfAnotherEngine: a node that changed its engine is told of what it
// left in the old one, and goes on.
func TestOrphanOfAnotherEngine(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	j.StateDir = filepath.Join(t.TempDir(), "runs")
	if err := os.Mkdir(j.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(j.StateDir, "box-rmodels-0123456789abcdef.json")
	if err := os.WriteFile(path, []byte(`{"container":"rmodels-0123456789abcdef","engine":"docker","model":"m@1","pid":0}`), 0o600); err != nil {
		t.Fatal(err)
	}
	removed, err := e.RemoveOrphans(t.Context(), j.StateDir)
	if len(removed) > 0 || !errors.Is(err, runner.ErrEngine) || !strings.Contains(err.Error(), "docker rm -f -v rmodels-0123456789abcdef") {
		t.Errorf("removed %v, %v", removed, err)
	}
	if v, err := e.Validate(t.Context(), j); err != nil || !v.Passed {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the record went: %v", err)
	}
	// A record that the crash tore is any engine's.
	if err := os.WriteFile(path, []byte(`{"container":"rm`), 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := e.RemoveOrphans(t.Context(), j.StateDir); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
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
