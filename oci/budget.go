package oci

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Budgets bound the time that is spent on documents: manifests, configs,
// bundles, lists, tokens, files of a TUF repository, whatever is read whole.
// Layers have rules of their own ([Options] Stall and Attempts).
type Budgets struct {
	Document time.Duration // for one document, from the request to its last byte; 0 is 30 s
	Model    time.Duration // for all documents of one artifact, see [ForModel]; 0 is 2 min
	Host     time.Duration // what a host that does not deliver may cost; then it is left out until [Client.NewPass]; 0 is 30 s
}

func (b Budgets) check() error {
	for _, d := range []time.Duration{b.Document, b.Model, b.Host} {
		if d < 0 {
			return fmt.Errorf("a budget of %s: want a positive time", d)
		}
	}
	return nil
}

func (b Budgets) document() time.Duration { return orElse(b.Document, 30*time.Second) }
func (b Budgets) model() time.Duration    { return orElse(b.Model, 2*time.Minute) }
func (b Budgets) host() time.Duration     { return orElse(b.Host, 30*time.Second) }

// window is how long a body may take for [dripRate] of it.
func (b Budgets) window() time.Duration { return min(10*time.Second, b.document()/3) }

// inAll is how many of its budgets a host may cost altogether that delivers
// now and then.
const inAll = 10

func orElse(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// budgetError says which budget was spent, and on whom. final is for one that
// asking again does not renew.
type budgetError struct {
	text  string
	final bool
}

func (e *budgetError) Error() string { return ErrUnavailable.Error() + ": " + e.text }
func (e *budgetError) Unwrap() error { return ErrUnavailable }

// meter counts the time that one model's documents take.
type meter struct {
	mu    sync.Mutex
	used  time.Duration
	until time.Time                // when the running call has spent the rest
	at    map[string]time.Duration // by host
}

type meterKey struct{}

// ForModel makes all documents that are asked for with the context count as
// one model's. Without it each call has a budget of its own.
func ForModel(ctx context.Context) context.Context {
	return context.WithValue(ctx, meterKey{}, &meter{at: map[string]time.Duration{}})
}

func meterOf(ctx context.Context) *meter {
	m, _ := ctx.Value(meterKey{}).(*meter)
	return m
}

// waited books time against a host.
func (m *meter) waited(host string, d time.Duration) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[host] += d
}

// metering bounds ctx by what is left of its model's budget. The function that
// it returns books the time.
func (c *Client) metering(ctx context.Context) (context.Context, func()) {
	if meterOf(ctx) == nil {
		ctx = ForModel(ctx)
	}
	m, began := meterOf(ctx), time.Now()
	m.mu.Lock()
	left := c.o.Budgets.model() - m.used
	m.until = began.Add(left)
	m.mu.Unlock()
	ctx, cancel := bound(ctx, left, func() error { return m.spent(c.o.Budgets.model()) })
	return ctx, sync.OnceFunc(func() {
		cancel()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.used += time.Since(began)
	})
}

func (m *meter) spent(of time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	on := ""
	if len(m.at) > 0 {
		on = ", asking " + strings.Join(slices.Sorted(maps.Keys(m.at)), " and ")
	}
	return &budgetError{fmt.Sprintf("the %s for the documents of one model are spent%s", of, on), true}
}

// bound ends ctx after d with the error that why gives then.
func bound(ctx context.Context, d time.Duration, why func() error) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	if d <= 0 {
		cancel(why())
		return ctx, func() {}
	}
	t := time.AfterFunc(d, func() { cancel(why()) })
	return ctx, func() { t.Stop(); cancel(nil) }
}

// share bounds ctx for the first of so many sources that are still to be
// asked: what it wastes must leave the others their part. The function that it
// returns ends its turn; where a budget was spent in it, the time that the
// model waited for the host is the host's to pay.
func (c *Client) share(ctx context.Context, s source, sources int) (context.Context, func()) {
	m, h := meterOf(ctx), s.budget()
	if m == nil || h == nil {
		return ctx, func() {}
	}
	cancel := func() {}
	if sources > 1 {
		m.mu.Lock()
		part := time.Until(m.until) / time.Duration(sources)
		m.mu.Unlock()
		ctx, cancel = bound(ctx, part, func() error {
			return &budgetError{fmt.Sprintf("%s took its part of a model's time, %s", s, part.Round(time.Millisecond)), true}
		})
	}
	return ctx, func() {
		spent := spentBudget(ctx)
		cancel()
		if spent == nil {
			return
		}
		m.mu.Lock()
		waited := m.at[h.name]
		m.mu.Unlock()
		h.mu.Lock()
		h.charge(c.o.Budgets, waited, spent)
		h.mu.Unlock()
		c.tellLeftOut(h)
	}
}

// stopped says why a source is not worth another question now.
func stopped(ctx context.Context, s source) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if h := s.budget(); h != nil {
		return h.leftOut()
	}
	return nil
}

// spentBudget returns the budget that ended ctx; nil where the caller did.
func spentBudget(ctx context.Context) error {
	var e *budgetError
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &e) {
		return e
	}
	return nil
}
