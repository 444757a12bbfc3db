package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Request is one line of requests.jsonl.
type Request struct {
	Time       time.Time `json:"time"` // when it began
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Query      string    `json:"query,omitempty"`
	Kind       string    `json:"kind"` // as in Fault
	Repository string    `json:"repository,omitempty"`
	Reference  string    `json:"reference,omitempty"` // digest or tag
	Range      string    `json:"range,omitempty"`
	Status     int       `json:"status"`
	Bytes      int64     `json:"bytes"` // of the body, sent
	Faults     []string  `json:"faults,omitempty"`
	Millis     int64     `json:"millis"`
	Agent      string    `json:"agent,omitempty"`
	Auth       bool      `json:"auth"` // credentials came along
}

// front records requests and injects faults in front of a registry.
type front struct {
	next   http.Handler
	faults *faultFile

	mu       sync.Mutex
	requests *os.File
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.URL.Path)
	rec := Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
		Kind: t.Kind, Repository: t.Repository, Reference: t.Reference,
		Range: r.Header.Get("Range"), Agent: r.UserAgent(), Auth: r.Header.Get("Authorization") != "",
	}
	out := &answer{ResponseWriter: w, request: r, rec: &rec}
	defer f.record(&rec)
	hit, err := f.faults.apply(r.Method, t)
	if err != nil {
		http.Error(out, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, x := range hit {
		rec.Faults = append(rec.Faults, x.Name)
	}
	out.faults = hit
	if f.instead(out, r, hit) {
		return
	}
	f.next.ServeHTTP(out, r)
	out.finish()
}

// instead answers r by a fault that leaves no room for the registry.
func (f *front) instead(w *answer, r *http.Request, hit []*Fault) bool {
	for _, x := range hit {
		if x.Latency > 0 && !wait(r.Context(), time.Duration(x.Latency)) {
			panic(http.ErrAbortHandler)
		}
	}
	for _, x := range hit {
		switch {
		case x.Hang:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case x.Refuse:
			w.reset()
		case x.Redirect != "":
			http.Redirect(w, r, strings.ReplaceAll(x.Redirect, "{path}", r.URL.RequestURI()), http.StatusTemporaryRedirect)
			return true
		case x.Status != 0:
			if x.RetryAfter != "" {
				w.Header().Set("Retry-After", x.RetryAfter)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(x.Status)
			if r.Method != http.MethodHead && x.Status != http.StatusNoContent {
				_, _ = w.Write([]byte(`{"errors":[{"code":"UNKNOWN","message":"fault ` + strconv.Quote(x.Name)[1:] + `}]}`))
			}
			return true
		case x.IgnoreRange:
			r.Header.Del("Range")
		}
	}
	return false
}

func (f *front) record(rec *Request) {
	rec.Millis = time.Since(rec.Time).Milliseconds()
	b, err := json.Marshal(rec)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.requests.Write(append(b, '\n'))
}

// wait reports whether d passed before ctx was done.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type connKey struct{}

// connection is what requests of one TCP connection share.
type connection struct {
	net.Conn
	mu   sync.Mutex
	free time.Time // when the next byte may leave
}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, &connection{Conn: c})
}

// pace takes n bytes off the connection's budget and waits for its turn.
func (c *connection) pace(ctx context.Context, n int, rate int64) bool {
	c.mu.Lock()
	now := time.Now()
	if c.free.Before(now) {
		c.free = now
	}
	at := c.free
	c.free = at.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	c.mu.Unlock()
	return wait(ctx, at.Sub(now))
}

// tcp is the connection below TLS.
func (c *connection) tcp() *net.TCPConn {
	inner := c.Conn
	if t, ok := inner.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	t, _ := inner.(*net.TCPConn)
	return t
}
