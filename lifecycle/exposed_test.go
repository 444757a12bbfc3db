package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/resultity/rmodels/internal/durable"
)

// State that others can write, or put something else in the place of, is not
// acted upon.
func TestStateOfOthers(t *testing.T) {
	w := newNetwork(t)
	n := w.node()
	floor := n.floorPath()
	for name, harm := range map[string]struct {
		path string
		mode os.FileMode
	}{
		"the directory above the state": {filepath.Dir(n.o.StateDir), 0o777},
		"the state":                     {n.o.StateDir, 0o777},
		"a record's directory":          {n.models.dir, 0o775},
		"the floor":                     {floor, 0o666},
		"the pin":                       {filepath.Join(n.trustDir(), "pin.json"), 0o662},
		"the pin for a group":           {filepath.Join(n.trustDir(), "pin.json"), 0o620},
	} {
		fi, err := os.Stat(harm.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(harm.path, harm.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(n.o); !errors.Is(err, durable.ErrExposed) || AsFailure(err).Cause != CauseState {
			t.Errorf("%s with mode %v: %v", name, harm.mode, err)
		}
		if err := os.Chmod(harm.path, fi.Mode()); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(n.o); err != nil {
			t.Errorf("%s as it was: %v", name, err)
		}
	}
}
