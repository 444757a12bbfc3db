package probe

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syscalls tries calls that the filter must refuse. Arguments are such that a
// call that is let through does no harm: null pointers and bad descriptors.
// EFAULT, EBADF and EINVAL mean that the kernel looked at the arguments, so
// the filter let it through.
func syscalls(r *Report, _ Plan) {
	for _, c := range filtered {
		_, _, errno := unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		r.add("call "+c.name, errno == unix.EPERM || errno == unix.ENOSYS || errno == unix.EACCES, "%s", answered(errno))
	}
}

// answered is what the kernel said to a call.
func answered(errno unix.Errno) string {
	if errno == 0 {
		return said(nil)
	}
	return errno.Error()
}

type call struct {
	name   string
	number uintptr
	args   [6]uintptr
}

const nobody = ^uintptr(0) // -1: a bad descriptor or pid

var filtered = []call{
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, 0}},
	{"bpf", unix.SYS_BPF, [6]uintptr{0, 0, 0}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{0, 0, nobody, nobody, 0}},
	{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0}},
	{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_ATTACH, nobody}},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{1, 0, 0, 0, 0, 0}},
	{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, nobody, 0}},
	{"add_key", unix.SYS_ADD_KEY, [6]uintptr{0, 0, 0, 0, 0}},
	{"mount", unix.SYS_MOUNT, [6]uintptr{0, 0, 0, 0, 0}},
	{"umount2", unix.SYS_UMOUNT2, [6]uintptr{0, 0}},
	{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{nobody, 0, nobody, 0, 0}},
	{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{nobody, 0, 0}},
	{"fsopen", unix.SYS_FSOPEN, [6]uintptr{0, 0}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{0, 0}},
	{"chroot", unix.SYS_CHROOT, [6]uintptr{0}},
	{"unshare", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
	{"setns", unix.SYS_SETNS, [6]uintptr{nobody, 0}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{nobody, 0, 0}},
	{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [6]uintptr{nobody, 0, 0}},
	{"kcmp", unix.SYS_KCMP, [6]uintptr{nobody, nobody, 0, 0, 0}},
	{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{0, 0, 0}},
	{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{nobody, 0, 0}},
	{"delete_module", unix.SYS_DELETE_MODULE, [6]uintptr{0, 0}},
	{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 0, 0, nobody}},
	{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0, 0}},
	{"swapon", unix.SYS_SWAPON, [6]uintptr{0, 0}},
	{"acct", unix.SYS_ACCT, [6]uintptr{nobody}},
	{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{0, 0, 0, 0}},
	{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{0, nobody}},
	{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{0, 0}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{0, 0}},
	{"syslog", unix.SYS_SYSLOG, [6]uintptr{3, 0, 0}},
	{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{0, 0}},
	{"migrate_pages", unix.SYS_MIGRATE_PAGES, [6]uintptr{nobody, 0, 0, 0}},
}

// privileges tries to become more than it is.
func privileges(r *Report, _ Plan) {
	r.add("be root", os.Getuid() != 0 && os.Geteuid() != 0 && os.Getgid() != 0, "uid %d, gid %d", os.Getuid(), os.Getgid())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	raw := func(number uintptr, args ...uintptr) error {
		a := [3]uintptr{}
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall(number, a[0], a[1], a[2]); errno != 0 {
			return errno
		}
		return nil
	}
	r.mustFail("set the user to root", raw(unix.SYS_SETUID, 0))
	r.mustFail("set the group to root", raw(unix.SYS_SETGID, 0))
	groups := [1]uint32{0}
	r.mustFail("join root's groups", raw(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&groups[0]))))
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	want := [2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN, Permitted: 1 << unix.CAP_SYS_ADMIN}}
	r.mustFail("take CAP_SYS_ADMIN", unix.Capset(&head, &want[0]))
	for _, flag := range []struct {
		name string
		bit  uintptr
	}{{"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"network", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID}} {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flag.bit|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 {
			if pid == 0 {
				unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
			unix.Wait4(int(pid), nil, 0, nil)
			r.add("make a "+flag.name+" namespace", false, "it succeeded")
			continue
		}
		r.add("make a "+flag.name+" namespace", true, "%s", said(errno))
	}
	status, err := os.ReadFile("/proc/self/status")
	var held []string
	if err != nil {
		held = []string{err.Error()}
	}
	for line := range strings.Lines(string(status)) {
		if k, v, _ := strings.Cut(line, ":"); strings.HasPrefix(k, "Cap") && strings.Trim(strings.TrimSpace(v), "0") != "" {
			held = append(held, strings.Join(strings.Fields(line), " "))
		}
	}
	r.add("hold a capability", len(held) == 0, "%s", listed(held))
}

// processes tries to see the host's processes and to make more than allowed.
func processes(r *Report, plan Plan) {
	entries, err := os.ReadDir("/proc")
	n := 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			n++
		}
	}
	r.add("see the host's processes", err == nil && os.Getpid() == 1 && n <= 2, "%d processes, itself number %d", n, os.Getpid())
	if plan.Pids > maxForks {
		r.add("fork past the limit", true, "not tried with %d processes: the limit is read from outside", plan.Pids)
		return
	}
	child := self("fork", strconv.FormatInt(plan.Pids, 10))
	child.Env = append(os.Environ(), "GOTRACEBACK=none")
	out, err := child.Output()
	made, exit := int64(len(out)), new(exec.ExitError)
	refused := errors.Is(err, unix.EAGAIN) || errors.As(err, &exit) && made > 0
	r.add("fork past the limit", refused && made < plan.Pids, "%d tasks made, the limit is %d", made, plan.Pids)
}

// maxForks bounds the time that the fork takes; above it the limit is only
// read from outside.
const maxForks = 4096

func self(args ...string) *exec.Cmd {
	// The argument that tells a binary of many parts that it is the probe.
	return exec.Command("/proc/self/exe", append([]string{Arg}, args...)...)
}

// fork makes threads until it is refused, at most limit+16, and prints a dot
// for each. To the kernel's limit a thread is as good as a process, and fifty
// times cheaper. The Go runtime ends the program where it gets no thread.
func fork(args []string, out interface{ Write([]byte) (int, error) }) int {
	limit, err := strconv.Atoi(strings.Join(args, ""))
	if err != nil || limit < 1 || limit > maxForks {
		return 2
	}
	for range limit + 16 {
		made := make(chan error)
		go func() {
			runtime.LockOSThread() // for ever: each one keeps its thread
			_, err := out.Write([]byte{'.'})
			made <- err
			select {}
		}()
		if <-made != nil {
			return 2
		}
	}
	return 0
}

// maxFill bounds the time that filling takes; a larger limit is only read
// from outside.
const maxFill = 512 << 20

// memory lets a child take more than the limit; the kernel must end it.
func memory(r *Report, plan Plan) {
	if plan.Memory > maxFill {
		r.add("allocate past the limit", true, "not tried with %d bytes: the limit is read from outside", plan.Memory)
		return
	}
	var errs bytes.Buffer
	cmd := self("fill", strconv.FormatInt(plan.Memory, 10))
	cmd.Stderr = &errs
	began := time.Now()
	err := cmd.Run()
	r.add("allocate past the limit", err != nil, "%s after %s%s", said(err), time.Since(began).Round(time.Millisecond), errs.String())
}

func fill(args []string) int {
	limit, err := strconv.Atoi(strings.Join(args, ""))
	if err != nil || limit < 1 || limit > maxFill {
		return 0 // counts as success: the box would not be called closed
	}
	b, err := unix.Mmap(-1, 0, limit+64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 1
	}
	// In one call (Linux 5.14) instead of a fault for each page.
	if unix.Madvise(b, unix.MADV_POPULATE_WRITE) == nil {
		return 0
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	return 0
}
