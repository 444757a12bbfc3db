package cas_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas/castest"
)

// TestPowerLoss keeps a store on an ext4 image whose journal commits only when
// something is synced, copies the image while the store works, and mounts the
// copies: what a disk holds when the power goes.
func TestPowerLoss(t *testing.T) {
	image, live := disk(t, 96<<20, "loop,commit=600")
	dir := filepath.Dir(image)
	every := 12
	if os.Getenv(soakEnv) != "" {
		every = 1
	}
	n := 0
	snapshots := castest.Live(t, openSubject, filepath.Join(live, "store"), every, func() (string, func()) {
		n++
		copied := filepath.Join(dir, fmt.Sprintf("copy-%d", n))
		at := filepath.Join(dir, fmt.Sprintf("mount-%d", n))
		must(t, os.Mkdir(at, 0o755))
		copyFile(t, image, copied)
		command(t, "mount", "-o", "loop", copied, at)
		return filepath.Join(at, "store"), func() {
			command(t, "umount", at)
			must(t, os.Remove(copied))
		}
	})
	t.Logf("%d power losses", snapshots)
}

// disk mounts a new ext4 file system, of which root keeps nothing back.
func disk(t *testing.T, size int64, options string) (image, at string) {
	t.Helper()
	dir := fastDir(t)
	image, at = filepath.Join(dir, "image"), filepath.Join(dir, "live")
	f, err := os.Create(image)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	must(t, os.Mkdir(at, 0o755))
	command(t, "mount", "-o", options, image, at)
	t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	return image, at
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s (the tests need root): %v: %s", name, err, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	must(t, err)
	defer in.Close()
	out, err := os.Create(to)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
}
