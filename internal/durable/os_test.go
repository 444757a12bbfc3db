package durable_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// A collector's lease on a file delays whoever opens it, and fails nobody.
func TestOpenWaitsForALease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	prober, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer prober.Close()
	if _, err := unix.FcntlInt(prober.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		f, err := durable.OS.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			err = f.Close()
		}
		opened <- err
	}()
	// The kernel tells when someone came to open the file.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		lease, err := unix.FcntlInt(prober.Fd(), unix.F_GETLEASE, 0)
		if err != nil {
			t.Fatal(err)
		}
		if lease != unix.F_WRLCK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody opens the file")
		}
	}
	if _, err := unix.FcntlInt(prober.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
