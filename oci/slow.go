package oci

import (
	"slices"
	"time"
)

const (
	gaugeEvery  = time.Second
	gaugeAfter  = 3 * time.Second // of a segment's life: slow start is over
	slowFactor  = 8               // slower than the median by this is replaced
	worthwhile  = 5 * time.Second // what the rest must take at least
	manyToJudge = 4               // connections to one source that make a median
)

// replaceSlow ends connections that are far slower than their siblings to the
// same source, so that another one takes their range over: one congested path
// or one bad server behind a balancer must not hold up a blob. The mutex is
// held.
func (p *pull) replaceSlow(now time.Time) {
	bySource := map[*origin][]*segment{}
	for _, t := range p.transfers {
		for s := range t.active {
			if !s.started {
				continue
			}
			if s.gauged.IsZero() {
				s.gauged, s.atGauge = now, s.received.Load()
			}
			if d := now.Sub(s.gauged); d >= gaugeEvery {
				speed := float64(s.received.Load()-s.atGauge) / d.Seconds()
				if s.speed == 0 {
					s.speed = speed
				}
				s.speed += (speed - s.speed) / 2
				s.gauged, s.atGauge = now, s.received.Load()
			}
			if now.Sub(s.begun) >= gaugeAfter {
				bySource[s.from] = append(bySource[s.from], s)
			}
		}
	}
	if p.c.limit.rate() > 0 {
		return // the limit is what slows them
	}
	for _, segments := range bySource {
		if len(segments) < manyToJudge {
			continue
		}
		speeds := make([]float64, len(segments))
		for i, s := range segments {
			speeds[i] = s.speed
		}
		slices.Sort(speeds)
		median := speeds[len(speeds)/2]
		for _, s := range segments {
			if s.speed*slowFactor < median && float64(s.left()) > max(s.speed, 1)*worthwhile.Seconds() {
				s.cancel(errSlow)
			}
		}
	}
}
