package oci

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/internal/version"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/idna"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// host is one registry: its address, its credentials, and the budget of
// connections that every transfer to it shares.
type host struct {
	name string // as references write it
	base url.URL
	auth *auth.Client

	mu    sync.Mutex
	max   int
	inUse int
	health
}

// acquire takes one connection of the budget, or says that none is free.
func (h *host) acquire() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inUse >= h.max {
		return false
	}
	h.inUse++
	return true
}

func (h *host) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inUse--
}

// do sends one request for a repository with the credentials of this host.
func (h *host) do(ctx context.Context, method, path, query, repository string, header http.Header, actions ...string) (*http.Response, error) {
	u := h.base
	u.Path, u.RawQuery = path, query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	ctx = auth.AppendRepositoryScope(ctx, registry.Reference{Registry: h.name, Repository: repository}, actions...)
	return h.auth.Do(req.WithContext(ctx))
}

// newHost prepares the registry that references call name.
func (c *Client) newHost(name string) *host {
	addr := registryAddress(name)
	h := &host{name: name, base: url.URL{Scheme: "https", Host: addr}, max: c.o.connections()}
	if c.plainHTTP(addr) || c.o.Hosts[name].PlainHTTP {
		h.base.Scheme = "http"
	}
	h.auth = &auth.Client{
		Client:   &http.Client{Transport: ofHost{c, h}, CheckRedirect: c.checkRedirect},
		Header:   http.Header{"User-Agent": {version.UserAgent()}},
		Cache:    auth.NewCache(),
		ClientID: "rmodels",
		Credential: func(ctx context.Context, hostport string) (auth.Credential, error) {
			if hostport != addr {
				return auth.EmptyCredential, nil
			}
			return c.credential(ctx, name, addr)
		},
	}
	return h
}

// plainHTTP says whether an address may be spoken to without TLS.
func (c *Client) plainHTTP(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.o.Hosts[addr].PlainHTTP || c.plain[addr]
}

// credential answers a challenge: options first, docker's configuration next.
func (c *Client) credential(ctx context.Context, name, addr string) (auth.Credential, error) {
	if o := c.o.Hosts[name]; o.Username != "" || o.Password != "" {
		return auth.Credential{Username: o.Username, Password: o.Password}, nil
	}
	c.dockerOnce.Do(func() {
		// A node that runs from cron may have no home directory and needs
		// none: that is not an error, a file that cannot be read is.
		if c.dockerErr = checkDockerConfig(c.o.DockerConfig); c.dockerErr != nil {
			return
		}
		if path := cmp.Or(c.o.DockerConfig, dockerConfigPath()); path != "" {
			c.docker, c.dockerErr = credentials.NewStore(path, credentials.StoreOptions{})
		}
	})
	if c.dockerErr != nil {
		return auth.EmptyCredential, fmt.Errorf("%w: docker configuration: %w", ErrUnauthorized, c.dockerErr)
	}
	if c.docker == nil {
		return auth.EmptyCredential, nil
	}
	return credentials.Credential(c.docker)(ctx, addr)
}

// transports sends each request, redirected ones included, through the TLS
// settings of the host that it goes to: client certificates and extra CAs of
// one host are never used with another.
type transports struct {
	o        Options
	standard http.RoundTripper

	mu     sync.Mutex
	byHost map[string]http.RoundTripper // by URL host
}

func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	rt, ok := t.byHost[req.URL.Host]
	t.mu.Unlock()
	if ok {
		return rt.RoundTrip(req)
	}
	return t.standard.RoundTrip(req)
}

// add gives an address settings of its own, unless it has some.
func (t *transports) add(addr string, h Host) error {
	config, err := h.tls()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byHost[addr]; !ok {
		t.byHost[addr] = newTransport(t.o, config, isLinkLocalName(addr))
	}
	return nil
}

// offline is a network that nobody is asked over.
type offline struct{}

func (offline) RoundTrip(*http.Request) (*http.Response, error) { return nil, ErrOffline }

func newTransports(o Options) (http.RoundTripper, error) {
	if o.Offline {
		return offline{}, nil
	}
	if o.Transport != nil {
		return o.Transport, nil
	}
	if err := CheckSystemRoots(); err != nil {
		return nil, err
	}
	t := &transports{o: o, byHost: map[string]http.RoundTripper{}, standard: newTransport(o, nil, false)}
	for name, h := range o.Hosts {
		if err := t.add(registryAddress(name), h); err != nil {
			return nil, fmt.Errorf("host %s: %w", name, err)
		}
	}
	return t, nil
}

// newTransport speaks HTTP/1.1 alone: one HTTP/2 connection shares one
// congestion window among all ranges, which is what parallel ranges are meant
// to avoid.
func newTransport(o Options, config *tls.Config, linkLocal bool) *http.Transport {
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	if !linkLocal {
		dialer.Control = refuseMetadataAddress
	}
	// As http.ProxyFromEnvironment, which would read the variables once in the
	// life of the process.
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   15 * time.Second,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		DisableCompression:    true, // ranges and digests are of the bytes as stored
		MaxIdleConnsPerHost:   o.connections(),
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second, // a pull-through cache answers a cold miss late
		ReadBufferSize:        32 << 10,

		MaxResponseHeaderBytes: MaxHeader,
	}
}

func (h Host) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CAFile != "" {
		pem, err := durable.ReadOwn(h.CAFile, MaxCertificates)
		if err != nil {
			return nil, fmt.Errorf("%w: ca file: %w", ErrTLS, err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: ca file %s holds no certificate in PEM", ErrTLS, h.CAFile)
		}
		config.RootCAs = pool
	}
	if h.CertFile != "" || h.KeyFile != "" {
		pair, err := LoadKeyPair(h.CertFile, h.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: client certificate: %w", ErrTLS, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// MaxHeader bounds the header of an answer in bytes: what is quoted of it, as
// the host of a redirect, is held in memory several times.
const MaxHeader = 256 << 10

// quoted is a host or a scheme as an error names it: who answered chose it.
func quoted(name string) string { return fmt.Sprintf("%q", terminal.Clip(name, 128)) }

// maxRedirects is what net/http allows when it is not told otherwise.
const maxRedirects = 10

// checkRedirect runs before each hop. Credentials are dropped on another
// origin by the auth client, and [ofHost] judges the target's name; here the
// rest of the target is judged.
func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("%w: more than %d in a row", ErrRedirect, maxRedirects)
	}
	switch req.URL.Scheme {
	case "https":
	case "http":
		if !c.plainHTTP(req.URL.Host) {
			return fmt.Errorf("%w: to plain http on %s, which no host option allows", ErrRedirect, quoted(req.URL.Host))
		}
	default:
		return fmt.Errorf("%w: to scheme %s", ErrRedirect, quoted(req.URL.Scheme))
	}
	if req.URL.User != nil {
		return fmt.Errorf("%w: to a URL that carries credentials", ErrRedirect)
	}
	// net/http copies headers to every hop; a client's Referer would tell a
	// storage host which registry path was asked for.
	req.Header.Del("Referer")
	return nil
}

// metadataAddresses are cloud metadata services outside the link-local
// ranges: Alibaba, AWS over IPv6, Oracle, Azure's wire server.
var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("168.63.129.16"),
}

// isMetadataAddress judges an address in all its forms.
func isMetadataAddress(a netip.Addr) bool {
	a = a.WithZone("")
	for _, v4 := range embedded(a) {
		if isMetadataAddress(v4) {
			return true
		}
	}
	if a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsMulticast() {
		return true
	}
	for _, m := range metadataAddresses {
		if a == m {
			return true
		}
	}
	return false
}

// leadsAside refuses a host that an answer named, in a redirect or as a token
// service, when it is one of metadata. A proxy looks names up by itself, so
// nothing that it could read as an address may pass unread.
func leadsAside(hostport string) error {
	if isLinkLocalName(hostport) {
		return fmt.Errorf("%w: to %s, a link-local or metadata address", ErrRedirect, quoted(hostport))
	}
	if isOddNumber(asciiName(hostport)) {
		return fmt.Errorf("%w: to %s, a number that is not written as an IP address is", ErrRedirect, quoted(hostport))
	}
	return nil
}

// asciiName is the name in an address as net/http sends it, in lower case and
// without a dot at its end.
func asciiName(hostport string) string {
	u := url.URL{Host: hostport}
	name := u.Hostname()
	if ascii, err := idna.Lookup.ToASCII(name); err == nil {
		name = ascii
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// isOddNumber tells names that end in a number, decimal, octal or hexadecimal,
// and are no IP address in its usual form. inet_aton and URLs of browsers take
// them for addresses, each in its own way; no domain ends so.
func isOddNumber(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return false
	}
	last, digits := name[strings.LastIndexByte(name, '.')+1:], "0123456789"
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		last, digits = "0"+hex, "0123456789abcdef"
	}
	return last != "" && strings.Trim(last, digits) == ""
}

func isLinkLocalName(hostport string) bool {
	name := asciiName(hostport)
	switch name {
	case "metadata", "metadata.google.internal", "metadata.goog", "instance-data":
		return true
	}
	a, err := netip.ParseAddr(name)
	return err == nil && isMetadataAddress(a)
}

// refuseMetadataAddress sees the address after name resolution, so a name
// that resolves to a metadata service is refused too.
func refuseMetadataAddress(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // not an IP address: a Unix socket of a proxy
	}
	if isMetadataAddress(ap.Addr()) {
		return fmt.Errorf("%w: %s is a link-local or metadata address", ErrRedirect, ap.Addr())
	}
	return nil
}
