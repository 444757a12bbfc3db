package crashfs

import (
	"bytes"
	"io/fs"
	"maps"
	"time"
)

// inode is a file or directory of the model.
type inode struct {
	dir     bool
	now     content        // what the running system sees
	disk    content        // what has been synced
	names   map[string]int // of a directory, on disk
	current map[string]int // of a directory, as the running system sees it
}

type content struct {
	data []byte
	mode fs.FileMode
	mod  time.Time
}

// model is a file system: what is on disk, and what is volatile.
type model struct {
	inodes  []*inode
	pending []*nameOp // volatile changes of names, in order
}

// nameOp is one atomic change of names.
type nameOp struct {
	parts []namePart
}

// namePart sets or, with inode 0, removes a name of a directory. The source of
// a rename is the part that removes.
type namePart struct {
	dir   int
	name  string
	inode int
}

// root is the number of the first inode; 0 is none.
const root = 1

func newModel() *model {
	return &model{inodes: []*inode{nil, newDir(0o755)}}
}

func newDir(mode fs.FileMode) *inode {
	return &inode{dir: true, now: content{mode: mode}, disk: content{mode: mode}, names: map[string]int{}, current: map[string]int{}}
}

func (m *model) add(i *inode) int {
	m.inodes = append(m.inodes, i)
	return len(m.inodes) - 1
}

// change applies an operation on names to the running system and notes it as
// volatile.
func (m *model) change(parts ...namePart) {
	for _, p := range parts {
		set(m.inodes[p.dir].current, p)
	}
	m.pending = append(m.pending, &nameOp{parts})
}

func set(names map[string]int, p namePart) {
	if p.inode == 0 {
		delete(names, p.name)
	} else {
		names[p.name] = p.inode
	}
}

// syncFile makes a file's bytes, mode and time durable, or only its bytes.
func (m *model) syncFile(n int, metadata bool) {
	i := m.inodes[n]
	i.disk.data = bytes.Clone(i.now.data)
	if metadata {
		i.disk.mode, i.disk.mod = i.now.mode, i.now.mod
	}
}

// syncDir makes the names in a directory durable. A rename whose source is
// there is durable as a whole, one whose target is there only in that half.
func (m *model) syncDir(n int) {
	m.inodes[n].disk.mode = m.inodes[n].now.mode
	var rest []*nameOp
	for _, op := range m.pending {
		whole := false
		for _, p := range op.parts {
			whole = whole || p.dir == n && p.inode == 0
		}
		left := &nameOp{}
		for _, p := range op.parts {
			if p.dir != n && !whole {
				left.parts = append(left.parts, p)
				continue
			}
			if p.dir != n {
				// What happened to that name before is durable with it.
				m.settleName(rest, p.dir, p.name)
			}
			set(m.inodes[p.dir].names, p)
		}
		if len(left.parts) > 0 {
			rest = append(rest, left)
		}
	}
	m.pending = rest
}

func (m *model) settleName(ops []*nameOp, dir int, name string) {
	for _, op := range ops {
		for n, p := range op.parts {
			if p.dir == dir && p.name == name {
				set(m.inodes[dir].names, p)
				op.parts[n] = namePart{dir: dir, name: "", inode: 0} // nothing left of it
			}
		}
	}
}

// loseNames is the names of every directory after a crash that keeps the
// pending operations that kept names, by position.
func (m *model) loseNames(kept func(n int) bool) []map[string]int {
	names := make([]map[string]int, len(m.inodes))
	for n, i := range m.inodes {
		if i != nil && i.dir {
			names[n] = maps.Clone(i.names)
		}
	}
	for n, op := range m.pending {
		if !kept(n) {
			continue
		}
		for _, p := range op.parts {
			if p.name != "" {
				set(names[p.dir], p)
			}
		}
	}
	return names
}
