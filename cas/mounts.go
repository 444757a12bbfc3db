package cas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// initPIDNamespace is the inode of the first pid namespace (PROC_PID_INIT_INO,
// linux/proc_ns.h). In any other one, /proc shows a part of the processes.
const initPIDNamespace = 0xEFFFFFFC

// Bounds of what is read of mount tables. Who may make a user namespace fills
// tables of his own as he likes: 100,000 mounts of paths that are megabytes
// long. Each of those is read up to firstLook, which has room for thousands of
// mounts, before any is read on. A container's mounts come ahead of those that
// its processes make, so what is cut off is the tail of somebody's own making.
const (
	firstLook   = 1 << 20
	maxTable    = 256 << 20
	maxOwnTable = 4 << 30 // of the host's user namespace, where only root mounts
)

// mountPatience bounds the time for the host's tables, and then for each look
// at the others, of which none gets more than a tenth.
var mountPatience = 20 * time.Second

// mountTable is the table of one mount namespace, as one of its processes shows it.
type mountTable struct {
	pid string
	own bool // a process of the host's user namespace is in it
}

// mounted returns the digests that appear in the path of any mount, in any
// mount namespace. A mount of a tree names the tree in the root field of
// mountinfo (field 4, proc_pid_mountinfo(5)), also after the tree was renamed,
// and whatever the device is called; what is mounted on a directory of a tree
// names it in the mount point; an overlay of it names it among the options
// of its file system (lowerdir), as it was called when it was mounted. A digest
// that is there for another reason only keeps something longer. Blind says why
// the answer is not the whole one.
func mounted(ctx context.Context, proc string) (found map[key]bool, blind string, err error) {
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
	pids, err := durable.OS.ReadNames(proc + "/.") // which may be a link
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(pids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	tables := mountTables(proc, pids)
	if blind == "" && len(tables) > 0 && !slices.Contains(pids, "1") {
		blind = proc + " hides the processes of other users (hidepid)"
	}
	s := mountScan{proc: proc, found: map[key]bool{}, blind: blind}
	own := func(t mountTable) bool { return t.own }
	s.look(ctx, slices.DeleteFunc(slices.Clone(tables), func(t mountTable) bool { return !t.own }), maxOwnTable)
	rest := s.look(ctx, slices.DeleteFunc(tables, own), firstLook)
	s.look(ctx, rest, maxTable)
	if err := context.Cause(ctx); err != nil {
		return nil, "", err
	}
	if s.read == 0 && s.blind == "" {
		return nil, "", fmt.Errorf("%w: no mount table can be read below %s", ErrCorrupt, proc)
	}
	return s.found, s.blind, nil
}

// mountTables lists one table for each namespace. Without the right to tell
// them apart, it lists each process's.
func mountTables(proc string, pids []string) []mountTable {
	of := func(pid, kind string) string {
		ns, err := os.Readlink(filepath.Join(proc, pid, "ns", kind))
		if err != nil {
			return ""
		}
		return ns
	}
	host := of("1", "user")
	namespaces := map[string]int{}
	var tables []mountTable
	for _, pid := range pids {
		if strings.Trim(pid, "0123456789") != "" {
			continue
		}
		t := mountTable{pid: pid, own: of(pid, "user") == host}
		ns := of(pid, "mnt")
		if n, known := namespaces[ns]; known && ns != "" {
			if t.own && !tables[n].own {
				tables[n] = t
			}
			continue
		}
		namespaces[ns] = len(tables)
		tables = append(tables, t)
	}
	return tables
}

// mountScan is what was found in mount tables so far.
type mountScan struct {
	proc  string
	found map[key]bool
	blind string
	read  int // tables
}

// look reads tables up to a limit, and returns those that have more. What
// cannot be read of the host's own makes the scan blind, and so does what this
// user may not read; what strangers make too long or too slow does not.
func (s *mountScan) look(ctx context.Context, tables []mountTable, limit int64) (longer []mountTable) {
	deadline := time.Now().Add(mountPatience)
	for _, t := range tables {
		until := deadline
		if share := time.Now().Add(mountPatience / 10); !t.own && share.Before(deadline) {
			until = share
		}
		keys, more, err := readMountTable(ctx, filepath.Join(s.proc, t.pid, "mountinfo"), limit, until)
		for _, k := range keys {
			s.found[k] = true
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			s.blind = "the mount tables of other users' processes cannot be read; run as root"
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
			// The process ended meanwhile; a zombie has no namespace any more.
		case t.own && err != nil:
			s.blind = fmt.Sprintf("the mount table of process %s cannot be read: %v", t.pid, err)
		case t.own && more:
			s.blind = fmt.Sprintf("the mount table of process %s is longer than %d bytes", t.pid, limit)
		default:
			s.read++
			if more {
				longer = append(longer, t)
			}
		}
	}
	return longer
}

var errSlow = errors.New("it takes too long")

// readMountTable waits for a table no longer than until the deadline, even
// where the kernel does not answer.
func readMountTable(ctx context.Context, path string, limit int64, deadline time.Time) (keys []key, more bool, err error) {
	type answer struct {
		keys []key
		more bool
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		f, err := os.Open(path)
		if err != nil {
			done <- answer{err: err}
			return
		}
		defer f.Close()
		keys, more, err := findDigests(f, limit, deadline)
		done <- answer{keys, more, err}
	}()
	late := time.NewTimer(time.Until(deadline) + mountPatience/20) // the reader ends by itself, with what it has
	defer late.Stop()
	select {
	case a := <-done:
		return a.keys, a.more, a.err
	case <-late.C:
		return nil, false, errSlow
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}

// findDigests returns the digests among the first limit bytes of a mount table
// and whether there are more. It keeps no line: a path may be of any length. A
// digest is a run of letters and digits; in the trash, a tree is called t-<hex>.
// Behind a backslash, three digits are a character that the kernel escaped.
func findDigests(r io.Reader, limit int64, deadline time.Time) (keys []key, more bool, err error) {
	const hexLen, escape = 2 * len(key{}), 3
	var run [hexLen + escape]byte
	n, escaped := 0, false
	seen := map[key]bool{}
	end := func() {
		from := 0
		if escaped && n == len(run) {
			from = escape
		}
		if n-from != hexLen {
			return
		}
		if k, ok := keyOfHex(string(run[from:n])); ok && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	buf := make([]byte, 64<<10)
	for {
		if time.Now().After(deadline) {
			return keys, true, errSlow
		}
		got, err := r.Read(buf[:min(int64(len(buf)), limit+1)])
		for _, c := range buf[:min(int64(got), limit)] {
			if isAlphanumeric(rune(c)) {
				if n < len(run) {
					run[n] = c
				}
				n++
				continue
			}
			end()
			n, escaped = 0, c == '\\'
		}
		if int64(got) > limit {
			return keys, true, nil
		}
		limit -= int64(got)
		if errors.Is(err, io.EOF) {
			end()
			return keys, false, nil
		}
		if err != nil {
			return keys, false, err
		}
	}
}
