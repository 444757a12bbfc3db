package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestCheckUnexposed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for mode, exposed := range map[os.FileMode]bool{
		0o700: false, 0o755: false, 0o775: true, 0o777: true, 0o757: true, os.ModeSticky | 0o777: true,
	} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := CheckUnexposed(dir); errors.Is(err, ErrExposed) != exposed || err != nil && !exposed {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // nobody else can give a directory away
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if err := CheckUnexposed(dir); !errors.Is(err, ErrExposed) {
			t.Errorf("a stranger's: %v", err)
		}
	}
	if err := CheckUnexposed(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
