package filelock

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/disktest"
)

// TestWideLock: a lock file that earlier releases made readable is replaced by a
// new inode, because a stranger may have the old one open; a process of this
// program that holds it is waited for.
func TestWideLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gpu.lock")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := unix.Flock(int(old.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(t.Context(), path, Exclusive, 20*time.Millisecond); !errors.Is(err, ErrBusy) {
		t.Fatalf("held by a process of our own: %v", err)
	}
	if err := unix.Flock(int(old.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	l, err := Take(t.Context(), path, Exclusive, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o600 {
		t.Error(fi, err)
	}
	if err := unix.Flock(int(old.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	if l, err = Take(t.Context(), path, Exclusive, 0); err != nil {
		t.Errorf("a descriptor from before the replacement keeps us out: %v", err)
	} else {
		l.Unlock()
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

// TestStranger: a process of another user holds a lock of an earlier release,
// and cannot open one of this.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		return // nobody else can start a process of another user
	}
	dir, err := os.MkdirTemp("", "filelock-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "run.lock")
	for name, script := range map[string]string{
		"who took it lives":            `exec flock -x "$0" sh -c 'echo locked; exec cat'`,
		"who took it has handed it on": `exec 9<"$0"; flock -x 9; echo locked; exec cat`,
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(path)
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			c := exec.Command("sh", "-c", script, path)
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			in, _ := c.StdinPipe()
			out, _ := c.StdoutPipe()
			c.Stderr = os.Stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer c.Wait()
			defer in.Close()
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
				t.Fatal(line, err)
			}
			// Many at once: one replacement, and one holder at a time.
			var wg sync.WaitGroup
			var inside sync.Mutex
			for range 8 {
				wg.Go(func() {
					l, err := Take(t.Context(), path, Exclusive, time.Minute)
					if err != nil {
						t.Error(err)
						return
					}
					defer l.Unlock()
					if !inside.TryLock() {
						t.Error("two hold the lock")
						return
					}
					runtime.Gosched()
					inside.Unlock()
				})
			}
			wg.Wait()
			again := exec.Command("flock", "-n", "-x", path, "true")
			again.SysProcAttr = c.SysProcAttr
			if err := again.Run(); err == nil {
				t.Error("a stranger locks the new file")
			}
		})
	}
}

// A disk that takes no new file keeps nobody from a lock that nobody holds.
func TestWideLockOnAFullDisk(t *testing.T) {
	disk := disktest.Tmpfs(t, 1<<20, 20)
	path := filepath.Join(disk, "lock")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	disktest.FillInodes(t, disk)
	l, err := Take(context.Background(), path, Exclusive, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path, Exclusive); !errors.Is(err, ErrBusy) {
		t.Errorf("it protects nothing: %v", err)
	}
	l.Unlock()
	disktest.Empty(t, disk)
	if l, err = Try(path, Exclusive); err != nil {
		t.Fatal(err)
	}
	l.Unlock()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}
