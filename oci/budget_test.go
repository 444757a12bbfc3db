package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
)

// wire is a network in memory, so that hours of a bad registry take no time.
type wire map[string]func(*http.Request) *http.Response

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	answer := w[req.URL.Host]
	if answer == nil {
		return nil, errors.New("no such host")
	}
	resp := answer(req)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

func answer(status int, header http.Header, body io.Reader) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(body), ContentLength: -1, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// hang answers nothing as long as anybody waits.
func hang(req *http.Request) *http.Response {
	<-req.Context().Done()
	return answer(http.StatusGatewayTimeout, nil, strings.NewReader(""))
}

// drip is a body that brings step bytes in each time of every.
type drip struct {
	ctx   context.Context
	from  io.Reader
	step  int
	every time.Duration
}

func (d *drip) Read(b []byte) (int, error) {
	b = b[:min(len(b), d.step)]
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(d.every * time.Duration(len(b)) / time.Duration(d.step)):
	}
	return d.from.Read(b)
}

// tiny is a registry that holds one artifact in memory.
type tiny struct {
	raw, sig []byte
	ref      oci.Reference
}

func newTiny(host string) *tiny {
	config := digest.FromString("{}")
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.cncf.model.manifest.v1+json",
		Config: ocispec.Descriptor{MediaType: "application/vnd.cncf.model.config.v1+json", Digest: config, Size: 2},
		Layers: []ocispec.Descriptor{{
			MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: digest.FromString("w"), Size: 1,
			Annotations: map[string]string{"org.cncf.model.filepath": "w"},
		}},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	m.ArtifactType, m.Layers = "", []ocispec.Descriptor{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: config, Size: 2}}
	sig, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return &tiny{raw, sig, oci.Reference{Registry: host, Repository: "m", Digest: digest.FromBytes(raw)}}
}

func (r *tiny) serve(req *http.Request) *http.Response {
	if strings.HasSuffix(req.URL.Path, "/manifests/"+r.ref.Digest.String()) {
		return answer(http.StatusOK, http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}}, strings.NewReader(string(r.raw)))
	}
	switch strings.TrimSuffix(req.URL.Path, ".sig") {
	case "/v2/m/manifests/" + strings.Replace(r.ref.Digest.String(), ":", "-", 1):
		if strings.HasSuffix(req.URL.Path, ".sig") {
			return answer(http.StatusOK, http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}}, strings.NewReader(string(r.sig)))
		}
	case "/v2/m/blobs/" + digest.FromString("{}").String():
		return answer(http.StatusOK, nil, strings.NewReader("{}"))
	}
	return answer(http.StatusNotFound, nil, strings.NewReader(""))
}

// dripping sends the artifact's manifest a little at a time.
func (r *tiny) dripping(step int, every time.Duration) func(*http.Request) *http.Response {
	return func(req *http.Request) *http.Response {
		resp := r.serve(req)
		resp.Body = io.NopCloser(&drip{req.Context(), resp.Body, step, every})
		return resp
	}
}

func busy(retryAfter string) func(*http.Request) *http.Response {
	return func(*http.Request) *http.Response {
		return answer(http.StatusServiceUnavailable, http.Header{"Retry-After": {retryAfter}}, strings.NewReader(""))
	}
}

// notes collects what is said on the screen.
type notes struct {
	mu   sync.Mutex
	said []string
}

func (n *notes) sink(e progress.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = append(n.said, e.Source+" "+e.Message)
}

func (n *notes) has(s string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range n.said {
		if strings.Contains(x, s) {
			return true
		}
	}
	return false
}

// TestSlowHostIsPaidOnce: whatever a host does instead of delivering, a pass
// over a hundred models loses about one budget by it, says so, and names the
// host and the budget; the next pass asks again.
func TestSlowHostIsPaidOnce(t *testing.T) {
	r := newTiny("bad.example")
	for _, tc := range []struct {
		name   string
		behave func(*http.Request) *http.Response
		most   time.Duration
		says   string // in the failure
		note   string
	}{
		{"hangs", hang, 31 * time.Second, "does not answer: the 30s for one document are spent", "bad.example does not answer: 5s of 30s"},
		{"drips a byte every 10 s", r.dripping(1, 10*time.Second), 75 * time.Second, "less than 1024 bytes a second", "has sent 0 bytes"},
		{"is late with each document", func(req *http.Request) *http.Response {
			select {
			case <-time.After(25 * time.Second):
			case <-req.Context().Done():
			}
			return r.serve(req)
		}, 7 * time.Minute, "", "is not asked again in this pass"},
		{"asks to wait two minutes", busy("120"), time.Second, "wants a pause of 2m0s", "is not asked again in this pass"},
		{"asks to wait 12 s", busy("12"), 31 * time.Second, "wants a pause of 12s", "bad.example asks for a pause of 12s"},
		{"is down", func(*http.Request) *http.Response { return answer(http.StatusBadGateway, nil, strings.NewReader("")) }, 60 * time.Second, "502", "is not asked again in this pass"},
		{"hangs behind its token service", func(req *http.Request) *http.Response {
			if req.URL.Path == "/token" {
				return hang(req)
			}
			return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="https://bad.example/token",service="s"`}}, strings.NewReader(""))
		}, 31 * time.Second, "does not answer", "does not answer"},
		{"drips its error page", func(req *http.Request) *http.Response {
			return answer(http.StatusBadGateway, nil, &drip{req.Context(), strings.NewReader(strings.Repeat(" ", 8<<10)), 1, 10 * time.Second})
		}, 61 * time.Second, "", "is not asked again in this pass"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said notes
				var asked atomic.Int64
				behave := func(req *http.Request) *http.Response { asked.Add(1); return tc.behave(req) }
				c := newClient(t, oci.Options{Transport: wire{"bad.example": behave}, Progress: said.sink})
				began := time.Now()
				var first error
				for range 100 {
					ctx := oci.ForModel(t.Context())
					_, err := c.Evidence(ctx, r.ref, nil)
					_, rerr := c.Resolve(ctx, r.ref, nil)
					if tc.says == "" {
						continue
					}
					if err != nil && !errors.Is(err, oci.ErrUnavailable) || !errors.Is(rerr, oci.ErrUnavailable) || !strings.Contains(rerr.Error(), "bad.example") {
						t.Fatalf("got %v and %v", err, rerr)
					}
					if first == nil {
						first = rerr
					}
				}
				if took := time.Since(began); took > tc.most {
					t.Errorf("a hundred models cost %s", took)
				}
				if tc.says != "" && !strings.Contains(first.Error(), tc.says) {
					t.Errorf("%v: want %q", first, tc.says)
				}
				if tc.note != "" && !said.has(tc.note) {
					t.Errorf("said %q: want %q", said.said, tc.note)
				}
				asked.Store(0)
				_, err := c.Resolve(t.Context(), r.ref, nil)
				if n := asked.Load(); n != 0 || err == nil {
					t.Errorf("%d more requests, %v", n, err)
				}
				c.NewPass()
				_, _ = c.Resolve(t.Context(), r.ref, nil)
				if asked.Load() == 0 {
					t.Error("the next pass does not ask")
				}
			})
		})
	}
}

// TestHonestMirrorBesideSlowHosts: one good source delivers within a model's
// budget, whatever the others do.
func TestHonestMirrorBesideSlowHosts(t *testing.T) {
	r := newTiny("bad0.example")
	good := func(req *http.Request) *http.Response { return r.serve(req) }
	for name, behave := range map[string]func(*http.Request) *http.Response{
		"hang": hang, "drip": r.dripping(1, 10*time.Second), "busy": busy("30"),
		"slow lists": func(req *http.Request) *http.Response {
			if strings.Contains(req.URL.Path, "/referrers/") {
				var index ocispec.Index
				index.SchemaVersion, index.MediaType = 2, ocispec.MediaTypeImageIndex
				for i := range 64 {
					index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 100})
				}
				b, _ := json.Marshal(index)
				return answer(http.StatusOK, http.Header{"Content-Type": {ocispec.MediaTypeImageIndex}}, strings.NewReader(string(b)))
			}
			select {
			case <-time.After(20 * time.Second):
			case <-req.Context().Done():
			}
			return answer(http.StatusOK, http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}}, strings.NewReader("{}"))
		},
	} {
		for _, bad := range []int{1, 6} {
			t.Run(fmt.Sprintf("%s %d", name, bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					net := wire{"good.example": good}
					var mirrors []string
					for i := range bad {
						net[fmt.Sprintf("bad%d.example", i)] = behave
						if i > 0 {
							mirrors = append(mirrors, fmt.Sprintf("bad%d.example/m", i))
						}
					}
					mirrors = append(mirrors, "good.example/m")
					c := newClient(t, oci.Options{Transport: net})
					began := time.Now()
					for range 50 {
						ctx := oci.ForModel(t.Context())
						if _, err := c.Evidence(ctx, r.ref, mirrors); err != nil {
							t.Fatal(err)
						}
						if _, err := c.Resolve(ctx, r.ref, mirrors); err != nil {
							t.Fatal(err)
						}
					}
					if took := time.Since(began); took > time.Duration(bad)*61*time.Second {
						t.Errorf("fifty models took %s", took)
					}
				})
			})
		}
	}
}

// TestModelBudget: a host that delivers, but always late, ends with the model's
// budget, which the failure names; it is then left out.
func TestModelBudget(t *testing.T) {
	r := newTiny("late.example")
	synctest.Test(t, func(t *testing.T) {
		late := func(req *http.Request) *http.Response {
			select {
			case <-time.After(25 * time.Second):
			case <-req.Context().Done():
			}
			return r.serve(req)
		}
		c := newClient(t, oci.Options{Transport: wire{"late.example": late}})
		began := time.Now()
		ctx := oci.ForModel(t.Context())
		var err error
		for err == nil {
			_, err = c.Resolve(ctx, r.ref, nil)
		}
		if took := time.Since(began); took != 2*time.Minute {
			t.Errorf("took %s", took)
		}
		if !errors.Is(err, oci.ErrUnavailable) || !strings.Contains(err.Error(), "the 2m0s for the documents of one model are spent, asking late.example") {
			t.Error(err)
		}
		if _, err := c.Resolve(oci.ForModel(t.Context()), r.ref, nil); err == nil || !strings.Contains(err.Error(), "late.example is not asked again in this pass") {
			t.Error(err)
		}
	})
}

// TestUnsteadyHost: a host that delivers now and then is not left out for one
// failure, and not for ever asked either.
func TestUnsteadyHost(t *testing.T) {
	r := newTiny("odd.example")
	synctest.Test(t, func(t *testing.T) {
		n := 0
		odd := func(req *http.Request) *http.Response {
			if n++; n%2 == 0 {
				return r.serve(req)
			}
			select {
			case <-time.After(20 * time.Second):
			case <-req.Context().Done():
			}
			return answer(http.StatusBadGateway, nil, strings.NewReader(""))
		}
		c := newClient(t, oci.Options{Transport: wire{"odd.example": odd}})
		began, good := time.Now(), 0
		for range 200 {
			if _, err := c.Resolve(t.Context(), r.ref, nil); err == nil {
				good++
			}
		}
		if took := time.Since(began); good < 10 || took > 6*time.Minute {
			t.Errorf("%d of 200 came in %s", good, took)
		}
	})
}

// TestCallersDeadline: the caller's own deadline ends every stage at once, and
// is no fault of the host.
func TestCallersDeadline(t *testing.T) {
	r := newTiny("bad.example")
	for name, behave := range map[string]func(*http.Request) *http.Response{"header": hang, "body": r.dripping(1, 9*time.Second), "pause": busy("20")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, oci.Options{Transport: wire{"bad.example": behave}})
				ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
				defer cancel()
				began := time.Now()
				_, err := c.Resolve(ctx, r.ref, nil)
				if took := time.Since(began); took != 7*time.Second || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("after %s: %v", took, err)
				}
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), 29*time.Second)
					_, err = c.Resolve(ctx, r.ref, nil)
					cancel()
				}
				if name == "header" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the host pays for its caller's deadlines: %v", err)
				}
			})
		})
	}
}

// TestBudgetAtEveryStage: real sockets that stop at each stage of a request.
func TestBudgetAtEveryStage(t *testing.T) {
	listen := func(serve func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go serve(conn)
			}
		}()
		return l.Addr().String()
	}
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() }
	says := func(s string) func(net.Conn) {
		return func(c net.Conn) {
			_, _ = io.ReadAtLeast(c, make([]byte, 4096), 1)
			_, _ = io.WriteString(c, s)
			silent(c)
		}
	}
	dead := listen(silent)
	redirects := httptest.NewServer(http.RedirectHandler("http://"+dead+"/x", http.StatusTemporaryRedirect))
	defer redirects.Close()
	for name, tc := range map[string]struct {
		host string
		tls  bool
	}{
		"TLS handshake": {listen(silent), true},
		"header":        {listen(silent), false},
		"half a header": {listen(says("HTTP/1.1 200 OK\r\nContent-")), false},
		"body":          {listen(says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")), false},
		"redirect":      {strings.TrimPrefix(redirects.URL, "http://"), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, oci.Options{
				Hosts:   map[string]oci.Host{tc.host: {PlainHTTP: !tc.tls}, dead: {PlainHTTP: true}},
				Budgets: oci.Budgets{Document: 300 * time.Millisecond, Host: 300 * time.Millisecond},
			})
			began := time.Now()
			_, err := c.Resolve(background(t), oci.Reference{Registry: tc.host, Repository: "m", Digest: digest.FromString("m")}, nil)
			if took := time.Since(began); took > 10*time.Second || !errors.Is(err, oci.ErrUnavailable) || !strings.Contains(err.Error(), tc.host) {
				t.Errorf("after %s: %v", took, err)
			}
		})
	}
}

// TestLateHost: a host that delivers, but each document late, costs a known
// time however many models there are.
func TestLateHost(t *testing.T) {
	r := newTiny("late.example")
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, oci.Options{Transport: wire{"late.example": func(req *http.Request) *http.Response {
			select {
			case <-time.After(25 * time.Second):
			case <-req.Context().Done():
			}
			return r.serve(req)
		}}})
		began, good := time.Now(), 0
		for range 100 {
			if _, err := c.Resolve(t.Context(), r.ref, nil); err == nil {
				good++
			}
		}
		if took := time.Since(began); good < 10 || took > 7*time.Minute {
			t.Errorf("%d of 100 came in %s", good, took)
		}
	})
}

// TestSlowTUF: a registry that serves a snapshot has a host's budget for all
// of its files together.
func TestSlowTUF(t *testing.T) {
	for name, behave := range map[string]func(*http.Request) *http.Response{
		"hang": hang, "busy": busy("120"),
		"drip": func(req *http.Request) *http.Response {
			return answer(http.StatusOK, http.Header{"Content-Type": {ocispec.MediaTypeImageManifest}}, &drip{req.Context(), strings.NewReader(strings.Repeat(" ", 1<<20)), 1, 10 * time.Second})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, oci.Options{Transport: wire{"bad.example": behave}})
				src, err := c.TUF("bad.example/snapshots")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for _, file := range []string{"2.root.json", "timestamp.json", "7.targets.json"} {
					if _, err := src.Fetch(t.Context(), file, 1<<20); !errors.Is(err, oci.ErrUnavailable) || !strings.Contains(err.Error(), "bad.example") {
						t.Error(err)
					}
				}
				if took := time.Since(began); took > 61*time.Second {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}
