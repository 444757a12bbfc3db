package oci_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
)

func newStore(t testing.TB) (*cas.Store, *cas.Lease) {
	t.Helper()
	st, err := cas.Open(t.TempDir(), cas.Options{Create: true, FS: volatile{durable.OS}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	l, err := st.Lease(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
	return st, l
}

// volatile is the machine's file system without the waits for its disk: what
// survives power loss is the store's business and tested there.
type volatile struct{ durable.FS }

func (v volatile) SyncDir(string) error { return nil }

func (v volatile) OpenFile(name string, flag int, perm os.FileMode) (durable.File, error) {
	f, err := v.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return volatileFile{f}, nil
}

type volatileFile struct{ durable.File }

func (volatileFile) Datasync() error                   { return nil }
func (volatileFile) Sync() error                       { return nil }
func (volatileFile) StartWriteback(off, n int64) error { return nil }

func resolve(t testing.TB, c *oci.Client, ref oci.Reference, mirrors ...string) *oci.Artifact {
	t.Helper()
	a, err := c.Resolve(background(t), ref, mirrors)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// complete fails unless the store holds every blob with its right bytes, and
// the manifest.
func complete(t testing.TB, st *cas.Store, a *oci.Artifact) {
	t.Helper()
	blobs := []digest.Digest{a.Ref.Digest}
	for _, b := range a.Blobs() {
		blobs = append(blobs, b.Digest)
	}
	for _, d := range blobs {
		b, err := st.Open(d)
		if err != nil {
			t.Errorf("%s: %v", d, err)
			continue
		}
		got, err := digest.SHA256.FromReader(b)
		b.Close()
		if err != nil || got != d {
			t.Errorf("%s holds %s, %v", d, got, err)
		}
	}
}

func absent(t testing.TB, st *cas.Store, d digest.Digest) {
	t.Helper()
	if _, err := st.Stat(d); !errors.Is(err, cas.ErrNotFound) {
		t.Errorf("%s must not be in the store: %v", d, err)
	}
}

func TestFetch(t *testing.T) {
	big := noise(1, 3<<20+12345)
	small := file{"small.json", []byte("{}")}
	for name, transport := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"ranges":            nil,
		"ignores ranges":    whole(big),
		"refuses ranges":    refuse,
		"short answers":     short,
		"cold cache":        coldCache(big),
		"chunked encoding":  chunked,
		"redirects to blob": redirected,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := r.model("m", file{"model.gguf", big}, small, file{"empty", nil}, file{"again.gguf", big})
			r.setFault(transport)
			c := newClient(t, oci.Options{Segment: 512 << 10}, r)
			st, l := newStore(t)
			a := resolve(t, c, ref)
			var last sync.Map
			sink := func(e progress.Event) {
				if e.Kind == progress.Bytes {
					last.Store(e.Digest, e)
				}
			}
			res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Progress: sink, Model: "m@1"})
			if err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
			if res.Bytes < a.Size() || res.Resumed != 0 || res.Present != 0 || res.Sources[r.repository("m")] != res.Bytes || len(res.Mismatches) != 0 {
				t.Errorf("result %+v for %d bytes", res, a.Size())
			}
			if name == "ranges" && res.Bytes != a.Size() {
				t.Errorf("%d bytes received of %d", res.Bytes, a.Size())
			}
			for _, b := range a.Blobs() {
				v, ok := last.Load(b.Digest.String())
				if e, _ := v.(progress.Event); !ok || e.Done != b.Size || e.Total != b.Size || e.Model != "m@1" {
					t.Errorf("last event of %s: %+v", b.Digest, v)
				}
			}
			entries, err := a.Entries(t.Context(), st)
			if err != nil || len(entries) != 4 {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			r.forget()
			res, err = c.Fetch(background(t), st, l, a, oci.FetchOptions{})
			if err != nil || res.Bytes != 0 || res.Present != a.Size() || r.count("GET") != 0 {
				t.Errorf("a second fetch: %+v, %v, %d requests", res, err, r.count("GET"))
			}
		})
	}
}

func TestFetchSurvives(t *testing.T) {
	content := noise(3, 4<<20)
	for name, fault := range map[string]func() func(http.ResponseWriter, *http.Request, http.Handler){
		"resets": func() func(http.ResponseWriter, *http.Request, http.Handler) {
			var n atomic.Int64
			return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isBlobGet(req) && n.Add(1)%2 == 0 {
					next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 300_000}, req)
					return
				}
				next.ServeHTTP(w, req)
			}
		},
		"500 now and then": every(2, 500, ""),
		"429 with Retry-After": func() func(http.ResponseWriter, *http.Request, http.Handler) {
			var n atomic.Int64
			return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isBlobGet(req) && n.Add(1) <= 2 {
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				next.ServeHTTP(w, req)
			}
		},
		"stalls": func() func(http.ResponseWriter, *http.Request, http.Handler) {
			var n atomic.Int64
			return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isBlobGet(req) && n.Add(1) == 2 {
					next.ServeHTTP(&stallWriter{ResponseWriter: w, left: 100_000, until: req.Context()}, req)
					return
				}
				next.ServeHTTP(w, req)
			}
		},
		"wrong Content-Range": func() func(http.ResponseWriter, *http.Request, http.Handler) {
			var n atomic.Int64
			return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if isBlobGet(req) && req.Header.Get("Range") != "" && n.Add(1)%3 == 1 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-9/%d", len(content)))
					w.WriteHeader(http.StatusPartialContent)
					_, _ = w.Write(make([]byte, 5))
					return
				}
				next.ServeHTTP(w, req)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := r.model("m", file{"a.gguf", content}, file{"b.json", []byte("{}")})
			c := newClient(t, oci.Options{Stall: 500 * time.Millisecond, Segment: 512 << 10, Backoff: 10 * time.Millisecond}, r)
			a := resolve(t, c, ref)
			st, l := newStore(t)
			r.setFault(fault())
			if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
		})
	}
}

func TestFetchErrors(t *testing.T) {
	content := noise(4, 2<<20)
	for name, tc := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, http.Handler)
		want  error
	}{
		"blob gone":    {every(1, 404, "")(), oci.ErrNotFound},
		"denied":       {every(1, 403, "")(), oci.ErrUnauthorized},
		"always 500":   {every(1, 500, "")(), oci.ErrUnavailable},
		"always 416":   {every(1, 416, "")(), oci.ErrUnavailable},
		"flipped byte": {flip, oci.ErrDigest},
		"truncated blob": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isBlobGet(req) {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write(make([]byte, 100))
				return
			}
			next.ServeHTTP(w, req)
		}, oci.ErrDigest},
		"endless body": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isBlobGet(req) {
				for {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			}
			next.ServeHTTP(w, req)
		}, oci.ErrDigest},
		"a byte at a time": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if isBlobGet(req) {
				next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 1}, req)
				return
			}
			next.ServeHTTP(w, req)
		}, oci.ErrUnavailable},
		"compressed on the way": {func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			w.Header().Set("Content-Encoding", "gzip")
			next.ServeHTTP(w, req)
		}, oci.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := r.model("m", file{"a.gguf", content})
			c := newClient(t, oci.Options{Attempts: 3, Segment: 512 << 10, Backoff: 10 * time.Millisecond}, r)
			a := resolve(t, c, ref)
			st, l := newStore(t)
			r.setFault(tc.fault)
			res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			absent(t, st, a.Files[0].Desc.Digest)
			if tc.want == oci.ErrDigest {
				var wrong *oci.DigestError
				if !errors.As(err, &wrong) || wrong.Source != r.repository("m") || len(res.Mismatches) == 0 || res.Mismatches[0].Source != r.repository("m") {
					t.Errorf("the source of wrong bytes is not named: %v, %+v", err, res.Mismatches)
				}
			}
			// Once the registry is well again the same store takes the blob.
			r.setFault(nil)
			if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
		})
	}
}

func TestFetchFailsOverInsideABlob(t *testing.T) {
	content := noise(5, 4<<20)
	first, second := newRegistry(t), newRegistry(t)
	ref := first.model("m", file{"a.gguf", content})
	second.model("mirror/m", file{"a.gguf", content})
	c := newClient(t, oci.Options{Segment: 512 << 10, Backoff: 10 * time.Millisecond}, first, second)
	a := resolve(t, c, ref, second.repository("mirror/m"))
	st, l := newStore(t)
	var sent atomic.Int64
	first.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isBlobGet(req) && sent.Add(1) > 2 {
			panic(http.ErrAbortHandler) // it dies in mid-blob
		}
		next.ServeHTTP(w, req)
	})
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if res.Sources[first.repository("m")] == 0 || res.Sources[second.repository("mirror/m")] == 0 || res.Bytes != a.Size() {
		t.Errorf("bytes came from %v", res.Sources)
	}
}

func TestFetchNamesTheSourceOfWrongBytes(t *testing.T) {
	content := noise(6, 4<<20)
	bad, good := newRegistry(t), newRegistry(t)
	ref := bad.model("m", file{"a.gguf", content})
	good.model("m", file{"a.gguf", content})
	c := newClient(t, oci.Options{Segment: 512 << 10}, bad, good)
	a := resolve(t, c, ref, good.repository("m"))
	st, l := newStore(t)
	bad.setFault(flip)
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if len(res.Mismatches) != 1 || res.Mismatches[0].Source != bad.repository("m") || res.Mismatches[0].Expected != a.Files[0].Desc.Digest || res.Mismatches[0].Found == "" {
		t.Errorf("mismatches %+v", res.Mismatches)
	}
}

// Only a source that speaks of another size again and again has another blob.
func TestFetchForgivesAMisstatedSizeNowAndThen(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"model.gguf", noise(70, 2<<20)})
	var n atomic.Int64
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isBlobGet(req) && n.Add(1)%2 == 0 {
			w.Header().Set("Content-Range", "bytes 0-9/100")
			w.WriteHeader(http.StatusPartialContent)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Segment: 128 << 10, Backoff: time.Millisecond, Attempts: 4, Connections: 1}, r)
	a := resolve(t, c, ref)
	st, l := newStore(t)
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil || len(res.Mismatches) > 0 {
		t.Fatalf("%v, blames %v", err, res.Mismatches)
	}
	complete(t, st, a)
}

// A source that has another blob speaks of the same size each time; one that
// speaks of many is broken, which says nothing about its bytes.
func TestFetchBlamesOneSizeNotMany(t *testing.T) {
	for name, c := range map[string]struct {
		size func(n int64) int64
		want error
	}{
		"one":  {func(int64) int64 { return 100 }, oci.ErrDigest},
		"many": {func(n int64) int64 { return 100 + n }, oci.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			ref := r.model("m", file{"model.gguf", noise(71, 2<<20)})
			var n atomic.Int64
			r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if !isBlobGet(req) || req.Header.Get("Range") == "" {
					next.ServeHTTP(w, req)
					return
				}
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", c.size(n.Add(1))))
				w.WriteHeader(http.StatusPartialContent)
			})
			client := newClient(t, oci.Options{Segment: 128 << 10, Backoff: time.Millisecond, Attempts: 4, Connections: 3}, r)
			a := resolve(t, client, ref)
			st, l := newStore(t)
			res, err := client.Fetch(background(t), st, l, a, oci.FetchOptions{})
			if !errors.Is(err, c.want) || (len(res.Mismatches) > 0) != (c.want == oci.ErrDigest) {
				t.Errorf("%v, blames %v", err, res.Mismatches)
			}
		})
	}
}

func TestFetchResumes(t *testing.T) {
	content := noise(7, 20<<20)
	r := newRegistry(t)
	ref := r.model("m", file{"a.gguf", content})
	c := newClient(t, oci.Options{LimitRate: 16 << 20}, r)
	a := resolve(t, c, ref)
	st, l := newStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	half := func(e progress.Event) {
		if e.Kind == progress.Bytes && e.Done > 7<<20 {
			cancel()
		}
	}
	res, err := c.Fetch(ctx, st, l, a, oci.FetchOptions{Progress: half})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	first := res.Bytes
	c = newClient(t, oci.Options{}, r)
	least := int64(1 << 62)
	var mu sync.Mutex
	sink := func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == progress.Bytes && e.Total > 1000 {
			least = min(least, e.Done)
		}
	}
	res, err = c.Fetch(background(t), st, l, a, oci.FetchOptions{Progress: sink})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if res.Resumed < 6<<20 || res.Bytes > a.Size()-res.Resumed || first+res.Bytes > a.Size()+8<<20 {
		t.Errorf("first %d, then %d with %d resumed, of %d", first, res.Bytes, res.Resumed, a.Size())
	}
	if least < res.Resumed {
		t.Errorf("progress went back to %d after a resume of %d", least, res.Resumed)
	}
}

func TestFetchTogether(t *testing.T) {
	content := noise(8, 3<<20)
	r := newRegistry(t)
	ref := r.model("m", file{"a.gguf", content})
	c := newClient(t, oci.Options{}, r)
	a := resolve(t, c, ref)
	st, _ := newStore(t)
	var wg sync.WaitGroup
	var total atomic.Int64
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			l, err := st.Lease(context.Background(), "test")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = l.Release() }()
			res, err := c.Fetch(context.Background(), st, l, a, oci.FetchOptions{})
			if err != nil {
				t.Error(err)
			}
			total.Add(res.Bytes)
		}()
	}
	wg.Wait()
	complete(t, st, a)
	if total.Load() != a.Size() {
		t.Errorf("three at once received %d bytes of %d", total.Load(), a.Size())
	}
}

func TestLimitRate(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a.gguf", noise(9, 3<<20)})
	c := newClient(t, oci.Options{LimitRate: 2 << 20}, r)
	a := resolve(t, c, ref)
	st, l := newStore(t)
	begin := time.Now()
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < time.Second || took > 6*time.Second {
		t.Errorf("3 MiB at 2 MiB/s took %s", took)
	}
}

// The budget of connections holds over all blobs.
func TestConnectionBudget(t *testing.T) {
	r := newRegistry(t)
	var files []file
	for i := range 30 {
		files = append(files, file{fmt.Sprintf("f%d", i), noise(uint64(20+i), 400_000)})
	}
	ref := r.model("m", files...)
	// The first answers wait until both pulls have begun, and then for a
	// connection more than there may be.
	var now, most, served atomic.Int64
	began, fourth := make(chan struct{}, 2), make(chan struct{})
	var once, waited sync.Once
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if isBlobGet(req) {
			n := now.Add(1)
			defer now.Add(-1)
			if n > most.Load() {
				most.Store(n)
			}
			if n > 3 {
				once.Do(func() { close(fourth) })
			}
			if served.Add(1) <= 3 {
				waited.Do(func() { <-began; <-began })
				select {
				case <-fourth:
				case <-time.After(300 * time.Millisecond):
				}
			}
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Connections: 3}, r)
	a := resolve(t, c, ref)
	started := func(e progress.Event) {
		if e.Kind == progress.Total {
			began <- struct{}{}
		}
	}
	var both sync.WaitGroup
	for range 2 { // pulls of one client share the budget
		both.Go(func() {
			st, l := newStore(t)
			if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Progress: started}); err != nil {
				t.Error(err)
				return
			}
			complete(t, st, a)
		})
	}
	both.Wait()
	if most.Load() > 3 {
		t.Errorf("%d connections at once", most.Load())
	}
}
