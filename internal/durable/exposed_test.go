package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
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

// chownForeign gives a path to another user, where that can be done.
func chownForeign(t *testing.T, path string) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	if err := os.Lchown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	return true
}

func TestCheckParents(t *testing.T) {
	base := t.TempDir()
	var owned []string
	mk := func(path string, mode os.FileMode) string {
		path = filepath.Join(base, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(target, path string) string {
		path = filepath.Join(base, path)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mk("fine/state", 0o755)
	mk("wide", 0o777)
	mk("wide/state", 0o755)
	mk("group", 0o775)
	mk("group/state", 0o755)
	mk("deep", 0o757)
	mk("deep/a/b/state", 0o755)
	mk("sticky", os.ModeSticky|0o777)
	mk("sticky/state", 0o755)
	mk("sticky/theirs/state", 0o755)
	link(filepath.Join(base, "wide"), "towide")
	link("../wide/state", "fine/up")
	link("fine/state", "good")
	link("loop", "loop")
	for path, exposed := range map[string]bool{
		"fine/state": false, "good": false, "sticky/state": false,
		"wide/state": true, "group/state": true, "deep/a/b/state": true, "towide/state": true, "fine/up": true,
	} {
		if err := CheckParents(filepath.Join(base, path)); errors.Is(err, ErrExposed) != exposed || err != nil && !exposed {
			t.Errorf("%s: %v", path, err)
		}
	}
	if chownForeign(t, filepath.Join(base, "sticky/theirs")) {
		owned = append(owned, "sticky/theirs/state")
		mk("theirs/state", 0o755)
		chownForeign(t, filepath.Join(base, "theirs"))
		owned = append(owned, "theirs/state")
		chownForeign(t, link(filepath.Join(base, "fine"), "sticky/link"))
		owned = append(owned, "sticky/link/state")
	}
	for _, path := range owned {
		if err := CheckParents(filepath.Join(base, path)); !errors.Is(err, ErrExposed) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := CheckParents(filepath.Join(base, "fine/absent")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := CheckParents(filepath.Join(base, "loop/x")); !errors.Is(err, syscall.ELOOP) {
		t.Error(err)
	}
}

func TestReadOwnAndSecret(t *testing.T) {
	base := t.TempDir()
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]struct{ own, secret bool }{
		0o600: {true, true}, 0o400: {true, true}, 0o640: {true, false}, 0o644: {true, false}, 0o604: {true, false},
		0o620: {false, false}, 0o602: {false, false}, 0o666: {false, false},
	} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{file, link} {
			b, err := ReadOwn(path, 6)
			if (err == nil) != want.own || err == nil && string(b) != "secret" || err != nil && !errors.Is(err, ErrExposed) {
				t.Errorf("%s, mode %v: %q, %v", path, mode, b, err)
			}
			b, err = ReadSecret(path, 6)
			if (err == nil) != want.secret || err == nil && string(b) != "secret" || err != nil && (!errors.Is(err, ErrExposed) || b != nil) {
				t.Errorf("secret %s, mode %v: %q, %v", path, mode, b, err)
			}
		}
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOwn(file, 5); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	if _, err := ReadSecret(file, 5); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	if chownForeign(t, file) {
		if _, err := ReadOwn(file, 6); !errors.Is(err, ErrExposed) {
			t.Errorf("a stranger's: %v", err)
		}
	}
	fifo := filepath.Join(base, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func(string, int64) ([]byte, error){ReadOwn, ReadSecret, ReadLink} {
		if _, err := read(fifo, 6); !errors.Is(err, ErrNotRegular) {
			t.Errorf("a FIFO: %v", err)
		}
	}
}

// TestEntriesBehindLinks: a link in a directory that nobody else can write to
// may lead to a file that others can.
func TestEntriesBehindLinks(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Mkdir(at("d"), 0o755), os.Mkdir(at("open"), 0o755), os.Mkdir(at("mine"), 0o755),
		os.WriteFile(at("open/f"), nil, 0o644), os.WriteFile(at("mine/f"), nil, 0o644), os.WriteFile(at("mine/w"), nil, 0o644),
		os.Chmod(at("open"), 0o777), os.Chmod(at("mine/w"), 0o666),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for target, want := range map[string]error{
		"../open/f": ErrExposed, at("mine/w"): ErrExposed, at("mine/f"): nil, "../absent": nil, "../open": nil, "link": nil,
	} {
		if err := os.Symlink(target, at("d/link")); err != nil {
			t.Fatal(err)
		}
		if err := CheckEntries(at("d"), func(string) bool { return true }); !errors.Is(err, want) {
			t.Errorf("a link to %s: %v, want %v", target, err, want)
		}
		if err := CheckEntries(at("d"), func(string) bool { return false }); err != nil {
			t.Errorf("not asked for: %v", err)
		}
		if err := os.Remove(at("d/link")); err != nil {
			t.Fatal(err)
		}
	}
}
