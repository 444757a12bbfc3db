package oci_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/resultity/rmodels/oci"
)

// TestCredentialsStayWithTheirRealm: a registry may name any token service; the
// credentials go to its own address, or to the one that belongs to it.
func TestCredentialsStayWithTheirRealm(t *testing.T) {
	for _, tc := range []struct {
		name, registry, realm string
		host                  oci.Host
		redirect              string // where the token service sends its clients
		sent                  bool   // the credentials to the realm's host
	}{
		{name: "its own address", registry: "reg.example", realm: "https://reg.example/token", sent: true},
		{name: "the port written out", registry: "reg.example", realm: "https://REG.example:443/token", sent: true},
		{name: "another port", registry: "reg.example", realm: "https://reg.example:8443/token"},
		{name: "another host", registry: "reg.example", realm: "https://93.184.216.34/token"},
		{name: "without TLS", registry: "reg.example", realm: "http://reg.example/token"},
		{name: "docker hub", registry: "docker.io", realm: "https://auth.docker.io/token", sent: true},
		{name: "docker hub's is not everybody's", registry: "reg.example", realm: "https://auth.docker.io/token"},
		{name: "docker hub, another host", registry: "docker.io", realm: "https://auth.docker.io.example/token"},
		{name: "named", registry: "reg.example", realm: "https://auth.example/token", host: oci.Host{TokenService: "auth.example"}, sent: true},
		{name: "another than named", registry: "reg.example", realm: "https://auth.example:8443/token", host: oci.Host{TokenService: "auth.example"}},
		{name: "named, with a port", registry: "reg.example", realm: "https://auth.example:8443/token", host: oci.Host{TokenService: "auth.example:8443"}, sent: true},
		{name: "named, but without TLS", registry: "reg.example", realm: "http://auth.example/token", host: oci.Host{TokenService: "auth.example"}},
		{name: "named, but without TLS, by a registry without TLS", registry: "reg.example", realm: "http://auth.example/token", host: oci.Host{PlainHTTP: true, TokenService: "auth.example"}},
		{name: "redirected", registry: "reg.example", realm: "https://reg.example/token", redirect: "https://93.184.216.34/token", sent: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			got := map[string]bool{} // URL hosts that saw the secret
			r := newTiny(tc.registry)
			everywhere := roundTrip(func(req *http.Request) *http.Response {
				body := ""
				if req.Body != nil {
					b, _ := io.ReadAll(req.Body)
					body = string(b)
				}
				_, password, _ := req.BasicAuth()
				secret := password == "hunter2" || strings.Contains(body, "hunter2")
				mu.Lock()
				got[strings.ToLower(req.URL.Scheme+"://"+req.URL.Host)] = got[strings.ToLower(req.URL.Scheme+"://"+req.URL.Host)] || secret
				mu.Unlock()
				switch {
				case strings.HasSuffix(req.URL.Path, "/token"):
					if tc.redirect != "" && !strings.HasPrefix(tc.redirect, "https://"+req.URL.Host) {
						return answer(http.StatusTemporaryRedirect, http.Header{"Location": {tc.redirect}}, strings.NewReader(""))
					}
					return answer(http.StatusOK, nil, strings.NewReader(`{"token":"t"}`))
				case req.Header.Get("Authorization") == "Bearer t":
					return r.serve(req)
				}
				return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="` + tc.realm + `",service="s"`}}, strings.NewReader(""))
			})
			tc.host.Username, tc.host.Password = "ann", "hunter2"
			c := newClient(t, oci.Options{Transport: everywhere, Hosts: map[string]oci.Host{tc.registry: tc.host}})
			_, err := c.Resolve(background(t), r.ref, nil)
			var to []string
			for host, secret := range got {
				if secret {
					to = append(to, host)
				}
			}
			realm, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(tc.realm), "https://"), "/")
			if tc.sent && (len(to) != 1 || to[0] != "https://"+realm) || !tc.sent && len(to) > 0 {
				t.Errorf("the password went to %v", to)
			}
			if tc.sent != (err == nil) || err != nil && !tc.sent && !errors.Is(err, oci.ErrUnauthorized) && !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}

type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := f(req)
	resp.Request = req
	return resp, nil
}

// TestIdentityTokenStaysWithItsRealm: an identity token travels in the body of
// a request, and is held to the same rule.
func TestIdentityTokenStaysWithItsRealm(t *testing.T) {
	for realm, sent := range map[string]bool{"https://reg.example/token": true, "https://reg.example:8443/token": false} {
		seen := false
		r := newTiny("reg.example")
		c := newClient(t, oci.Options{
			DockerConfig: writeFile(t, `{"auths":{"reg.example":{"identitytoken":"hunter2"}}}`),
			Transport: roundTrip(func(req *http.Request) *http.Response {
				if strings.HasSuffix(req.URL.Path, "/token") {
					b, _ := io.ReadAll(req.Body)
					seen = strings.Contains(string(b), "hunter2")
					return answer(http.StatusOK, nil, strings.NewReader(`{"access_token":"t"}`))
				}
				if req.Header.Get("Authorization") == "Bearer t" {
					return r.serve(req)
				}
				return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="` + realm + `",service="s"`}}, strings.NewReader(""))
			}),
		})
		_, err := c.Resolve(background(t), r.ref, nil)
		if seen != sent || sent != (err == nil) || !sent && !errors.Is(err, oci.ErrUnauthorized) {
			t.Errorf("%s: sent %v, %v", realm, seen, err)
		}
	}
}

func TestAnonymousTokensComeFromAnyRealm(t *testing.T) {
	r := newTiny("reg.example")
	c := newClient(t, oci.Options{Transport: roundTrip(func(req *http.Request) *http.Response {
		if strings.HasSuffix(req.URL.Path, "/token") {
			return answer(http.StatusOK, nil, strings.NewReader(`{"token":"t"}`))
		}
		if req.Header.Get("Authorization") == "Bearer t" {
			return r.serve(req)
		}
		return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="https://93.184.216.34/token",service="s"`}}, strings.NewReader(""))
	})})
	if _, err := c.Resolve(background(t), r.ref, nil); err != nil {
		t.Error(err)
	}
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTokenServicesOfMetadata: a challenge leads nobody to a service of
// metadata, also without credentials and by a proxy.
func TestTokenServicesOfMetadata(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "2852039166", "１６９.254.169.254", "metadata.google.internal:443"} {
		var asked atomic.Bool
		r := newTiny("reg.example")
		c := newClient(t, oci.Options{Transport: roundTrip(func(req *http.Request) *http.Response {
			if req.URL.Host != "reg.example" {
				asked.Store(true)
			}
			return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {`Bearer realm="https://` + host + `/token",service="s"`}}, strings.NewReader(""))
		})})
		if _, err := c.Resolve(background(t), r.ref, nil); !errors.Is(err, oci.ErrUnavailable) || asked.Load() {
			t.Errorf("%s: asked %t, %v", host, asked.Load(), err)
		}
	}
}
