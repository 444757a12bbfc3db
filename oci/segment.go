package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resultity/rmodels/cas"
)

// segment is one request: what it is to bring, and how it goes. Fields other
// than the first group belong to the pull's mutex.
type segment struct {
	t      *transfer
	from   *origin
	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  chan struct{}

	todo    []cas.Range // ascending; cut from the front as bytes arrive
	whole   bool        // the stream brings the whole blob
	probing bool        // the first range that this source is asked for

	begun    time.Time
	started  bool         // the answer's header is there
	waiting  bool         // for room in the window; no fault of its source
	received atomic.Int64 // bytes of the body, counted as they arrive
	checked  time.Time    // when received was last compared
	atCheck  int64
	gauged   time.Time // when speed was last measured
	atGauge  int64
	speed    float64 // bytes per second, smoothed
}

func newSegment(ctx context.Context, t *transfer, o *origin, now time.Time) *segment {
	s := &segment{t: t, from: o, begun: now, checked: now, ended: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// left is what it still is to bring.
func (s *segment) left() int64 {
	var n int64
	for _, r := range s.todo {
		n += r.Len
	}
	return n
}

// outlasts says whether the rest will take longer than another connection
// costs, whose request waits so long for its answer.
func (s *segment) outlasts(now time.Time, answer time.Duration) bool {
	seconds := now.Sub(s.begun).Seconds()
	if seconds < 0.2 {
		return false
	}
	return float64(s.left()) > float64(s.received.Load())/seconds*(2*answer+tick/2).Seconds()
}

// within is as much of what is left as may be kept now.
func (s *segment) within() int64 {
	if s.t.window == nil || len(s.todo) == 0 {
		return s.left()
	}
	return min(s.left(), s.t.window.limit()-s.todo[0].Off)
}

// cede takes the second half of a segment's range, as far as it may be kept
// now; nobody waits for what lies behind that.
func (t *transfer) cede(s *segment) cas.Range {
	r := &s.todo[len(s.todo)-1]
	n := min(r.Len, s.within())
	keep := (n / 2) &^ (bufferSize - 1)
	away := cas.Range{Off: r.Off + keep, Len: n - keep}
	t.giveBack([]cas.Range{{Off: r.Off + n, Len: r.Len - n}})
	r.Len = keep
	return away
}

// bufferSize is one connection's buffer: with 16 connections 4 MiB in all
// (invariant 6).
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// storeError is a failure to keep bytes, which no other source can mend.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

func isStoreError(err error) bool {
	var store *storeError
	return errors.As(err, &store)
}

// run is a segment's goroutine.
func (p *pull) run(s *segment) {
	defer p.work.Done()
	err := p.stream(s)
	s.cancel(errAbandoned)
	if h := s.from.budget(); h != nil {
		h.release()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	delete(s.t.active, s)
	s.t.giveBack(s.todo)
	if err != nil && !errors.Is(err, errDone) {
		p.failed(s, err)
	} else {
		s.t.standing(s.from).failures = 0
	}
	p.measure(s)
	close(s.ended)
	p.settle(s.t)
	p.dispatch()
}

// measure keeps what one connection to a source brings.
func (p *pull) measure(s *segment) {
	seconds := time.Since(s.begun).Seconds()
	received := s.received.Load()
	if received < 1<<20 || seconds <= 0 {
		return
	}
	rate := float64(received) / seconds
	if s.from.rate == 0 {
		s.from.rate = rate
	} else {
		s.from.rate += (rate - s.from.rate) / 4
	}
}

// errDone ends a segment whose work was done, or taken over, before its
// stream ended.
var errDone = errors.New("nothing left to bring")

func (p *pull) stream(s *segment) error {
	p.mu.Lock()
	off, n := int64(0), s.t.desc.Size
	if !s.whole {
		off, n = s.todo[0].Off, s.todo[0].Len
	}
	p.mu.Unlock()
	body, err := s.from.read(s.ctx, s.t.desc, off, n)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := p.opened(s, body); err != nil {
		return err
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	at, end := body.off, body.off+body.n
	for at < end {
		// Reads end on multiples of the buffer, so that two sources' copies of
		// a block can be compared.
		b := buffer[:min(p.c.limit.block(), end-at, bufferSize-at%bufferSize)]
		asked := time.Now()
		if err := p.c.limit.wait(s.ctx, int64(len(b))); err != nil {
			return transportError(s.ctx, err)
		}
		n, err := io.ReadFull(arrivals{body, s}, b)
		came := time.Now()
		if s.t.window == nil {
			p.waited.Add(int64(came.Sub(asked)))
		}
		if n > 0 {
			if kerr := p.keep(s, b[:n], at, end); kerr != nil {
				return kerr
			}
			at += int64(n)
			if s.t.window == nil {
				p.kept.Add(int64(time.Since(came)))
			}
		}
		if err != nil {
			return &SourceError{Source: s.from.String(), What: "blob " + s.t.desc.Digest.String(), Err: transportError(s.ctx, err)}
		}
	}
	// Reading the end of the body lets the connection be used again.
	var one [1]byte
	_, _ = body.Read(one[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(s.todo) > 0 {
		// The source sent less than was asked for, which a 206 may.
		return &SourceError{Source: s.from.String(), What: "blob " + s.t.desc.Digest.String(), Err: fmt.Errorf("%w: %d bytes less than asked for", ErrUnavailable, s.left())}
	}
	return nil
}

// arrivals counts what a body brings, however little at a time: a buffer of a
// slow line takes longer to fill than a stall lasts.
type arrivals struct {
	io.Reader
	s *segment
}

func (a arrivals) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	a.s.received.Add(int64(n))
	a.s.from.bytes.Add(int64(n))
	return n, err
}

// opened books what the header of the answer says about the source.
func (p *pull) opened(s *segment, body *stream) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := s.t.standing(s.from)
	s.started, s.checked = true, time.Now()
	if answer := s.checked.Sub(s.begun); p.answer == 0 {
		p.answer = answer
	} else {
		p.answer += (answer - p.answer) / 4
	}
	s.from.failures, st.missized = 0, 0
	if !body.whole {
		if s.probing || body.n != s.t.desc.Size {
			st.ranged, s.from.ranged = true, true
		}
		s.probing = false
		p.dispatch()
		return nil
	}
	s.probing = false
	st.whole = true
	for other := range s.t.active {
		if other != s && other.whole {
			return errDone // one stream of everything is enough
		}
	}
	// Everything that no other connection has comes with this stream.
	s.whole = true
	s.t.giveBack(s.todo)
	s.todo, s.t.pending = s.t.pending, nil
	return nil
}

// keep writes the parts of b that are this segment's to bring. b starts at
// byte at of the blob; the stream goes on until last. It ends the segment
// when the rest of the stream is not its to bring.
func (p *pull) keep(s *segment, b []byte, at, last int64) error {
	end := at + int64(len(b))
	// Before anything is taken from what it is to bring: while it waits it may
	// be ended, and others have to know what is missing.
	if err := p.await(s, end); err != nil {
		return transportError(s.ctx, err)
	}
	if h := s.from.budget(); h != nil {
		h.delivered(p.c.o.Budgets, 0)
	}
	var mine [8]cas.Range
	p.mu.Lock()
	parts := mine[:0]
	for len(s.todo) > 0 && s.todo[0].Off < end {
		r := &s.todo[0]
		n := min(r.Off+r.Len, end) - r.Off
		parts = append(parts, cas.Range{Off: r.Off, Len: n})
		s.t.sent(cas.Range{Off: r.Off, Len: n}, s.from)
		if r.Off, r.Len = r.Off+n, r.Len-n; r.Len > 0 {
			break
		}
		s.todo = s.todo[1:]
	}
	empty := len(s.todo) == 0
	prints := s.t.prints
	p.mu.Unlock()
	if prints != nil && len(parts) == 1 && parts[0].Len == int64(len(b)) {
		prints.take(b, at)
	}
	for _, r := range parts {
		if _, err := s.t.in.WriteAt(b[r.Off-at:r.Off-at+r.Len], r.Off); err != nil {
			return &storeError{fmt.Errorf("blob %s: %w", s.t.desc.Digest, err)}
		}
	}
	if empty && end < last {
		return errDone
	}
	return nil
}

// await waits until the segment's bytes before end have room in the window.
// Ranges have it when they are asked for, but for one that is alone; it and a
// source that sends the whole blob are held up here.
func (p *pull) await(s *segment, end int64) error {
	w := s.t.window
	if w == nil {
		return nil
	}
	p.mu.Lock()
	var until int64
	for _, r := range s.todo {
		if r.Off < end {
			until = min(r.Off+r.Len, end)
		}
	}
	s.waiting = until > w.limit()
	waits := s.waiting
	p.mu.Unlock()
	if !waits {
		return nil
	}
	err := w.await(s.ctx, until)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.waiting, s.checked, s.atCheck = false, time.Now(), s.received.Load()
	return err
}

// sent books who sent a range, joining it to what that source sent before.
func (t *transfer) sent(r cas.Range, from *origin) {
	for i := len(t.spans) - 1; i >= 0 && i >= len(t.spans)-64; i-- {
		if s := &t.spans[i]; s.from == from && s.Off+s.Len == r.Off {
			s.Len += r.Len
			return
		}
	}
	t.spans = append(t.spans, span{r, from})
}
