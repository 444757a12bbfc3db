package castest

import (
	"io/fs"
	"sync"
	"testing"

	"github.com/resultity/rmodels/internal/durable"
)

// Live runs the scenario in dir on a real file system and calls snapshot ahead
// of every n-th operation on names and every fsync. A snapshot returns the
// directory of the store as a power loss right then leaves it; that is checked
// against what is known, and then released. It returns how many there were.
func Live(t *testing.T, open Open, dir string, every int, snapshot func() (dir string, release func())) (snapshots int) {
	t.Helper()
	known := newTruth()
	var mu sync.Mutex
	n := 0
	at := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n%every != 0 {
			return
		}
		state, release := snapshot()
		defer release()
		snapshots++
		if err := known.clone().check(open, state); err != nil {
			t.Errorf("power loss before operation %d (%s): %v", n, what, err)
		}
	}
	note := func(m mark) {
		mu.Lock()
		defer mu.Unlock()
		known.learn(m)
	}
	if err := scenario(open, dir, watchedFS{durable.OS, at}, note); err != nil {
		t.Errorf("the scenario fails: %v", err)
	}
	return snapshots
}

// watchedFS tells of each operation before it happens.
type watchedFS struct {
	durable.FS
	at func(what string)
}

func (w watchedFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	f, err := w.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w.at}, nil
}

func (w watchedFS) Rename(a, b string) error {
	w.at("rename " + b)
	return w.FS.Rename(a, b)
}

func (w watchedFS) RenameNew(a, b string) error {
	w.at("rename " + b)
	return w.FS.RenameNew(a, b)
}

func (w watchedFS) Unlink(name string) error {
	w.at("unlink " + name)
	return w.FS.Unlink(name)
}

func (w watchedFS) SyncDir(name string) error {
	w.at("syncdir " + name)
	return w.FS.SyncDir(name)
}

type watchedFile struct {
	durable.File
	at func(what string)
}

func (w watchedFile) Sync() error {
	w.at("fsync " + w.Name())
	return w.File.Sync()
}

func (w watchedFile) Datasync() error {
	w.at("fdatasync " + w.Name())
	return w.File.Datasync()
}
