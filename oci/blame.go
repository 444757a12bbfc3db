package oci

import (
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/zeebo/xxh3"
)

// prints are checksums of what arrived, block by block, by which two copies
// of a blob are compared when one of them proved wrong. A group is one block
// of bufferSize, or several when the blob is large: there are at most
// maxGroups, so memory stays below 1 MiB (invariant 6). They find wrong
// ranges; they never admit bytes.
type prints struct {
	size  int64
	width int64 // bytes of a group

	mu   sync.Mutex
	sums []uint64
	have []int64 // bytes of each group that are in its sum
}

const maxGroups = 64 << 10

func newPrints(size int64) *prints {
	width := int64(bufferSize)
	for (size+width-1)/width > maxGroups {
		width *= 2
	}
	n := (size + width - 1) / width
	return &prints{size: size, width: width, sums: make([]uint64, n), have: make([]int64, n)}
}

// take adds bytes that lie within one block. Parts of a block are not
// comparable: the group then stays incomplete.
func (p *prints) take(b []byte, at int64) {
	if at%bufferSize != 0 || int64(len(b)) != min(bufferSize, p.size-at) {
		return
	}
	sum := xxh3.HashSeed(b, uint64(at))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sums[at/p.width] ^= sum
	p.have[at/p.width] += int64(len(b))
}

// differ returns the ranges in which two copies are known to differ.
func (p *prints) differ(o *prints) []Range {
	var out []Range
	for i := range p.sums {
		off := int64(i) * p.width
		n := min(p.width, p.size-off)
		if p.have[i] != n || o.have[i] != n || p.sums[i] == o.sums[i] {
			continue
		}
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == off {
			out[k].Len += n
		} else {
			out = append(out, Range{off, n})
		}
	}
	return out
}

// convict decides after a mismatch where the blob is taken from next. From
// then on it comes whole from one source at a time, so that the next mismatch
// names exactly one, and a match shows by comparison who was wrong before.
// When no source is left the error says what they sent.
func (p *pull) convict(t *transfer, found digest.Digest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var from []*origin
	for _, s := range t.spans {
		if !slices.Contains(from, s.from) {
			from = append(from, s.from)
		}
	}
	if t.seeded {
		// The chunk map may have lied, or a base may have rotted: nobody is
		// held to account before the blob came whole.
		t.seeded, t.result.Copied = false, 0
		if found != "" {
			return nil
		}
	}
	if found != "" {
		if len(from) == 1 && t.resumed == 0 {
			t.standing(from[0]).gone = &DigestError{What: "blob", Expected: t.desc.Digest, Found: found, Source: from[0].String()}
			p.blame(t, from[0], found, nil)
		}
		if t.prints != nil && len(t.past) < len(t.order) {
			t.past = append(t.past, attempt{t.prints, t.spans})
		}
	}
	var errs []error
	for _, o := range t.order {
		if gone := t.standing(o).gone; gone != nil {
			errs = append(errs, gone)
			continue
		}
		t.only = o
		return nil
	}
	return worst(errs)
}

// acquit runs when the digest fits after a mismatch: the ranges in which the
// wrong copies differ from the right one name who sent them. A range that two
// sources share is held against neither.
func (p *pull) acquit(t *transfer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range t.past {
		wrong := map[*origin][]Range{}
		for _, r := range a.prints.differ(t.prints) {
			if o := soleSender(a.spans, r); o != nil {
				wrong[o] = append(wrong[o], r)
			}
		}
		for _, o := range t.order {
			if len(wrong[o]) > 0 {
				p.blame(t, o, "", wrong[o])
			}
		}
	}
}

// soleSender is who sent all of a range.
func soleSender(spans []span, r Range) *origin {
	var from *origin
	for _, s := range spans {
		if s.Off >= r.Off+r.Len || s.Off+s.Len <= r.Off {
			continue
		}
		if from != nil && from != s.from {
			return nil
		}
		from = s.from
	}
	return from
}

// blame books a wrong copy, or what is learned later about a known one.
func (p *pull) blame(t *transfer, o *origin, found digest.Digest, ranges []Range) {
	p.c.remember(t.desc.Digest, o)
	for i := range t.result.Mismatches {
		if m := &t.result.Mismatches[i]; m.Source == o.String() {
			if m.Ranges == nil {
				m.Ranges = ranges
			}
			return
		}
	}
	t.result.Mismatches = append(t.result.Mismatches, Mismatch{What: "blob", Expected: t.desc.Digest, Found: found, Source: o.String(), Ranges: ranges})
}

// maxRemembered bounds what a long-lived client keeps about wrong sources.
const maxRemembered = 10_000

// remember makes a source the last to be asked for a digest.
func (c *Client) remember(d digest.Digest, o *origin) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) < maxRemembered {
		c.wrong[d.String()+" "+o.String()] = true
	}
}

// blamed is 1 for a source that sent wrong bytes of d, else 0.
func (c *Client) blamed(d digest.Digest, o *origin) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong[d.String()+" "+o.String()] {
		return 1
	}
	return 0
}
