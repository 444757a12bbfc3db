package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

const (
	// batchSize and batchTime bound one exclusive section. A time slice of
	// Linux's scheduler is 3 ms: a section that is much shorter seldom has one
	// end inside, while everyone waits for other programs.
	batchSize = 256
	batchTime = time.Millisecond
)

// execute carries a plan out. Roots that appear while it runs are respected:
// each exclusive section looks again before it takes anything.
func (c *collection) execute(ctx context.Context, r *GCResult) error {
	if err := c.putBackLive(ctx, r); err != nil { // G1
		return err
	}
	if err := c.evictRefs(ctx, r); err != nil {
		return err
	}
	// What needs no space comes first: the disk may be full.
	if err := c.emptyTrash(ctx, r, c.trash); err != nil {
		return err
	}
	if err := c.removePartials(ctx, r); err != nil {
		return err
	}
	if len(c.trees)+len(c.layers)+len(c.blobs) > 0 {
		var err error
		if c.run, err = c.s.newRun(); errors.Is(err, ErrNoSpace) {
			c.run, err = c.freeForRun(ctx, r)
		}
		if err != nil {
			return err
		}
	}
	if err := c.take(ctx, r, c.trees, 't'); err != nil { // G4: trees first
		return err
	}
	if err := c.take(ctx, r, c.layers, 'l'); err != nil {
		return err
	}
	if err := c.take(ctx, r, c.blobs, 'b'); err != nil {
		return err
	}
	if c.run != "" {
		// What a grace promises holds after a power loss, too.
		if err := c.s.fs.SyncDir(c.run); err != nil {
			return err
		}
	}
	if err := c.removeLeases(ctx, r); err != nil {
		return err
	}
	for _, f := range c.fakes {
		err := c.s.fs.Unlink(f.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EISDIR) {
			return err
		}
	}
	for _, f := range c.files {
		if err := c.removeFile(ctx, r, f); err != nil {
			return err
		}
	}
	if c.o.Grace <= 0 || c.short {
		if err := c.emptyTrash(ctx, r, c.taken()); err != nil {
			return err
		}
	}
	return c.s.removeEmptyRuns()
}

// putBackLive returns what an earlier run took and something roots again. It
// is only tidiness: whoever needs an entry finds it in the trash.
func (c *collection) putBackLive(ctx context.Context, r *GCResult) error {
	entries, err := c.s.readTrash()
	if err != nil {
		return err
	}
	for _, t := range entries {
		if _, live := c.marks.whyTrashed(t); !live || t.kind == 'x' {
			continue
		}
		back, err := c.s.putBack(ctx, t)
		if errors.Is(noSpace(err), ErrNoSpace) {
			continue // a full disk
		}
		if err != nil {
			return err
		}
		if back && t.kind != 'm' {
			r.PutBack++
		}
	}
	return nil
}

// putBack renames an entry of the trash to where it came from; false when it
// is not in the trash any more. A newer one in its place wins.
func (s *Store) putBack(ctx context.Context, t trashed) (bool, error) {
	guard, err := s.shared(ctx)
	if err != nil {
		return false, err
	}
	defer guard.unlock()
	err = s.fs.RenameNew(t.path, s.home(t))
	if errors.Is(err, fs.ErrExist) {
		return false, s.fs.Rename(t.path, filepath.Join(s.trashPath(), "x-"+t.k.hex()+"-"+randomID()))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	guard.unlock()
	return true, s.fs.SyncDir(filepath.Dir(s.home(t)))
}

// freeForRun frees one thing after the other until there is space for the
// directory of the run. These cannot be restored: their readers are looked for
// before they are taken.
func (c *collection) freeForRun(ctx context.Context, r *GCResult) (run string, err error) {
	for _, of := range []struct {
		kind byte
		list *[]candidate
	}{{'t', &c.trees}, {'b', &c.blobs}} { // G4: trees first
		for n, d := range *of.list {
			gone, err := c.freeOne(ctx, r, trashed{kind: of.kind, k: d.k}, d)
			if err != nil {
				return "", err
			}
			if !gone {
				continue
			}
			run, err := c.s.newRun()
			if !errors.Is(err, ErrNoSpace) {
				*of.list = slices.Delete(*of.list, n, n+1)
				return run, err
			}
		}
	}
	return "", fmt.Errorf("%w: nothing can be freed that makes room for a directory in %s", ErrNoSpace, c.s.trashPath())
}

func (c *collection) freeOne(ctx context.Context, r *GCResult, t trashed, d candidate) (gone bool, err error) {
	release, _, err := c.exclude(ctx, r)
	if err != nil {
		return false, err
	}
	defer func() { release() }()
	var st unix.Stat_t
	if _, live := c.marks.whyTrashed(t); live || unix.Lstat(d.path, &st) != nil {
		return false, nil // take says why
	}
	if open, err := c.anyOpen(d.path, st.Mode); err != nil || open {
		return false, err
	}
	d.path = filepath.Join(c.s.trashPath(), "x-"+d.k.hex()+"-"+randomID())
	if err := c.s.fs.Rename(c.s.home(t), d.path); err != nil {
		return false, noSpace(err)
	}
	release()
	release = func() {}
	return true, c.emptyTrash(ctx, r, []candidate{d})
}

// evictRefs deletes the refs that the plan drops for space, unless they were
// written again since, or are wanted now.
func (c *collection) evictRefs(ctx context.Context, r *GCResult) error {
	if slices.ContainsFunc(c.evict, func(e evictable) bool { return e.ref != "" }) {
		unlock, err := c.s.lockRefs(ctx)
		if err != nil {
			return err
		}
		defer unlock()
	}
	if err := c.lookAgain(ctx, r); err != nil {
		return err
	}
	if err := c.askWanted(ctx); err != nil {
		return err
	}
	for _, e := range c.evict {
		if e.ref == "" {
			c.partials = append(c.partials, candidate{k: e.k, path: c.s.ingestPath(e.k), item: e.item})
			continue
		}
		if err := c.evictRef(e); err != nil {
			return err
		}
	}
	// What is wanted now, and what the refs keep that were spared.
	return c.marks.openTrees()
}

func (c *collection) evictRef(e evictable) error {
	path := filepath.Join(c.s.path("refs"), e.ref)
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		c.spare(e.item, "gone already")
		return nil
	}
	if err != nil || identify(&st) != c.marks.evict[e.ref].identity {
		return c.spareRef(e, "it changed meanwhile")
	}
	if c.isWanted(c.marks.refs[e.ref].ref) {
		return c.spareRef(e, keptUnpinned)
	}
	if err := c.s.fs.Unlink(path); err != nil {
		return err
	}
	return c.s.fs.SyncDir(filepath.Dir(path))
}

// spareRef keeps a ref that was to be deleted, and what it names: a use of it
// that is noted does not count as a change of roots.
func (c *collection) spareRef(e evictable, why string) error {
	c.spare(e.item, why)
	delete(c.marks.evict, e.ref)
	at, err := c.marks.loadRef(e.ref)
	if err != nil {
		return err
	}
	if at.ino != 0 {
		c.marks.refs[e.ref] = at
	}
	return c.marks.markRef(e.ref)
}

// take moves dead trees or blobs to the trash in short exclusive sections (G3).
func (c *collection) take(ctx context.Context, r *GCResult, list []candidate, kind byte) error {
	for emptied := false; len(list) > 0; {
		n, err := c.takeBatch(ctx, r, list, kind)
		r.Batches++
		if errors.Is(noSpace(err), ErrNoSpace) && !(emptied && n == 1) {
			// The directory cannot grow before what it has is gone.
			list, emptied = list[n-1:], true
			if err := c.emptyTrash(ctx, r, c.taken()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return noSpace(err)
		}
		list, emptied = list[n:], false
	}
	return nil
}

func (c *collection) takeBatch(ctx context.Context, r *GCResult, list []candidate, kind byte) (n int, err error) {
	release, began, err := c.exclude(ctx, r)
	if err != nil {
		return 0, err
	}
	defer release()
	var files durable.FS
	looked := ""
	for n < len(list) && n < batchSize && (n == 0 || time.Since(began) < batchTime) {
		d := list[n]
		n++
		why, live := c.marks.whyTrashed(trashed{kind: kind, k: d.k})
		if live {
			c.spare(d.item, why)
			continue
		}
		if dir := filepath.Dir(d.path); dir != looked {
			if files, err = c.s.fs.among(dir, c.run); err != nil {
				return n, err
			}
			looked = dir
		}
		err := files.Rename(d.path, filepath.Join(c.run, string(kind)+"-"+d.k.hex()))
		if errors.Is(err, fs.ErrNotExist) {
			c.spare(d.item, "gone already")
			continue
		}
		if err != nil {
			return n, err
		}
		if !d.mapped {
			continue
		}
		// One that is left, on a full disk, is dropped by a later run.
		err = c.s.fs.Rename(c.s.mapPath(d.k), filepath.Join(c.run, "m-"+d.k.hex()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(noSpace(err), ErrNoSpace) {
			return n, err
		}
	}
	return n, nil
}

// lookAgain sees the roots that appeared up to now.
func (c *collection) lookAgain(ctx context.Context, r *GCResult) error {
	release, _, err := c.exclude(ctx, r)
	if err != nil {
		return err
	}
	release()
	return nil
}

// removePartials deletes abandoned ingests.
func (c *collection) removePartials(ctx context.Context, r *GCResult) error {
	for _, d := range c.partials {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.removePartial(ctx, r, d); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) removePartial(ctx context.Context, r *GCResult, d candidate) error {
	if _, err := os.Lstat(d.path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := c.s.claim(d.k)
	if errors.Is(err, ErrNoSpace) {
		c.spare(d.item, "it has no lock, and the disk is too full for one")
		return nil
	}
	if err != nil {
		return err
	}
	if lock == nil {
		c.spare(d.item, "being fetched")
		return nil
	}
	defer lock.unlock()
	if _, err := c.s.lstat(d.k); err == nil {
		// The last step that its writer did not come to (invariant 2).
		if err := c.s.fs.SyncDir(filepath.Dir(c.s.blobPath(d.k))); err != nil {
			return err
		}
	} else {
		// Whoever announced it meanwhile waits for this lock, and gets the
		// partial bytes (invariant 7).
		if err := c.lookAgain(ctx, r); err != nil {
			return err
		}
		if why, live := c.marks.whyBlob(d.k); live {
			c.spare(d.item, why)
			return nil
		}
	}
	if err := c.s.removeIngest(d.k); err != nil {
		return err
	}
	r.Freed += c.plan.Items[d.item].Bytes
	return nil
}

// removeLeases deletes the files of dead leases.
func (c *collection) removeLeases(ctx context.Context, r *GCResult) error {
	for _, d := range c.leases {
		if err := c.removeLease(ctx, r, d); err != nil {
			return err
		}
	}
	return nil
}

// removeLease deletes one. A process does not come back, but a token may have
// been renewed since the plan: it is read again while nobody can renew it.
func (c *collection) removeLease(ctx context.Context, r *GCResult, d candidate) error {
	if name := filepath.Base(d.path); name[0] == 't' {
		guard, err := c.s.exclusive(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		defer func() {
			guard.unlock()
			r.LongestLock = max(r.LongestLock, time.Since(began))
		}()
		if l, err := c.s.readTokenLease(name); err == nil && l != nil {
			c.spare(d.item, "renewed")
			return nil
		}
	}
	err := c.s.fs.Unlink(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeFile deletes a leftover. A map or a flag is looked at again while no blob
// can be published: its own may have come meanwhile, and have failed a check.
func (c *collection) removeFile(ctx context.Context, r *GCResult, f candidate) error {
	if f.k != (key{}) {
		release, _, err := c.exclude(ctx, r)
		if err != nil {
			return err
		}
		defer release()
		age, err := c.s.changeAge(f.path)
		if _, missing := c.s.lstat(f.k); !errors.Is(missing, ErrNotFound) || err == nil && age < temporaryAge && c.plan.Items[f.item].Kind == "map" {
			c.spare(f.item, "its blob has come, or is about to")
			return nil
		}
	}
	if err := c.s.removeLeftover(ctx, f.path); err != nil {
		return err
	}
	r.Freed += c.plan.Items[f.item].Bytes
	return nil
}

func (s *Store) removeLeftover(ctx context.Context, path string) error {
	return s.removeFrom(ctx, s.fs, path)
}

// removeFrom deletes a file by way of a file system that knows its directory,
// or a directory with all that is in it.
func (s *Store) removeFrom(ctx context.Context, dir durable.FS, path string) error {
	err := dir.Unlink(path)
	if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
		err = s.removeAll(ctx, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
