package oci_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
)

// ranged serves blob with ranges, a little at a time.
func ranged(blob []byte, step int, every time.Duration) func(*http.Request) *http.Response {
	return func(req *http.Request) *http.Response {
		from, to, status := 0, len(blob)-1, http.StatusOK
		header := http.Header{}
		if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
			status = http.StatusPartialContent
			header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(blob)))
		}
		header.Set("Content-Length", strconv.Itoa(to-from+1))
		resp := answer(status, header, &drip{req.Context(), bytes.NewReader(blob[from : to+1]), step, every})
		resp.ContentLength = int64(to - from + 1)
		return resp
	}
}

// TestSlowLineIsNoStall: a line is slow and no stall as long as it brings the
// least rate, whatever the size of the buffer that it fills; below it is one.
func TestSlowLineIsNoStall(t *testing.T) {
	blob := noise(13, 600<<10)
	desc := ocispec.Descriptor{MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	for _, rate := range []int{12 << 10, 3 << 10, 512} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, l := newStore(t)
				var requests atomic.Int64
				serve := ranged(blob, rate, time.Second)
				c := newClient(t, oci.Options{Connections: 1, Attempts: 2, Transport: wire{"edge.example": func(req *http.Request) *http.Response {
					requests.Add(1)
					return serve(req)
				}}})
				a := &oci.Artifact{
					Ref: oci.Reference{Registry: "edge.example", Repository: "m", Digest: digest.FromString("{}")}, Raw: []byte("{}"),
					Manifest: ocispec.Manifest{Config: desc, Layers: []ocispec.Descriptor{desc}}, Sources: []string{"edge.example/m"},
				}
				_, err := c.Fetch(t.Context(), st, l, a, oci.FetchOptions{})
				if slow := rate < 1<<10; slow != (err != nil) {
					t.Errorf("at %d bytes a second: %v", rate, err)
				}
				if err == nil && requests.Load() != 1 {
					t.Errorf("%d requests for one range: the line was cut", requests.Load())
				}
			})
		})
	}
}

// TestHangingLayersArePaidOnce: what a host that hangs over its layers has cost
// one model, the next one does not pay; where another source is there, it is
// asked alone.
func TestHangingLayersArePaidOnce(t *testing.T) {
	blob := noise(14, 10<<10)
	desc := ocispec.Descriptor{MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	artifact := func(sources ...string) *oci.Artifact {
		return &oci.Artifact{
			Ref: oci.Reference{Registry: "bad.example", Repository: "m", Digest: digest.FromString("{}")}, Raw: []byte("{}"),
			Manifest: ocispec.Manifest{Config: desc, Layers: []ocispec.Descriptor{desc}}, Sources: sources,
		}
	}
	r := newTiny("bad.example")
	for name, bad := range map[string]func(*http.Request) *http.Response{"hang": hang, "busy": busy("120")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, l := newStore(t)
				var said notes
				var asked atomic.Int64
				c := newClient(t, oci.Options{Progress: said.sink, Transport: wire{
					"bad.example":  func(req *http.Request) *http.Response { asked.Add(1); return bad(req) },
					"good.example": ranged(blob, 1<<20, time.Second),
				}})
				if _, err := c.Fetch(t.Context(), st, l, artifact("bad.example/m"), oci.FetchOptions{}); !errors.Is(err, oci.ErrUnavailable) {
					t.Fatal(err)
				}
				asked.Store(0)
				began := time.Now()
				if _, err := c.Resolve(t.Context(), r.ref, nil); err == nil || !strings.Contains(err.Error(), "bad.example is not asked again in this pass") {
					t.Error(err)
				}
				if _, err := c.Fetch(t.Context(), st, l, artifact("bad.example/m", "good.example/m"), oci.FetchOptions{}); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > time.Second || asked.Load() != 0 {
					t.Errorf("the next model took %s and asked %d times", took, asked.Load())
				}
				if !said.has("bad.example is not asked again in this pass") {
					t.Errorf("said %q", said.said)
				}
			})
		})
	}
}

// TestRangesOfAHangingHost: a range that a repair asks for has no deadline for
// the whole, but one for its header and a least rate.
func TestRangesOfAHangingHost(t *testing.T) {
	blob := noise(15, 200<<10)
	desc := ocispec.Descriptor{MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	ref := oci.Reference{Registry: "edge.example", Repository: "m", Digest: digest.FromString("{}")}
	for name, tc := range map[string]struct {
		serve func(*http.Request) *http.Response
		most  time.Duration
		good  bool
	}{
		"hang": {hang, 31 * time.Second, false},
		"drip": {ranged(blob, 100, time.Second), 61 * time.Second, false},
		"slow": {ranged(blob, 3<<10, time.Second), time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, oci.Options{Transport: wire{"edge.example": tc.serve}})
				began, to := time.Now(), &inMemory{make([]byte, len(blob))}
				_, err := c.FetchRange(t.Context(), ref, nil, desc, 0, desc.Size, to)
				if took := time.Since(began); took > tc.most || tc.good != (err == nil) || tc.good && !bytes.Equal(to.b, blob) {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

type inMemory struct{ b []byte }

func (m *inMemory) WriteAt(b []byte, off int64) (int, error) { return copy(m.b[off:], b), nil }
