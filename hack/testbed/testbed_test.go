package testbed

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// script runs one of the scripts with the binaries of the surrounding bed.
func script(t *testing.T, want int, name string, args ...string) string {
	t.Helper()
	var bed struct {
		Nerdctl  string `json:"nerdctl"`
		Registry struct {
			Binary string `json:"binary"`
		} `json:"registry"`
	}
	b, err := os.ReadFile(os.Getenv("RMODELS_TEST_BED"))
	if err == nil {
		err = json.Unmarshal(b, &bed)
	}
	if err != nil {
		t.Fatalf("RMODELS_TEST_BED: %v; run this with make test", err)
	}
	c := exec.Command("./"+name, args...)
	c.Env = append(os.Environ(), "NERDCTL="+bed.Nerdctl, "REGISTRY="+bed.Registry.Binary)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil || c.ProcessState.ExitCode() != want {
		t.Fatalf("%s %v: %v, want exit code %d\n%s", name, args, err, want, out)
	}
	return string(out)
}

// newBed is a directory for a bed that is taken down in any case.
func newBed(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	t.Cleanup(func() { script(t, 0, "down.sh", dir) })
	return dir
}

// pid reads a record of up.sh.
func pid(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUpAgainKeepsWhatRuns(t *testing.T) {
	bed := newBed(t, "bed")
	script(t, 0, "up.sh", bed)
	first := pid(t, bed+"/containerd.pid")
	script(t, 0, "up.sh", bed)
	if again := pid(t, bed+"/containerd.pid"); again != first {
		t.Errorf("containerd %d became %d", first, again)
	}
}

func TestUpAfterKill(t *testing.T) {
	bed := newBed(t, "bed")
	script(t, 0, "up.sh", bed)
	for _, name := range []string{"containerd", "registry"} {
		if err := syscall.Kill(pid(t, bed+"/"+name+".pid"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	script(t, 0, "up.sh", bed)
	for _, name := range []string{"containerd", "registry"} {
		if err := syscall.Kill(pid(t, bed+"/"+name+".pid"), 0); err != nil {
			t.Errorf("%s does not run: %v", name, err)
		}
	}
}

// ended reports whether a process is gone, or is a zombie that its parent has
// not asked after yet.
func ended(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

func TestDownLeavesNothing(t *testing.T) {
	bed := newBed(t, "bed")
	script(t, 0, "up.sh", bed)
	pids := []int{pid(t, bed+"/containerd.pid"), pid(t, bed+"/registry.pid")}
	script(t, 0, "down.sh", bed)
	for _, p := range pids {
		if !ended(p) {
			t.Errorf("process %d still runs", p)
		}
	}
	if _, err := os.Stat(bed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", bed, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), bed) {
		t.Errorf("mounts below %s are left: %v", bed, err)
	}
	script(t, 0, "down.sh", bed)
}

// A Unix socket's path is limited, a directory's is not.
func TestLongDirectory(t *testing.T) {
	bed := newBed(t, strings.Repeat("long-", 20))
	script(t, 0, "up.sh", bed)
	var env struct {
		Containerd string `json:"containerd"`
	}
	b, err := os.ReadFile(bed + "/env.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &env); err != nil {
		t.Fatal(err)
	}
	script(t, 0, "down.sh", bed)
	if _, err := os.Stat(filepath.Dir(env.Containerd)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", filepath.Dir(env.Containerd), err)
	}
}

// A record whose process is gone must not name another one that got its
// number: this test's own.
func TestReusedProcessNumberIsNotTouched(t *testing.T) {
	bed := newBed(t, "bed")
	script(t, 0, "up.sh", "--registry-only", bed)
	if err := syscall.Kill(pid(t, bed+"/registry.pid"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	if err := os.WriteFile(bed+"/registry.pid", []byte(strconv.Itoa(sleeper.Process.Pid)+" 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script(t, 0, "down.sh", bed)
	if err := sleeper.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that is not ours was ended: %v", err)
	}
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "keep")
	if err := os.WriteFile(keep, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	script(t, 1, "up.sh", dir)
	script(t, 1, "down.sh", dir)
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
	for _, system := range []string{"/", "/usr/share/x", "/etc"} {
		if out := script(t, 1, "up.sh", system); !strings.Contains(out, "no place for a testbed") {
			t.Errorf("%s: %s", system, out)
		}
	}
}

func TestWithBringsTheBedDownOnEveryExit(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		do   string
	}{
		{"success", 0, `test -s "$RMODELS_TEST_BED" && test -x "$RMODELS_TEST_NERDCTL"`},
		{"failure", 3, "exit 3"},
		{"terminated", 143, "kill -TERM $PPID; sleep 600 & wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bed := newBed(t, "bed")
			script(t, c.code, "with.sh", bed, "bash", "-c", c.do)
			if _, err := os.Stat(bed); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", bed, err)
			}
		})
	}
}
