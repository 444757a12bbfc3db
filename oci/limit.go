package oci

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Hours are a part of every day with a rate of its own, in the time zone of
// the clock. From is inside, To is not; From later than To spans midnight.
type Hours struct {
	From, To time.Duration // since midnight by the clock on the wall; To may be 24 h
	Rate     int64         // bytes per second; 0 is no limit
}

const day = 24 * time.Hour

// ParseHours reads "08:00-18:00", a part of the day.
func ParseHours(s string) (from, to time.Duration, err error) {
	a, b, ok := strings.Cut(s, "-")
	if ok {
		if from, ok = clockTime(a); ok && from < day {
			to, ok = clockTime(b)
		} else {
			ok = false
		}
	}
	if !ok || from == to || to == 0 {
		return 0, 0, fmt.Errorf("hours %q: write them like 08:00-18:00 or 22:00-06:00; a day ends at 24:00", s)
	}
	return from, to, nil
}

// clockTime reads HH:MM, up to 24:00.
func clockTime(s string) (time.Duration, bool) {
	if len(s) != len("00:00") || s[2] != ':' {
		return 0, false
	}
	h, ok := parseDecimal(s[:2])
	m, ok2 := parseDecimal(s[3:])
	d := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute
	return d, ok && ok2 && m < 60 && d <= day
}

func (h Hours) hold(at time.Duration) bool {
	if h.From < h.To {
		return h.From <= at && at < h.To
	}
	return at >= h.From || at < h.To
}

func (h Hours) check() error {
	if h.From < 0 || h.From >= day || h.To <= 0 || h.To > day || h.From == h.To {
		return fmt.Errorf("schedule: %s to %s is no part of a day", h.From, h.To)
	}
	return checkRate(h.Rate)
}

// leastRate keeps sixteen connections that share the line above [dripRate].
const leastRate = 16 << 10

func checkRate(rate int64) error {
	if rate != 0 && rate < leastRate {
		return fmt.Errorf("limit of %d bytes per second: want 0 for none, or %d at least", rate, leastRate)
	}
	return nil
}

// ceiling paces everything that a client sends and receives. The clock is
// asked before every block, so that a running transfer follows the schedule.
type ceiling struct {
	steady   int64
	schedule []Hours
	now      func() time.Time

	mu   sync.Mutex
	free time.Time // when what was granted so far has been paid for
}

func newCeiling(o Options) *ceiling {
	c := &ceiling{steady: o.LimitRate, schedule: o.Schedule, now: o.Now}
	if c.now == nil {
		c.now = time.Now
	}
	return c
}

// rate is what holds now, in bytes per second; 0 is no limit.
func (c *ceiling) rate() int64 {
	if len(c.schedule) == 0 {
		return c.steady
	}
	t := c.now()
	at := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	for _, h := range c.schedule {
		if h.hold(at) {
			return h.Rate
		}
	}
	return c.steady
}

// block is how many bytes to ask for at a time: small ones let all connections
// share a low rate evenly, and keep the wait far below a stall.
func (c *ceiling) block() int64 {
	if r := c.rate(); r > 0 {
		return max(1<<10, min(r/64, bufferSize))
	}
	return bufferSize
}

// unused is how long a line that stood still may be made up for.
const unused = 125 * time.Millisecond

// wait returns when n bytes may pass.
func (c *ceiling) wait(ctx context.Context, n int64) error {
	rate := c.rate()
	if rate == 0 {
		return nil
	}
	c.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-unused); c.free.Before(earliest) {
		c.free = earliest
	}
	c.free = c.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	d := c.free.Sub(now)
	c.mu.Unlock()
	if d <= 0 {
		return nil
	}
	return sleep(ctx, d)
}
