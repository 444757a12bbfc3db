package cas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// GCOptions are the policy of a collection. What nothing references is always
// freed; the options say what else may go, and when. The zero value drops no
// ref, keeps partial ingests for a week, and frees in the same run.
type GCOptions struct {
	// HighPercent of the file system in use starts the eviction of unpinned
	// refs and partial ingests, least recently used first, until LowPercent
	// is reached. Zero: no eviction by share.
	HighPercent, LowPercent int
	// MinFree bytes are to be free, by the same evictions. Zero: none.
	MinFree int64
	// Grace is how long what was collected stays restorable in the trash.
	// It is not waited for when space is short.
	Grace time.Duration
	// PartialAge is how long an abandoned partial ingest is kept. Zero: a week.
	PartialAge time.Duration
	// Proc is the /proc of the host, for collectors in a container. Empty:
	// /proc, and no tree is dropped when that shows a part of the host only.
	Proc string
	// Wanted lists the roots that the caller cannot do without, whatever their
	// refs say. One that is not pinned is kept all the same, and is in
	// [GCPlan.Unpinned]. It is asked when the plan is made, and again with the
	// refs locked before one is deleted: it may take no lock that someone
	// holds while he calls PutRef. Whoever begins to want a root pins it before
	// he says so here. An error ends the collection before it takes anything.
	Wanted func(context.Context) ([]Want, error)
}

// Want is a root that the caller of a collection cannot do without.
type Want struct {
	Ref string // its name
	// Digests stay even when the root is gone, as those of a lease do: the
	// tree, with what it holds, and blobs.
	Digests []digest.Digest
}

// What a plan does with an item.
const (
	Keep = "keep"
	Drop = "drop"
)

// GCItem is one thing in the store, what a collection does with it, and why.
type GCItem struct {
	Kind   string `json:"kind"` // ref, tree, layer, blob, partial, trash, lease, temporary, map, flag, impostor
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes,omitzero"` // of a blob that a collection keeps: not looked up
	Action string `json:"action"`         // Keep or Drop
	Reason string `json:"reason"`
}

// GCPlan is what a collection would do.
type GCPlan struct {
	Items     []GCItem `json:"items"`
	Dropped   int      `json:"dropped"`   // items
	FreeBytes int64    `json:"freeBytes"` // that the plan frees, at most
	DiskFree  int64    `json:"diskFree"`  // bytes free on the file system before
	DiskTotal int64    `json:"diskTotal"`
	// Unpinned are the roots that nothing keeps but that they are wanted: a
	// path of the caller forgot to pin them.
	Unpinned []string `json:"unpinned,omitempty"`
	// Missing are the roots that are wanted and not there.
	Missing []string `json:"missing,omitempty"`
	// Damaged are the trees and layers in use that cannot be read. While there
	// are any, no blob is freed.
	Damaged []Finding `json:"damaged,omitempty"`
}

// GCResult is what a collection did. Items that turned out to be in use while
// it ran say so.
type GCResult struct {
	GCPlan
	Freed       int64         `json:"freed"`   // bytes
	PutBack     int           `json:"putBack"` // found in use after they were taken
	Batches     int           `json:"batches"`
	LongestLock time.Duration `json:"-"` // the longest that pulls were kept waiting
}

const defaultPartialAge = 7 * 24 * time.Hour

// temporaryAge is how old a leftover of an interrupted write has to be; no
// write takes that long.
const temporaryAge = time.Hour

// collection is one run: the plan, and what executing it needs beside it.
type collection struct {
	s     *Store
	o     GCOptions
	marks *marks
	plan  GCPlan
	dry   bool // nothing will be carried out: the plan foresees what a run finds out
	short bool // space is short
	run   string
	probe sync.Mutex // of trees, which share files
	mu    sync.Mutex // of the rest while entries are deleted, many at a time
	// wanted are the roots that the caller cannot do without.
	wanted map[string]bool
	used   []trashed // trees and layers that were put back

	evict    []evictable
	trees    []candidate
	layers   []candidate
	blobs    []candidate
	partials []candidate
	leases   []candidate
	files    []candidate // unlinked as they are
	fakes    []candidate // in the place of a directory
	trash    []candidate
}

// candidate is something to drop: an index into the plan's items.
type candidate struct {
	k      key
	path   string
	item   int
	mapped bool // a blob that has a chunk map
}

// PlanGC says what [Store.GC] would do now, and changes nothing.
func (s *Store) PlanGC(ctx context.Context, o GCOptions) (*GCPlan, error) {
	c, err := s.plan(ctx, o, true)
	if err != nil {
		return nil, err
	}
	return &c.plan, nil
}

// GC frees what nothing references. It runs beside pulls, which it keeps
// waiting for milliseconds only, and beside readers. [ErrBusy] when another
// collection runs.
func (s *Store) GC(ctx context.Context, o GCOptions) (*GCResult, error) {
	lock, err := tryLock(s.path("gc.lock"), unix.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fmt.Errorf("%w: another gc is running", ErrBusy)
	}
	defer lock.unlock()
	c, err := s.plan(ctx, o, false)
	if err != nil {
		return nil, err
	}
	r := &GCResult{}
	err = c.execute(ctx, r)
	c.plan.Damaged = c.marks.damages()
	r.GCPlan = c.plan
	if err != nil {
		return r, fmt.Errorf("gc stopped: %w", err)
	}
	return r, nil
}

// plan marks from the roots and sorts everything else into what goes (G2).
// What only a reader of the plan needs, a dry one has: the sizes of blobs that
// stay, and what is open.
func (s *Store) plan(ctx context.Context, o GCOptions, dry bool) (*collection, error) {
	if o.PartialAge == 0 {
		o.PartialAge = defaultPartialAge
	}
	c := &collection{s: s, o: o, dry: dry, marks: s.newMarks()}
	m := c.marks
	var err error
	if m.seen, err = s.sample(ctx); err != nil {
		return nil, err
	}
	if c.plan.DiskFree, c.plan.DiskTotal, err = s.free(); err != nil {
		return nil, err
	}
	// Leases first: what a ref evicted below held may be leased.
	steps := []func() error{
		func() error { return m.readLeases(true) },
		func() error { return m.markMounts(ctx, o.Proc) },
		m.openTrees,
		func() error { return m.loadRefs(c.shortfall() <= 0) },
		func() error { return c.askWanted(ctx) },
		c.chooseEvictions,
		m.markRefs,
		m.openTrees,
		c.keepEvicted,
		c.planRefs,
		c.planTrees,
		c.planLayers,
		m.openTrees, // what a reader has open
		func() error { return c.planBlobs(ctx) },
		c.planPartials,
		c.planTrash,
		c.planLeftovers,
		c.planStrays,
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := step(); err != nil {
			return nil, err
		}
	}
	c.plan.Damaged = m.damages()
	return c, nil
}

func (c *collection) keep(kind, name string, bytes int64, reason string) {
	c.plan.Items = append(c.plan.Items, GCItem{Kind: kind, Name: name, Bytes: bytes, Action: Keep, Reason: reason})
}

func (c *collection) drop(kind, name string, bytes int64, reason string) int {
	c.plan.Items = append(c.plan.Items, GCItem{Kind: kind, Name: name, Bytes: bytes, Action: Drop, Reason: reason})
	c.plan.Dropped++
	c.plan.FreeBytes += bytes
	return len(c.plan.Items) - 1
}

// spare turns an item that was to be dropped into one that is kept.
func (c *collection) spare(item int, reason string) {
	i := &c.plan.Items[item]
	i.Action, i.Reason = Keep, reason
	c.plan.Dropped--
	c.plan.FreeBytes -= i.Bytes
}

func (c *collection) planRefs() error {
	for _, file := range sortedKeys(c.marks.refs) {
		r := c.marks.refs[file].ref
		_, evicted := c.marks.evict[file]
		switch {
		case evicted: // listed by chooseEvictions
		case c.isWanted(r):
			c.keep("ref", r.Name, 0, keptUnpinned)
		case r.Pinned:
			c.keep("ref", r.Name, 0, "pinned")
		default:
			c.keep("ref", r.Name, 0, "a root; last used "+r.LastUsed.Format(time.RFC3339))
		}
	}
	return nil
}

func (c *collection) planTrees() error {
	trees, err := c.s.treeNames()
	if err != nil {
		return err
	}
	for _, k := range trees {
		if why, kept := c.marks.whyTree(k); kept {
			c.keep("tree", string(k.digest()), 0, why)
			continue
		}
		path := c.s.treePath(k)
		if c.foreseeOpen(path, unix.S_IFDIR) {
			c.keep("tree", string(k.digest()), 0, heldOpen)
			c.marks.tree(k, c.marks.reason(ofUsed))
			continue
		}
		item := c.drop("tree", string(k.digest()), 0, "nothing references it")
		c.trees = append(c.trees, candidate{k: k, path: path, item: item})
	}
	return nil
}

func (c *collection) planPartials() error {
	names, err := c.s.ingestNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		h, _ := strings.CutPrefix(name, "sha256-")
		k, ok := keyOfHex(h)
		switch {
		case strings.HasPrefix(name, "."):
			continue // a spool
		case !ok:
			c.keep("partial", name, 0, "not the name of an ingest; fsck says what to do")
			continue
		}
		if err := c.planPartial(k); err != nil {
			return err
		}
	}
	return nil
}

func (c *collection) planPartial(k key) error {
	dir := c.s.ingestPath(k)
	bytes, last := partialUse(dir)
	age := c.s.now().Sub(last)
	busy, err := c.s.heldByOther(filepath.Join(dir, "lock"))
	if errors.Is(err, ErrCorrupt) {
		c.keep("partial", string(k.digest()), bytes, "its lock is not a file; fsck says what to do")
		return nil
	}
	if err != nil {
		return err
	}
	why, leased := c.marks.whyBlob(k)
	_, unpublished := c.s.lstat(k)
	name := string(k.digest())
	switch {
	case busy:
		c.keep("partial", name, bytes, "being fetched")
		return nil
	case unpublished == nil:
		// Its writer died between publishing and clearing up.
		why = "its blob is published"
	case leased:
		c.keep("partial", name, bytes, why)
		return nil
	case slices.ContainsFunc(c.evict, func(e evictable) bool { return e.ref == "" && e.k == k }):
		return nil // listed by chooseEvictions
	case bytes == 0: // its owner died before there were any, or was unpacking
		why = "it holds no bytes"
	case age >= c.o.PartialAge:
		why = fmt.Sprintf("abandoned %s ago", age.Round(time.Second))
	default:
		c.keep("partial", name, bytes, "resumable, kept until "+last.Add(c.o.PartialAge).UTC().Format(time.RFC3339))
		return nil
	}
	c.partials = append(c.partials, candidate{k: k, path: dir, item: c.drop("partial", name, bytes, why)})
	return nil
}

// partialUse is the disk use of an ingest directory and when it last changed.
func partialUse(dir string) (bytes int64, last time.Time) {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) == nil {
		last = time.Unix(st.Ctim.Sec, st.Ctim.Nsec)
	}
	for _, name := range []string{"data", "progress", "written"} {
		if unix.Lstat(filepath.Join(dir, name), &st) != nil {
			continue
		}
		bytes += st.Blocks * 512
		if t := time.Unix(st.Ctim.Sec, st.Ctim.Nsec); t.After(last) {
			last = t
		}
	}
	return bytes, last
}

// heldByOther reports whether a lock file is locked; one that is not there, or
// is a directory, is not.
func (s *Store) heldByOther(path string) (bool, error) {
	lock, err := s.tryLock(path, unix.O_RDWR, unix.LOCK_EX)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EISDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if lock == nil {
		return true, nil
	}
	lock.unlock()
	return false, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
