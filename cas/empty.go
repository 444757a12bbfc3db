package cas

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Why something stays that nothing references.
const (
	heldOpen = "open in a process that holds no lease"
	ofUsed   = "of a tree or layer that is in use"
)

// foreseeOpen is the look that a run takes at what it took, for the plan of a
// dry one. What a run leaves in the trash it does not look at.
func (c *collection) foreseeOpen(path string, mode uint32) bool {
	if !c.dry || c.o.Grace > 0 && !c.short {
		return false
	}
	open, err := c.anyOpen(path, mode)
	return err == nil && open
}

// taken is what this run moved to the trash.
func (c *collection) taken() []candidate {
	var out []candidate
	for kind, list := range map[string][]candidate{"t-": c.trees, "l-": c.layers, "b-": c.blobs} {
		for _, d := range list {
			if c.plan.Items[d.item].Action != Drop {
				continue
			}
			d.path = filepath.Join(c.run, kind+d.k.hex())
			out = append(out, d)
			if d.mapped {
				out = append(out, candidate{k: d.k, path: filepath.Join(c.run, "m-"+d.k.hex()), item: -1})
			}
		}
	}
	return out
}

// emptyTrash deletes entries that nothing holds (G5). It has no lock: an entry
// that someone restores meanwhile is not there any more.
func (c *collection) emptyTrash(ctx context.Context, r *GCResult, list []candidate) error {
	if len(list) == 0 {
		return nil
	}
	found, blind, err := mounted(ctx, c.o.Proc)
	if err != nil {
		return err
	}
	if err := c.lookAgain(ctx, r); err != nil {
		return err
	}
	// Trees before blobs, so that a blob's last name is the one in the trash;
	// maps after blobs, which take them along when they are put back.
	var phases [3][]candidate
	for _, d := range list {
		n := 0
		switch filepath.Base(d.path)[0] {
		case 'b':
			n = 1
		case 'm':
			n = 2
		}
		phases[n] = append(phases[n], d)
	}
	runs := map[string]bool{}
	for _, d := range list {
		runs[filepath.Dir(d.path)] = true
	}
	inRuns, err := c.s.fs.among(slices.Collect(maps.Keys(runs))...)
	if err != nil {
		return err
	}
	for _, some := range phases {
		err := spreadOn(ctx, deleters, len(some), func(n int) error {
			d := some[n]
			inUse := ""
			kind := filepath.Base(d.path)[0]
			why, live := c.marks.whyTrashed(trashed{kind: kind, k: d.k})
			switch {
			case live && kind != 'x':
				inUse = why
			case found[d.k]:
				inUse = "mounted"
			case kind == 'm' && c.s.isHome(d.k):
				inUse = "its blob was put back"
			}
			return c.delete(ctx, r, inRuns, d, inUse, blind)
		})
		if err == nil {
			err = c.markUsed()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// markUsed marks what the trees and layers hold that were put back (invariant 9).
func (c *collection) markUsed() error {
	if len(c.used) == 0 {
		return nil
	}
	why := c.marks.reason(ofUsed)
	for _, t := range c.used {
		if t.kind == 't' {
			c.marks.tree(t.k, why)
		} else {
			c.marks.layer(t.k, why)
		}
	}
	c.used = nil
	return c.marks.openTrees()
}

// delete probes one entry of the trash and deletes it, or puts it back when
// someone uses it without a lease. While mounts cannot be seen (blind), no
// directory is deleted.
func (c *collection) delete(ctx context.Context, r *GCResult, run durable.FS, d candidate, inUse, blind string) error {
	var st unix.Stat_t
	if err := unix.Lstat(d.path, &st); err != nil {
		return nil // restored
	}
	if inUse == "" && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		inUse = blind
	}
	if inUse == "" {
		open, err := c.anyOpen(d.path, st.Mode)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if open {
			inUse = heldOpen
		}
	}
	if inUse != "" {
		return c.returnUsed(ctx, r, d, inUse)
	}
	freed, err := c.s.deleteTrashed(ctx, run, d, st)
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Freed += freed
	return err
}

func (c *collection) returnUsed(ctx context.Context, r *GCResult, d candidate, why string) error {
	base := filepath.Base(d.path)
	if base[0] == 'x' { // not to come back; the next run tries again
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.item >= 0 {
			c.spare(d.item, why)
		}
		return nil
	}
	back, err := c.s.putBack(ctx, trashed{kind: base[0], k: d.k, path: d.path})
	if err != nil {
		return err
	}
	if base[0] == 'b' {
		// The map follows its blob.
		dir := filepath.Dir(d.path)
		if _, err := c.s.putBack(ctx, trashed{kind: 'm', k: d.k, path: filepath.Join(dir, "m-"+d.k.hex())}); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.item >= 0 && c.plan.Items[d.item].Action == Drop {
		c.spare(d.item, why)
	}
	if base[0] == 't' || base[0] == 'l' {
		c.used = append(c.used, trashed{kind: base[0], k: d.k})
	}
	if back && base[0] != 'm' {
		r.PutBack++
	}
	return nil
}

// isHome reports whether a blob is in its place.
func (s *Store) isHome(k key) bool {
	_, err := s.lstat(k)
	return err == nil
}

// deleteTrashed unlinks an entry. A tree is hidden first, so that nobody
// restores half of it.
func (s *Store) deleteTrashed(ctx context.Context, run durable.FS, d candidate, st unix.Stat_t) (freed int64, err error) {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		hidden := d.path
		if filepath.Base(d.path)[0] != 'x' {
			hidden = filepath.Join(s.trashPath(), "x-"+d.k.hex()+"-"+randomID())
			if err := s.fs.Rename(d.path, hidden); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return 0, nil
				}
				return 0, err
			}
		}
		return 0, s.removeAll(ctx, hidden)
	}
	err = run.Unlink(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && st.Nlink == 1 {
		freed = st.Blocks * 512
	}
	return freed, err
}

// anyOpen is the function of that name, of one tree at a time: the probe of a
// file would be taken for a reader of another tree that has it, too.
func (c *collection) anyOpen(path string, mode uint32) (bool, error) {
	if mode&unix.S_IFMT == unix.S_IFDIR {
		c.probe.Lock()
		defer c.probe.Unlock()
	}
	return anyOpen(path, mode)
}

// anyOpen is isOpen for a file, or for the files of a directory.
func anyOpen(path string, mode uint32) (bool, error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return isOpen(path)
	case unix.S_IFDIR:
	default:
		return false, nil // something else in a blob's place
	}
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	for _, e := range entries {
		open := false
		switch {
		case e.IsDir():
			open, err = anyOpen(filepath.Join(path, e.Name()), unix.S_IFDIR)
		case e.Type().IsRegular():
			open, err = isOpenAt(int(d.Fd()), e.Name())
		}
		if open || err != nil {
			return open, err
		}
	}
	return false, err
}

// removeEmptyRuns drops the directories of runs that are done with, and leaves
// one for a run that finds no space for its own.
func (s *Store) removeEmptyRuns() error {
	runs, err := s.trashNames()
	if err != nil {
		return err
	}
	for _, run := range runs {
		if run[0] != 'r' {
			continue
		}
		err := s.fs.Rmdir(filepath.Join(s.trashPath(), run))
		if err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err = s.fs.Mkdir(s.sparePath(), 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(noSpace(err), ErrNoSpace) {
		return err
	}
	return nil
}
