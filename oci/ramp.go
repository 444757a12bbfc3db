package oci

import "time"

// ramp finds how many connections are worth having: it doubles them while
// they wait for the line and that makes the whole transfer faster, tries again
// from time to time, and gives them up where the line is not what holds it up.
type ramp struct {
	load
	target int // connections wanted now
	most   int

	growing bool
	flat    int     // windows in a row without a gain
	before  float64 // bytes per second with fewer connections
	since   time.Time
	bytes   int64 // received at since
	retry   time.Time
}

const (
	rampWindow   = tick - tick/4 // every tick, however late the one before was
	rampRetry    = time.Second
	rampGain     = 1.15 // what doubling must bring at least
	rampPatience = 2    // windows that a gain may take to show
)

// load is what a pull brings, as far as the number of connections goes.
type load struct {
	first int // connections to begin with, and where the line holds nothing up

	// The part of their time that connections wait for the line. From more on,
	// more of them may help. Below fewer they are busy with hashing and writing
	// instead, and many of them cost time and bring none; a line that began
	// slowly has misled the first windows.
	more, fewer float64
}

var (
	ofBlobs = load{first: 4, more: 0.75, fewer: 0.5}
	// A decoder takes one stream, and the fewer requests bring it, the better.
	// It is the readers of the window that wait for the line; connections run
	// ahead of them, so that they wait less.
	ofLayers = load{first: 1, more: 0.4, fewer: 0.2}
)

func newRamp(now time.Time, of load, most int) ramp {
	of.first = min(of.first, most)
	return ramp{load: of, target: of.first, most: most, growing: true, since: now}
}

// observe is told how many bytes have arrived in all, how many connections
// are open, the part of their time that they waited for the line, and how long
// a request waits for its answer: new connections show no earlier what they
// bring.
func (r *ramp) observe(now time.Time, bytes int64, running int, line float64, answer time.Duration) {
	if running < r.target {
		// Not all that may run does: the rate says nothing about the number.
		r.since, r.bytes = now, bytes
		return
	}
	elapsed := now.Sub(r.since)
	if elapsed < max(rampWindow, answer) {
		return
	}
	rate := float64(bytes-r.bytes) / elapsed.Seconds()
	r.since, r.bytes = now, bytes
	if rate == 0 {
		return // nothing arrived yet
	}
	switch {
	case line < r.fewer:
		r.target = max(r.target/2, min(r.target, r.first))
		r.rest()
	case r.growing && rate >= r.before*rampGain:
		r.before, r.flat = rate, 0
		r.grow(line)
	case r.growing && r.flat+1 < rampPatience:
		r.flat++
	case r.growing:
		r.rest()
	case now.After(r.retry):
		r.before = rate
		r.grow(line)
	}
}

func (r *ramp) grow(line float64) {
	if r.target == r.most || line < r.more {
		r.rest()
		return
	}
	r.growing = true
	r.target = min(2*r.target, r.most)
}

// rest stays with what there is for a while.
func (r *ramp) rest() {
	r.growing, r.flat = false, 0
	r.retry = r.since.Add(rampRetry)
}

// halve gives in to a server that asks for less.
func (r *ramp) halve(now time.Time) {
	r.target = max(1, r.target/2)
	r.since = now
	r.rest()
}
