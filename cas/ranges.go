package cas

import (
	"slices"
	"sort"
)

// Range is a run of bytes of a blob.
type Range struct{ Off, Len int64 }

func (r Range) end() int64 { return r.Off + r.Len }

func (r Range) overlaps(o Range) bool { return r.Off < o.end() && o.Off < r.end() }

// rangeSet is a set of bytes: ascending ranges that neither overlap nor touch.
type rangeSet []Range

func (s rangeSet) total() (n int64) {
	for _, r := range s {
		n += r.Len
	}
	return n
}

// add returns the set with r in it.
func (s rangeSet) add(r Range) rangeSet {
	if r.Len <= 0 {
		return s
	}
	first := sort.Search(len(s), func(n int) bool { return s[n].end() >= r.Off })
	last := first
	for last < len(s) && s[last].Off <= r.end() {
		end := max(r.end(), s[last].end())
		r.Off = min(r.Off, s[last].Off)
		r.Len = end - r.Off
		last++
	}
	return slices.Replace(s, first, last, r)
}

// remove returns the set without the bytes of r.
func (s rangeSet) remove(r Range) rangeSet {
	out := make(rangeSet, 0, len(s)+1)
	for _, o := range s {
		if !o.overlaps(r) {
			out = append(out, o)
			continue
		}
		if o.Off < r.Off {
			out = append(out, Range{o.Off, r.Off - o.Off})
		}
		if o.end() > r.end() {
			out = append(out, Range{r.end(), o.end() - r.end()})
		}
	}
	return out
}

// missing is what the set lacks of the first size bytes.
func (s rangeSet) missing(size int64) []Range {
	var out []Range
	at := int64(0)
	for _, r := range s {
		if r.Off > at {
			out = append(out, Range{at, r.Off - at})
		}
		at = r.end()
	}
	if at < size {
		out = append(out, Range{at, size - at})
	}
	return out
}

// around is the run of bytes that holds off, or nothing at off.
func (s rangeSet) around(off int64) Range {
	n := sort.Search(len(s), func(n int) bool { return s[n].end() > off })
	if n < len(s) && s[n].Off <= off {
		return s[n]
	}
	return Range{off, 0}
}

// endFrom is the end of the run of bytes that holds off, or off itself.
func (s rangeSet) endFrom(off int64) int64 { return s.around(off).end() }
