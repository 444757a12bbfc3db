package oci

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
)

// TestExportIntoALockedLayout: who may write to a layout's directory can lock
// it; the wait ends with its context.
func TestExportIntoALockedLayout(t *testing.T) {
	dir := t.TempDir()
	held, err := lockLayout(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := lockLayout(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked: %v", err)
	}
	held.unlock()
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
	held, err := lockLayout(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	held.unlock()
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

// TestExportFollowsNoLink: who may write to the target of an export leads no
// byte of it elsewhere, and nothing elsewhere is removed or changed.
func TestExportFollowsNoLink(t *testing.T) {
	for _, name := range []string{"blobs", "blobs/sha256", "index.json", "oci-layout", ".lock"} {
		t.Run(name, func(t *testing.T) {
			dir, elsewhere := t.TempDir(), t.TempDir()
			kept := map[string]string{"index.json": `{"schemaVersion":2,"manifests":[]}`, ".export-1": "x", "file": "x"}
			for file, content := range kept {
				if err := os.WriteFile(filepath.Join(elsewhere, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			to := elsewhere
			if filepath.Ext(name) != "" || name == "oci-layout" || name == ".lock" {
				to = filepath.Join(elsewhere, "file")
			}
			link := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(to, link)); err != nil {
				t.Fatal(err)
			}
			d, err := lockLayout(t.Context(), dir)
			if err == nil {
				err = d.editIndex(func(ds []ocispec.Descriptor) []ocispec.Descriptor { return ds })
				w := &layoutWriter{ctx: t.Context(), blobs: d.blobs, res: new(LayoutResult)}
				err = errors.Join(err, w.bytes([]byte("a blob")))
				d.unlock()
			}
			if err == nil && name != "oci-layout" {
				t.Error("written through the link, or around it without a word")
			}
			es, rerr := os.ReadDir(elsewhere)
			if rerr != nil || len(es) != len(kept) {
				t.Errorf("elsewhere: %v, %v", es, rerr)
			}
			for file, content := range kept {
				if b, err := os.ReadFile(filepath.Join(elsewhere, file)); err != nil || string(b) != content {
					t.Errorf("%s: %q, %v", file, b, err)
				}
			}
		})
	}
}
