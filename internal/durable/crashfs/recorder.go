package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/resultity/rmodels/internal/durable"
)

// step is one noted operation: what it does to a model.
type step struct {
	label string
	mark  any // of [Recorder.Mark]
	apply func(*model)
}

// Recorder is a [durable.FS] that notes what happens below a directory.
type Recorder struct {
	dir string
	fs  durable.FS

	mu    sync.Mutex
	live  *model // the namespace as it is now, to find inodes by path
	steps []step
}

// Record starts to note what is done below dir, which has to be empty.
func Record(dir string) (*Recorder, error) {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("record %s: not empty", dir)
	}
	return &Recorder{dir: dir, fs: durable.OS, live: newModel()}, err
}

// Mark notes something that a test knows to be true from here on.
func (r *Recorder) Mark(mark any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, step{label: fmt.Sprintf("mark %v", mark), mark: mark, apply: func(*model) {}})
}

// do performs an operation and notes it. Operations are noted in the order in
// which they happen, so the recorder lets only one through at a time.
func (r *Recorder) do(label string, perform func() error, apply func(*model)) error {
	if err := perform(); err != nil {
		return err
	}
	apply(r.live)
	r.steps = append(r.steps, step{label: label, apply: apply})
	return nil
}

// note records an operation that was not performed through the recorder.
func (r *Recorder) note(label string, apply func(*model)) {
	apply(r.live)
	r.steps = append(r.steps, step{label: label, apply: apply})
}

func (r *Recorder) short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, r.dir), "/")
}

// inode finds the inode of a path, taking it along when it was made behind the
// recorder's back.
func (r *Recorder) inode(path string) (int, error) {
	if path == r.dir {
		return root, nil
	}
	dir, err := r.inode(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	name := filepath.Base(path)
	if n, ok := r.live.inodes[dir].current[name]; ok {
		return n, nil
	}
	st, err := os.Lstat(path)
	if err != nil {
		return 0, err
	}
	var data []byte
	if st.Mode().IsRegular() {
		if data, err = os.ReadFile(path); err != nil {
			return 0, err
		}
	}
	isDir, mode := st.IsDir(), st.Mode().Perm()
	r.note("found "+r.short(path), func(m *model) {
		i := &inode{now: content{data: append([]byte(nil), data...), mode: mode}, disk: content{mode: mode}}
		if isDir {
			i = newDir(mode)
		}
		m.change(namePart{dir, name, m.add(i)})
	})
	return r.live.inodes[dir].current[name], nil
}

// place is the directory and base name of a path.
func (r *Recorder) place(path string) (dir int, name string, err error) {
	dir, err = r.inode(filepath.Dir(path))
	return dir, filepath.Base(path), err
}

// OpenFile implements [durable.FS].
func (r *Recorder) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, before := os.Lstat(name)
	f, err := r.fs.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 && errors.Is(before, fs.ErrNotExist) {
		dir, base, err := r.place(name)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		r.note("create "+r.short(name), func(m *model) {
			m.change(namePart{dir, base, m.add(&inode{now: content{mode: perm}, disk: content{mode: perm}})})
		})
	}
	n, err := r.inode(name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{File: f, r: r, n: n, label: r.short(name)}, nil
}

// Mkdir implements [durable.FS].
func (r *Recorder) Mkdir(name string, perm fs.FileMode) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir, base, err := r.place(name)
	if err != nil {
		return err
	}
	return r.do("mkdir "+r.short(name), func() error { return r.fs.Mkdir(name, perm) }, func(m *model) {
		m.change(namePart{dir, base, m.add(newDir(perm))})
	})
}

// Rename implements [durable.FS].
func (r *Recorder) Rename(from, to string) error {
	return r.rename(from, to, "rename", r.fs.Rename)
}

// RenameNew implements [durable.FS].
func (r *Recorder) RenameNew(from, to string) error {
	return r.rename(from, to, "rename-new", r.fs.RenameNew)
}

func (r *Recorder) rename(from, to, label string, perform func(from, to string) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.inode(from)
	if err != nil {
		return perform(from, to)
	}
	fromDir, fromName, err := r.place(from)
	if err != nil {
		return err
	}
	toDir, toName, err := r.place(to)
	if err != nil {
		return err
	}
	if r.live.inodes[toDir].current[toName] == n {
		return perform(from, to) // two names of one inode: rename(2) does nothing
	}
	return r.do(label+" "+r.short(from)+" -> "+r.short(to), func() error { return perform(from, to) }, func(m *model) {
		m.change(namePart{toDir, toName, n}, namePart{fromDir, fromName, 0})
	})
}

// Exchange implements [durable.FS].
func (r *Recorder) Exchange(a, b string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	na, err := r.inode(a)
	if err != nil {
		return err
	}
	nb, err := r.inode(b)
	if err != nil {
		return err
	}
	aDir, aName, _ := r.place(a)
	bDir, bName, _ := r.place(b)
	return r.do("exchange "+r.short(a)+" and "+r.short(b), func() error { return r.fs.Exchange(a, b) }, func(m *model) {
		m.change(namePart{aDir, aName, nb}, namePart{bDir, bName, na})
	})
}

// Link implements [durable.FS].
func (r *Recorder) Link(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.inode(from)
	if err != nil {
		return err
	}
	dir, name, err := r.place(to)
	if err != nil {
		return err
	}
	return r.do("link "+r.short(from)+" -> "+r.short(to), func() error { return r.fs.Link(from, to) }, func(m *model) {
		m.change(namePart{dir, name, n})
	})
}

// Unlink implements [durable.FS].
func (r *Recorder) Unlink(name string) error { return r.remove("unlink", name, r.fs.Unlink) }

// Rmdir implements [durable.FS].
func (r *Recorder) Rmdir(name string) error { return r.remove("rmdir", name, r.fs.Rmdir) }

func (r *Recorder) remove(label, name string, perform func(string) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.inode(name); err != nil {
		return perform(name)
	}
	dir, base, err := r.place(name)
	if err != nil {
		return err
	}
	return r.do(label+" "+r.short(name), func() error { return perform(name) }, func(m *model) {
		m.change(namePart{dir, base, 0})
	})
}

// Chmod implements [durable.FS].
func (r *Recorder) Chmod(name string, perm fs.FileMode) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.inode(name)
	if err != nil {
		return err
	}
	return r.do("chmod "+r.short(name), func() error { return r.fs.Chmod(name, perm) }, func(m *model) { m.inodes[n].now.mode = perm })
}

// ReadNames implements [durable.FS].
func (r *Recorder) ReadNames(dir string) ([]string, error) { return r.fs.ReadNames(dir) }

// SyncDir implements [durable.FS].
func (r *Recorder) SyncDir(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.inode(name)
	if err != nil {
		return err
	}
	return r.do("syncdir "+r.short(name), func() error { return r.fs.SyncDir(name) }, func(m *model) { m.syncDir(n) })
}

// file notes what is done to an open file.
type file struct {
	durable.File
	r     *Recorder
	n     int
	label string
}

func (f *file) do(label string, perform func() error, apply func(*inode)) error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return f.r.do(label+" "+f.label, perform, func(m *model) { apply(m.inodes[f.n]) })
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	data := append([]byte(nil), p...)
	err := f.do("write", func() error { _, err := f.File.WriteAt(p, off); return err }, func(i *inode) { i.write(data, off) })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *file) Append(p []byte) error {
	data := append([]byte(nil), p...)
	return f.do("append", func() error { return f.File.Append(p) }, func(i *inode) { i.write(data, int64(len(i.now.data))) })
}

func (f *file) Truncate(size int64) error {
	return f.do("truncate", func() error { return f.File.Truncate(size) }, func(i *inode) {
		if size < int64(len(i.now.data)) {
			i.now.data = append([]byte(nil), i.now.data[:size]...)
		} else {
			i.write(nil, size)
		}
	})
}

func (f *file) Chmod(perm fs.FileMode) error {
	return f.do("chmod", func() error { return f.File.Chmod(perm) }, func(i *inode) { i.now.mode = perm })
}

func (f *file) SetModTime(t time.Time) error {
	return f.do("utimes", func() error { return f.File.SetModTime(t) }, func(i *inode) { i.now.mod = t })
}

func (f *file) Datasync() error { return f.sync("fdatasync", f.File.Datasync, false) }
func (f *file) Sync() error     { return f.sync("fsync", f.File.Sync, true) }

func (f *file) sync(label string, perform func() error, metadata bool) error {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return f.r.do(label+" "+f.label, perform, func(m *model) { m.syncFile(f.n, metadata) })
}

func (i *inode) write(p []byte, off int64) {
	if need := off + int64(len(p)); need > int64(len(i.now.data)) {
		i.now.data = append(i.now.data, make([]byte, need-int64(len(i.now.data)))...)
	}
	copy(i.now.data[off:], p)
	i.now.mod = time.Time{} // whatever the clock said
}
