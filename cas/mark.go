package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// marks is what a collection may not touch, and why. Marks are only ever
// added while it runs.
type marks struct {
	s       *Store
	blobs   map[key]uint32 // index into reasons
	trees   map[key]uint32
	reasons []string

	seen      counters         // generation at the last look
	refs      map[string]refAt // by file, so that an unchanged ref is not read twice
	evict     map[string]refAt // refs that the plan drops, unless they change
	listed    map[key]string   // directories of the trees there are, in the trash too
	heldIDs   map[string]bool  // leases that are alive
	deadIDs   []string         // files of leases that are not
	keepTrees string           // why no tree at all may be dropped
}

// refAt is a ref file as it was read; another one of the same name has another
// inode or change time.
type refAt struct {
	ino  uint64
	ctim unix.Timespec
	ref  Ref
	done bool // its marks are set
}

func (s *Store) newMarks() *marks {
	return &marks{s: s, blobs: map[key]uint32{}, trees: map[key]uint32{}, refs: map[string]refAt{}, evict: map[string]refAt{}}
}

func (m *marks) reason(text string) uint32 {
	m.reasons = append(m.reasons, text)
	return uint32(len(m.reasons) - 1)
}

func (m *marks) whyBlob(k key) (string, bool) {
	n, ok := m.blobs[k]
	if !ok {
		return "", false
	}
	return m.reasons[n], true
}

func (m *marks) whyTree(k key) (string, bool) {
	if m.keepTrees != "" {
		return m.keepTrees, true
	}
	n, ok := m.trees[k]
	if !ok {
		return "", false
	}
	return m.reasons[n], true
}

func (m *marks) blob(k key, why uint32) {
	if _, known := m.blobs[k]; !known {
		m.blobs[k] = why
	}
}

// tree marks a tree and the blobs of its files.
func (m *marks) tree(k key, why uint32) error {
	if _, known := m.trees[k]; known {
		return nil
	}
	dir, ok := m.listed[k]
	if !ok {
		return nil // announced, not built yet
	}
	index, err := readIndex(dir, k)
	if errors.Is(err, ErrNotFound) {
		// Put back from the trash between the listing and now.
		index, err = m.s.readTree(k)
	}
	if errors.Is(err, ErrNotFound) {
		return nil // discarded meanwhile
	}
	if err != nil {
		return fmt.Errorf("a tree in use cannot be read, so nothing is collected: %w", err) // invariant 5
	}
	m.trees[k] = why
	for _, e := range index.Entries {
		b, err := keyOf(e.Blob)
		if err != nil {
			return err
		}
		m.blob(b, why)
	}
	return nil
}

// listTrees notes which trees there are.
func (m *marks) listTrees() error {
	names, err := m.s.treeNames()
	if err != nil {
		return err
	}
	m.listed = make(map[key]string, len(names))
	trashed, err := m.s.readTrash()
	if err != nil {
		return err
	}
	for _, t := range trashed {
		if t.kind == 't' {
			m.listed[t.k] = t.path
		}
	}
	for _, k := range names {
		m.listed[k] = m.s.treePath(k)
	}
	return nil
}

// readLeases marks what leases announce.
func (m *marks) readLeases(torn bool) error {
	held, dead, err := m.s.readLeases(torn)
	if err != nil {
		return fmt.Errorf("a lease cannot be read, so nothing is collected: %w", err)
	}
	m.deadIDs = dead
	m.heldIDs = make(map[string]bool, len(held))
	for _, l := range held {
		m.heldIDs[l.id] = true
		text := "lease " + l.id
		if l.purpose != "" {
			text += ": " + l.purpose
		}
		if l.pid != 0 {
			text += fmt.Sprintf(" (process %d)", l.pid)
		}
		why := m.reason(text)
		for _, k := range l.keys {
			m.blob(k, why)
			if err := m.tree(k, why); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadRefs reads the refs that are new or changed.
func (m *marks) loadRefs() error {
	files, err := m.s.refFiles()
	if err != nil {
		return err
	}
	for _, file := range files {
		var st unix.Stat_t
		path := filepath.Join(m.s.path("refs"), file)
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
			continue // deleted meanwhile
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if known, ok := m.refs[file]; ok && known.ino == st.Ino && known.ctim == st.Ctim {
			continue
		}
		r, err := m.s.readRef(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("a ref cannot be read, so nothing is collected: %w", err)
		}
		m.refs[file] = refAt{ino: st.Ino, ctim: st.Ctim, ref: r}
	}
	return nil
}

// markRefs marks what refs keep, but for those that the plan evicts.
func (m *marks) markRefs() error {
	for file, at := range m.refs {
		if at.done {
			continue
		}
		if gone, ok := m.evict[file]; ok && gone.ino == at.ino && gone.ctim == at.ctim {
			continue
		}
		why := m.reason("ref " + at.ref.Name)
		for _, d := range at.ref.Blobs {
			k, err := keyOf(d)
			if err != nil {
				return err
			}
			m.blob(k, why)
		}
		if at.ref.Tree != "" {
			k, err := keyOf(at.ref.Tree)
			if err != nil {
				return err
			}
			if err := m.tree(k, why); err != nil {
				return err
			}
		}
		at.done = true
		at.ref.Blobs = nil // in the marks now; hundreds of thousands add up
		m.refs[file] = at
	}
	return nil
}

// markMounts marks what is mounted anywhere.
func (m *marks) markMounts(proc string) error {
	found, blind, err := mounted(proc)
	if err != nil {
		return fmt.Errorf("mounts cannot be read, so nothing is collected: %w", err)
	}
	why := m.reason("mounted")
	for k := range found {
		m.blob(k, why)
		if err := m.tree(k, why); err != nil {
			return err
		}
	}
	if blind == "" {
		return nil
	}
	m.keepTrees = blind
	why = m.reason(blind)
	for k := range m.listed {
		if err := m.tree(k, why); err != nil {
			return err
		}
	}
	return nil
}

// catchUp looks again at the roots when they changed since the last look. The
// caller holds the store lock exclusively, so that nothing changes while it
// looks (invariant 7).
func (m *marks) catchUp() error {
	now, err := m.s.gen.read()
	if err != nil || now == m.seen {
		return err
	}
	if err := m.listTrees(); err != nil {
		return err
	}
	if now.leases != m.seen.leases {
		if err := m.readLeases(false); err != nil {
			return err
		}
	}
	if now.roots != m.seen.roots {
		if err := m.loadRefs(); err != nil {
			return err
		}
		if err := m.markRefs(); err != nil {
			return err
		}
	}
	m.seen = now
	return nil
}

// sample notes the generation while nobody is in the middle of a change.
func (s *Store) sample(ctx context.Context) (counters, error) {
	guard, err := s.exclusive(ctx)
	if err != nil {
		return counters{}, err
	}
	defer guard.unlock()
	return s.gen.read()
}

func (s *Store) exclusive(ctx context.Context) (*flock, error) { return s.storeLock(ctx, unix.LOCK_EX) }

// changeAge is how long ago the inode at path was changed in any way. Unlike
// the modification time it cannot be set.
func (s *Store) changeAge(path string) (time.Duration, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return s.now().Sub(time.Unix(st.Ctim.Sec, st.Ctim.Nsec)), nil
}
