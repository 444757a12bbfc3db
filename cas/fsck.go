package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// FsckOptions tune [Store.Fsck].
type FsckOptions struct {
	Hash bool // also hash every blob: all invariants, at the price of reading everything
}

// Fsck checks every invariant of the store, offline: other users of the store
// may make it report what is only under way. It changes nothing, but for what
// Hash does, see [Store.Verify]. Each finding says how it is
// repaired.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) ([]Finding, error) {
	c := &fsck{s: s}
	for _, step := range []func(context.Context) error{
		c.layout, c.impostors, c.blobs, c.maps, c.flags, c.trees, c.layers, c.refs, c.leases, c.ingests, c.strays,
	} {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		err := step(ctx)
		if errors.Is(err, errLink) {
			c.add("store", "layout", err.Error(), remedyRemove)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("fsck: %w", err)
		}
	}
	if !o.Hash {
		return c.findings, nil
	}
	blobs, err := s.Blobs(ctx)
	if err != nil {
		return nil, err
	}
	bad, err := s.Verify(ctx, blobs, VerifyOptions{})
	c.mapsWritten()
	return append(c.findings, bad...), err
}

type fsck struct {
	s        *Store
	findings []Finding
}

func (c *fsck) add(kind, name, problem, remedy string) {
	c.findings = append(c.findings, Finding{Kind: kind, Name: name, Problem: problem, Remedy: remedy})
}

const (
	remedyGC      = "free it with: rmodels gc"
	remedyRepair  = "repair it with: rmodels verify --repair"
	remedyRemove  = "remove it by hand: nothing in the store refers to it"
	remedyIngest  = "fetch it again with: rmodels verify --repair"
	remedyRebuild = "build it anew with: rmodels verify --repair"
)

// layout: nothing is missing at the top, and nothing strange is there.
func (c *fsck) layout(context.Context) error {
	names, err := c.s.readNames(c.s.root)
	if err != nil {
		return err
	}
	known := map[string]bool{"VERSION": true, "lock": true, "gc.lock": true, "generation": true, "layers": true, "scrub": true, "scrub.lock": true, "lost+found": true}
	for _, dir := range directories() {
		known[dir] = true
		if st, err := os.Lstat(c.s.path(dir)); err != nil || !st.IsDir() {
			c.add("store", dir, "the directory is missing", "make it with mode 0755; what it held is lost")
		}
	}
	for _, name := range []string{"lock", "gc.lock", "generation", "scrub", "scrub.lock", "refs/.lock"} {
		if st, err := os.Lstat(c.s.path(name)); err == nil && !st.Mode().IsRegular() {
			c.add("store", name, "not a regular file", "put an empty file of mode 0600 in its place")
		}
	}
	for _, name := range names {
		switch {
		case known[name]:
		case strings.HasPrefix(name, "."):
			c.add("store", name, "left by an interrupted write", remedyGC)
		default:
			c.add("store", name, "not part of a store", remedyRemove)
		}
	}
	return nil
}

func (c *fsck) impostors(context.Context) error {
	paths, err := c.s.impostors()
	for _, path := range paths {
		c.add("store", path, "a link or a file in the place of a directory; nothing behind it is looked at", remedyGC)
	}
	return err
}

// blobs: invariant 1 as far as names, modes and times tell.
func (c *fsck) blobs(ctx context.Context) error {
	dirs, err := c.s.fanned("blobs")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		names, err := c.s.readNames(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			c.blob(dir, name)
		}
	}
	return nil
}

func (c *fsck) blob(dir, name string) {
	path := filepath.Join(dir, name)
	k, ok := keyOfHex(name)
	if !ok || name[:2] != filepath.Base(dir) {
		c.add("blob", path, "not the name of a blob, or in the wrong directory", remedyRemove)
		return
	}
	d := string(k.digest())
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		c.add("blob", d, "not a regular file", remedyIngest)
	case int(st.Uid) != os.Geteuid():
		c.add("blob", d, fmt.Sprintf("belongs to uid %d", st.Uid), "chown it to the owner of the store, then: rmodels fsck --hash")
	case st.Mode&0o7777 != 0o444:
		c.add("blob", d, fmt.Sprintf("has mode %04o", st.Mode&0o7777), "set it back with: rmodels fsck --hash")
	case st.Mtim.Sec != Epoch.Unix() || st.Mtim.Nsec != 0:
		c.add("blob", d, "was written to after it was published", "look at its bytes, and set the time back, with: rmodels fsck --hash")
	}
	if _, err := os.Lstat(c.s.ingestPath(k)); err == nil {
		c.add("blob", d, "its ingest was not ended; its name may not be on disk", "take the last step with: rmodels gc")
	}
}

func (c *fsck) maps(ctx context.Context) error {
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
				c.add("map", filepath.Join(dir, name), "not the name of a map", remedyGC)
				continue
			}
			m, valid, err := c.s.readAnyMap(k)
			if err != nil {
				return err
			}
			st, missing := c.s.lstat(k)
			switch {
			case errors.Is(missing, ErrNotFound):
				c.add("map", string(k.digest()), "its blob is gone", remedyGC)
			case !valid:
				c.add("map", string(k.digest()), unreadableMap, "write it again with: rmodels fsck --hash, or scrub")
			case m.size != st.Size:
				c.add("blob", string(k.digest()), fmt.Sprintf("has %d bytes, its map says %d", st.Size, m.size), remedyRepair)
			}
		}
	}
	return nil
}

const unreadableMap = "it cannot be read"

// mapsWritten says of which maps that could not be read a hash of their blobs
// has made new ones.
func (c *fsck) mapsWritten() {
	for n, f := range c.findings {
		k, err := keyOf(digest.Digest(f.Name))
		if f.Kind != "map" || f.Problem != unreadableMap || err != nil {
			continue
		}
		if _, valid, err := c.s.readAnyMap(k); err == nil && valid {
			c.findings[n].Remedy = "nothing to do: its blob is good, and it was written again"
		}
	}
}

func (c *fsck) flags(ctx context.Context) error {
	suspects, err := c.s.Suspects()
	if err != nil {
		return err
	}
	for d, why := range suspects {
		if k, err := keyOf(d); err == nil {
			if _, err := c.s.lstat(k); errors.Is(err, ErrNotFound) {
				c.add("flag", string(d), "its blob is gone", remedyGC)
				continue
			}
		}
		c.add("blob", string(d), "suspect: "+why, remedyRepair)
	}
	return nil
}

// trees: invariant 9, and that each shows what its index says.
func (c *fsck) trees(ctx context.Context) error {
	names, err := c.s.readNames(c.s.path("trees"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != "sha256" {
			c.add("tree", "trees/"+name, "an unfinished tree", remedyGC)
		}
	}
	keys, err := c.s.treeNames()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := c.s.CheckTree(ctx, k.digest()); err != nil {
			if ctx.Err() != nil {
				return err
			}
			c.add("tree", string(k.digest()), err.Error(), remedyRebuild)
		}
	}
	return nil
}

// layers: invariant 9.
func (c *fsck) layers(ctx context.Context) error {
	keys, err := c.s.layerNames()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := c.s.Layer(ctx, k.digest(), ""); err != nil && !errors.Is(err, ErrSuspect) { // that is told of the blob
			if ctx.Err() != nil {
				return err
			}
			c.add("layer", string(k.digest()), err.Error(), remedyIngest)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return c.hidden("layers/sha256")
}

// refs: invariants 5 and 9.
func (c *fsck) refs(ctx context.Context) error {
	roots, err := c.s.CheckRoots(ctx)
	if err != nil {
		return err
	}
	c.findings = append(c.findings, roots.Broken...)
	for _, r := range roots.Roots {
		c.findings = append(c.findings, r.Lacks...)
	}
	return c.hidden("refs", ".lock")
}

func (c *fsck) leases(context.Context) error {
	names, err := c.s.readNames(c.s.path("leases"))
	if err != nil {
		return err
	}
	for _, name := range names {
		var l *heldLease
		switch {
		case strings.HasPrefix(name, "p-"):
			l, err = c.s.readProcessLease(name, false)
		case strings.HasPrefix(name, "t-"):
			l, err = c.s.readTokenLease(name)
		case strings.HasPrefix(name, "."):
			continue
		default:
			err = fmt.Errorf("%w: not a lease", ErrCorrupt)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			c.add("lease", name, err.Error(), "delete its file when the work that it names is over; until then nothing is collected")
		case l == nil:
			c.add("lease", name, "its owner is dead or its time is over", remedyGC)
		}
	}
	return c.hidden("leases")
}

// hidden reports leftovers of interrupted writes.
func (c *fsck) hidden(dir string, except ...string) error {
	names, err := c.s.readNames(c.s.path(dir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") && !slices.Contains(except, name) && !durable.IsReserve(name) {
			c.add("store", dir+"/"+name, "left by an interrupted write", "free it with: rmodels gc, an hour after it")
		}
	}
	return nil
}

// ingests: invariant 3.
func (c *fsck) ingests(context.Context) error {
	names, err := c.s.ingestNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		h, _ := strings.CutPrefix(name, "sha256-")
		k, ok := keyOfHex(h)
		if strings.HasPrefix(name, ".") {
			c.add("partial", "ingest/"+name, "left by an interrupted write", remedyGC)
			continue
		}
		if !ok {
			c.add("partial", "ingest/"+name, "not the name of an ingest", remedyRemove)
			continue
		}
		for _, part := range []string{"lock", "data", "progress", "written", "repair"} {
			if st, err := os.Lstat(filepath.Join(c.s.ingestPath(k), part)); err == nil && !st.Mode().IsRegular() {
				c.add("partial", string(k.digest()), part+" is not a regular file", "remove its directory; the pull starts anew")
			}
		}
		p, err := c.s.readProgress(k)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was checkpointed
		}
		if err != nil {
			c.add("partial", string(k.digest()), err.Error(), "pull it again, which starts it anew")
			continue
		}
		st, err := os.Lstat(filepath.Join(c.s.ingestPath(k), "data"))
		if present := p.present(); err != nil || len(present) > 0 && st.Size() < present[len(present)-1].end() {
			c.add("partial", string(k.digest()), "its file lacks bytes that its checkpoint names", "remove the directory; the pull starts anew")
		}
	}
	return nil
}

func (c *fsck) strays(context.Context) error {
	strays, err := c.s.strays()
	for _, x := range strays {
		c.add(x.kind, x.path, "not part of a store", remedyRemove)
	}
	return err
}
