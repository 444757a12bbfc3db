package filelock_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/filelock"
)

func TestExcludesAndNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := filelock.Try(path, filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	l.Say("process 7")
	for _, how := range []filelock.Mode{filelock.Exclusive, filelock.Shared} {
		if _, err := filelock.Try(path, how); !errors.Is(err, filelock.ErrBusy) || !strings.Contains(err.Error(), "process 7") {
			t.Errorf("%d: %v", how, err)
		}
	}
	l.Unlock()
	a, err := filelock.Try(path, filelock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Unlock()
	b, err := filelock.Try(path, filelock.Shared)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlock()
	if _, err := filelock.Try(path, filelock.Exclusive); !errors.Is(err, filelock.ErrBusy) {
		t.Errorf("beside those that share: %v", err)
	}
}

// A wait ends with its time, with its context, and when the holder lets go.
func TestWaitsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := filelock.Try(path, filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Take(context.Background(), path, filelock.Exclusive, 30*time.Millisecond); !errors.Is(err, filelock.ErrBusy) {
		t.Errorf("after its time: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("asked to end")
	waiting := make(chan error)
	wait := func(ctx context.Context) {
		got, err := filelock.Take(ctx, path, filelock.Exclusive, time.Hour)
		if err == nil {
			got.Unlock()
		}
		waiting <- err
	}
	go wait(ctx)
	cancel(why)
	if err := <-waiting; !errors.Is(err, why) {
		t.Errorf("with its context: %v", err)
	}
	go wait(context.Background())
	l.Unlock()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
}

// A lock file is its owner's alone, also one that an older version made, and
// nothing else in its place is opened or waited for.
func TestLockFile(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o644, 0o666, 0o600} {
		path := filepath.Join(dir, mode.String())
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		l, err := filelock.Try(path, filelock.Exclusive)
		if err != nil {
			t.Fatal(err)
		}
		l.Unlock()
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v: %v, %v", mode, st.Mode(), err)
		}
	}
	fifo, link, target := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, dir} {
		if l, err := filelock.Try(path, filelock.Exclusive); err == nil || errors.Is(err, filelock.ErrBusy) {
			t.Errorf("%s: %v, %v", path, l, err)
		}
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Error("a link was followed")
	}
}
