package oci

import (
	"testing"
	"time"
)

// Each window brings a rate, in MiB per second and connection or in all, and
// the part of the time that went by in waiting for the line.
func TestRamp(t *testing.T) {
	type window struct {
		each, all float64
		line      float64
		want      int // connections after it
	}
	for name, windows := range map[string][]window{
		"each connection is capped": {{each: 50, line: 0.98, want: 8}, {each: 50, line: 0.98, want: 16}, {each: 50, line: 0.98, want: 16}},
		"the line is full":          {{all: 100, line: 0.99, want: 8}, {all: 105, line: 0.99, want: 8}, {all: 105, line: 0.99, want: 8}, {all: 105, line: 0.99, want: 8}},
		"the node is busy":          {{all: 900, line: 0.4, want: 4}, {all: 1200, line: 0.4, want: 4}, {all: 1800, line: 0.6, want: 4}},
		"a slow beginning":          {{each: 10, line: 0.9, want: 8}, {each: 10, line: 0.9, want: 16}, {all: 900, line: 0.2, want: 8}, {all: 900, line: 0.2, want: 4}, {all: 900, line: 0.2, want: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			now, bytes := time.Now(), int64(0)
			r := newRamp(now, ofBlobs, 16)
			for n, w := range windows {
				now = now.Add(tick)
				rate := w.all + w.each*float64(r.target)
				bytes += int64(rate * (1 << 20) * tick.Seconds())
				r.observe(now, bytes, r.target, w.line, time.Millisecond)
				if r.target != w.want {
					t.Fatalf("%d connections after window %d, want %d", r.target, n, w.want)
				}
			}
		})
	}
}
