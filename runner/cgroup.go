package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroup is where the host keeps a box's limits and counts, cgroup v1 or v2.
type cgroup struct {
	memory string // directory of the memory controller
	pids   string // directory of the pids controller
	v2     bool
}

// findCgroup reads /proc/PID/cgroup and this host's mounts. paths are the
// process's cgroups as the host sees them.
func findCgroup(p *process) (cg cgroup, paths []string, err error) {
	b, err := p.read("cgroup")
	if err != nil {
		return cg, nil, err
	}
	self, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cg, nil, err
	}
	mounts, err := parseMounts(self)
	if err != nil {
		return cg, nil, err
	}
	at := func(fstype, controller, path string) string {
		for _, m := range mounts {
			if m.fstype != fstype || (controller != "" && !slices.Contains(m.super, controller)) {
				continue
			}
			if rel, err := filepath.Rel(m.root, path); err == nil && !strings.HasPrefix(rel, "..") {
				return filepath.Join(m.target, rel)
			}
		}
		return ""
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			return cg, nil, fmt.Errorf("/proc/%d/cgroup: unreadable", p.pid)
		}
		paths = append(paths, parts[2])
		for c := range strings.SplitSeq(parts[1], ",") {
			switch c {
			case "memory":
				cg.memory = at("cgroup", "memory", parts[2])
			case "pids":
				cg.pids = at("cgroup", "pids", parts[2])
			}
		}
		if parts[0] == "0" && cg.memory == "" {
			if dir := at("cgroup2", "", parts[2]); dir != "" {
				if _, err := os.Stat(filepath.Join(dir, "memory.max")); err == nil {
					cg = cgroup{memory: dir, pids: dir, v2: true}
				}
			}
		}
	}
	if cg.memory == "" || cg.pids == "" {
		return cg, paths, fmt.Errorf("no cgroup limits memory and pids of process %d", p.pid)
	}
	return cg, paths, nil
}

// limits are what the kernel enforces on the box now; -1 is none.
func (c cgroup) limits() (memory, pids int64, err error) {
	name := "memory.limit_in_bytes"
	if c.v2 {
		name = "memory.max"
	}
	if memory, err = readLimit(filepath.Join(c.memory, name)); err != nil {
		return 0, 0, err
	}
	pids, err = readLimit(filepath.Join(c.pids, "pids.max"))
	return memory, pids, err
}

func readLimit(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	s := strings.TrimSpace(string(b))
	if s == "max" {
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// used is the box's anonymous and shared memory in bytes. The page cache is
// left out: whether the model's pages are charged to this box depends on who
// read them first.
func (c cgroup) used() (int64, error) {
	b, err := os.ReadFile(filepath.Join(c.memory, "memory.stat"))
	if err != nil {
		return 0, err
	}
	names := []string{"total_rss", "total_shmem"}
	if c.v2 {
		names = []string{"anon", "shmem"}
	}
	return sumFields(string(b), names...), nil
}

// oomKills counts the processes of the box that the kernel killed for memory.
func (c cgroup) oomKills() int64 {
	name := "memory.oom_control"
	if c.v2 {
		name = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(c.memory, name))
	if err != nil {
		return 0
	}
	return sumFields(string(b), "oom_kill")
}

func sumFields(text string, names ...string) int64 {
	var sum int64
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && slices.Contains(names, k) {
			sum += n
		}
	}
	return sum
}

// members are the processes in the box, as the host numbers them.
func (c cgroup) members() ([]int, error) {
	b, err := os.ReadFile(filepath.Join(c.pids, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids, nil
}
