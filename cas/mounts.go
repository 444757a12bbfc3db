package cas

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// initPIDNamespace is the inode of the first pid namespace (PROC_PID_INIT_INO,
// linux/proc_ns.h). In any other one, /proc shows a part of the processes.
const initPIDNamespace = 0xEFFFFFFC

// mounted returns the digests that appear in the path of any mount, in any
// mount namespace. A mount of a tree names the tree in the root field of
// mountinfo (field 4, proc_pid_mountinfo(5)), also after the tree was renamed,
// and whatever the device is called; what is mounted on a directory of a tree
// names it in the mount point; an overlay of it names it among the options
// of its file system (lowerdir), as it was called when it was mounted. A digest
// that is there for another reason only keeps something longer. Blind says why
// the answer is not the whole one.
func mounted(proc string) (found map[key]bool, blind string, err error) {
	if proc == "" {
		proc = "/proc"
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
			return nil, "", fmt.Errorf("find the pid namespace: %w", err)
		}
		if st.Ino != initPIDNamespace {
			blind = "the processes of the host cannot be seen from this container; name its /proc"
		}
	}
	found = map[key]bool{}
	pids, err := durable.OS.ReadNames(proc + "/.") // which may be a link
	if err != nil {
		return nil, "", err
	}
	namespaces := map[string]bool{}
	tables := 0
	for _, pid := range pids {
		if strings.Trim(pid, "0123456789") != "" {
			continue
		}
		// One table for each namespace; without the right to tell them
		// apart, each process's.
		if ns, err := os.Readlink(filepath.Join(proc, pid, "ns", "mnt")); err == nil {
			if namespaces[ns] {
				continue
			}
			namespaces[ns] = true
		}
		switch err := readMountTable(filepath.Join(proc, pid, "mountinfo"), found); {
		case err == nil:
			tables++
		case errors.Is(err, fs.ErrPermission):
			blind = "the mount tables of other users' processes cannot be read; run as root"
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
			// The process ended meanwhile; a zombie has no namespace any more.
		default:
			return nil, "", err // invariant 5
		}
	}
	if tables == 0 && blind == "" {
		return nil, "", fmt.Errorf("%w: no mount table can be read below %s", ErrCorrupt, proc)
	}
	return found, blind, nil
}

func readMountTable(path string, found map[key]bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return parseMountTable(f, found)
}

func parseMountTable(r io.Reader, found map[key]bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 5)
		if len(fields) < 5 {
			return fmt.Errorf("%w: mount table line of %d fields", ErrCorrupt, len(fields))
		}
		// Type, source and options of the file system follow the optional fields.
		_, behind, _ := strings.Cut(fields[4], " - ")
		point, _, _ := strings.Cut(fields[4], " ")
		for _, field := range []string{fields[3], point, behind} {
			// In the trash, a tree is called t-<hex>.
			for part := range strings.FieldsFuncSeq(field, notAlphanumeric) {
				if k, ok := keyOfHex(part); ok {
					found[k] = true
				}
			}
		}
	}
	return lines.Err()
}

func notAlphanumeric(c rune) bool { return !isAlphanumeric(c) }
