package cas

import (
	"context"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// foundBlob is a file below blobs/.
type foundBlob struct {
	name  string
	k     key
	valid bool // the name is that of a blob, and in its place
	size  int64
	used  int64 // bytes on disk
}

// planBlobs looks at every blob. Of hundreds of thousands the stat is what
// takes the time, so directories are read on all processors.
func (c *collection) planBlobs(ctx context.Context) error {
	dirs, err := c.s.fanned("blobs")
	if err != nil {
		return err
	}
	c.plan.Items = slices.Grow(c.plan.Items, len(c.marks.blobs)*5/4)
	for some := range slices.Chunk(dirs, 2*runtime.GOMAXPROCS(0)) {
		found := make([][]foundBlob, len(some))
		g, gctx := errgroup.WithContext(ctx)
		for n, dir := range some {
			g.Go(func() (err error) {
				found[n], err = c.s.statBlobs(dir)
				if err == nil {
					err = context.Cause(gctx)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for n, dir := range some {
			for _, b := range found[n] {
				c.planBlob(dir, b)
			}
		}
	}
	return nil
}

func (c *collection) planBlob(dir string, b foundBlob) {
	if !b.valid {
		c.keep("blob", b.name, 0, "not the name of a blob; fsck says what to do")
		return
	}
	name := string(b.k.digest())
	if why, kept := c.marks.whyBlob(b.k); kept {
		c.keep("blob", name, b.used, why)
		return
	}
	item := c.drop("blob", name, b.used, "nothing references it")
	c.blobs = append(c.blobs, candidate{k: b.k, path: filepath.Join(dir, b.name), item: item, mapped: b.size > MapThreshold})
}

// statBlobs looks at the files of one directory of blobs, by names relative to
// it, which saves the kernel the walk.
func (s *Store) statBlobs(dir string) ([]foundBlob, error) {
	names, err := s.readNames(dir)
	if err != nil {
		return nil, err
	}
	fd, err := openRetry(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	found := make([]foundBlob, 0, len(names))
	for _, name := range names {
		b := foundBlob{name: name}
		b.k, b.valid = keyOfHex(name)
		b.valid = b.valid && name[:2] == filepath.Base(dir)
		if b.valid {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue // gone meanwhile
			}
			b.size, b.used = st.Size, st.Blocks*512
		}
		found = append(found, b)
	}
	return found, nil
}
