package runner

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/resultity/rmodels/internal/durable"
)

// Neither the engine's program nor the probe nor a device's specification is
// taken from where other users can write.
func TestProgramsOfOthers(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ran := filepath.Join(dir, "ran")
	script := "#!/bin/sh\ntouch " + ran + "\nexit 1\n"
	wide := filepath.Dir(put("wide/nerdctl", script, 0o755))
	if err := os.Chmod(wide, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a program of mode 0777":      put("own/nerdctl", script, 0o777),
		"a program in a directory so": filepath.Join(wide, "nerdctl"),
	} {
		if _, err := FindEngine(t.Context(), EngineOptions{Path: path}); !errors.Is(err, durable.ErrExposed) || !errors.Is(err, ErrNoEngine) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "own"))
	if _, err := FindEngine(t.Context(), EngineOptions{}); !errors.Is(err, ErrNoEngine) {
		t.Errorf("by PATH: %v", err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it ran")
	}
	if err := checkProbe(put("probe", "", 0o777)); !errors.Is(err, durable.ErrExposed) {
		t.Errorf("the probe: %v", err)
	}
	cdi := filepath.Dir(put("cdi/gpu.json", "{}", 0o666))
	if _, err := cdiDevices([]string{cdi}); !errors.Is(err, durable.ErrExposed) {
		t.Errorf("a specification: %v", err)
	}
	put("cdi/gpu.json", "{}", 0o644)
	if _, err := cdiDevices([]string{cdi, filepath.Join(dir, "absent")}); err != nil {
		t.Errorf("a good specification: %v", err)
	}
	if err := syscall.Mkfifo(filepath.Join(cdi, "wait.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cdiDevices([]string{cdi}); !errors.Is(err, durable.ErrNotRegular) {
		t.Errorf("a FIFO: %v", err)
	}
}
