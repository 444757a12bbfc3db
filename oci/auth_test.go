package oci_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resultity/rmodels/oci"
)

func basicAuth(user, password string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if u, p, ok := req.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	}
}

func TestBasicAuth(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	r.setFault(basicAuth("ann", "secret"))
	config := func(auths string) string {
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, []byte(auths), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	entry := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	helper := t.TempDir()
	script := "#!/bin/sh\nread host\necho '{\"ServerURL\":\"x\",\"Username\":\"ann\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(helper, "docker-credential-rmtest"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", helper+":"+os.Getenv("PATH"))
	for name, tc := range map[string]struct {
		o    oci.Options
		want error
	}{
		"options":             {oci.Options{Hosts: map[string]oci.Host{r.name: {PlainHTTP: true, Username: "ann", Password: "secret"}}}, nil},
		"wrong password":      {oci.Options{Hosts: map[string]oci.Host{r.name: {PlainHTTP: true, Username: "ann", Password: "guess"}}}, oci.ErrUnauthorized},
		"no credentials":      {oci.Options{}, oci.ErrUnauthorized},
		"docker config":       {oci.Options{DockerConfig: config(fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.name, entry))}, nil},
		"another host's":      {oci.Options{DockerConfig: config(fmt.Sprintf(`{"auths":{"other.example":{"auth":%q}}}`, entry))}, oci.ErrUnauthorized},
		"credential helper":   {oci.Options{DockerConfig: config(fmt.Sprintf(`{"credHelpers":{%q:"rmtest"}}`, r.name))}, nil},
		"unreadable config":   {oci.Options{DockerConfig: config(`{`)}, oci.ErrUnauthorized},
		"options before file": {oci.Options{DockerConfig: config(`{`), Hosts: map[string]oci.Host{r.name: {PlainHTTP: true, Username: "ann", Password: "secret"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, tc.o)
			if tc.o.Hosts == nil {
				c = newClient(t, tc.o, r)
			}
			_, err := c.Resolve(background(t), ref, nil)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the message tells the password: %v", err)
			}
		})
	}
}

func TestTokenAuthRenewsAnExpiredToken(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	var issued, uses atomic.Int64
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path == "/token" {
			u, p, _ := req.BasicAuth()
			if u != "ann" || p != "secret" || req.URL.Query().Get("scope") != "repository:m:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": fmt.Sprint(issued.Add(1))})
			return
		}
		// Each token serves two requests.
		if req.Header.Get("Authorization") != fmt.Sprintf("Bearer %d", issued.Load()) || uses.Add(1)%3 == 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope="repository:m:pull"`, r.name))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{Hosts: map[string]oci.Host{r.name: {PlainHTTP: true, Username: "ann", Password: "secret"}}})
	for range 5 {
		if _, err := c.Resolve(background(t), ref, nil); err != nil {
			t.Fatal(err)
		}
	}
	if issued.Load() < 2 {
		t.Errorf("%d tokens were issued", issued.Load())
	}
}

func TestTLS(t *testing.T) {
	r := newTLSRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o644); err != nil {
		t.Fatal(err)
	}
	plain := newRegistry(t)
	plainRef := plain.model("m", file{"a", []byte("a")})
	for name, tc := range map[string]struct {
		ref  oci.Reference
		host oci.Host
		want error
	}{
		"own CA":                  {ref, oci.Host{CAFile: ca}, nil},
		"unknown CA":              {ref, oci.Host{}, oci.ErrTLS},
		"https to a plain server": {plainRef, oci.Host{}, oci.ErrTLS},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, oci.Options{Hosts: map[string]oci.Host{tc.ref.Registry: tc.host}})
			_, err := c.Resolve(background(t), tc.ref, nil)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	for name, host := range map[string]oci.Host{"no such CA": {CAFile: ca + "x"}, "no such key": {CertFile: ca, KeyFile: ca + "x"}} {
		if _, err := oci.New(oci.Options{Hosts: map[string]oci.Host{"x.example": host}}); !errors.Is(err, oci.ErrTLS) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A registry may send clients elsewhere; what is elsewhere learns no secret.
func TestRedirectsCarryNoCredentials(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	var seen atomic.Int64
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen.Add(1)
		for _, h := range []string{"Authorization", "Cookie", "Referer"} {
			if req.Header.Get(h) != "" {
				t.Errorf("%s reached the redirect's target: %q", h, req.Header.Get(h))
			}
		}
		if req.URL.Query().Get("challenge") != "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.inner.ServeHTTP(w, req)
	}))
	t.Cleanup(storage.Close)
	_, name, _ := strings.Cut(storage.URL, "://")
	host := oci.Host{PlainHTTP: true, Username: "ann", Password: "secret"}
	c := newClient(t, oci.Options{Hosts: map[string]oci.Host{r.name: host, name: {PlainHTTP: true, Username: "bob", Password: "other"}}})
	for _, query := range []string{"", "?challenge=1"} {
		r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			basicAuth("ann", "secret")(w, req, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, storage.URL+req.URL.Path+query, http.StatusTemporaryRedirect)
			}))
		})
		_, err := c.Resolve(background(t), ref, nil)
		if query == "" && err != nil || query != "" && !errors.Is(err, oci.ErrUnauthorized) {
			t.Errorf("redirect to %q: %v", query, err)
		}
	}
	if seen.Load() < 2 {
		t.Errorf("the storage host was asked %d times", seen.Load())
	}
}

// The next ranges go straight to where the registry sent the first, until
// that address is not valid any more.
func TestRedirectsAreRemembered(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", noise(1, 6<<20)})
	var signed, asked, expired atomic.Int64
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("credentials reached the storage host")
		}
		// Each signature serves five ranges.
		if n, _ := strconv.ParseInt(req.URL.Query().Get("signature"), 10, 64); asked.Add(1) > 5*n {
			asked.Add(-1)
			expired.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		r.inner.ServeHTTP(w, req)
	}))
	t.Cleanup(storage.Close)
	_, name, _ := strings.Cut(storage.URL, "://")
	r.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		basicAuth("ann", "secret")(w, req, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !isBlobGet(req) {
				next.ServeHTTP(w, req)
				return
			}
			http.Redirect(w, req, fmt.Sprintf("%s%s?signature=%d", storage.URL, req.URL.Path, signed.Add(1)), http.StatusTemporaryRedirect)
		}))
	})
	c := newClient(t, oci.Options{Segment: 256 << 10, Connections: 1, Backoff: time.Millisecond, Hosts: map[string]oci.Host{
		r.name: {PlainHTTP: true, Username: "ann", Password: "secret"}, name: {PlainHTTP: true},
	}})
	a := resolve(t, c, ref)
	st, l := newStore(t)
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if ranges := asked.Load(); ranges < 6 || signed.Load() > 1+(ranges+4)/5 || expired.Load() == 0 {
		t.Errorf("%d ranges took %d redirects, %d addresses were not valid any more", ranges, signed.Load(), expired.Load())
	}
}
