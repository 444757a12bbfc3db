package runner

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A FIFO in the place of a file is not waited for.
func TestFIFOs(t *testing.T) {
	dir := t.TempDir()
	fifo := func(name string) string {
		path := filepath.Join(dir, name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if _, err := readProof(fifo("proof-x.json"), "x"); err == nil {
		t.Error("a FIFO is a proof")
	}
	if _, err := readLoaded(fifo("image-nerdctl-x.json")); err == nil {
		t.Error("a FIFO is a note")
	}
	fifo("seccomp-" + seccompDigest.Encoded()[:16] + ".json")
	if _, err := writeSeccomp(dir); err == nil {
		t.Error("a FIFO is a seccomp profile")
	}
}
