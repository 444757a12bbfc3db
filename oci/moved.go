package oci

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/version"
)

// moved remembers where a registry sent a blob's readers, so that the next
// range need not ask again. What is kept has passed the check of redirects and
// is asked without credentials (invariant 4).
type moved struct {
	mu sync.Mutex
	to map[digest.Digest]target
}

type target struct {
	url   *url.URL
	until time.Time
}

const (
	// movedFor is below the life of signed addresses, which are valid for
	// minutes at least; one that is not any more is asked for again.
	movedFor = time.Minute
	maxMoved = 1000
)

func (m *moved) find(d digest.Digest) *url.URL {
	m.mu.Lock()
	defer m.mu.Unlock()
	t, ok := m.to[d]
	if !ok || time.Now().After(t.until) {
		delete(m.to, d)
		return nil
	}
	return t.url
}

func (m *moved) keep(d digest.Digest, u *url.URL) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.to == nil || len(m.to) >= maxMoved {
		m.to = map[digest.Digest]target{}
	}
	if _, known := m.to[d]; !known {
		m.to[d] = target{u, time.Now().Add(movedFor)}
	}
}

func (m *moved) forget(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.to, d)
}

// blob asks for a blob, or a part of it: where the registry sent us before, or
// else the registry.
func (r *remote) blob(ctx context.Context, d digest.Digest, header http.Header) (*http.Response, error) {
	if to := r.moved.find(d); to != nil {
		if resp := r.elsewhere(ctx, to, header); resp != nil {
			resp.Body = &movedBody{resp.Body, func() { r.moved.forget(d) }}
			return resp, nil
		}
		r.moved.forget(d)
	}
	resp, err := r.get(ctx, "/blobs/"+d.String(), header)
	if err == nil && resp.Request.URL.Host != r.host.base.Host && answersRange(resp) {
		r.moved.keep(d, resp.Request.URL)
	}
	return resp, err
}

// elsewhere is nil when the address does not serve the blob any more.
func (r *remote) elsewhere(ctx context.Context, to *url.URL, header http.Header) *http.Response {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil
	}
	req.Header = header.Clone()
	req.Header.Set("User-Agent", version.UserAgent())
	resp, err := r.host.auth.Client.Do(req)
	if err != nil {
		return nil
	}
	if !answersRange(resp) {
		resp.Body.Close()
		return nil
	}
	return resp
}

func answersRange(resp *http.Response) bool {
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent
}

// movedBody forgets an address whose answer breaks off.
type movedBody struct {
	io.ReadCloser
	forget func()
}

func (b *movedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.forget()
	}
	return n, err
}
