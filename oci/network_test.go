package oci_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/resultity/rmodels/oci"
)

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// clientCertificate is one that signs itself, and the pool that trusts it.
func clientCertificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return writePEM(t, "node.pem", "CERTIFICATE", der), writePEM(t, "node.key", "PRIVATE KEY", keyDER), pool
}

func TestClientCertificates(t *testing.T) {
	cert, key, pool := clientCertificate(t)
	r := startRegistry(t, nil)
	r.server = httptest.NewUnstartedServer(r)
	r.server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	r.server.Config.ErrorLog = quiet
	r.server.StartTLS()
	r.finish()
	ref := r.model("m", file{"a", []byte("a")})
	ca := writePEM(t, "ca.pem", "CERTIFICATE", r.server.Certificate().Raw)
	host, port, _ := strings.Cut(r.name, ":")
	hosts := func(client string) string {
		return hostsDir(t, host+"_"+port+"_", fmt.Sprintf("server = \"https://%s\"\nca = %q\n%s\n", r.name, ca, client))
	}
	other, otherKey, _ := clientCertificate(t)
	for name, tc := range map[string]struct {
		o    oci.Options
		want error
	}{
		"option":                {oci.Options{Hosts: map[string]oci.Host{r.name: {CAFile: ca, CertFile: cert, KeyFile: key}}}, nil},
		"none":                  {oci.Options{Hosts: map[string]oci.Host{r.name: {CAFile: ca}}}, oci.ErrTLS},
		"another's":             {oci.Options{Hosts: map[string]oci.Host{r.name: {CAFile: ca, CertFile: other, KeyFile: otherKey}}}, oci.ErrTLS},
		"of another host":       {oci.Options{Hosts: map[string]oci.Host{r.name: {CAFile: ca}, "x.example": {CAFile: ca, CertFile: cert, KeyFile: key}}}, oci.ErrTLS},
		"hosts.toml":            {oci.Options{HostsDir: hosts(fmt.Sprintf("client = [[%q, %q]]", cert, key))}, nil},
		"hosts.toml without":    {oci.Options{HostsDir: hosts("")}, oci.ErrTLS},
		"option over the file":  {oci.Options{HostsDir: hosts(""), Hosts: map[string]oci.Host{r.name: {CAFile: ca, CertFile: cert, KeyFile: key}}}, nil},
		"the key does not fit":  {oci.Options{HostsDir: hosts(fmt.Sprintf("client = [%q, %q]", cert, otherKey))}, oci.ErrTLS},
		"hosts.toml of another": {oci.Options{HostsDir: hostsDir(t, "x.example", fmt.Sprintf("ca = %q\nclient = [%q, %q]\n", ca, cert, key))}, oci.ErrTLS},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, tc.o).Resolve(background(t), ref, nil)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// proxy passes requests and tunnels on to one address, whatever host they
// name, and counts them.
func proxy(t *testing.T, to string) (url string, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		if u, p, ok := proxyUser(req); !ok || u != "node" || p != "secret" {
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		if req.Method != http.MethodConnect {
			out := req.Clone(req.Context())
			out.RequestURI, out.URL.Host = "", to
			out.Header.Del("Proxy-Authorization")
			resp, err := http.DefaultTransport.RoundTrip(out)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			for k, v := range resp.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			server.Close()
			return
		}
		go func() { _, _ = io.Copy(server, buffered); server.Close() }()
		_, _ = io.Copy(client, server)
		client.Close()
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http://", "http://node:secret@", 1), asked
}

func proxyUser(req *http.Request) (user, password string, ok bool) {
	r := &http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}
	return r.BasicAuth()
}

func TestProxies(t *testing.T) {
	secure, plain := newTLSRegistry(t), newRegistry(t)
	ca := writePEM(t, "ca.pem", "CERTIFICATE", secure.server.Certificate().Raw)
	files := file{"a", noise(1, 3<<20)}
	// Nothing of these names is looked up: the proxy knows where they are. The
	// test server's certificate is good for example.com.
	tls, http := secure.model("m", files), plain.model("m", files)
	tls.Registry, http.Registry = "example.com", "registry.invalid"
	overTLS, tunnels := proxy(t, secure.name)
	overHTTP, requests := proxy(t, plain.name)
	hosts := map[string]oci.Host{"example.com": {CAFile: ca}, "registry.invalid": {PlainHTTP: true}}
	for name, tc := range map[string]struct {
		env  map[string]string
		ref  oci.Reference
		want error
		by   *atomic.Int64
	}{
		"https":         {map[string]string{"HTTPS_PROXY": overTLS}, tls, nil, tunnels},
		"http":          {map[string]string{"HTTP_PROXY": overHTTP}, http, nil, requests},
		"not for http":  {map[string]string{"HTTPS_PROXY": overTLS}, http, oci.ErrUnavailable, nil},
		"no proxy":      {map[string]string{"HTTP_PROXY": overHTTP, "NO_PROXY": ".invalid"}, http, oci.ErrUnavailable, nil},
		"no credential": {map[string]string{"HTTP_PROXY": strings.Replace(overHTTP, "node:secret@", "", 1)}, http, oci.ErrUnauthorized, requests},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
				t.Setenv(v, tc.env[v])
				t.Setenv(strings.ToLower(v), "")
			}
			tunnels.Store(0)
			requests.Store(0)
			c := newClient(t, oci.Options{Hosts: hosts, Attempts: 1, Backoff: time.Millisecond})
			a, err := c.Resolve(background(t), tc.ref, nil)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("the message tells the password: %v", err)
			}
			if n := tunnels.Load() + requests.Load(); tc.by == nil && n > 0 || tc.by != nil && tc.by.Load() == 0 {
				t.Errorf("the proxies were asked %d times", n)
			}
			if err != nil {
				return
			}
			st, l := newStore(t)
			if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
		})
	}
}

// Whatever a registry says, nobody is led to a service of metadata.
func TestMetadataAddressesAreRefused(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	for _, to := range []string{
		"169.254.169.254", "169.254.170.2", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "100.100.100.200", "192.0.0.192", "168.63.129.16",
		"[64:ff9b::a9fe:a9fe]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1:a9fe:a9:fe00::]", "[64:ff9b:1::a9fe:a9fe]", "[64:ff9b:1:a9:fe:a9fe::]",
		"[64:ff9b:1:1:a9:fea9:fe00:0]", "[2002:a9fe:a9fe::1]", "[::a9fe:a9fe]", "[::ffff:0:a9fe:a9fe]", "[64:ff9b::6464:64c8]", "[::ffff:168.63.129.16]",
		"[2001:0:a9fe:a9fe::1]", "[2001::5601:5601]", "[2001:db8::5efe:a9fe:a9fe]", "[2001:db8::200:5efe:a9fe:a9fe]",
		"metadata.google.internal", "METADATA", "metadata.goog.", "instance-data", "224.0.0.1",
		// As net/http maps names, and as inet_aton reads numbers.
		"１６９.254.169.254", "169。254。169。254", "ｍｅｔａｄａｔａ.google.internal", "%EF%BC%9169.254.169.254", "①69.254.169.254:443",
		"0251.0376.0251.0376", "2852039166", "0xa9fea9fe", "0XA9.0xFE.0xa9.0xfe.", "169.254.43518", "169.16689662", "169.254.0169.254", "425.510.425.510", "４２５.510.425.510", "0x",
	} {
		r.setFault(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, "https://"+to+"/latest", http.StatusTemporaryRedirect)
		})
		if _, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil); !errors.Is(err, oci.ErrRedirect) {
			t.Errorf("redirect to %s: %v", to, err)
		}
	}
	for name, odd := range map[string]bool{
		"r.example": false, "10.0.0.1": false, "::1": false, "1.2.3.4.example": false, "0xcafe.example": false, "cafe": false, "a1": false, "": false, "xn--1": false,
		"127.1": true, "1.2.3.4.5": true, "r.0x7f": true, "08": true,
	} {
		if oci.OddNumber(name) != odd {
			t.Errorf("%q: want %t", name, odd)
		}
	}
	// A name may resolve to one: the address is looked at again when it is dialled.
	for address, refused := range map[string]bool{
		"169.254.169.254:443": true, "[fe80::1%eth0]:443": true, "[::ffff:169.254.169.254]:80": true, "100.100.100.200:80": true,
		"[64:ff9b::a9fe:a9fe]:80": true, "[64:ff9b:1::a9fe:a9fe]:80": true, "[2002:a9fe:a9fe::]:443": true, "[::169.254.169.254]:80": true,
		"[64:ff9b::c000:201]:443": false, "[2002:c000:201::1]:443": false, "[::1]:443": false,
		"127.0.0.1:5000": false, "192.168.1.1:443": false, "10.0.0.1:443": false, "[2001:db8::1]:443": false,
	} {
		if err := oci.DialRefusal(address); errors.Is(err, oci.ErrRedirect) != refused {
			t.Errorf("dial %s: %v", address, err)
		}
	}
}
