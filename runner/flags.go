package runner

import (
	"fmt"
	"strconv"

	"github.com/resultity/rmodels/snapshot"
)

// flags writes the launch as command-line flags, the same for every engine
// but for what the table of differences adds. The order is fixed: it is part
// of the verdict's key.
func (l *launch) flags(t traits) []string {
	f := []string{
		"--pull", "never",
		"--network", "none",
		"--read-only",
		"--cap-drop", "ALL",
		"--security-opt", "no-new-privileges",
		"--security-opt", "seccomp=" + l.seccomp,
		"--user", fmt.Sprintf("%d:%d", l.uid, l.gid),
		"--ipc", "private",
		"--cgroupns", "private",
		"--hostname", "box",
		"--restart", "no",
		"--ulimit", "core=0:0",
		"--pids-limit", strconv.FormatInt(l.pids, 10),
		"--memory", bytesFlag(l.memory),
		"--memory-swap", bytesFlag(l.memory), // equal to --memory: no swap
		"--shm-size", bytesFlag(l.shm),
		// --mount, never -v: a missing source is an error instead of a new
		// directory on the host.
		"--mount", "type=bind,source=" + l.modelDir + ",target=" + snapshot.ModelTarget + ",readonly",
	}
	for _, b := range l.binds {
		f = append(f, "--mount", "type=bind,source="+b.source+",target="+b.target+",readonly")
	}
	if l.cpus > 0 {
		f = append(f, "--cpus", strconv.FormatFloat(l.cpus, 'f', -1, 64))
	}
	for _, m := range l.tmpfs {
		mode := "noexec"
		if m.exec {
			mode = "exec"
		}
		if t.tmpfsOwner {
			mode += fmt.Sprintf(",uid=%d,gid=%d", l.uid, l.gid)
		}
		f = append(f, "--tmpfs", fmt.Sprintf("%s:rw,nosuid,nodev,%s,size=%d,mode=1777", m.path, mode, m.size))
	}
	for _, e := range l.env {
		f = append(f, "--env", e)
	}
	for _, d := range l.devices {
		f = append(f, "--device", d)
	}
	f = append(f, t.dnsNone...)
	f = append(f, t.runFlags...)
	if len(t.limitFlags) > 0 && !hasSysResource() {
		f = append(f, t.limitFlags...)
	}
	if l.entrypoint != "" {
		f = append(f, "--entrypoint", l.entrypoint)
	}
	return f
}

func bytesFlag(n int64) string { return strconv.FormatInt(n, 10) + "b" }
