package oci_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
)

func isBlobGet(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/")
}

// whole answers every range of that blob with all of it, like a server that
// knows no ranges.
func whole(big []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isBlobGet(req) {
			req.Header.Del("Range")
		}
		next.ServeHTTP(w, req)
	}
}

func refuse(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if isBlobGet(req) && req.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	next.ServeHTTP(w, req)
}

// short answers ranges with less than was asked for, as RFC 9110 allows.
func short(w http.ResponseWriter, req *http.Request, next http.Handler) {
	var from, to int
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil && to-from > 200<<10 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+200<<10-1+1000))
	}
	next.ServeHTTP(w, req)
}

// coldCache streams everything to the first request, as a pull-through cache
// on a miss, and breaks that stream; after that it knows ranges.
func coldCache(big []byte) func(http.ResponseWriter, *http.Request, http.Handler) {
	var warm atomic.Bool
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isBlobGet(req) && req.Header.Get("Range") != "" && warm.CompareAndSwap(false, true) {
			w.Header().Set("Content-Length", strconv.Itoa(len(big)))
			_, _ = w.Write(big[:1<<20])
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	}
}

// redirected sends clients elsewhere for each blob, as registries in front of
// object storage do.
func redirected(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if isBlobGet(req) && req.URL.Query().Get("signed") == "" {
		http.Redirect(w, req, req.URL.Path+"?signed=1", http.StatusTemporaryRedirect)
		return
	}
	next.ServeHTTP(w, req)
}

// chunked sends bodies without a length.
func chunked(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if !isBlobGet(req) {
		next.ServeHTTP(w, req)
		return
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, req)
	for k, v := range rec.Header() {
		if k != "Content-Length" {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(rec.Code)
	w.(http.Flusher).Flush()
	_, _ = w.Write(rec.Body.Bytes())
}

// every answers each n-th blob request with a status.
func every(n int64, status int, retryAfter string) func() func(http.ResponseWriter, *http.Request, http.Handler) {
	return func() func(http.ResponseWriter, *http.Request, http.Handler) {
		var i atomic.Int64
		return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isBlobGet(req) && i.Add(1)%n == 0 {
				w.WriteHeader(status)
				return
			}
			next.ServeHTTP(w, req)
		}
	}
}

// flip changes one byte of every blob answer that is long enough.
func flip(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if isBlobGet(req) {
		w = &flipWriter{ResponseWriter: w, at: 200_000}
	}
	next.ServeHTTP(w, req)
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

// stallWriter stops after some bytes until the client goes away.
type stallWriter struct {
	http.ResponseWriter
	left  int
	until context.Context
}

func (s *stallWriter) Write(b []byte) (int, error) {
	if len(b) > s.left {
		_, _ = s.ResponseWriter.Write(b[:s.left])
		s.ResponseWriter.(http.Flusher).Flush()
		<-s.until.Done()
		panic(http.ErrAbortHandler)
	}
	s.left -= len(b)
	return s.ResponseWriter.Write(b)
}

type flipWriter struct {
	http.ResponseWriter
	at int
}

func (f *flipWriter) Write(b []byte) (int, error) {
	if f.at >= 0 && f.at < len(b) {
		b = append([]byte(nil), b...)
		b[f.at] ^= 1
	}
	f.at -= len(b)
	return f.ResponseWriter.Write(b)
}
