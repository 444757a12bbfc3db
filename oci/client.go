package oci

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/time/rate"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Client talks to registries. It is safe for concurrent use; connections,
// tokens and what was learned about hosts are shared by everything that goes
// through one Client.
type Client struct {
	o         Options
	transport http.RoundTripper
	limit     *rate.Limiter // nil: no limit
	chunk     int64         // bytes read at a time

	dockerOnce sync.Once
	docker     credentials.Store
	dockerErr  error

	mu    sync.Mutex
	hosts map[string]*host
	known map[string]source // by name
	wrong map[string]bool   // "digest source": it has sent wrong bytes
}

// New checks the options; it opens no connection.
func New(o Options) (*Client, error) {
	transport, err := newTransports(o)
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, transport: transport, hosts: map[string]*host{}, known: map[string]source{}, wrong: map[string]bool{}, chunk: bufferSize}
	if o.LimitRate < 0 {
		return nil, fmt.Errorf("limit rate %d: want bytes per second", o.LimitRate)
	}
	if o.LimitRate > 0 {
		// Small reads let all connections share a low rate evenly, and keep the
		// wait for the limit far below a stall.
		c.chunk = max(1<<10, min(o.LimitRate/64, bufferSize))
		c.limit = rate.NewLimiter(rate.Limit(o.LimitRate), int(max(c.chunk, min(o.LimitRate/8, 1<<20))))
	}
	return c, nil
}

// host returns the one host of that name.
func (c *Client) host(name string) (*host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, ok := c.hosts[name]; ok {
		return h, nil
	}
	h, err := c.newHost(name)
	if err != nil {
		return nil, err
	}
	c.hosts[name] = h
	return h, nil
}

// sources lists where ref may be found: its own registry first, then the
// mirrors in order. A mirror is registry/repository, oci://registry[/prefix]
// (the repository keeps its path below the prefix), or oci-layout:///path.
func (c *Client) sources(ref Reference, mirrors []string) ([]source, error) {
	names := []string{ref.Name()}
	for _, m := range mirrors {
		n, err := mirrorName(m, ref)
		if err != nil {
			return nil, err
		}
		names = append(names, n)
	}
	return c.open(names)
}

func mirrorName(m string, ref Reference) (string, error) {
	if strings.HasPrefix(m, layoutScheme) {
		return m, nil
	}
	if prefix, ok := strings.CutPrefix(m, "oci://"); ok {
		m = strings.TrimSuffix(prefix, "/") + "/" + ref.Repository
	}
	if _, _, err := splitName(m); err != nil {
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
		return &layout{path: path}, nil
	}
	registry, repository, err := splitName(name)
	if err != nil {
		return nil, fmt.Errorf("source %q: %w", name, err)
	}
	h, err := c.host(registry)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.known[name]; ok {
		return s, nil
	}
	s := &remote{host: h, repository: repository}
	c.known[name] = s
	return s, nil
}
