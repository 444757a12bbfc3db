package cas

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// planLeftovers finds what crashes leave behind: dead leases, unfinished trees,
// temporary files, maps and flags without a blob.
func (c *collection) planLeftovers() error {
	for _, id := range c.marks.deadIDs {
		item := c.drop("lease", id, 0, "its owner is dead or its time is over")
		c.leases = append(c.leases, candidate{path: c.s.leasePath(id), item: item})
	}
	steps := []func() error{c.planImpostors, c.planUnfinished, c.planTemporaries, c.planMaps, c.planFlags}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// planImpostors drops what has the place of a directory. What a link leads to
// is not the store's.
func (c *collection) planImpostors() error {
	paths, err := c.s.impostors()
	if err != nil {
		return err
	}
	for _, path := range paths {
		name, err := filepath.Rel(c.s.root, path)
		if err != nil {
			return err
		}
		c.fakes = append(c.fakes, candidate{path: path, item: c.drop("impostor", name, 0, "not a directory; nothing behind it is looked at")})
	}
	return nil
}

func (c *collection) remove(kind string, k key, name, path, reason string) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return
	}
	bytes := st.Blocks * 512
	if st.Nlink > 1 {
		bytes = 0
	}
	c.files = append(c.files, candidate{k: k, path: path, item: c.drop(kind, name, bytes, reason)})
}

// planUnfinished looks at ".tmp-<lease>-…" below trees/ and ".spool-<lease>-…"
// below ingest/: while its lease lives, it is being written. The lease is older
// than the file, so it is asked after the file was seen, and once dead it stays
// dead. The leases that were read for the marks would say nothing: this one may
// be younger.
func (c *collection) planUnfinished() error {
	return errors.Join(
		c.planUnfinishedIn("trees", ".tmp-", "an unfinished tree whose builder is dead"),
		c.planUnfinishedIn("ingest", ".spool-", "an unfinished blob whose writer is dead"),
	)
}

func (c *collection) planUnfinishedIn(kind, prefix, reason string) error {
	dir := c.s.path(kind)
	names, err := c.s.readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		path := filepath.Join(dir, name)
		if strings.HasPrefix(rest, "relink-") {
			if err := c.planTemporary(path); err != nil {
				return err
			}
			continue
		}
		if n := strings.LastIndexByte(rest, '-'); n > 0 {
			alive, err := c.s.heldByOther(c.s.leasePath(rest[:n]))
			if err != nil {
				return err
			}
			if alive {
				continue
			}
		}
		c.remove("temporary", key{}, kind+"/"+name, path, reason)
	}
	return nil
}

// planTemporaries looks for ".…tmp-…" and other hidden names that an
// interrupted write left.
func (c *collection) planTemporaries() error {
	dirs := []string{"", "refs", "leases", "suspect", "layers/sha256"}
	for n, dir := range dirs {
		dirs[n] = c.s.path(dir)
	}
	fans, err := c.s.fanned("maps")
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, fans...) {
		names, err := c.s.readNames(dir)
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) == c.s.path("layers")) {
			return err
		}
		for _, name := range names {
			if !strings.HasPrefix(name, ".") || name == ".lock" || durable.IsReserve(name) {
				continue
			}
			if err := c.planTemporary(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *collection) planTemporary(path string) error {
	age, err := c.s.changeAge(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name, err := filepath.Rel(c.s.root, path)
	if err == nil && age >= temporaryAge {
		c.remove("temporary", key{}, name, path, "left by an interrupted write")
	}
	return err
}

// planMaps drops maps whose blob is neither published nor on its way.
func (c *collection) planMaps() error {
	dirs, err := c.s.fanned("maps")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		names, err := c.s.readNames(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			k, ok := keyOfHex(name)
			if !ok {
				continue
			}
			if _, live := c.marks.blobs[k]; live {
				continue
			}
			// A blob that is dropped takes its map along.
			if _, err := c.s.lstat(k); !errors.Is(err, ErrNotFound) {
				continue
			}
			if age, err := c.s.changeAge(filepath.Join(dir, name)); err != nil || age < temporaryAge {
				continue // its blob is about to be published
			}
			c.remove("map", k, string(k.digest()), filepath.Join(dir, name), "its blob is gone")
		}
	}
	return nil
}

// planFlags drops suspect flags whose blob is gone.
func (c *collection) planFlags() error {
	dir := c.s.path("suspect")
	names, err := c.s.readNames(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	trash, err := c.s.readTrash()
	if err != nil {
		return err
	}
	restorable := map[key]bool{}
	for _, t := range trash {
		restorable[t.k] = true
	}
	for _, name := range names {
		h, ok := strings.CutPrefix(name, "sha256-")
		k, valid := keyOfHex(h)
		if !ok || !valid {
			continue
		}
		if _, err := c.s.lstat(k); errors.Is(err, ErrNotFound) && !restorable[k] {
			c.remove("flag", k, string(k.digest()), filepath.Join(dir, name), "its blob is gone")
		}
	}
	return nil
}
