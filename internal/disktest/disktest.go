// Package disktest makes small file systems for tests, and fills them. It needs
// root.
package disktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Tmpfs mounts a file system of its own that is gone with the test.
func Tmpfs(t *testing.T, size int64, inodes int) string {
	t.Helper()
	return mount(t, "-t", "tmpfs", "-o", fmt.Sprintf("mode=0755,size=%d,nr_inodes=%d", size, inodes), "none")
}

// Ext4 is [Tmpfs] on an image, with no block reserved for root.
func Ext4(t *testing.T, size int64, inodes int) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-N", fmt.Sprint(inodes), image)
	return mount(t, "-o", "loop", image)
}

// mount puts a file system where other users reach it.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	at, err := os.MkdirTemp("", "rmodels-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(at) })
	command(t, "mount", append(args, at)...)
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(at, 0o755); err != nil {
		t.Fatal(err)
	}
	return at
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s (the tests need root): %v: %s", name, err, out)
	}
}

const (
	blocks = "filler"
	inodes = "inode-"
)

// FillBlocks leaves no byte of a file system free.
func FillBlocks(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, blocks), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// FillInodes leaves no inode of a file system free.
func FillInodes(t *testing.T, dir string) {
	t.Helper()
	for n := 0; ; n++ {
		f, err := os.Create(filepath.Join(dir, inodes+fmt.Sprint(n)))
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// Empty removes what filled a file system.
func Empty(t *testing.T, dir string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		if e.Name() != blocks && !strings.HasPrefix(e.Name(), inodes) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}
