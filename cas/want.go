package cas

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const keptUnpinned = "wanted, but not pinned"

// askWanted marks what the caller cannot do without. What was wanted at the
// last look stays so for this collection.
func (c *collection) askWanted(ctx context.Context) error {
	if c.o.Wanted == nil {
		return nil
	}
	wants, err := c.o.Wanted(ctx)
	if err != nil {
		return fmt.Errorf("what is wanted cannot be told, so nothing is collected: %w", err) // invariant 5
	}
	if c.wanted == nil {
		c.wanted = make(map[string]bool, len(wants))
	}
	c.plan.Missing = nil
	for _, w := range wants {
		file, err := refFile(w.Ref)
		if err != nil {
			return err
		}
		keys, err := keysOf(w.Digests)
		if err != nil {
			return fmt.Errorf("wanted root %s: %w", w.Ref, err)
		}
		c.wanted[w.Ref] = true
		if unix.Access(filepath.Join(c.s.path("refs"), file), unix.F_OK) != nil {
			c.plan.Missing = append(c.plan.Missing, w.Ref)
		}
		c.marks.keys(keys, c.marks.reason("wanted as "+w.Ref))
	}
	return nil
}

// isWanted says whether only the caller keeps a root, and notes it.
func (c *collection) isWanted(r Ref) bool {
	if r.Pinned || !c.wanted[r.Name] {
		return false
	}
	if !slices.Contains(c.plan.Unpinned, r.Name) {
		c.plan.Unpinned = append(c.plan.Unpinned, r.Name)
	}
	return true
}
