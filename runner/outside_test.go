package runner_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/resultity/rmodels/runner"
)

// careless is nerdctl as it would be if it did not do what a flag asks for. It
// leaves the probe's box alone, so that only the look from outside can tell.
const careless = `#!/bin/bash
args=() prev=
run=no
case " $* " in *" run "*) run=yes ;; esac
case " $* " in *__rmodels-probe*) run=no ;; esac
for a in "$@"; do
  if [ $run = yes ]; then
    case "$prev $a" in
      %s) args=("${args[@]:0:${#args[@]}-1}" %s); prev=; continue ;;
    esac
  fi
  args+=("$a"); prev=$a
done
exec %q "${args[@]}"
`

// TestOutsideSeesAnOpenBox opens the engine's box in one way at a time. The
// check that is for it must fail, and nothing may be asked.
func TestOutsideSeesAnOpenBox(t *testing.T) {
	o := engineOptions(t)
	good := fixtureJob(t, "serve", "the right words")
	if v := validate(t, testEngine(t), good); !v.Passed { // the image and the proof are there now
		t.Fatal(v.Reason, v.Found)
	}
	elsewhere := t.TempDir()
	if err := os.Chmod(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	var all errgroup.Group
	all.SetLimit(5) // each waits some seconds for the box to become closed
	for _, c := range []struct{ check, flag, instead string }{
		{"no capabilities", "'--cap-drop ALL'", ""},
		{"no new privileges", "'--security-opt no-new-privileges'", ""},
		{"seccomp filter", "'--security-opt seccomp='*", "--security-opt seccomp=unconfined"},
		{"user", "'--user 65532:65532'", "--user 0:0"},
		{"user", "'--user 65532:65532'", "--user 65532:65532 --group-add 4"},
		{"read-only root", "'--cap-drop ALL'", "--cap-drop ALL --read-only=false"},
		{"read-only model", "'--mount type=bind,source='*", "--mount type=bind,source=" + good.ModelDir + ",target=/models/model"},
		{"model is the one named", "'--mount type=bind,source='*", "--mount type=bind,source=" + elsewhere + ",target=/models/model,readonly"},
		{"no host directories", "'--ipc private'", "--ipc private --mount type=bind,source=/etc,target=/host,readonly"},
		{"net namespace", "'--network none'", "--network host"},
		{"pid namespace", "'--ipc private'", "--ipc private --pid host"},
		{"cgroup namespace", "'--cgroupns private'", "--cgroupns host"},
		{"memory limit", "'--memory-swap 268435456b'", "--memory 400000000b --memory-swap 400000000b"},
		{"pids limit", "'--pids-limit 64'", "--pids-limit 1000"},
		{"scratch is bounded", "'--tmpfs /tmp:'*", "--tmpfs /tmp:rw,nosuid,nodev,exec,size=268435456,mode=1777"},
	} {
		all.Go(func() error {
			if err := openBox(t, o, good, c.check, c.flag, c.instead); err != nil {
				t.Errorf("%s, %s: %v", c.check, c.instead, err)
			}
			return nil
		})
	}
	_ = all.Wait()
	nothingLeft(t, good)
}

func openBox(t *testing.T, o runner.EngineOptions, j runner.Job, check, flag, instead string) error {
	dir := t.TempDir()
	script := filepath.Join(dir, "nerdctl")
	if err := writeProgram(script, fmt.Sprintf(careless, flag, instead, o.Path)); err != nil {
		return err
	}
	o.Path = script
	e, err := runner.FindEngine(t.Context(), o)
	if err != nil {
		return err
	}
	j.Lock = filepath.Join(dir, "run.lock") // these runs do not disturb each other
	v, err := e.Validate(t.Context(), j)
	if err != nil {
		return err
	}
	failed := map[string]string{}
	for _, c := range v.Isolation {
		if !c.Passed {
			failed[c.Name] = c.Found
		}
	}
	if v.Passed || v.Cause != runner.CauseIsolation || v.ProofFrom != "cache" || failed[check] == "" || v.Answer != "" || !strings.Contains(v.Reason, "not sealed") {
		return fmt.Errorf("verdict %s: %s; failed checks %q", v.Cause, v.Reason, failed)
	}
	return nil
}
