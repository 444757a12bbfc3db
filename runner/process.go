package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/terminal"
)

// process is the first process of a box, held by a pidfd: as long as alive
// is true after a read of its /proc files, they were its own.
type process struct {
	pid   int
	pidfd int
}

func openProcess(pid int) (*process, error) {
	if pid <= 1 {
		return nil, fmt.Errorf("pid %d", pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pid %d: %w", pid, err)
	}
	return &process{pid: pid, pidfd: fd}, nil
}

func (p *process) close() { unix.Close(p.pidfd) }

// alive says whether the process has not ended.
func (p *process) alive() bool { return !p.wait(0) }

// wait says whether the process ended within d.
func (p *process) wait(d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(d.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n > 0
	}
}

// read returns a /proc file of the process, at most 1 MiB of it.
func (p *process) read(name string) ([]byte, error) {
	f, err := os.Open(path.Join("/proc", strconv.Itoa(p.pid), name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, procLimit+1))
	if err != nil {
		return nil, err
	}
	if len(b) > procLimit {
		return nil, fmt.Errorf("/proc/%d/%s: longer than %d bytes", p.pid, name, procLimit)
	}
	return b, nil
}

const procLimit = 1 << 20

// namespace returns the name of one of the process's namespaces, "net:[4026531840]".
func namespace(pid, kind string) (string, error) {
	return os.Readlink(path.Join("/proc", pid, "ns", kind))
}

// parseStatus reads /proc/PID/status. The process's name in it is hostile, so
// the first value of a key counts and the kernel escapes line breaks.
func parseStatus(b []byte) map[string]string {
	m := map[string]string{}
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	for sc.Scan() {
		k, v, ok := strings.Cut(sc.Text(), ":")
		if _, seen := m[k]; ok && !seen {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

// mount is one line of /proc/PID/mountinfo (proc(5)).
type mount struct {
	id, parent int
	device     string // major:minor
	root       string // in its file system
	target     string
	options    []string // of the mount
	fstype     string
	source     string
	super      []string // of the file system
}

func (m mount) has(option string) bool {
	for _, o := range m.options {
		if o == option {
			return true
		}
	}
	return false
}

const maxMounts = 4096

// parseMounts reads mountinfo in its order: of two mounts on one target the
// later is on top.
func parseMounts(b []byte) ([]mount, error) {
	var ms []mount
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Split(line, " ")
		if len(f) < 10 {
			return nil, fmt.Errorf("mountinfo: %q has too few fields", terminal.Clip(terminal.Clean(line), 256))
		}
		sep := -1
		for i := 6; i < len(f); i++ {
			if f[i] == "-" {
				sep = i
				break
			}
		}
		if sep < 0 || len(f) < sep+4 {
			return nil, fmt.Errorf("mountinfo: %q has no separator", terminal.Clip(terminal.Clean(line), 256))
		}
		m := mount{
			device: f[2], root: unescape(f[3]), target: unescape(f[4]), options: strings.Split(f[5], ","),
			fstype: f[sep+1], source: unescape(f[sep+2]), super: strings.Split(f[sep+3], ","),
		}
		var err error
		if m.id, err = strconv.Atoi(f[0]); err != nil {
			return nil, fmt.Errorf("mountinfo: %w", err)
		}
		if m.parent, err = strconv.Atoi(f[1]); err != nil {
			return nil, fmt.Errorf("mountinfo: %w", err)
		}
		if ms = append(ms, m); len(ms) > maxMounts {
			return nil, fmt.Errorf("mountinfo: more than %d mounts", maxMounts)
		}
	}
	return ms, nil
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// hasSysResource says whether this process may raise limits.
func hasSysResource() bool {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	caps, err := strconv.ParseUint(parseStatus(b)["CapEff"], 16, 64)
	return err == nil && caps&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func isBrokenPipe(err error) bool { return errors.Is(err, unix.EPIPE) }
