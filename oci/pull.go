package oci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
)

// pull is the work of one Fetch: transfers that wait for bytes, and segments
// that bring them. A segment starts whenever one may ([pull.dispatch]); there
// are no idle workers.
type pull struct {
	c       *Client
	o       FetchOptions
	ctx     context.Context
	stop    context.CancelCauseFunc
	origins []*origin // in the order to ask
	maps    map[digest.Digest]chunkMap
	seeding sync.Mutex
	work    sync.WaitGroup

	// Of packed layers (invariant 6): bytes of narrow windows, and the one
	// decoder. Both are taken in this order.
	windows, decoder *semaphore.Weighted

	telling sync.Mutex // held while events are sent, so that none is older than the one before

	mu        sync.Mutex
	transfers []*transfer // in order of arrival
	running   int         // segments
	ramp      ramp
	answer    time.Duration // from a request to the header of its answer, smoothed

	// How long all connections of blobs together waited for the line, and took
	// to keep what it brought: nanoseconds. Windows count for themselves.
	waited, kept atomic.Int64
}

// origin is a source as one pull knows it.
type origin struct {
	source
	bytes    atomic.Int64 // received
	before   time.Time    // not to be asked earlier
	failures int          // requests in a row that got no answer
	ranged   bool         // it has answered a range with that range
	rate     float64      // bytes per second of one connection, smoothed; 0: unknown
}

var (
	errAbandoned = errors.New("transfer ended")
	errSlow      = errors.New("a faster connection takes over")
)

// stallError is a connection that brought too little in a while. It is
// retryable: the line may be better on another one.
type stallError struct {
	received int64
	in       time.Duration
}

func (e stallError) Error() string {
	if e.received == 0 {
		return fmt.Sprintf("the connection brought no bytes for %s", e.in.Round(time.Millisecond))
	}
	return fmt.Sprintf("the connection brought %s in %s, fewer than %d a second", amount.Count(e.received, "byte"), e.in.Round(time.Millisecond), dripRate)
}

func (stallError) Unwrap() error { return ErrUnavailable }

const tick = 100 * time.Millisecond

func newPull(ctx context.Context, c *Client, sources []source, of load, o FetchOptions) *pull {
	p := &pull{c: c, o: o, windows: semaphore.NewWeighted(narrow(c.o.windowBytes())), decoder: semaphore.NewWeighted(1), ramp: newRamp(time.Now(), of, c.o.connections()*len(sources))}
	p.ctx, p.stop = context.WithCancelCause(ctx)
	for _, s := range sources {
		p.origins = append(p.origins, &origin{source: s})
	}
	p.work.Add(1)
	go func() {
		defer p.work.Done()
		t := time.NewTicker(tick)
		defer t.Stop()
		for {
			select {
			case <-p.ctx.Done():
				return
			case now := <-t.C:
				p.watch(now)
			}
		}
	}()
	return p
}

// close ends the clock and waits for the last segment's goroutine.
func (p *pull) close() {
	p.stop(errAbandoned)
	p.work.Wait()
}

// watch runs on every tick: it ends connections that stopped bringing bytes,
// adapts their number, reports progress, and starts what had to wait.
func (p *pull) watch(now time.Time) {
	p.telling.Lock()
	defer p.telling.Unlock()
	p.mu.Lock()
	bytes := int64(0)
	for _, o := range p.origins {
		bytes += o.bytes.Load()
	}
	p.ramp.observe(now, bytes, p.running, p.lineShare(), p.answer)
	type report struct {
		t    *transfer
		done int64
		from string
	}
	var reports []report
	p.replaceSlow(now)
	for _, t := range p.transfers {
		done := t.present()
		from := ""
		for s := range t.active {
			p.watchSegment(s, now)
			if s.from.rate == 0 {
				p.measure(s) // new segments are cut for the line as soon as it is known
			}
			from = s.from.String()
			if s.waiting && len(t.pending) > 0 && t.pending[0].Off < t.window.limit() {
				s.cancel(errSlow) // what it waits for has to come from another
			}
		}
		if len(t.active) > 0 {
			reports = append(reports, report{t, done, from})
		}
	}
	p.dispatch()
	p.mu.Unlock()
	for _, r := range reports {
		p.tell(r.t.desc, r.done, r.from)
	}
}

// lineShare is the part of their time that the connections, and the readers of
// windows, have waited for the line since it was last asked for. The mutex is
// held.
func (p *pull) lineShare() float64 {
	waited, kept := time.Duration(p.waited.Swap(0)), time.Duration(p.kept.Swap(0))
	for _, t := range p.transfers {
		if t.window != nil {
			starved, busy := t.window.times()
			waited, kept = waited+starved, kept+busy
		}
	}
	if waited+kept == 0 {
		return 1
	}
	return float64(waited) / float64(waited+kept)
}

// dripRate is the least that a connection must bring on average over one
// stall period, in bytes per second.
const dripRate = 1 << 10

func (p *pull) watchSegment(s *segment, now time.Time) {
	stall := p.c.o.stall()
	if !s.started {
		stall *= 3 // a pull-through cache first fetches the blob itself
	}
	if now.Sub(s.checked) < stall || s.waiting {
		return
	}
	received := s.received.Load()
	slow := received-s.atCheck < int64(stall.Seconds()*dripRate)
	if received == s.atCheck || slow && p.c.limit.rate() == 0 {
		s.cancel(stallError{received - s.atCheck, now.Sub(s.checked)})
	}
	s.checked, s.atCheck = now, received
}

// dispatch starts segments while connections may be added and there is
// something to fetch. The mutex is held.
func (p *pull) dispatch() {
	now := time.Now()
	for p.running < p.ramp.target && p.ctx.Err() == nil {
		s := p.next(now)
		if s == nil {
			return
		}
		p.running++
		p.work.Add(1)
		s.t.active[s] = struct{}{}
		go p.run(s)
	}
}

// later dispatches again after a wait; a pull that has ended starts nothing.
func (p *pull) later(d time.Duration) {
	time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dispatch()
	})
}

// next plans one segment for the transfer that has the fewest, or splits what
// another connection still has before it.
func (p *pull) next(now time.Time) *segment {
	order := slices.Clone(p.transfers)
	slices.SortStableFunc(order, func(a, b *transfer) int { return len(a.active) - len(b.active) })
	for _, t := range order {
		if t.err != nil || len(t.pending) == 0 || t.exclusive() || t.askable() == 0 {
			continue
		}
		o := p.usable(t, now)
		if o == nil {
			continue
		}
		if h := o.budget(); h != nil && !h.acquire() {
			continue
		}
		return p.plan(t, o, now)
	}
	return p.split(order, now)
}

// plan claims the next bytes of t.
func (p *pull) plan(t *transfer, o *origin, now time.Time) *segment {
	st := t.standing(o)
	s := newSegment(p.ctx, t, o, now)
	switch {
	case st.whole:
		// The stream brings everything; what is present is dropped.
		s.todo, t.pending, s.whole = t.pending, nil, true
	case len(t.pending) == 1 && t.pending[0] == cas.Range{Len: t.desc.Size} && t.desc.Size <= p.segmentSize(t, o):
		s.todo = []cas.Range{t.take(t.desc.Size)}
	default:
		s.todo = []cas.Range{t.take(p.segmentSize(t, o))}
		s.probing = !st.ranged && !o.ranged
	}
	return s
}

// Bounds of a segment. The upper one limits what a reset costs in requests,
// not in bytes: what arrived is kept.
const maxSegment = 64 << 20

// segmentSize is what one connection brings in about a second. Several share
// the room in a window; one alone asks for more than that and waits in the
// middle of its answer: a request costs a registry more than a stream that
// pauses.
func (p *pull) segmentSize(t *transfer, o *origin) int64 {
	n := p.c.o.segment()
	if o.rate > 0 {
		n = max(n/2, min(int64(o.rate)&^(1<<20-1), 8*n, maxSegment))
	}
	if t.window != nil && p.ramp.target > 1 {
		n = min(n, t.askable(), max(t.window.least, t.window.width()/int64(p.ramp.target)))
	}
	return n
}

// minSplit is the least that is worth a new request.
const minSplit = 2 << 20

// split gives half of the longest remaining segment, or of its part that has
// room in the window, to a free connection, so that the end of a blob does not
// wait for its slowest range.
func (p *pull) split(order []*transfer, now time.Time) *segment {
	var from *segment
	for _, t := range order {
		if t.err != nil || t.exclusive() {
			continue
		}
		for s := range t.active {
			if s.started && s.within() >= 2*minSplit && (from == nil || s.left() > from.left()) && s.outlasts(now, p.answer) {
				from = s
			}
		}
	}
	if from == nil {
		return nil
	}
	t := from.t
	o := p.usable(t, now)
	if o == nil || t.standing(o).whole {
		return nil
	}
	if h := o.budget(); h != nil && !h.acquire() {
		return nil
	}
	s := newSegment(p.ctx, t, o, now)
	s.todo = []cas.Range{t.cede(from)}
	return s
}

// slower halves the connections: a source asked for it.
func (p *pull) slower() { p.ramp.halve(time.Now()) }
