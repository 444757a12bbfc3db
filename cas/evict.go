package cas

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// evictable is something that is only kept for later: an abandoned partial
// ingest, or a ref that is not pinned.
type evictable struct {
	ref   string // its file; empty for a partial ingest
	k     key    // of the partial ingest
	last  time.Time
	bytes int64
	item  int
}

// chooseEvictions makes space when it is short: least recently used first,
// until enough is free or nothing is left that may go.
func (c *collection) chooseEvictions() error {
	want := c.shortfall()
	if want <= 0 {
		return nil
	}
	c.short = true
	choice, err := c.evictables()
	if err != nil {
		return err
	}
	slices.SortFunc(choice, func(a, b evictable) int { return a.last.Compare(b.last) })
	holders := c.holders()
	for _, e := range choice {
		if want <= 0 {
			return nil
		}
		reason := fmt.Sprintf("space is short; last used %s", e.last.UTC().Format(time.RFC3339))
		if e.last.IsZero() {
			reason = "space is short, and its tree or layers cannot be read"
		}
		if e.ref == "" {
			e.item = c.drop("partial", string(e.k.digest()), e.bytes, reason)
			want -= e.bytes
		} else {
			at := c.marks.refs[e.ref]
			want -= c.releases(holders, at.ref)
			c.marks.evict[e.ref] = at
			e.item = c.drop("ref", at.ref.Name, 0, reason)
		}
		c.evict = append(c.evict, e)
	}
	return nil
}

// shortfall is how many bytes have to be freed to satisfy the watermarks.
func (c *collection) shortfall() int64 {
	free, total := c.plan.DiskFree, c.plan.DiskTotal
	want := c.o.MinFree - free
	if c.o.HighPercent > 0 && total-free > total/100*int64(c.o.HighPercent) {
		low := c.o.LowPercent
		if low <= 0 || low > c.o.HighPercent {
			low = c.o.HighPercent
		}
		want = max(want, total-free-total/100*int64(low))
	}
	return want
}

func (c *collection) evictables() ([]evictable, error) {
	var out []evictable
	for file, at := range c.marks.refs {
		if !at.ref.Pinned && !c.wanted[at.ref.Name] && !c.inUse(at.ref) {
			e := evictable{ref: file, last: at.ref.LastUsed}
			if c.isBroken(at.ref) { // of no use, and while it is a root no blob can go
				e.last = time.Time{}
			}
			out = append(out, e)
		}
	}
	names, err := c.s.ingestNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		h, _ := strings.CutPrefix(name, "sha256-")
		k, ok := keyOfHex(h)
		if !ok {
			continue
		}
		dir := c.s.ingestPath(k)
		busy, err := c.s.heldByOther(dir + "/lock")
		if errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, leased := c.marks.whyBlob(k)
		_, err = os.Lstat(c.s.blobPath(k))
		if busy || leased || err == nil {
			continue
		}
		bytes, last := partialUse(dir)
		out = append(out, evictable{k: k, last: last, bytes: bytes})
	}
	return out, nil
}

// isBroken reports whether the index of a root's tree, or the record of one of
// its layers, cannot be read.
func (c *collection) isBroken(r Ref) bool {
	if k, err := keyOf(r.Tree); err == nil {
		if _, err := c.s.findTree(context.Background(), k); err != nil {
			return true
		}
	}
	return slices.ContainsFunc(r.Layers, func(d digest.Digest) bool {
		k, err := keyOf(d)
		if err == nil {
			_, err = c.s.findLayer(context.Background(), k)
		}
		return err != nil
	})
}

// inUse reports whether a lease or a mount holds the tree of a ref or, when it
// has none, one of its blobs; evicting the ref would free nothing.
func (c *collection) inUse(r Ref) bool {
	if k, err := keyOf(r.Tree); err == nil {
		_, held := c.marks.whyTree(k)
		return held
	}
	return slices.ContainsFunc(r.Blobs, func(d digest.Digest) bool {
		k, err := keyOf(d)
		_, held := c.marks.blobs[k]
		return err == nil && held
	})
}

// holders counts how many refs keep each blob.
func (c *collection) holders() map[key]int {
	count := map[key]int{}
	for _, at := range c.marks.refs {
		for _, k := range c.blobsOf(at.ref) {
			count[k]++
		}
	}
	return count
}

// releases takes a ref out of the count and returns the bytes that only it held.
func (c *collection) releases(holders map[key]int, r Ref) (bytes int64) {
	for _, k := range c.blobsOf(r) {
		holders[k]--
		if _, held := c.marks.blobs[k]; held || holders[k] > 0 {
			continue
		}
		if st, err := c.s.lstat(k); err == nil {
			bytes += st.Blocks * 512
		}
	}
	return bytes
}

// blobsOf is every blob that a ref keeps, once.
func (c *collection) blobsOf(r Ref) []key {
	seen := map[key]bool{}
	for _, d := range r.Blobs {
		if k, err := keyOf(d); err == nil {
			seen[k] = true
		}
	}
	for _, d := range r.Layers {
		if k, err := keyOf(d); err == nil {
			if rec, err := c.s.readLayer(c.s.layerPath(k), k); err == nil {
				for _, b := range rec.blobs() {
					seen[b] = true
				}
			}
		}
	}
	if t, err := keyOf(r.Tree); err == nil {
		// An index that cannot be read stops the collection when it is marked.
		if index, err := c.s.readTree(t); err == nil {
			for _, e := range index.Entries {
				if k, err := keyOf(e.Blob); err == nil {
					seen[k] = true
				}
			}
		}
	}
	out := make([]key, 0, len(seen))
	for k := range seen {
		out = append(out, k)
	}
	return out
}
