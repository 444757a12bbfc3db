package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// marks is what a collection may not touch, and why. Marks are only ever
// added while it runs.
type marks struct {
	s        *Store
	blobs    map[key]uint32 // index into reasons
	trees    map[key]uint32
	opened   map[key]identity // trees whose files are marked, by their directory
	layers   map[key]uint32
	unfolded map[key]identity // layers whose files are marked, by their record
	reasons  []string

	seen      counters         // generation at the last look
	refs      map[string]refAt // by file, so that an unchanged ref is not read twice
	evict     map[string]refAt // refs that the plan drops, unless they change
	deadIDs   []string         // files of leases that protect nothing
	keepTrees string           // why no tree at all may be dropped
	keepAll   uint32           // the same, as an index into reasons

	refTrees  map[key]bool // that refs name: they were there (invariant 9)
	refLayers map[key]bool
	mounted   map[key]bool
	damaged   map[string]Finding // those in use that cannot be read
	keepBlobs string             // why no blob at all may be dropped
}

// identity tells an entry from a later one of the same name, which may have got
// the inode of the one before.
type identity struct {
	ino  uint64
	ctim unix.Timespec
}

func identify(st *unix.Stat_t) identity { return identity{st.Ino, st.Ctim} }

// refAt is a ref file as it was read.
type refAt struct {
	identity
	ref  Ref
	done bool // its marks are set
}

func (s *Store) newMarks() *marks {
	return &marks{
		s: s, blobs: map[key]uint32{}, trees: map[key]uint32{}, opened: map[key]identity{},
		layers: map[key]uint32{}, unfolded: map[key]identity{},
		refs: map[string]refAt{}, evict: map[string]refAt{}, refTrees: map[key]bool{}, refLayers: map[key]bool{},
	}
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

// tree marks a tree, whether it is there already or not: one that is built
// after the look at its roots is in use from the start. What it holds is
// marked by openTrees.
func (m *marks) tree(k key, why uint32) {
	if _, known := m.trees[k]; !known {
		m.trees[k] = why
	}
}

// openTrees marks the blobs of the marked trees and layers that are there, in
// the trash too. It comes after the look at the roots: whoever builds or replaces a tree
// that someone else holds announces its blobs until it is published, so that
// they were seen in that lease, or are seen in the tree.
func (m *marks) openTrees() error {
	there := map[key]string{}
	trashed, err := m.s.readTrash()
	if err != nil {
		return err
	}
	for _, t := range trashed {
		if t.kind == 't' {
			there[t.k] = t.path
		}
	}
	names, err := m.s.treeNames()
	if err != nil {
		return err
	}
	for _, k := range names {
		there[k] = m.s.treePath(k)
	}
	var held []key
	for k := range there {
		if m.keepTrees != "" {
			m.tree(k, m.keepAll)
		}
		if _, marked := m.trees[k]; marked {
			held = append(held, k)
		}
	}
	for k := range m.trees {
		if there[k] == "" && m.refTrees[k] { // or it is not built yet
			held = append(held, k)
			there[k] = m.s.treePath(k)
		}
	}
	for some := range slices.Chunk(held, readAhead) {
		found := make([]openedTree, len(some))
		err := spread(context.Background(), len(some), func(n int) (err error) {
			if found[n], err = m.openTree(some[n], there[some[n]]); err != nil {
				found[n].err, err = err, nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for n, t := range found {
			if t.err != nil {
				m.damage("tree", some[n], t.err)
			}
			if t.ino == 0 {
				continue
			}
			m.opened[some[n]] = t.identity
			for _, b := range t.blobs {
				m.blob(b, m.trees[some[n]])
			}
		}
	}
	return m.openLayers(trashed)
}

// openedTree is a tree's directory and the blobs that it holds.
type openedTree struct {
	identity
	blobs []key
	err   error // it cannot be read
}

// openTree reads a tree that is new or another than the one whose files are
// marked; the zero value says that it is not, or that it was discarded
// meanwhile.
func (m *marks) openTree(k key, dir string) (openedTree, error) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, unix.ENOENT) && dir != m.s.treePath(k) {
		dir = m.s.treePath(k) // put back from the trash since it was listed
		err = unix.Lstat(dir, &st)
	}
	if errors.Is(err, unix.ENOENT) {
		if m.refTrees[k] {
			return openedTree{}, absent("tree", k)
		}
		return openedTree{}, nil
	}
	if err != nil {
		return openedTree{}, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if m.opened[k] == identify(&st) {
		return openedTree{}, nil
	}
	index, err := m.s.readIndex(dir, k)
	if errors.Is(err, ErrNotFound) {
		// Put back from the trash between the look and now.
		index, err = m.s.readTree(k)
	}
	if errors.Is(err, ErrNotFound) {
		return openedTree{}, nil
	}
	if err != nil {
		return openedTree{}, err
	}
	found := openedTree{identity: identify(&st), blobs: make([]key, len(index.Entries))}
	for n, e := range index.Entries {
		if found.blobs[n], err = keyOf(e.Blob); err != nil {
			return openedTree{}, err
		}
	}
	return found, nil
}

// readLeases marks what leases announce.
func (m *marks) readLeases(torn bool) error {
	held, dead, err := m.s.readLeases(torn)
	if err != nil {
		return fmt.Errorf("a lease cannot be read, so nothing is collected: %w", err)
	}
	m.deadIDs = dead
	for _, l := range held {
		text := "lease " + l.id
		if l.purpose != "" {
			text += ": " + l.purpose
		}
		if l.pid != 0 {
			text += fmt.Sprintf(" (process %d)", l.pid)
		}
		why := m.reason(text)
		m.keys(l.keys, why)
	}
	return nil
}

// keys marks digests, of which nobody says what they name.
func (m *marks) keys(keys []key, why uint32) {
	for _, k := range keys {
		m.blob(k, why)
		m.tree(k, why)
		m.layer(k, why)
	}
}

// loadRefs reads the refs that are new or changed, and with mark marks what
// each keeps at once: hundreds of thousands of digests add up.
func (m *marks) loadRefs(mark bool) error {
	files, err := m.s.refFiles()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(files, readAhead) {
		found := make([]refAt, len(some))
		err := spread(context.Background(), len(some), func(n int) (err error) {
			found[n], err = m.loadRef(some[n])
			return err
		})
		if err != nil {
			return err
		}
		for n, file := range some {
			if found[n].ino == 0 {
				continue
			}
			m.refs[file] = found[n]
			if mark {
				if err := m.markRef(file); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readAhead is how many refs or trees are in memory before they are marked.
const readAhead = 128

// loadRef reads a ref that is new or changed; the zero value says that it is
// not, or that it was deleted meanwhile.
func (m *marks) loadRef(file string) (refAt, error) {
	var st unix.Stat_t
	path := filepath.Join(m.s.path("refs"), file)
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return refAt{}, nil
	} else if err != nil {
		return refAt{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if known, ok := m.refs[file]; ok && known.identity == identify(&st) {
		return refAt{}, nil
	}
	r, err := m.s.readRef(file)
	if errors.Is(err, fs.ErrNotExist) {
		return refAt{}, nil
	}
	if err != nil {
		return refAt{}, fmt.Errorf("a ref cannot be read, so nothing is collected: %w", err)
	}
	return refAt{identity: identify(&st), ref: r}, nil
}

// markRefs marks what refs keep, but for those that the plan evicts.
func (m *marks) markRefs() error {
	for file := range m.refs {
		if err := m.markRef(file); err != nil {
			return err
		}
	}
	return nil
}

func (m *marks) markRef(file string) error {
	at := m.refs[file]
	if gone, ok := m.evict[file]; at.done || ok && gone.identity == at.identity {
		return nil
	}
	why := m.reason("ref " + at.ref.Name)
	for _, d := range at.ref.Blobs {
		k, err := keyOf(d)
		if err != nil {
			return err
		}
		m.blob(k, why)
	}
	for _, d := range at.ref.Layers {
		k, err := keyOf(d)
		if err != nil {
			return err
		}
		m.layer(k, why)
		m.refLayers[k] = true
	}
	if at.ref.Tree != "" {
		k, err := keyOf(at.ref.Tree)
		if err != nil {
			return err
		}
		m.tree(k, why)
		m.refTrees[k] = true
	}
	at.done = true
	at.ref.Blobs = nil // in the marks now
	m.refs[file] = at
	return nil
}

// markMounts marks what is mounted anywhere.
func (m *marks) markMounts(ctx context.Context, proc string) error {
	found, blind, err := mounted(ctx, proc)
	if err != nil {
		return fmt.Errorf("mounts cannot be read, so nothing is collected: %w", err)
	}
	m.mounted = found
	why := m.reason("mounted")
	for k := range found {
		m.blob(k, why)
		m.tree(k, why)
	}
	if blind != "" {
		m.keepTrees, m.keepAll = blind, m.reason(blind)
	}
	return nil
}

// catchUp looks again at what changed up to the generation now. With the store
// lock held exclusively nothing changes while it looks (invariant 7). Without
// it (torn), whatever changes meanwhile counts as a later generation.
func (m *marks) catchUp(now counters, torn bool) error {
	if now.leases != m.seen.leases {
		if err := m.readLeases(torn); err != nil {
			return err
		}
	}
	if now.roots != m.seen.roots {
		if err := m.loadRefs(true); err != nil {
			return err
		}
	}
	if err := m.openTrees(); err != nil {
		return err
	}
	m.seen = now
	return nil
}

// looks is how often a collector looks at changed roots outside the store lock
// before it keeps everyone waiting to see the last of them.
const looks = 3

// exclude returns with the store lock held exclusively and everything marked
// that is a root at that moment. The roots are read before the lock is taken;
// inside, one read of the generation says whether that is still all.
func (c *collection) exclude(ctx context.Context, r *GCResult) (release func(), began time.Time, err error) {
	for look := 0; ; look++ {
		guard, err := c.s.exclusive(ctx)
		if err != nil {
			return nil, began, err
		}
		began = time.Now()
		release = func() {
			guard.unlock()
			r.LongestLock = max(r.LongestLock, time.Since(began))
		}
		now, err := c.s.gen.read()
		if err == nil && now != c.marks.seen {
			if look < looks {
				release()
				if err := c.marks.catchUp(now, true); err != nil {
					return nil, began, err
				}
				continue
			}
			err = c.marks.catchUp(now, false)
		}
		if err != nil {
			release()
			return nil, began, err
		}
		return release, began, nil
	}
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
