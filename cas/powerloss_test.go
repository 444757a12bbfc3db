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
	dir := fastDir(t)
	image := filepath.Join(dir, "image")
	f, err := os.Create(image)
	must(t, err)
	must(t, f.Truncate(96<<20))
	must(t, f.Close())
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	live := filepath.Join(dir, "live")
	must(t, os.Mkdir(live, 0o755))
	command(t, "mount", "-o", "loop,commit=600", image, live)
	t.Cleanup(func() { unix.Unmount(live, unix.MNT_DETACH) })
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
