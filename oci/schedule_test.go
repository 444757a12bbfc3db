package oci_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
)

// schedules is how many random fault schedules run. Their seed is fixed, so a
// failure repeats.
const schedules = 200

// chaos is one registry's bad mood: each blob request draws a fault.
type chaos struct {
	mu     sync.Mutex
	rng    *rand.Rand
	rate   float64 // how many requests meet a fault
	flips  bool    // whether it may send wrong bytes
	dead   int     // after so many requests it is gone; 0: never
	served int
	bad    bool // it has sent wrong bytes
	other  *registry
}

func (c *chaos) lied() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad
}

func (c *chaos) serve(w http.ResponseWriter, req *http.Request, next http.Handler) {
	if !isBlobGet(req) || req.URL.Query().Get("moved") != "" {
		next.ServeHTTP(w, req)
		return
	}
	c.mu.Lock()
	c.served++
	fault := -1
	if c.rng.Float64() < c.rate {
		fault = c.rng.IntN(13)
	}
	at := c.rng.IntN(300_000)
	if c.dead > 0 && c.served > c.dead {
		fault = 100
	}
	if fault == 5 && c.rng.IntN(4) > 0 || fault == 12 && !c.flips {
		fault = 0
	}
	c.mu.Unlock()
	switch fault {
	case 0, 1:
		next.ServeHTTP(&cutWriter{ResponseWriter: w, left: at}, req)
	case 2:
		w.WriteHeader(http.StatusInternalServerError)
	case 3:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
	case 4:
		w.WriteHeader(http.StatusTooManyRequests)
	case 5:
		next.ServeHTTP(&stallWriter{ResponseWriter: w, left: at, until: req.Context()}, req)
	case 6:
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, at+9, at+100))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, 10))
	case 7:
		req.Header.Del("Range")
		next.ServeHTTP(w, req)
	case 8:
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	case 9:
		short(w, req, next)
	case 10:
		http.Redirect(w, req, "http://"+c.other.name+req.URL.Path+"?moved=1", http.StatusTemporaryRedirect)
	case 11:
		http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect) // a loop, or not
	case 12:
		f := &flipWriter{ResponseWriter: w, at: at}
		next.ServeHTTP(f, req)
		c.mu.Lock()
		c.bad = c.bad || f.at < 0
		c.mu.Unlock()
	case 100:
		panic(http.ErrAbortHandler)
	default:
		next.ServeHTTP(w, req)
	}
}

// Whatever the lines do: a pull ends complete, or with the right error and
// nothing wrong in the store, blames only who lied, and goes on when the
// weather is better.
func TestRandomFaults(t *testing.T) {
	files := []file{{"a.safetensors", noise(1, 1_200_000)}, {"b.safetensors", noise(2, 400_001)}, {"c.json", noise(3, 900)}, {"d", nil}}
	publish := func(r *registry) oci.Reference { return r.model("m", files...) }
	randomSchedules(t, schedules, publish, complete)
}

// The same of packed layers, in windows that are far smaller than some of them.
func TestRandomFaultsOfLayers(t *testing.T) {
	const cncf = "application/vnd.cncf.model."
	files := map[string][]byte{"a.gguf": noise(1, 3_000_000), "b.gguf": noise(2, 1_100_000), "c.json": noise(3, 900), "d.gguf": noise(4, 300_001)}
	pack := func(name string) []byte { return makeTar(t, entry{name: name, body: files[name]}) }
	contents := [][]byte{pack("a.gguf"), zstded(t, pack("b.gguf")), gzipped(t, pack("c.json")), gzipped(t, pack("d.gguf"))}
	publish := func(r *registry) oci.Reference {
		layers := []ocispec.Descriptor{layer(cncf + "weight.v1.tar"), layer(cncf + "weight.v1.tar+zstd"), layer(cncf + "doc.v1.tar+gzip"), layer(cncf + "weight.v1.tar+gzip")}
		return r.layers("m", cncf+"manifest.v1+json", cncf+"config.v1+json", "", layers, contents)
	}
	randomSchedules(t, schedules/2, publish, func(t testing.TB, st *cas.Store, a *oci.Artifact) { unpacked(t, st, a, files) })
}

func randomSchedules(t *testing.T, n uint64, publish func(*registry) oci.Reference, complete func(testing.TB, *cas.Store, *oci.Artifact)) {
	var mu sync.Mutex
	ends := map[string]uint64{}
	t.Run("schedules", func(t *testing.T) {
		for seed := range n {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				end := randomFaults(t, seed, publish, complete)
				mu.Lock()
				defer mu.Unlock()
				ends[end]++
			})
		}
	})
	t.Logf("ends: %v", ends)
	if ends["complete"] < n/3 || ends["complete"] == n {
		t.Errorf("the schedules are too hard or too easy: %v", ends)
	}
}

func randomFaults(t *testing.T, seed uint64, publish func(*registry) oci.Reference, complete func(testing.TB, *cas.Store, *oci.Artifact)) string {
	rng := rand.New(rand.NewPCG(seed, 4))
	first, second := newRegistry(t), newRegistry(t)
	ref := publish(first)
	publish(second)
	moods := map[string]*chaos{}
	for i, r := range []*registry{first, second} {
		c := &chaos{rng: rand.New(rand.NewPCG(seed, uint64(i))), rate: rng.Float64() * 0.9, flips: rng.IntN(3) == 0, other: second}
		if rng.IntN(4) == 0 {
			c.dead = 1 + rng.IntN(6)
		}
		moods[r.repository("m")] = c
	}
	var mirrors []string
	if rng.IntN(3) > 0 {
		mirrors = append(mirrors, second.repository("m"))
	}
	o := oci.Options{Segment: 128 << 10, Backoff: 2 * time.Millisecond, Stall: 1500 * time.Millisecond, Attempts: 4, Connections: 1 + rng.IntN(6)}
	c := newClient(t, oci.WithWindow(o, 1<<20), first, second)
	a := resolve(t, c, ref, mirrors...)
	first.setFault(moods[first.repository("m")].serve)
	second.setFault(moods[second.repository("m")].serve)
	st, l := newStore(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	res, err := c.Fetch(ctx, st, l, a, oci.FetchOptions{})
	end := "complete"
	flipped := moods[first.repository("m")].lied() || moods[second.repository("m")].lied()
	switch {
	case err == nil:
		complete(t, st, a)
	case errors.Is(err, oci.ErrDigest):
		end = "digest"
		if !flipped {
			t.Errorf("nobody lied: %v", err)
		}
	case errors.Is(err, oci.ErrUnavailable):
		end = "unavailable"
	default:
		t.Errorf("ended with %v", err)
	}
	for _, m := range res.Mismatches {
		// A redirect to the second registry makes its lies the first one's.
		if !moods[m.Source].lied() && !flipped {
			t.Errorf("%s is blamed and honest: %+v", m.Source, m)
		}
	}
	whatIsThereIsRight(t, st, a)
	first.setFault(nil)
	second.setFault(nil)
	if _, err := newClient(t, oci.Options{Segment: 128 << 10}, first, second).Fetch(context.Background(), st, l, a, oci.FetchOptions{}); err != nil {
		t.Errorf("in good weather: %v", err)
	}
	complete(t, st, a)
	return end
}

func whatIsThereIsRight(t *testing.T, st *cas.Store, a *oci.Artifact) {
	t.Helper()
	for _, d := range a.Blobs() {
		b, err := st.Open(d.Digest)
		if errors.Is(err, cas.ErrNotFound) {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", d.Digest, err)
			continue
		}
		if got, err := digest.SHA256.FromReader(b); err != nil || got != d.Digest {
			t.Errorf("%s holds %s, %v", d.Digest, got, err)
		}
		b.Close()
	}
}

// Two sources share a blob, one of them lies: its ranges are found, and only
// it is named.
func TestWrongRangesAreFound(t *testing.T) {
	content := noise(7, 6<<20)
	liar, honest := newRegistry(t), newRegistry(t)
	ref := honest.model("m", file{"a.gguf", content})
	liar.model("m", file{"a.gguf", content})
	c := newClient(t, oci.Options{Segment: 512 << 10, Connections: 2, Backoff: time.Millisecond}, liar, honest)
	a := resolve(t, c, ref, liar.repository("m"))
	// The honest one breaks off for a while, so that the other one serves too.
	var n int
	var mu sync.Mutex
	honest.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mu.Lock()
		n++
		down := isBlobGet(req) && n > 3 && n < 6
		mu.Unlock()
		if down {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, req)
	})
	const wrong = 3<<20 + 77
	liar.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		var from, to int
		if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil && from <= wrong && wrong <= to {
			w = &flipWriter{ResponseWriter: w, at: wrong - from}
		}
		next.ServeHTTP(w, req)
	})
	st, l := newStore(t)
	res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if len(res.Mismatches) != 1 || res.Mismatches[0].Source != liar.repository("m") || len(res.Mismatches[0].Ranges) != 1 {
		t.Fatalf("mismatches %+v, bytes by source %v", res.Mismatches, res.Sources)
	}
	if r := res.Mismatches[0].Ranges[0]; wrong < r.Off || wrong >= r.Off+r.Len || r.Len > 256<<10 {
		t.Errorf("byte %d is wrong, range %+v was found", wrong, r)
	}
	if strings.Contains(fmt.Sprint(res.Mismatches), honest.name) {
		t.Error("the honest source is named")
	}
}
