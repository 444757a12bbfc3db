package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(at("file"), []byte("content"), 0o600),
		os.Symlink(at("file"), at("link")),
		unix.Mkfifo(at("fifo"), 0o600),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		os.Mkdir(at("directory"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b, err := durable.ReadFile(at("file"), 7); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := durable.ReadFile(at("file"), 6); !errors.Is(err, durable.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	if _, err := durable.ReadFile(at("nothing"), 7); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	for _, name := range []string{"link", "fifo", "socket", "directory"} {
		if _, err := durable.ReadFile(at(name), 7); !errors.Is(err, durable.ErrNotRegular) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f, err := durable.OpenLink(at("link")); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if err := durable.AppendLine(at("fifo"), []byte("line"), 0o600); !errors.Is(err, durable.ErrNotRegular) {
		t.Errorf("append to a FIFO: %v", err)
	}
}
