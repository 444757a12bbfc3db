package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
)

// transfer is one blob on its way. Its fields belong to the pull's mutex.
type transfer struct {
	desc    ocispec.Descriptor
	order   []*origin // to ask; those that sent wrong bytes of this digest last
	in      content
	window  *window     // in, where that is one
	resumed int64       // bytes of an earlier run
	seeded  bool        // parts were copied from another version's blobs
	pending []cas.Range // ascending, claimed by no segment
	active  map[*segment]struct{}
	at      map[*origin]*standing
	only    *origin // after a mismatch: the one source that may serve it
	spans   []span  // who sent what, in order of arrival
	done    chan struct{}
	err     error

	result FetchResult
	prints *prints // of what arrived in this attempt; nil while there is one source
	past   []attempt
}

// content takes what a transfer brings.
type content interface {
	io.WriterAt
	Missing() []cas.Range
}

// attempt is what an earlier, wrong copy of a blob was made of.
type attempt struct {
	prints *prints
	spans  []span
}

// standing is what one blob has learned about one source.
type standing struct {
	failures int       // in a row, without progress
	since    time.Time // the first of those
	before   time.Time // do not ask again earlier
	missized int       // answers in a row that spoke of another size, the same each time
	size     int64     // that one
	gone     error     // why the source is given up for this blob
	ranged   bool      // it answered a range with that range
	whole    bool      // it answers ranges with everything
	refused  bool      // it answers ranges with 416
}

// span is who sent a range.
type span struct {
	cas.Range
	from *origin
}

func (p *pull) newTransfer(desc ocispec.Descriptor) *transfer {
	t := &transfer{desc: desc, active: map[*segment]struct{}{}, at: map[*origin]*standing{}}
	t.order = slices.Clone(p.origins)
	slices.SortStableFunc(t.order, func(a, b *origin) int {
		return p.c.blamed(desc.Digest, a) - p.c.blamed(desc.Digest, b)
	})
	return t
}

// begin starts over. What was learned about sources stays.
func (t *transfer) begin(in content, resumed int64) {
	t.in, t.pending, t.resumed = in, in.Missing(), resumed
	t.window, _ = in.(*window)
	t.spans, t.err, t.done = nil, nil, make(chan struct{})
	t.prints = nil
	if len(t.order) > 1 {
		t.prints = newPrints(t.desc.Size)
	}
}

func (t *transfer) standing(o *origin) *standing {
	s := t.at[o]
	if s == nil {
		s = &standing{}
		t.at[o] = s
	}
	return s
}

// present is how many bytes need not be fetched any more.
func (t *transfer) present() int64 {
	n := t.desc.Size
	for _, r := range t.pending {
		n -= r.Len
	}
	for s := range t.active {
		n -= s.left()
	}
	return n
}

// giveBack returns ranges that a segment did not fetch.
func (t *transfer) giveBack(ranges []cas.Range) {
	t.pending = append(t.pending, ranges...)
	slices.SortFunc(t.pending, func(a, b cas.Range) int { return int(min(1, max(-1, a.Off-b.Off))) })
	t.pending = slices.DeleteFunc(t.pending, func(r cas.Range) bool { return r.Len == 0 })
}

// take cuts at most n bytes from the first pending range.
func (t *transfer) take(n int64) cas.Range {
	r := t.pending[0]
	if r.Len <= n {
		t.pending = t.pending[1:]
		return r
	}
	t.pending[0] = cas.Range{Off: r.Off + n, Len: r.Len - n}
	return cas.Range{Off: r.Off, Len: n}
}

// askable is how many of the first pending bytes may be asked for now.
func (t *transfer) askable() int64 {
	n := t.pending[0].Len
	if t.window == nil {
		return n
	}
	room := min(n, t.window.limit()-t.pending[0].Off)
	if room < min(n, t.window.least) {
		return 0
	}
	return room
}

// exclusive says whether a running segment must stay the only one: it streams
// the whole blob, or it asks a source for the first time whether it knows
// ranges.
func (t *transfer) exclusive() bool {
	for s := range t.active {
		if s.whole || s.probing {
			return true
		}
	}
	return false
}

// complete fetches everything that is pending.
func (p *pull) complete(ctx context.Context, t *transfer) error {
	p.mu.Lock()
	p.transfers = append(p.transfers, t)
	p.settle(t)
	p.dispatch()
	p.mu.Unlock()
	var err error
	select {
	case <-t.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	p.transfers = slices.DeleteFunc(p.transfers, func(o *transfer) bool { return o == t })
	if err == nil {
		err = t.err
	} else if t.err == nil {
		t.err = err // no new segment is started for it
	}
	running := make([]*segment, 0, len(t.active))
	for s := range t.active {
		s.cancel(errAbandoned)
		running = append(running, s)
	}
	p.mu.Unlock()
	for _, s := range running {
		<-s.ended // a segment writes into the ingest until it ended
	}
	return err
}

// settle closes the transfer when nothing is left to do.
func (p *pull) settle(t *transfer) {
	if t.err != nil || len(t.pending) == 0 && len(t.active) == 0 {
		select {
		case <-t.done:
		default:
			close(t.done)
		}
	}
}

// usable returns the source to ask next: the first in order that is neither
// given up nor waiting. When all are given up the transfer has failed.
func (p *pull) usable(t *transfer, now time.Time) *origin {
	var errs []error
	waiting := false
	for _, o := range t.order {
		if t.only != nil && t.only != o {
			continue
		}
		st := t.standing(o)
		if st.gone != nil {
			errs = append(errs, st.gone)
			continue
		}
		if now.Before(st.before) || now.Before(o.before) {
			waiting = true
			continue
		}
		return o
	}
	if !waiting {
		t.err = worst(errs)
		p.settle(t)
	}
	return nil
}

// failed books what went wrong with a segment against its source.
func (p *pull) failed(s *segment, err error) {
	t, o := s.t, s.from
	st := t.standing(o)
	if errors.Is(err, errAbandoned) || errors.Is(err, errSlow) || p.ctx.Err() != nil {
		return
	}
	if s.received.Load() >= progressBytes {
		st.failures = 0 // the source brings something; a slow line is no fault
	}
	var store *storeError
	if errors.As(err, &store) {
		t.err = store
		return
	}
	var status *statusError
	if errors.As(err, &status) && status.status == 416 && !st.refused {
		st.whole, st.refused = true, true
		return
	}
	// A pull-through cache that streamed everything on a miss may know the
	// range by now.
	st.whole = st.refused
	// A size that contradicts the manifest may be a broken box on the way; the
	// same one again and again is the source's, and cannot fit the digest.
	var other *rangeError
	if !errors.As(err, &other) || !other.wrongSize {
		st.missized = 0
	} else if st.missized == 0 || other.size != st.size {
		st.missized, st.size = 1, other.size
	} else if st.missized++; st.missized >= p.c.o.attempts() {
		st.gone = &DigestError{What: "blob", Expected: t.desc.Digest, Source: o.String()}
		p.blame(t, o, "", nil)
		return
	}
	retry, after := retryable(err)
	if !retry {
		st.gone = err
		return
	}
	if st.failures++; st.failures == 1 {
		st.since = s.begun
	}
	if st.failures >= p.c.o.attempts() {
		if h := o.budget(); h != nil {
			// What this cost is not paid again by the next model.
			h.lost(p.c.o.Budgets, st.since, time.Now(), err)
			p.c.tellLeftOut(h)
		}
		st.gone = fmt.Errorf("%w (given up after %d attempts)", err, st.failures)
		return
	}
	now := time.Now()
	st.before = now.Add(max(after, p.c.o.backoff(st.failures)))
	if !s.started {
		if o.failures++; o.failures >= 3 {
			o.before = now.Add(p.c.o.backoff(o.failures))
		}
	}
	if after > 0 || status != nil && status.status == 429 {
		// The source asked everyone to slow down, not this blob alone.
		o.before = st.before
		p.slower()
	}
	p.later(st.before.Sub(now))
}

// progressBytes is how much a connection must bring to count as progress: a
// source that resets after every byte is not asked for ever.
const progressBytes = 64 << 10
