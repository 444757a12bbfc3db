package oci

import "time"

// ramp finds how many connections are worth having: it doubles them while
// that makes the whole transfer faster, and tries again from time to time.
type ramp struct {
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
	firstConnections = 4
	rampWindow       = 200 * time.Millisecond
	rampRetry        = 2 * time.Second
	rampGain         = 1.15 // what doubling must bring at least
	rampPatience     = 2    // windows that a gain may take to show
)

func newRamp(most int) ramp {
	return ramp{target: min(firstConnections, most), most: most, growing: true}
}

// observe is told how many bytes have arrived in all, and how many
// connections are open.
func (r *ramp) observe(now time.Time, bytes int64, running int) {
	if r.since.IsZero() || running < r.target {
		// Not all that may run does: the rate says nothing about the number.
		r.since, r.bytes = now, bytes
		return
	}
	elapsed := now.Sub(r.since)
	if elapsed < rampWindow {
		return
	}
	rate := float64(bytes-r.bytes) / elapsed.Seconds()
	r.since, r.bytes = now, bytes
	if rate == 0 {
		return // nothing arrived yet
	}
	switch {
	case r.growing && rate >= r.before*rampGain:
		r.before, r.flat = rate, 0
		r.grow()
	case r.growing && r.flat+1 < rampPatience:
		r.flat++
	case r.growing:
		r.growing, r.flat = false, 0
		r.retry = now.Add(rampRetry)
	case now.After(r.retry):
		r.growing = true
		r.before = rate
		r.grow()
	}
}

func (r *ramp) grow() {
	if r.target == r.most {
		r.growing = false
		r.retry = r.since.Add(rampRetry)
	}
	r.target = min(2*r.target, r.most)
}

// halve gives in to a server that asks for less.
func (r *ramp) halve(now time.Time) {
	r.target = max(1, r.target/2)
	r.growing = false
	r.retry = now.Add(rampRetry)
}
