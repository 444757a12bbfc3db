package e2e

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The sessions under testdata/script read as a person at a terminal would
// type them. Beyond testscript's own commands they have
//
//	exits CODE PROGRAM ARGS…   run a program that ends with that code
//
// and the variables $BED (testbed), $KEYS (acme.key, unknown.key) and
// $RMODELS_CONFIG, an empty file.
func TestSessions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("KEYS", bed.keys)
			e.Setenv("RMODELS_CONFIG", e.Cd+"/config.toml")
			e.Setenv("RMODELS_STATE_DIR", e.Cd+"/state")
			if err := os.WriteFile(e.Cd+"/config.toml", nil, 0o600); err != nil {
				return err
			}
			bin := e.Cd + "/.bin"
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			if err := os.Symlink(bed.rmodels, bin+"/rmodels"); err != nil {
				return err
			}
			e.Setenv("PATH", bin+":"+e.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if err != nil || neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
				}
				err = ts.Exec(args[1], args[2:]...)
				got := 0
				if e, ok := err.(*exec.ExitError); ok {
					got = e.ExitCode()
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != want {
					ts.Fatalf("exit code %d, want %d", got, want)
				}
			},
		},
	})
}
