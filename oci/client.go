package oci

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/resultity/rmodels/internal/ociref"
)

// Client talks to registries. It is safe for concurrent use; connections,
// tokens and what was learned about hosts are shared by everything that goes
// through one Client.
type Client struct {
	o         Options
	transport http.RoundTripper
	limit     *ceiling

	dockerOnce sync.Once
	docker     credentials.Store
	dockerErr  error

	filesMu sync.Mutex
	files   map[string][]mirrorHost // by registry: its hosts.toml

	mu    sync.Mutex
	hosts map[string]*host
	known map[string]source // by name
	plain map[string]bool   // addresses that a hosts.toml wants without TLS
	wrong map[string]bool   // "digest source": it has sent wrong bytes
}

// New checks the options; it opens no connection.
func New(o Options) (*Client, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	transport, err := newTransports(o)
	if err != nil {
		return nil, err
	}
	return &Client{
		o: o, transport: transport, limit: newCeiling(o), hosts: map[string]*host{}, known: map[string]source{},
		files: map[string][]mirrorHost{}, plain: map[string]bool{}, wrong: map[string]bool{},
	}, nil
}

// host returns the one host of that name.
func (c *Client) host(name string) *host {
	c.mu.Lock()
	h, ok := c.hosts[name]
	c.mu.Unlock()
	if ok {
		return h
	}
	h = c.newHost(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.hosts[name]; ok {
		return first
	}
	c.hosts[name] = h
	return h
}

// sources lists where ref may be found: what [Client.HostMirrors] named, its
// own registry, then the mirrors in order. A mirror is registry/repository,
// oci://registry[/prefix] (the repository keeps its path below the prefix), or
// oci-layout:///path.
func (c *Client) sources(ref Reference, mirrors []string) ([]source, error) {
	var before, after []string
	for _, m := range mirrors {
		if strings.HasSuffix(m, mirrorOf(ref.Registry)) {
			before = append(before, m)
			continue
		}
		n, err := mirrorName(m, ref)
		if err != nil {
			return nil, err
		}
		after = append(after, n)
	}
	return c.open(slices.Concat(before, []string{ref.Name()}, after))
}

// mirrorOf ends the names of sources that a registry's hosts.toml brings in.
func mirrorOf(registry string) string { return "?ns=" + registry }

// HostMirrors names the sources that the hosts.toml of ref's registry puts
// before it, as mirrors for [Client.Resolve] and the others. Whether a node's
// own mirrors may be asked is for the caller to decide.
func (c *Client) HostMirrors(ref Reference) ([]string, error) {
	hosts, err := c.hostsFile(ref.Registry)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range hosts {
		if m.addr == registryAddress(ref.Registry) {
			continue
		}
		r := &remote{host: c.host(m.addr), repository: ref.Repository, root: m.root, ns: ref.Registry}
		name := r.String()
		c.mu.Lock()
		if _, ok := c.known[name]; !ok {
			c.known[name] = r
		}
		c.mu.Unlock()
		names = append(names, name)
	}
	return names, nil
}

// hostsFile reads a registry's hosts.toml once and prepares its hosts.
func (c *Client) hostsFile(registry string) ([]mirrorHost, error) {
	if c.o.HostsDir == "" {
		return nil, nil
	}
	c.filesMu.Lock()
	defer c.filesMu.Unlock()
	if hosts, ok := c.files[registry]; ok {
		return hosts, nil
	}
	hosts, err := readHosts(c.o.HostsDir, registry)
	if err != nil {
		return nil, fmt.Errorf("hosts of %s: %w", registry, err)
	}
	for _, m := range hosts {
		if t, ok := c.transport.(*transports); ok {
			if err := t.add(m.addr, m.host); err != nil {
				return nil, fmt.Errorf("%s: %w", m.addr, err)
			}
		}
		c.mu.Lock()
		c.plain[m.addr] = c.plain[m.addr] || m.host.PlainHTTP
		c.mu.Unlock()
	}
	c.files[registry] = hosts
	return hosts, nil
}

func mirrorName(m string, ref Reference) (string, error) {
	if strings.HasPrefix(m, layoutScheme) {
		return m, nil
	}
	if prefix, ok := strings.CutPrefix(m, "oci://"); ok {
		m = strings.TrimSuffix(prefix, "/") + "/" + ref.Repository
	}
	if _, _, err := ociref.SplitName(m); err != nil {
		return "", fmt.Errorf("mirror %q: %w", m, err)
	}
	return m, nil
}

// open turns names of sources into sources, each once.
func (c *Client) open(names []string) ([]source, error) {
	var out []source
	seen := map[string]bool{}
	for _, n := range names {
		if seen[n] {
			continue
		}
		seen[n] = true
		s, err := c.source(n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (c *Client) source(name string) (source, error) {
	if path, ok := strings.CutPrefix(name, layoutScheme); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.known[name]; !ok {
			c.known[name] = &layout{path: path}
		}
		return c.known[name], nil
	}
	c.mu.Lock()
	s, ok := c.known[name]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	registry, repository, err := ociref.SplitName(name)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", name, err)
	}
	// The registry's own authorities, certificate and scheme.
	if _, err := c.hostsFile(registry); err != nil {
		return nil, err
	}
	h := c.host(registry)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.known[name]; ok {
		return s, nil
	}
	s = &remote{host: h, repository: repository, root: "/v2"}
	c.known[name] = s
	return s, nil
}
