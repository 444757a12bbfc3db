package runner_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/runner"
)

const fakeSpec = `{
  "cdiVersion": "0.5.0", "kind": "example.com/gpu",
  "containerEdits": {"env": ["FAKE_DRIVER=1"], "mounts": [{"hostPath": "LIBRARY", "containerPath": "/usr/lib/libfake.so", "options": ["ro", "nosuid", "nodev", "bind"]}]},
  "devices": [
    {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/fake0", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}},
    {"name": "GPU-4f1b2c3d-0000", "containerEdits": {"deviceNodes": [{"path": "/dev/fake0", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}},
    {"name": "0:1", "containerEdits": {"deviceNodes": [{"path": "/dev/fake-mig", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}},
    {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/fake0", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}}
  ]
}`

// fakeGPU is an engine whose CDI directory describes a device of ours.
func fakeGPU(t *testing.T) *runner.Engine {
	t.Helper()
	dir := t.TempDir()
	library := filepath.Join(dir, "libfake.so")
	if err := os.WriteFile(library, []byte("library"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fake.json"), []byte(strings.Replace(fakeSpec, "LIBRARY", library, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broken.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := engineOptions(t)
	o.Args = append(o.Args, "--cdi-spec-dirs", dir)
	e, err := runner.FindEngine(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDevices(t *testing.T) {
	e := fakeGPU(t)
	for _, name := range []string{"all", "0", "GPU-4f1b2c3d-0000", "0:1"} {
		j := fixtureJob(t, "device")
		j.Runtime.GPU, j.Devices = "required", []string{"example.com/gpu=" + name}
		if v := validate(t, e, j); !v.Passed || !strings.Contains(strings.Join(v.Flags, " "), "--device example.com/gpu="+name) {
			t.Errorf("%s: %s: %s", name, v.Reason, v.Found)
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	e := fakeGPU(t)
	for name, c := range map[string]struct {
		gpu     string
		devices []string
		needle  string
	}{
		"required, none given": {"required", nil, "requires a gpu"},
		"none, one given":      {"none", []string{"example.com/gpu=0"}, "uses no gpu"},
		"not described":        {"required", []string{"example.com/gpu=7"}, "there is: example.com/gpu=0, example.com/gpu=0:1, example.com/gpu=GPU-4f1b2c3d-0000, example.com/gpu=all"},
		"a path":               {"required", []string{"/dev/sda"}, "not a CDI name"},
		"a flag":               {"required", []string{"--privileged"}, "not a CDI name"},
	} {
		j := fixtureJob(t, "device")
		j.Runtime.GPU, j.Devices = c.gpu, c.devices
		if _, err := e.Validate(t.Context(), j); !errors.Is(err, runner.ErrDevice) || !strings.Contains(err.Error(), c.needle) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGPUIsHeld: the node's own runtime holds the GPU lock and says who it is.
func TestGPUIsHeld(t *testing.T) {
	e := fakeGPU(t)
	j := fixtureJob(t, "device")
	j.Runtime.GPU, j.Devices = "required", []string{"example.com/gpu=all"}
	j.GPULock = filepath.Join(t.TempDir(), "gpu.lock")
	f, err := os.Create(j.GPULock)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("vllm of the agent\x1b[31m, process 7\n"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	_, err = e.Validate(t.Context(), j)
	if !errors.Is(err, runner.ErrGPUBusy) || !strings.Contains(err.Error(), "vllm of the agent\ufffd[31m, process 7") {
		t.Errorf("held: %v", err)
	}
	j.Runtime.GPU, j.Devices, j.Runtime.Args = "none", nil, []string{"serve", "the right words"}
	if v := validate(t, e, j); !v.Passed { // without a device the lock does not matter
		t.Errorf("%s: %s", v.Reason, v.Found)
	}
}

func TestHostFacts(t *testing.T) {
	f, err := runner.HostFacts(t.Context())
	if err != nil || f.Memory < 1<<20 || f.CPUs < 1 {
		t.Errorf("%+v, %v", f, err)
	}
	if f.GPUsKnown != (len(f.GPUs) > 0) && f.Driver == "" {
		t.Errorf("GPUs known without a driver: %+v", f)
	}
}
