package probe

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// files tries to write where nothing may be written and to read what is the
// host's.
func files(r *Report, plan Plan) {
	create := func(dir string) error {
		f, err := os.OpenFile(filepath.Join(dir, ".rmodels-probe"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			f.Close()
			os.Remove(f.Name())
		}
		return err
	}
	r.mustFail("create a file in the model", create(plan.Model))
	r.mustFail("open the model's files for writing", openOneForWriting(plan.Model))
	r.mustFail("change the model's mode", os.Chmod(plan.Model, 0o777))
	r.mustFail("remount the model writable", unix.Mount("", plan.Model, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	for _, dir := range []string{"/", "/etc", "/usr", "/dev", "/proc", "/sys", "/sys/fs/cgroup"} {
		r.mustFail("create a file in "+dir, create(dir))
	}
	for _, path := range append([]string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory"}, cgroupFiles()...) {
		r.mustFail("write "+path, openForWriting(path))
	}
	for _, path := range []string{"/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg"} {
		r.mustFail("read "+path, readOne(path))
	}
	for _, path := range plan.Files {
		_, err := os.Lstat(path)
		r.add("see the host's "+path, errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOTDIR), "%s", said(err))
	}
}

func openForWriting(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	return err
}

// readOne reads one byte. A file that is masked is empty, which is an error here.
func readOne(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

// openOneForWriting tries each file below dir, at most a thousand.
func openOneForWriting(dir string) error {
	tried := 0
	last := errors.New("no file in it")
	opened := errors.New("opened")
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if tried++; tried > 1000 {
			return filepath.SkipAll
		}
		if e := openForWriting(path); e != nil {
			last = e
			return nil
		}
		return opened
	})
	if errors.Is(err, opened) {
		return nil
	}
	return last
}

// cgroupFiles are the knobs by which a process could leave its limits.
func cgroupFiles() []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/*/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"} {
		m, err := filepath.Glob(pattern)
		if err == nil {
			found = append(found, m...)
		}
	}
	return found
}

// environment reports variables that nobody gave.
func environment(r *Report, plan Plan) {
	var strange []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains(plan.Env, name) {
			strange = append(strange, name)
		}
	}
	slices.Sort(strange)
	r.add("see the host's environment", len(strange) == 0, "%s", listed(strange))
}

// standardDevices are what the OCI runtime specification puts into /dev.
var standardDevices = []string{"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}

func devices(r *Report, plan Plan) {
	entries, err := os.ReadDir("/dev")
	if err != nil {
		r.add("see the host's devices", true, "%s", said(err))
		return
	}
	var strange []string
	for _, e := range entries {
		if !slices.Contains(standardDevices, e.Name()) {
			strange = append(strange, e.Name())
		}
	}
	r.add("see the host's devices", len(strange) == 0 || plan.Devices, "%s", listed(strange))
	// A node for the host's first disk, made where we may write.
	for _, t := range plan.Tmpfs {
		node := filepath.Join(t.Path, ".rmodels-probe-disk")
		err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0)))
		if err == nil {
			os.Remove(node)
		}
		r.mustFail("make a disk's node in "+t.Path, err)
	}
}

// scratch checks the bounds of what may be written.
func scratch(r *Report, plan Plan) {
	for _, t := range plan.Tmpfs {
		var st unix.Statfs_t
		if err := unix.Statfs(t.Path, &st); err != nil {
			r.add("write without bound to "+t.Path, false, "%s", said(err))
			continue
		}
		size := int64(st.Blocks) * st.Bsize
		r.add("write without bound to "+t.Path, size > 0 && size <= t.Size+st.Bsize, "%d of at most %d bytes", size, t.Size)
		if t.Exec {
			continue
		}
		r.mustFail("run a program from "+t.Path, runFrom(t.Path))
	}
}

func runFrom(dir string) error {
	path := filepath.Join(dir, ".rmodels-probe-program")
	defer os.Remove(path)
	if err := os.WriteFile(path, []byte("#!/proc/self/exe\n"), 0o700); err != nil {
		return err
	}
	err := exec.Command(path).Start()
	if errors.Is(err, unix.ENOEXEC) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil // it was tried, so the mount does not forbid it
	}
	if start := new(os.PathError); errors.As(err, &start) {
		err = start.Err // "fork/exec" tells an operator nothing
	}
	return err
}
