package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/resultity/rmodels/internal/progress"
)

// health is what a host has cost in this pass without delivering.
type health struct {
	row    time.Duration // since it last delivered
	all    time.Duration
	good   time.Time    // when it last delivered
	booked time.Time    // until when: requests side by side cost their time once
	out    *budgetError // why it is left out
	told   bool
}

// leftOut is not nil for a host that the rest of the pass goes without.
func (h *host) leftOut() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.health.left()
}

// left is out as an error: nil where there is none.
func (h *health) left() error {
	if h.out == nil {
		return nil
	}
	return h.out
}

// delivered ends a row. What came late counts towards all that the host may
// cost: else it holds a pass up by the number of its models.
func (h *host) delivered(b Budgets, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.health.row, h.health.good = 0, time.Now()
	if late := took - b.document()/6; late > 0 {
		h.health.all += late
		h.charge(b, 0, fmt.Errorf("%w: its documents come late", ErrUnavailable))
	}
}

// lost books the time between from and to that ended with err, as far as
// nothing was delivered in it.
func (h *host) lost(b Budgets, from, to time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range []time.Time{h.health.booked, h.health.good} {
		if from.Before(t) {
			from = t
		}
	}
	if to.After(from) {
		h.health.booked = to
		h.charge(b, to.Sub(from), err)
	}
}

// charge books time and leaves the host out where it has cost too much. The
// mutex is held.
func (h *host) charge(b Budgets, d time.Duration, err error) {
	h.health.row += d
	h.health.all += d
	if h.health.row >= b.host() || h.health.all >= inAll*b.host() {
		h.leave(fmt.Sprintf("after %s without what was asked for: %v", min(h.health.all, max(h.health.row, b.host())).Round(time.Millisecond), err))
	}
}

func (h *host) leave(why string) {
	if h.health.out == nil {
		h.health.out = &budgetError{fmt.Sprintf("%s is not asked again in this pass, %s", h.name, why), true}
	}
}

// affords says whether the host's budget has room for a wait before the next
// request. A host that asks for more is left out.
func (h *host) affords(b Budgets, wait time.Duration, err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if left := b.host() - h.health.row; wait > left {
		h.leave(fmt.Sprintf("it wants a pause of %s, and %s are left for it: %v", wait.Round(time.Millisecond), max(0, left).Round(time.Millisecond), err))
	}
	return h.health.left()
}

// NewPass makes every host worth asking again.
func (c *Client) NewPass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		h.mu.Lock()
		h.health = health{}
		h.mu.Unlock()
	}
}

// tellLeftOut says once that a host is left out.
func (c *Client) tellLeftOut(h *host) {
	h.mu.Lock()
	out, told := h.health.out, h.health.told
	h.health.told = out != nil
	h.mu.Unlock()
	if out != nil && !told {
		c.o.Progress.Emit(progress.Event{Kind: progress.Note, Source: h.name, Message: strings.TrimPrefix(out.text, h.name+" ")})
	}
}

// usable leaves out the sources whose host is left out, unless no other is
// there.
func usable(sources []source) []source {
	var out []source
	for _, s := range sources {
		if h := s.budget(); h == nil || h.leftOut() == nil {
			out = append(out, s)
		}
	}
	if out == nil {
		return sources
	}
	return out
}

// again asks a host for one document while asking again may help and its
// budget lasts. A nil host costs nothing: files, and what is pushed.
func (c *Client) again(ctx context.Context, h *host, get func(context.Context) error) error {
	return c.repeat(ctx, h, func() error { return c.attempt(ctx, h, c.o.Budgets.document(), get) })
}

// attempt asks once. The whole answer has to be there in total, 0 for what is
// too long to say; the header within the time for a document, and the body no
// slower than [dripRate].
func (c *Client) attempt(ctx context.Context, h *host, total time.Duration, get func(context.Context) error) error {
	if h == nil {
		return get(ctx)
	}
	if err := h.leftOut(); err != nil {
		return err
	}
	began := time.Now()
	w := &watch{began: began, total: total}
	watched, cancel := context.WithCancelCause(context.WithValue(ctx, watchKey{}, w))
	var over sync.WaitGroup
	over.Go(func() { c.watch(watched, cancel, h, w) })
	err := get(watched)
	cancel(nil)
	over.Wait()
	ended := time.Now()
	meterOf(ctx).waited(h.name, ended.Sub(began))
	again, _ := retryable(err)
	switch {
	case err == nil:
		h.delivered(c.o.Budgets, ended.Sub(began))
	case ctx.Err() != nil: // the caller's own end, or a budget's: see [Client.share]
	case again:
		h.lost(c.o.Budgets, began, ended, err)
	default:
		h.delivered(c.o.Budgets, ended.Sub(began)) // an answer all the same
	}
	c.tellLeftOut(h)
	return err
}

// watch is what is known about a running request.
type watch struct {
	began time.Time
	total time.Duration

	mu      sync.Mutex
	reading bool // a body; else a header is waited for
	got     int64
	atCheck int64
	checked time.Time
}

type watchKey struct{}

// watch ends a request that spends its budget, and says that it is waited for.
func (c *Client) watch(ctx context.Context, cancel context.CancelCauseFunc, h *host, w *watch) {
	document, window := c.o.Budgets.document(), c.o.Budgets.window()
	t := time.NewTicker(max(document/120, time.Millisecond))
	defer t.Stop()
	note := document / 6
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		w.mu.Lock()
		reading, got, now := w.reading, w.got, time.Now()
		took, slow := now.Sub(w.began), false
		if reading && now.Sub(w.checked) >= window {
			slow = float64(got-w.atCheck) < window.Seconds()*dripRate
			w.checked, w.atCheck = now, got
		}
		w.mu.Unlock()
		state := "does not answer"
		if reading {
			state = fmt.Sprintf("has sent %d bytes", got)
		}
		switch {
		case slow:
			cancel(&budgetError{text: fmt.Sprintf("%s sends less than %d bytes a second", h.name, dripRate)})
		case !reading && took >= document, w.total > 0 && took >= w.total:
			cancel(&budgetError{text: fmt.Sprintf("%s %s: the %s for one document are spent", h.name, state, document)})
		case took >= note:
			note += document / 3
			c.o.Progress.Emit(progress.Event{Kind: progress.Note, Source: h.name, Message: fmt.Sprintf("%s: %s of %s", state, took.Round(document/120), document)})
		}
	}
}

func (w *watch) header(there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading, w.checked, w.atCheck = there, time.Now(), w.got
}

func (w *watch) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got += int64(n)
}

// ofHost sends the requests of one host: it keeps the host's credentials where
// they belong, and lets the watch see every answer on the way, those of the
// token service and of redirects too.
type ofHost struct {
	c *Client
	h *host
}

func (t ofHost) RoundTrip(req *http.Request) (*http.Response, error) {
	err := t.keepsCredentials(req)
	if err == nil && req.URL.Host != t.h.base.Host {
		err = leadsAside(req.URL.Host)
	}
	if err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close())
		}
		return nil, err
	}
	w, _ := req.Context().Value(watchKey{}).(*watch)
	if w == nil {
		return t.c.transport.RoundTrip(req)
	}
	w.header(false)
	resp, err := t.c.transport.RoundTrip(req)
	if err == nil {
		w.header(true)
		resp.Body = &watchedBody{resp.Body, w}
	}
	return resp, err
}

type watchedBody struct {
	io.ReadCloser
	w *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.w.add(n)
	return n, err
}
