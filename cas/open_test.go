package cas_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// A directory that others may write to, or that is someone else's, at the top
// or below it, is no store: whoever can rename a blob decides on its bytes.
func TestOpenRefusesWhatOthersCanWrite(t *testing.T) {
	for _, tt := range []struct {
		name, dir string
		harm      func(path string) error
		class     error
	}{
		{"world-writable", "", func(p string) error { return os.Chmod(p, 0o757) }, cas.ErrWritable},
		{"group-writable", "", func(p string) error { return os.Chmod(p, 0o775) }, cas.ErrWritable},
		{"sticky", "", func(p string) error { return os.Chmod(p, 0o777|os.ModeSticky) }, cas.ErrWritable},
		{"world-writable blobs", "blobs/sha256", func(p string) error { return os.Chmod(p, 0o777) }, cas.ErrWritable},
		{"world-writable refs", "refs", func(p string) error { return os.Chmod(p, 0o777) }, cas.ErrWritable},
		{"foreign trees", "trees", func(p string) error { return os.Chown(p, 12345, 0) }, cas.ErrNotOwner},
		{"linked leases", "leases", func(p string) error {
			if err := os.Rename(p, p+"-elsewhere"); err != nil {
				return err
			}
			return os.Symlink(p+"-elsewhere", p)
		}, cas.ErrFileSystem},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			open(t, root, cas.Options{}).Close()
			must(t, tt.harm(filepath.Join(root, tt.dir)))
			for _, create := range []bool{false, true} {
				_, err := cas.Open(root, cas.Options{Create: create})
				wantError(t, err, tt.class)
			}
		})
	}
	t.Run("a new one", func(t *testing.T) {
		root := t.TempDir()
		must(t, os.Chmod(root, 0o777))
		_, err := cas.Open(root, cas.Options{Create: true})
		wantError(t, err, cas.ErrWritable)
		if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
			t.Errorf("%v was written all the same, %v", entries, err)
		}
		must(t, os.Chmod(root, 0o755))
		open(t, root, cas.Options{})
	})
	t.Run("a directory above it", func(t *testing.T) {
		above := t.TempDir()
		root := filepath.Join(above, "store")
		open(t, root, cas.Options{}).Close()
		must(t, os.Chmod(above, 0o777))
		_, err := cas.Open(root, cas.Options{})
		wantError(t, err, cas.ErrWritable)
	})
	t.Run("by a link", func(t *testing.T) {
		root := filepath.Join(t.TempDir(), "store")
		open(t, root, cas.Options{}).Close()
		must(t, os.Symlink(root, root+"-link"))
		open(t, root+"-link", cas.Options{})
	})
}

// A file system that is a server's, not the kernel's, is refused before
// anything is written to it.
func TestOpenRefusesNetworkFileSystems(t *testing.T) {
	mnt := t.TempDir()
	server := serveFUSE(t, mnt)
	for _, root := range []string{mnt, filepath.Join(mnt, "new", "store")} {
		for _, create := range []bool{false, true} {
			_, err := cas.Open(root, cas.Options{Create: create})
			wantError(t, err, cas.ErrFileSystem)
		}
	}
	for _, op := range server.asked() {
		if !slices.Contains([]uint32{fuseLookup, fuseStatfs, fuseInit}, op) {
			t.Errorf("the server was asked for operation %d", op)
		}
	}
}

// Operations of linux/fuse.h.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseStatfs      = 17
	fuseInit        = 26
	fuseInterrupt   = 36
	fuseBatchForget = 42
)

// fuseServer is an empty file system that only answers what it is.
type fuseServer struct {
	dev *os.File
	mu  sync.Mutex
	ops []uint32
}

func serveFUSE(t *testing.T, at string) *fuseServer {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, unix.Mount("test", at, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	s := &fuseServer{dev: os.NewFile(uintptr(fd), "/dev/fuse")} // now, since before the mount it has nothing to poll
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve()
	}()
	t.Cleanup(func() {
		must(t, unix.Unmount(at, unix.MNT_DETACH))
		s.dev.Close()
		<-ended
	})
	return s
}

func (s *fuseServer) asked() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ops)
}

// serve answers until the device is closed. A request begins with length,
// operation and number; an answer with length, error and that number.
func (s *fuseServer) serve() {
	buf := make([]byte, 256<<10)
	for {
		n, err := s.dev.Read(buf)
		if err != nil || n < 40 {
			return
		}
		op := binary.LittleEndian.Uint32(buf[4:])
		s.mu.Lock()
		s.ops = append(s.ops, op)
		s.mu.Unlock()
		var body []byte
		errno := unix.Errno(0)
		switch op {
		case fuseForget, fuseBatchForget, fuseInterrupt:
			continue // have no answer
		case fuseInit:
			body = make([]byte, 64)
			for at, v := range map[int]uint32{0: 7, 4: 31, 20: 4096, 24: 1} { // version 7.31, writes of 4096 bytes, times in ns
				binary.LittleEndian.PutUint32(body[at:], v)
			}
		case fuseStatfs:
			body = make([]byte, 80)
		case fuseLookup:
			errno = unix.ENOENT
		default:
			errno = unix.ENOSYS
		}
		answer := binary.LittleEndian.AppendUint32(nil, uint32(16+len(body)))
		answer = binary.LittleEndian.AppendUint32(answer, uint32(-int32(errno)))
		answer = append(answer, buf[8:16]...)
		if _, err := s.dev.Write(append(answer, body...)); err != nil {
			return
		}
	}
}

// The probe of [cas.Open] asks with two open file descriptions of one process;
// a second process is told the same.
func TestLocksOfTwoProcesses(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(s.Root(), "lock")
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	answers := func() (here, there string) {
		return tryFlock(path), start(t, s, "flock", path).until("flock")
	}
	if here, there := answers(); here != "held" || there != here {
		t.Errorf("while it is held: %q in this process, %q in another", here, there)
	}
	must(t, f.Close())
	if here, there := answers(); here != "free" || there != here {
		t.Errorf("once it is free: %q in this process, %q in another", here, there)
	}
}

func flockWorker(_ context.Context, _ *cas.Store, args []string) error {
	fmt.Println("flock", tryFlock(args[0]))
	return nil
}

func tryFlock(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return "free"
	case unix.EWOULDBLOCK:
		return "held"
	default:
		return err.Error()
	}
}
