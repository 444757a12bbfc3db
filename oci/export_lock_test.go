package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
)

// TestExportIntoALockedLayout: who may write to a layout's directory can lock
// it; the wait ends with its context.
func TestExportIntoALockedLayout(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockLayout(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lockLayout(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked: %v", err)
	}
	unlock()
	lock := filepath.Join(dir, ".lock")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(lock, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lockLayout(t.Context(), dir); err == nil || errors.Is(err, filelock.ErrBusy) {
		t.Errorf("a FIFO: %v", err)
	}
}

// TestExportRemovesLeftovers: copies that a killed export had begun go with the
// next, whatever release wrote them; nothing else goes.
func TestExportRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	gone := []string{
		durable.Temporary(filepath.Join(blobs, "aa")), filepath.Join(blobs, ".export-1234567"),
		filepath.Join(dir, ".index.json.tmp-1-2"),
	}
	stay := []string{filepath.Join(blobs, "bb"), filepath.Join(blobs, ".export-notes"), filepath.Join(dir, ".hidden")}
	for _, path := range append(gone, stay...) {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(blobs, ".export-7")
	if err := os.Symlink(filepath.Join(blobs, "bb"), link); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockLayout(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	for _, path := range gone {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still here: %v", path, err)
		}
	}
	for _, path := range append(stay, link) {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}
