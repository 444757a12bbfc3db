package runner_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/runner"
)

// leftovers counts what runs could leave on this machine, in containerd's
// namespace of these tests alone.
type leftovers struct {
	containers, processes, mounts, cgroups, namespaces, threads, descriptors, files int
}

func countLeftovers(t *testing.T, j runner.Job) leftovers {
	t.Helper()
	var l leftovers
	l.containers = len(strings.Fields(engineCLI(t, "ps", "-a", "-q")))
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return string(b)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if strings.Contains(read(c), "-namespace\x00"+testNamespace) {
			l.processes++ // containerd's shims
		}
	}
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		if strings.Contains(line, testNamespace) {
			l.mounts++
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + testNamespace + "/*", "/sys/fs/cgroup/" + testNamespace + "/*"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			if fi, err := os.Stat(d); err == nil && fi.IsDir() {
				l.cgroups++
			}
		}
	}
	// A network namespace lives by its processes, mounts and descriptors, which
	// are counted, or by a thread of ours that stayed in it.
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil {
			seen[ns] = true
		}
	}
	l.namespaces = len(seen)
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	l.threads, l.descriptors, l.files = count("/proc/self/task"), count("/proc/self/fd"), count(j.StateDir)
	return l
}

// runsOf is how often a test repeats a run: few, or RMODELS_TEST_RUNS.
func runsOf(t *testing.T, few int) int {
	t.Helper()
	s := os.Getenv("RMODELS_TEST_RUNS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestManyRunsLeaveNothing repeats good and bad runs. RMODELS_TEST_RUNS sets
// how many; a handful here, a hundred before a release.
func TestManyRunsLeaveNothing(t *testing.T) {
	runs := runsOf(t, 6)
	e := testEngine(t)
	parts := [][]string{{"serve", "the right words"}, {"exit"}, {"die"}}
	one := func(i int) runner.Job {
		j := fixtureJob(t, parts[i%len(parts)]...)
		v, err := e.Validate(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		if v.Passed != (i%len(parts) == 0) {
			t.Errorf("run %d: %s: %s", i, v.Reason, v.Found)
		}
		return j
	}
	j := one(0) // the profile, the proof and the locks are there now
	before := countLeftovers(t, j)
	for i := range runs {
		one(i)
	}
	// A shim ends just after the engine's call that removes its container.
	var after leftovers
	for deadline := time.Now().Add(5 * time.Second); ; {
		runtime.GC()
		after = countLeftovers(t, j)
		// Idle threads of the Go runtime come and go; it keeps a few.
		if grown := after.threads - before.threads; grown > 0 && grown <= 4 {
			after.threads = before.threads
		}
		after.threads = max(after.threads, before.threads) // fewer is no leftover
		if after == before || time.Now().After(deadline) {
			break
		}
	}
	if after != before {
		t.Errorf("before %+v\nafter %d runs %+v", before, runs, after)
	}
	t.Logf("after %d runs: %+v", runs, after)
}
