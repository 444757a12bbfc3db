// Package mutants builds a package without one of its guards and demands that
// its tests turn red: a guard that no test misses is not tested.
package mutants

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Mutant is a build without one guard, or without several that cover for each
// other.
type Mutant struct {
	Guard   string // what the code does not do any more, in words
	Tests   string // -run pattern of the tests, any of which has to fail
	Changes []Change
}

// Change replaces one text in one file of the package under test.
type Change struct{ File, Old, New string }

// One is a mutant of a single change.
func One(guard, tests, file, old, replacement string) Mutant {
	return Mutant{guard, tests, []Change{{file, old, replacement}}}
}

// Run builds each mutant of the package in the working directory and fails
// where its tests pass all the same. It needs the go command.
func Run(t *testing.T, all []Mutant) {
	for _, m := range all {
		t.Run(m.Guard, m.run)
	}
}

func (m Mutant) run(t *testing.T) {
	replaced := map[string]string{}
	for i, c := range m.Changes {
		file, err := filepath.Abs(c.File)
		if err != nil {
			t.Fatal(err)
		}
		from := file
		if before, again := replaced[file]; again {
			from = before
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), c.Old); n != 1 {
			t.Fatalf("%s holds %q %d times, want once", c.File, c.Old, n)
		}
		to := filepath.Join(t.TempDir(), filepath.Base(c.File))
		if err := os.WriteFile(to, []byte(strings.Replace(string(text), c.Old, c.New, 1)), 0o600); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		replaced[file] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-ldflags=-s -w", "-count=1", "-failfast", "-timeout", "3m", "-overlay", overlay, "-run", m.Tests, ".").CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		t.Errorf("no test is named %s", m.Tests)
	case err == nil:
		t.Errorf("survives: %s passes without the guard", m.Tests)
	case strings.Contains(string(out), "[build failed]"):
		t.Errorf("does not build:\n%s", out)
	}
}
