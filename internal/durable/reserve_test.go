package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/disktest"
	"github.com/resultity/rmodels/internal/durable"
)

// On a disk without a free block, and without a free inode, files of a
// directory with a reserve are replaced again and again, also by longer ones,
// and a new one can be made; elsewhere the disk is full.
func TestReserve(t *testing.T) {
	for name, at := range map[string]string{"tmpfs": disktest.Tmpfs(t, 4<<20, 200), "ext4": disktest.Ext4(t, 16<<20, 256)} {
		for what, fill := range map[string]func(*testing.T, string){"blocks": disktest.FillBlocks, "inodes": disktest.FillInodes} {
			t.Run(name+", "+what, func(t *testing.T) {
				dir, other := filepath.Join(at, what), filepath.Join(at, what+"-other")
				for _, d := range []string{dir, other} {
					if err := os.Mkdir(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				path := func(n int) string { return filepath.Join(dir, fmt.Sprint("record-", n)) }
				for n := range 20 {
					if err := durable.WriteFile(path(n), bytes.Repeat([]byte{'a'}, 5000), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 { // the second finds all there
					if err := durable.KeepReserve(dir, 4, 64<<10); err != nil {
						t.Fatal(err)
					}
				}
				fill(t, at)
				if err := durable.WriteFile(filepath.Join(other, "x"), make([]byte, 5000), 0o600); !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("the disk is not full: %v", err)
				}
				for round := range 3 {
					for n := range 20 {
						want := bytes.Repeat([]byte{byte('b' + round)}, 5000+round*3000)
						if err := durable.WriteFile(path(n), want, 0o640); err != nil {
							t.Fatalf("round %d, file %d: %v", round, n, err)
						}
						got, err := os.ReadFile(path(n))
						fi, serr := os.Stat(path(n))
						if err != nil || serr != nil || !bytes.Equal(got, want) || fi.Mode().Perm() != 0o640 {
							t.Fatalf("round %d, file %d: %d bytes, %v, %v", round, n, len(got), err, serr)
						}
					}
				}
				if err := durable.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600); err != nil {
					t.Errorf("a new file: %v", err)
				}
				if es, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*")); err != nil || len(es) > 0 {
					t.Errorf("left: %q, %v", es, err)
				}
				if _, err := os.Stat(filepath.Join(other, "x")); !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				disktest.Empty(t, at)
			})
		}
	}
}

// What lies in the place of a reserve is not written to, and no link in it is
// followed.
func TestReserveIsOfFiles(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	for _, err := range []error{
		os.WriteFile(target, []byte("kept"), 0o600),
		os.Symlink(target, filepath.Join(dir, ".reserve-0")),
		unix.Mkfifo(filepath.Join(dir, ".reserve-1"), 0o600),
		os.Mkdir(filepath.Join(dir, ".reserve-2"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.KeepReserve(dir, 4, 4096); err == nil {
		t.Error("a link, a FIFO and a directory are kept as a reserve")
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
	if fi, err := os.Lstat(filepath.Join(dir, ".reserve-3")); err != nil || fi.Sys().(*syscall.Stat_t).Blocks*512 < 4096 {
		t.Errorf("%v, %v", fi, err)
	}
}
