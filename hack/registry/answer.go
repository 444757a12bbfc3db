package main

import (
	"fmt"
	"net/http"
)

// endlessLimit ends even an endless body, so that a client without a bound
// fails its test instead of the machine.
const endlessLimit = 8 << 30

// answer counts what is sent and bends it as the faults say.
type answer struct {
	http.ResponseWriter
	request *http.Request
	faults  []*Fault
	rec     *Request
	started bool
	offset  int64 // of the body's first byte in the whole blob
}

func (a *answer) WriteHeader(status int) {
	if a.started || status < 200 {
		a.ResponseWriter.WriteHeader(status)
		return
	}
	a.started = true
	a.rec.Status = status
	h := a.Header()
	first, last, total, ranged := parseContentRange(h.Get("Content-Range"))
	if ranged && status == http.StatusPartialContent {
		a.offset = first
	}
	for _, f := range a.faults {
		if f.WrongRange != 0 && ranged {
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+f.WrongRange, last+f.WrongRange, total))
		}
		if f.Endless {
			h.Del("Content-Length")
		}
		for name, value := range f.Headers {
			if value == "" {
				h.Del(name)
			} else {
				h.Set(name, value)
			}
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

func parseContentRange(s string) (first, last, total int64, ok bool) {
	n, err := fmt.Sscanf(s, "bytes %d-%d/%d", &first, &last, &total)
	return first, last, total, err == nil && n == 3
}

func (a *answer) Write(p []byte) (int, error) {
	if !a.started {
		a.WriteHeader(http.StatusOK)
	}
	if len(a.faults) == 0 {
		n, err := a.ResponseWriter.Write(p)
		a.rec.Bytes += int64(n)
		return n, err
	}
	// The caller's bytes are its own: a flip must not reach a cache.
	q := append([]byte(nil), p...)
	for _, f := range a.faults {
		if f.Flip != nil {
			if i := *f.Flip - a.offset - a.rec.Bytes; i >= 0 && i < int64(len(q)) {
				q[i] ^= 0xff
			}
		}
	}
	cut, stop := int64(len(q)), func() {}
	for _, f := range a.faults {
		for _, x := range []struct {
			at   *int64
			stop func()
		}{{f.Truncate, a.end}, {f.Reset, a.reset}, {f.Stall, a.stall}} {
			if x.at == nil {
				continue
			}
			if i := *x.at - a.rec.Bytes; i <= cut {
				cut, stop = max(i, 0), x.stop
			}
		}
	}
	n, err := a.paced(q[:cut])
	if err != nil {
		return n, err
	}
	stop() // panics when a fault ends the answer here
	return n, nil
}

// paced sends p no faster than the slowest rate allows, in pieces that keep a
// slow rate smooth.
func (a *answer) paced(p []byte) (int, error) {
	var rate int64
	for _, f := range a.faults {
		if f.Rate > 0 && (rate == 0 || f.Rate < rate) {
			rate = f.Rate
		}
	}
	sent := 0
	for len(p) > 0 {
		q := p
		if rate > 0 {
			q = p[:min(int64(len(p)), max(1, rate/50))]
			c, ok := a.request.Context().Value(connKey{}).(*connection)
			if !ok || !c.pace(a.request.Context(), len(q), rate) {
				panic(http.ErrAbortHandler)
			}
		}
		n, err := a.ResponseWriter.Write(q)
		a.rec.Bytes += int64(n)
		sent += n
		if err != nil {
			return sent, err
		}
		if rate > 0 {
			a.flush()
		}
		p = p[n:]
	}
	return sent, nil
}

// finish adds what comes after the registry's last byte.
func (a *answer) finish() {
	if !a.started || a.request.Method == http.MethodHead {
		return
	}
	for _, f := range a.faults {
		if !f.Endless {
			continue
		}
		for zeros := make([]byte, 32<<10); a.rec.Bytes < endlessLimit; {
			if _, err := a.paced(zeros); err != nil {
				return
			}
		}
	}
}

func (a *answer) flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Flush implements http.Flusher.
func (a *answer) Flush() { a.flush() }

// Unwrap serves http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// end closes the connection in an orderly way before the body is complete.
func (a *answer) end() {
	a.flush()
	panic(http.ErrAbortHandler)
}

// reset makes the kernel send RST instead of FIN.
func (a *answer) reset() {
	if a.started {
		a.flush()
	}
	if c, ok := a.request.Context().Value(connKey{}).(*connection); ok {
		if t := c.tcp(); t != nil {
			_ = t.SetLinger(0)
			_ = t.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

func (a *answer) stall() {
	a.flush()
	<-a.request.Context().Done()
	panic(http.ErrAbortHandler)
}
