package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

// The outside proof looks at the live engine process from the host, before
// the first byte is sent to it. It asks the kernel alone, never the engine.

// proveOutside repeats the checks until all pass or the deadline is over:
// between the engine's answer and the exec of the image's program the process
// is still runc's, not yet stripped.
func (b *box) proveOutside(ctx context.Context) ([]Check, error) {
	deadline := time.Now().Add(proofPatience)
	for {
		checks, err := b.outsideChecks()
		ended := !b.proc.alive()
		if !ended && err == nil && allPassed(checks) {
			return checks, nil
		}
		if ended {
			return checks, errEnded
		}
		if err := ctx.Err(); err != nil {
			return checks, err
		}
		if time.Now().After(deadline) {
			return checks, err
		}
		b.proc.wait(10 * time.Millisecond)
	}
}

const proofPatience = 3 * time.Second

var errEnded = errors.New("the engine exited")

func allPassed(checks []Check) bool {
	return !slices.ContainsFunc(checks, func(c Check) bool { return !c.Passed })
}

func firstFailed(checks []Check) (Check, bool) {
	for _, c := range checks {
		if !c.Passed {
			return c, true
		}
	}
	return Check{}, false
}

func (b *box) outsideChecks() ([]Check, error) {
	var cs []Check
	add := func(name string, ok bool, found string) {
		cs = append(cs, Check{Name: name, Where: "outside", Passed: ok, Found: terminal.Clip(oneLine(found), 512)})
	}
	status, err := b.proc.read("status")
	if err != nil {
		return nil, err
	}
	members, err := b.cgroup.members()
	if err != nil {
		return nil, err
	}
	b.checkStatus(add, parseStatus(status))
	b.checkMembers(add, members)
	if err := b.checkNamespaces(add); err != nil {
		return cs, err
	}
	if err := b.checkMounts(add); err != nil {
		return cs, err
	}
	if err := b.checkNetwork(add); err != nil {
		return cs, err
	}
	memory, pids, err := b.cgroup.limits()
	if err != nil {
		return cs, err
	}
	add("memory limit", memory > 0 && memory <= b.launch.memory, fmt.Sprintf("%d of at most %d bytes", memory, b.launch.memory))
	add("pids limit", pids > 0 && pids <= b.launch.pids, fmt.Sprintf("%d of at most %d", pids, b.launch.pids))
	return cs, nil
}

type addCheck func(name string, ok bool, found string)

// listed names what does not belong there, in words where there is nothing.
func listed(strange []string) string {
	if len(strange) == 0 {
		return "none"
	}
	return strings.Join(strange, "; ")
}

var noCapabilities = []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}

func (b *box) checkStatus(add addCheck, s map[string]string) {
	var caps []string
	zero := true
	for _, k := range noCapabilities {
		v, ok := s[k]
		zero = zero && ok && strings.Trim(v, "0") == ""
		caps = append(caps, k+"="+v)
	}
	add("no capabilities", zero, strings.Join(caps, " "))
	add("no new privileges", s["NoNewPrivs"] == "1", "NoNewPrivs="+s["NoNewPrivs"])
	add("seccomp filter", s["Seccomp"] == "2", "Seccomp="+s["Seccomp"])
	uid, gid := strconv.Itoa(b.launch.uid), strconv.Itoa(b.launch.gid)
	all := func(v, want string) bool {
		f := strings.Fields(v)
		return len(f) == 4 && !slices.ContainsFunc(f, func(x string) bool { return x != want })
	}
	groups := strings.Fields(s["Groups"])
	add("user", all(s["Uid"], uid) && all(s["Gid"], gid) && !slices.ContainsFunc(groups, func(g string) bool { return g != gid }),
		fmt.Sprintf("uid %s gid %s groups %s", s["Uid"], s["Gid"], s["Groups"]))
}

// checkMembers looks at every other process of the box: none may have kept
// what the first one has not.
func (b *box) checkMembers(add addCheck, pids []int) {
	if !slices.Contains(pids, b.proc.pid) {
		add("processes", false, fmt.Sprintf("process %d is not in its cgroup", b.proc.pid))
		return
	}
	for _, pid := range pids {
		raw, err := (&process{pid: pid}).read("status")
		if err != nil {
			continue // it ended
		}
		s := parseStatus(raw)
		if strings.HasPrefix(s["State"], "Z") {
			continue
		}
		bad := s["NoNewPrivs"] != "1" || s["Seccomp"] != "2"
		for _, k := range noCapabilities {
			bad = bad || strings.Trim(s[k], "0") != ""
		}
		if bad {
			add("processes", false, fmt.Sprintf("process %d: NoNewPrivs=%s Seccomp=%s CapEff=%s", pid, s["NoNewPrivs"], s["Seccomp"], s["CapEff"]))
			return
		}
	}
	add("processes", true, fmt.Sprintf("%d in the cgroup, all stripped", len(pids)))
}

func (b *box) checkNamespaces(add addCheck) error {
	pid := strconv.Itoa(b.proc.pid)
	for _, kind := range []string{"net", "pid", "mnt", "ipc", "uts", "cgroup"} {
		in, err := namespace(pid, kind)
		if err != nil {
			return err
		}
		ours, err := namespace("self", kind)
		if err != nil {
			return err
		}
		same := in == ours
		// The host's first process too: we may stand in a namespace of our own.
		if first, err := namespace("1", kind); err == nil {
			same = same || in == first
		}
		add(kind+" namespace", !same, in)
	}
	// The descriptor that requests will go through is the one just checked.
	var fd, live unix.Stat_t
	if err := unix.Fstat(int(b.netns.Fd()), &fd); err != nil {
		return err
	}
	if err := unix.Stat(path.Join("/proc", pid, "ns/net"), &live); err != nil {
		return err
	}
	add("request path", fd.Ino == live.Ino && fd.Dev == live.Dev, fmt.Sprintf("net:[%d]", fd.Ino))
	return nil
}

// harmless file systems hold nothing of the host's files.
var harmless = map[string]bool{"proc": true, "tmpfs": true, "sysfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true}

// engineFiles are single files that container engines mount from their own
// state. They belong to root and the box's user cannot write them.
var engineFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/run/.containerenv"}

func (b *box) checkMounts(add addCheck) error {
	raw, err := b.proc.read("mountinfo")
	if err != nil {
		return err
	}
	ms, err := parseMounts(raw)
	if err != nil {
		return err
	}
	top := map[string]mount{}
	for _, m := range ms {
		top[m.target] = m
	}
	root := top["/"]
	add("read-only root", root.has("ro"), strings.Join(root.options, ","))
	model, ok := top[snapshot.ModelTarget]
	add("read-only model", ok && model.has("ro"), strings.Join(model.options, ","))
	add("model is the one named", b.sameModel(), b.launch.modelDir)
	for _, where := range []string{"/proc/sys", "/sys"} {
		add("read-only "+where, top[where].has("ro"), strings.Join(top[where].options, ","))
	}
	var foreign, loose []string
	for _, m := range ms {
		if m.target == "/" || m.target == snapshot.ModelTarget {
			continue
		}
		switch {
		case harmless[m.fstype]:
		case b.ours(m):
		case slices.Contains(engineFiles, m.target) && !b.writable(m.target):
		case len(b.launch.devices) > 0 && m.has("ro"): // a CDI spec's libraries and tools
		case len(b.launch.devices) > 0 && m.fstype == "devtmpfs" && within(m.target, "/dev"):
		default:
			foreign = append(foreign, fmt.Sprintf("%s (%s from %s, %s)", m.target, m.fstype, m.source, strings.Join(m.options, ",")))
		}
	}
	for _, t := range b.launch.tmpfs {
		m := top[t.path]
		sized := slices.ContainsFunc(m.super, func(o string) bool { return strings.HasPrefix(o, "size=") })
		if m.fstype != "tmpfs" || !sized || !m.has("nosuid") || !m.has("nodev") || m.has("noexec") == t.exec {
			loose = append(loose, fmt.Sprintf("%s (%s %s %s)", t.path, m.fstype, strings.Join(m.options, ","), strings.Join(m.super, ",")))
		}
	}
	add("no host directories", len(foreign) == 0, listed(foreign))
	add("scratch is bounded", len(loose) == 0, listed(loose))
	return nil
}

// sameModel compares what is mounted with what was named.
func (b *box) sameModel() bool { return b.same(b.launch.modelDir, snapshot.ModelTarget) }

// ours says whether a mount is one of the files that we put into the box.
func (b *box) ours(m mount) bool {
	return m.has("ro") && slices.ContainsFunc(b.launch.binds, func(x bind) bool { return x.target == m.target && b.same(x.source, x.target) })
}

// same compares a path of the host with one in the box, by device and inode.
func (b *box) same(outside, inside string) bool {
	var in, out unix.Stat_t
	if unix.Stat(path.Join("/proc", strconv.Itoa(b.proc.pid), "root", inside), &in) != nil {
		return false
	}
	return unix.Stat(outside, &out) == nil && in.Dev == out.Dev && in.Ino == out.Ino
}

// writable says whether the box's user may write a file by its mode.
func (b *box) writable(target string) bool {
	var st unix.Stat_t
	if unix.Lstat(path.Join("/proc", strconv.Itoa(b.proc.pid), "root", target), &st) != nil {
		return true
	}
	return st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) == b.launch.uid || int(st.Gid) == b.launch.gid || st.Mode&0o002 != 0
}

// fallbackDevices are made by the kernel in each new network namespace when
// their tunnel modules are loaded; they are down and lead nowhere.
var fallbackDevices = []string{"lo", "sit0", "tunl0", "ip6tnl0", "ip6_vti0", "ip_vti0", "gre0", "gretap0", "erspan0", "ip6gre0", "teql0"}

func (b *box) checkNetwork(add addCheck) error {
	devices, err := b.proc.read("net/dev")
	if err != nil {
		return err
	}
	var strange []string
	for line := range strings.Lines(string(devices)) {
		name, _, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); ok && !slices.Contains(fallbackDevices, name) {
			strange = append(strange, name)
		}
	}
	add("loopback only", len(strange) == 0, listed(strange))
	routes, err := b.proc.read("net/route")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n := max(strings.Count(string(routes), "\n")-1, 0) // the first line is the head
	add("no routes", n == 0, fmt.Sprintf("%d routes", n))
	return nil
}

// within says whether p lies below dir.
func within(p, dir string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
