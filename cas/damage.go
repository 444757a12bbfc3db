package cas

import (
	"fmt"
	"slices"
	"strings"
)

// damage notes that a tree or layer in use cannot be read, so that any blob may
// be one of its files. Then a collection frees no blob, and goes on with the
// rest (invariant 5).
func (m *marks) damage(kind string, k key, err error) {
	if m.damaged == nil {
		m.damaged = map[string]Finding{}
	}
	name := string(k.digest())
	if _, known := m.damaged[kind+name]; known {
		return
	}
	remedy := remedyRebuild
	if kind == "layer" {
		remedy = remedyIngest
	}
	m.damaged[kind+name] = Finding{Kind: kind, Name: name, Problem: err.Error(), Remedy: remedy}
	if m.keepBlobs == "" {
		m.keepBlobs = fmt.Sprintf("may belong to the %s %s, which is in use and cannot be read", kind, short(k))
	}
}

// short is a digest as a person compares it.
func short(k key) string { return k.hex()[:12] }

// damages is all of it, in order.
func (m *marks) damages() []Finding {
	var out []Finding
	for _, key := range sortedKeys(m.damaged) {
		out = append(out, m.damaged[key])
	}
	return out
}

// keepsBlob is whyBlob, or why no blob at all may go.
func (m *marks) keepsBlob(k key) (string, bool) {
	if why, marked := m.whyBlob(k); marked {
		return why, true
	}
	return m.keepBlobs, m.keepBlobs != ""
}

// keepEvicted takes the choice of refs back where it would free nothing: a
// model would go, and its blobs would stay.
func (c *collection) keepEvicted() error {
	if c.marks.keepBlobs == "" {
		return nil
	}
	for _, e := range c.evict {
		if e.ref == "" {
			continue
		}
		if err := c.spareRef(e, "a root; its blobs would stay: they "+strings.Replace(c.marks.keepBlobs, "may", "might", 1)); err != nil {
			return err
		}
	}
	c.evict = slices.DeleteFunc(c.evict, func(e evictable) bool { return e.ref != "" })
	return c.marks.openTrees()
}

// absent says that a root names something that is not there.
func absent(kind string, k key) error {
	return fmt.Errorf("%w: a root names the %s %s, which is not there", ErrCorrupt, kind, k.digest())
}
