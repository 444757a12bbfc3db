package cas

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// planBlobs decides on every blob. Directories are planned on all processors;
// of hundreds of thousands of blobs the stat is what takes most of the time,
// so a collection asks it only of those that go.
func (c *collection) planBlobs(ctx context.Context) error {
	dirs, err := c.s.fanned("blobs")
	if err != nil {
		return err
	}
	c.plan.Items = slices.Grow(c.plan.Items, len(c.marks.blobs)*9/8)
	for some := range slices.Chunk(dirs, 4*runtime.GOMAXPROCS(0)) {
		found := make([]blobsOfDir, len(some))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for n, dir := range some {
			g.Go(func() (err error) {
				found[n], err = c.planBlobsIn(dir)
				if err == nil {
					err = context.Cause(gctx)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, f := range found {
			c.add(f)
		}
	}
	return nil
}

// blobsOfDir is the part of a plan for one directory of blobs. Its candidates
// count from its first item.
type blobsOfDir struct {
	items []GCItem
	dead  []candidate
}

func (c *collection) add(f blobsOfDir) {
	for _, d := range f.dead {
		c.plan.Dropped++
		c.plan.FreeBytes += f.items[d.item].Bytes
		d.item += len(c.plan.Items)
		c.blobs = append(c.blobs, d)
	}
	c.plan.Items = append(c.plan.Items, f.items...)
}

// planBlobsIn looks at the files of one directory, by names relative to it,
// which saves the kernel the walk.
func (c *collection) planBlobsIn(dir string) (f blobsOfDir, err error) {
	names, err := c.s.readNames(dir)
	if err != nil {
		return f, err
	}
	fd, err := openRetry(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return f, err
	}
	defer unix.Close(fd)
	f.items = make([]GCItem, 0, len(names))
	const prefix = "sha256:"
	digests := prefix + strings.Join(names, prefix) // one string for all
	for _, name := range names {
		d := digests[:len(prefix)+len(name)]
		digests = digests[len(d):]
		k, valid := keyOfHex(name)
		if !valid || name[:2] != filepath.Base(dir) {
			f.items = append(f.items, GCItem{Kind: "blob", Name: name, Action: Keep, Reason: "not the name of a blob; fsck says what to do"})
			continue
		}
		item := GCItem{Kind: "blob", Name: d, Action: Keep}
		why, kept := c.marks.keepsBlob(k)
		item.Reason = why
		if kept && !c.dry {
			f.items = append(f.items, item)
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // gone meanwhile
		}
		item.Bytes = st.Blocks * 512
		if !kept && c.foreseeOpen(filepath.Join(dir, name), st.Mode) {
			kept, item.Reason = true, heldOpen
		}
		if !kept {
			item.Action, item.Reason = Drop, "nothing references it"
			f.dead = append(f.dead, candidate{k: k, path: filepath.Join(dir, name), item: len(f.items), mapped: st.Size > MapThreshold})
		}
		f.items = append(f.items, item)
	}
	return f, nil
}
