package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bench is a running registry with a client that its owner would have.
type bench struct {
	*testing.T
	Ready
	client *http.Client
	stop   func()
}

func start(t *testing.T, o Options) *bench {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Listen = "127.0.0.1:0"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, o) }()
	b := &bench{T: t}
	b.stop = func() {
		if cancel == nil {
			return
		}
		cancel()
		cancel = nil
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(func() { b.stop() })
	for {
		text, err := os.ReadFile(filepath.Join(o.Dir, "registry.json"))
		if err == nil {
			if err := json.Unmarshal(text, &b.Ready); err != nil {
				t.Fatal(err)
			}
			break
		}
		select {
		case err := <-done:
			t.Fatalf("serve: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	pool := x509.NewCertPool()
	if b.CA != "" {
		pem, err := os.ReadFile(b.CA)
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			t.Fatalf("authority: %v", err)
		}
	}
	b.client = &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	t.Cleanup(b.client.CloseIdleConnections)
	return b
}

func (b *bench) url(path string) string {
	if b.CA == "" {
		return "http://" + b.Address + path
	}
	return "https://" + b.Address + path
}

func (b *bench) send(ctx context.Context, method, path string, body []byte, header ...string) (*http.Response, error) {
	b.Helper()
	u := path
	if strings.HasPrefix(path, "/") {
		u = b.url(path)
	}
	r, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	if b.Username != "" {
		r.SetBasicAuth(b.Username, b.Password)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return b.client.Do(r)
}

// do sends a request that must be answered, and reads the whole answer.
func (b *bench) do(method, path string, body []byte, header ...string) (*http.Response, []byte) {
	b.Helper()
	res, err := b.send(b.Context(), method, path, body, header...)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	return res, got
}

func sum(p []byte) string {
	h := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(h[:])
}

func (b *bench) pushBlob(repository string, p []byte) string {
	b.Helper()
	res, _ := b.do("POST", "/v2/"+repository+"/blobs/uploads/", nil)
	if res.StatusCode != http.StatusAccepted {
		b.Fatalf("upload begins with %s", res.Status)
	}
	to, err := res.Location()
	if err != nil {
		b.Fatal(err)
	}
	q := to.Query()
	q.Set("digest", sum(p))
	to.RawQuery = q.Encode()
	if res, _ = b.do("PUT", to.String(), p, "Content-Type", "application/octet-stream"); res.StatusCode != http.StatusCreated {
		b.Fatalf("upload ends with %s", res.Status)
	}
	return sum(p)
}

func (b *bench) fault(faults string) {
	b.Helper()
	if err := writeFile(b.Faults, []byte(`{"faults":[`+faults+`]}`), 0o644); err != nil {
		b.Fatal(err)
	}
}

// log waits until n requests are in the request log.
func (b *bench) log(n int) []Request {
	b.Helper()
	for {
		text, err := os.ReadFile(b.Requests)
		if err != nil {
			b.Fatal(err)
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		if len(lines) >= n {
			all := make([]Request, len(lines))
			for i, line := range lines {
				if err := json.Unmarshal(line, &all[i]); err != nil {
					b.Fatal(err)
				}
			}
			return all
		}
		select {
		case <-b.Context().Done():
			b.Fatalf("%d requests in the log, want %d", len(lines), n)
		case <-time.After(time.Millisecond):
		}
	}
}

var blob = bytes.Repeat([]byte("0123456789abcdef"), 64<<10/16)

func TestPasswordAndAuthority(t *testing.T) {
	b := start(t, Options{Memory: true})
	if res, _ := b.do("GET", "/v2/", nil); res.StatusCode != http.StatusOK {
		t.Errorf("with the password: %s", res.Status)
	}
	good := b.Password
	b.Password = "wrong"
	if res, _ := b.do("GET", "/v2/", nil); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("with a wrong password: %s", res.Status)
	}
	b.Password = good
	_, err := http.Get(b.url("/v2/"))
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("without the authority: got %v, want an unknown authority", err)
	}
}

func TestBlobRoundTripAndRequestLog(t *testing.T) {
	for name, o := range map[string]Options{
		"files":      {},
		"memory":     {Memory: true},
		"plain http": {Memory: true, PlainHTTP: true, NoAuth: true},
		"http/1":     {Memory: true, HTTP1: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, o)
			path := "/v2/a/b/blobs/" + b.pushBlob("a/b", blob)
			_, got := b.do("GET", path, nil)
			if !bytes.Equal(got, blob) {
				t.Errorf("read back %d bytes that differ from the %d pushed", len(got), len(blob))
			}
			res, got := b.do("GET", path, nil, "Range", "bytes=10-19")
			if res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, blob[10:20]) {
				t.Errorf("range: %s %q", res.Status, got)
			}
			last := b.log(4)[3]
			if last.Kind != "blob" || last.Repository != "a/b" || last.Reference != sum(blob) ||
				last.Range != "bytes=10-19" || last.Status != 206 || last.Bytes != 10 || last.Auth == o.NoAuth {
				t.Errorf("logged %+v", last)
			}
		})
	}
}

func TestRestartKeepsAddressPasswordAndBlobs(t *testing.T) {
	dir := t.TempDir()
	first := start(t, Options{Dir: dir})
	digest := first.pushBlob("a", blob)
	first.stop()
	if _, err := os.Stat(filepath.Join(dir, "registry.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("registry.json stays behind: %v", err)
	}
	second := start(t, Options{Dir: dir})
	if second.Address != first.Address || second.Password != first.Password {
		t.Errorf("address %s became %s", first.Address, second.Address)
	}
	first.client.CloseIdleConnections()
	if res, _ := first.do("GET", "/v2/a/blobs/"+digest, nil); res.StatusCode != http.StatusOK {
		t.Errorf("old client after the restart: %s", res.Status)
	}
}

func TestFaults(t *testing.T) {
	flipped := append([]byte(nil), blob...)
	flipped[1000] ^= 0xff
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, c := range []struct {
			name, fault string
			ranges      string
			status      int
			body        []byte
			header      string // name=value of the answer
			broken      bool   // the body ends with an error
		}{
			{name: "none", fault: ``, status: 200, body: blob},
			{name: "flip", fault: `{"flip":1000}`, status: 200, body: flipped},
			{name: "flip inside a range", fault: `{"flip":1000}`, ranges: "bytes=990-1009", status: 206, body: flipped[990:1010]},
			{name: "flip outside a range", fault: `{"flip":1000}`, ranges: "bytes=0-99", status: 206, body: blob[:100]},
			{name: "truncate", fault: `{"truncate":100}`, status: 200, body: blob[:100], broken: true},
			{name: "truncate a range", fault: `{"truncate":10}`, ranges: "bytes=50-99", status: 206, body: blob[50:60], broken: true},
			{name: "reset", fault: `{"reset":5000}`, status: 200, body: blob[:5000], broken: true},
			{name: "ignore the range", fault: `{"ignoreRange":true}`, ranges: "bytes=0-9", status: 200, body: blob},
			{name: "wrong range", fault: `{"wrongRange":7}`, ranges: "bytes=0-9", status: 206, body: blob[:10], header: fmt.Sprintf("Content-Range=bytes 7-16/%d", len(blob))},
			{name: "status", fault: `{"status":503}`, status: 503},
			{name: "too many", fault: `{"status":429,"retryAfter":"3"}`, status: 429, header: "Retry-After=3"},
			{name: "redirect", fault: `{"redirect":"https://127.0.0.1:1{path}"}`, status: 307, header: "Location=https://127.0.0.1:1/v2/a/blobs/" + sum(blob)},
			{name: "headers", fault: `{"headers":{"Docker-Content-Digest":"","X-Odd":"1"}}`, status: 200, body: blob, header: "X-Odd=1"},
			{name: "combined", fault: `{"flip":1000},{"truncate":2000}`, status: 200, body: flipped[:2000], broken: true},
			{name: "other repository", fault: `{"repository":"b","status":500}`, status: 200, body: blob},
			{name: "repository pattern", fault: `{"repository":"?","status":500}`, status: 500},
			{name: "other digest", fault: `{"digest":"sha256:0","status":500}`, status: 200, body: blob},
			{name: "other kind", fault: `{"kind":"manifest","status":500}`, status: 200, body: blob},
			{name: "other method", fault: `{"method":"PUT","status":500}`, status: 200, body: blob},
		} {
			t.Run(protocol+"/"+c.name, func(t *testing.T) {
				b := start(t, Options{Memory: true, HTTP1: protocol == "HTTP/1.1"})
				path := "/v2/a/blobs/" + b.pushBlob("a", blob)
				b.fault(c.fault)
				var header []string
				if c.ranges != "" {
					header = []string{"Range", c.ranges}
				}
				res, err := b.send(t.Context(), "GET", path, nil, header...)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if res.Proto != protocol {
					t.Errorf("spoke %s", res.Proto)
				}
				body, err := io.ReadAll(res.Body)
				if (err != nil) != c.broken {
					t.Errorf("body ended with %v", err)
				}
				if res.StatusCode != c.status {
					t.Errorf("status %d, want %d", res.StatusCode, c.status)
				}
				// A reset may overtake bytes that were sent.
				if c.body != nil && !bytes.Equal(body, c.body) && !(c.name == "reset" && bytes.HasPrefix(c.body, body)) {
					t.Errorf("body of %d bytes differs from the %d expected", len(body), len(c.body))
				}
				if name, value, _ := strings.Cut(c.header, "="); res.Header.Get(name) != value {
					t.Errorf("%s: %q, want %q", name, res.Header.Get(name), value)
				}
			})
		}
	}
}

func TestResetIsAReset(t *testing.T) {
	b := start(t, Options{Memory: true, HTTP1: true})
	path := "/v2/a/blobs/" + b.pushBlob("a", blob)
	b.fault(`{"refuse":true}`)
	if _, err := b.send(t.Context(), "GET", path, nil); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a connection reset", err)
	}
}

func TestSkipAndTimes(t *testing.T) {
	b := start(t, Options{Memory: true})
	path := "/v2/a/blobs/" + b.pushBlob("a", blob)
	const fault = `{"name":"twice","kind":"blob","status":500,"skip":1,"times":2}`
	b.fault(fault)
	var got []int
	for range 5 {
		res, _ := b.do("GET", path, nil)
		got = append(got, res.StatusCode)
	}
	if want := "[200 500 500 200 200]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if log := b.log(7); fmt.Sprint(log[2].Faults, log[3].Faults) != "[] [twice]" {
		t.Errorf("log names %v and %v", log[2].Faults, log[3].Faults)
	}
	// New content counts from zero.
	b.fault(fault + `,{"kind":"tags","status":500}`)
	if res, _ := b.do("GET", path, nil); res.StatusCode != 200 {
		t.Errorf("first request after a change: %s", res.Status)
	}
}

func TestStallAndHangEndWithTheClient(t *testing.T) {
	for _, fault := range []string{`{"stall":10}`, `{"hang":true}`} {
		b := start(t, Options{Memory: true})
		path := "/v2/a/blobs/" + b.pushBlob("a", blob)
		b.fault(fault)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		res, err := b.send(ctx, "GET", path, nil)
		if err == nil {
			got, readErr := io.ReadAll(res.Body)
			res.Body.Close()
			if err = readErr; len(got) != 10 {
				t.Errorf("%s: %d bytes came", fault, len(got))
			}
		}
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want the client's own deadline", fault, err)
		}
		b.log(3) // the handler has ended
	}
}

func TestRateHoldsPerConnection(t *testing.T) {
	b := start(t, Options{Memory: true, HTTP1: true})
	path := "/v2/a/blobs/" + b.pushBlob("a", blob)
	b.fault(`{"kind":"blob","rate":327680}`) // 64 KiB in 0.2 s
	began := time.Now()
	if _, got := b.do("GET", path, nil); !bytes.Equal(got, blob) {
		t.Error("a slow body is a different body")
	}
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("took %v, want about 0.2 s", took)
	}
}

func TestEndlessBody(t *testing.T) {
	b := start(t, Options{Memory: true})
	path := "/v2/a/blobs/" + b.pushBlob("a", blob)
	b.fault(`{"endless":true}`)
	res, err := b.send(t.Context(), "GET", path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.CopyN(io.Discard, res.Body, int64(len(blob))*10); err != nil {
		t.Errorf("body ended after %d bytes: %v", n, err)
	}
}

// Invariant 2.
func TestMisspeltFaultFailsEveryRequest(t *testing.T) {
	b := start(t, Options{Memory: true})
	for _, text := range []string{
		`{"faults":[{"flp":1}]}`, `{"faults":[{"kind":"blobs"}]}`, `{"faults":[{"repository":"["}]}`,
		`{"faults":[null]}`, `{"faults":[{"status":99}]}`, `{"faults":[]} x`, `[`,
	} {
		if err := writeFile(b.Faults, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		res, body := b.do("GET", "/v2/", nil)
		if res.StatusCode != http.StatusInternalServerError || !bytes.Contains(body, []byte("faults.json")) {
			t.Errorf("%s: %s %s", text, res.Status, body)
		}
	}
}

func TestReferrers(t *testing.T) {
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			b := start(t, Options{Memory: true, Referrers: on})
			config := b.pushBlob("a", []byte("{}"))
			manifest := func(extra string) []byte {
				return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/x","digest":%q,"size":2},"layers":[]%s}`, mediaType, config, extra)
			}
			subject := manifest("")
			push := func(m []byte) *http.Response {
				res, body := b.do("PUT", "/v2/a/manifests/"+sum(m), m, "Content-Type", mediaType)
				if res.StatusCode != http.StatusCreated {
					t.Fatalf("push: %s %s", res.Status, body)
				}
				return res
			}
			push(subject)
			signature := manifest(fmt.Sprintf(`,"artifactType":"application/sig","subject":{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, sum(subject), len(subject)))
			res := push(signature)
			push(signature) // a second push changes nothing
			if got := res.Header.Get("OCI-Subject"); (got == sum(subject)) != on {
				t.Errorf("OCI-Subject: %q", got)
			}
			res, body := b.do("GET", "/v2/a/referrers/"+sum(subject), nil)
			if !on {
				if res.StatusCode != http.StatusNotFound {
					t.Errorf("without the API: %s", res.Status)
				}
				return
			}
			var ix index
			if err := json.Unmarshal(body, &ix); err != nil {
				t.Fatal(err)
			}
			if len(ix.Manifests) != 1 || ix.Manifests[0].Digest != sum(signature) || ix.Manifests[0].ArtifactType != "application/sig" {
				t.Errorf("referrers: %+v", ix.Manifests)
			}
			_, body = b.do("GET", "/v2/a/referrers/"+sum(subject)+"?artifactType=other", nil)
			if err := json.Unmarshal(body, &ix); err != nil || len(ix.Manifests) != 0 {
				t.Errorf("filtered referrers: %s", body)
			}
			b.Password = "wrong"
			if res, _ := b.do("GET", "/v2/a/referrers/"+sum(subject), nil); res.StatusCode == http.StatusOK {
				t.Error("referrers are listed without the password")
			}
		})
	}
}
