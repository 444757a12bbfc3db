package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/internal/progress"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// upload is one blob on its way to a repository: a session that is opened,
// streamed into, asked after an interruption how far it came, and closed with
// the digest (distribution-spec 1.1, "Pushing a blob in chunks").
type upload struct {
	c     *Client
	r     *remote
	desc  ocispec.Descriptor
	mount []string // repositories of the same registry that may have it
	open  func() (io.ReadCloser, error)

	session *url.URL // nil: none is open
	off     int64    // bytes that the registry has
}

// upload sends one blob unless the repository has it. An interrupted one goes
// on where the registry says; it is given up after some interruptions in a
// row that brought nothing.
func (c *Client) upload(ctx context.Context, r *remote, desc ocispec.Descriptor, mount []string, open func() (io.ReadCloser, error)) error {
	u := &upload{c: c, r: r, desc: desc, mount: mount, open: open}
	for failures := 0; ; {
		before := u.off
		err := u.attempt(ctx)
		if err == nil {
			u.tell(desc.Size)
			return nil
		}
		if u.off > before {
			failures = 0
		}
		failures++
		retry, after := retryable(err)
		if !retry || failures >= c.o.attempts() || ctx.Err() != nil {
			return err
		}
		if sleep(ctx, max(after, c.o.backoff(failures))) != nil {
			return err
		}
	}
}

func (u *upload) tell(n int64) {
	u.c.o.Progress.Emit(progress.Event{Kind: progress.Bytes, Step: "push", Digest: u.desc.Digest.String(), Source: u.r.String(), Done: n, Total: u.desc.Size})
}

// attempt does what is left to do.
func (u *upload) attempt(ctx context.Context) error {
	if u.session == nil {
		done, err := u.begin(ctx)
		if done || err != nil {
			return err
		}
	} else if err := u.ask(ctx); err != nil || u.session == nil {
		return err
	}
	if u.off < u.desc.Size {
		if err := u.send(ctx); err != nil {
			return err
		}
	}
	q := u.session.Query()
	q.Set("digest", u.desc.Digest.String())
	at := *u.session
	at.RawQuery = q.Encode()
	resp, err := u.do(ctx, http.MethodPut, &at, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusNoContent:
		return nil
	}
	// A session that cannot be closed is not used again.
	u.session, u.off = nil, 0
	return u.fail(answerError(resp))
}

// begin looks for the blob, there and in the repositories to mount from, and
// opens a session where it is missing.
func (u *upload) begin(ctx context.Context) (done bool, err error) {
	base := u.r.host.base
	base.Path = u.r.root + "/" + u.r.repository + "/blobs/" + u.desc.Digest.String()
	resp, err := u.do(ctx, http.MethodHead, &base, nil, 0)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
	default:
		return false, u.fail(answerError(resp))
	}
	base.Path = u.r.root + "/" + u.r.repository + "/blobs/uploads/"
	from := append([]string{}, u.mount...)
	if len(from) == 0 {
		from = []string{""}
	}
	for i, f := range from {
		base.RawQuery = ""
		if f != "" {
			base.RawQuery = url.Values{"mount": {u.desc.Digest.String()}, "from": {f}}.Encode()
		}
		resp, err := u.do(ctx, http.MethodPost, &base, nil, 0, f)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return true, nil
		case http.StatusAccepted:
			if err := u.follow(resp); err != nil {
				return false, err
			}
			if i < len(from)-1 {
				// Another repository may have it; this session is not needed.
				u.forget(ctx)
				continue
			}
			return false, nil
		default:
			return false, u.fail(answerError(resp))
		}
	}
	return false, nil
}

// forget closes a session without a blob; registries end it some day anyway.
func (u *upload) forget(ctx context.Context) {
	if resp, err := u.do(ctx, http.MethodDelete, u.session, nil, 0); err == nil {
		resp.Body.Close()
	}
	u.session = nil
}

// ask how much arrived before the interruption. A session that is gone, or
// that claims more than there is, is opened anew by the next attempt.
func (u *upload) ask(ctx context.Context) error {
	resp, err := u.do(ctx, http.MethodGet, u.session, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	u.off = 0
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusAccepted {
		u.session = nil
		return u.fail(fmt.Errorf("%w: the upload cannot go on (status %d)", ErrUnavailable, resp.StatusCode))
	}
	// "0-n" names the last byte that is there. distribution says 0-0 of
	// nothing, so one byte is taken for none.
	_, last, _ := strings.Cut(resp.Header.Get("Range"), "-")
	n, ok := parseDecimal(strings.TrimSpace(last))
	if ok && n > 0 && n < u.desc.Size {
		u.off = n + 1
	}
	return u.follow(resp)
}

// send streams what the registry does not have.
func (u *upload) send(ctx context.Context) error {
	resp, err := u.do(ctx, http.MethodPatch, u.session, u.body, u.desc.Size-u.off)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusAccepted, http.StatusNoContent, http.StatusCreated:
	case http.StatusRequestedRangeNotSatisfiable, http.StatusNotFound:
		u.session, u.off = nil, 0
		return u.fail(fmt.Errorf("%w: the upload cannot go on (status %d)", ErrUnavailable, resp.StatusCode))
	default:
		return u.fail(answerError(resp))
	}
	u.off = u.desc.Size
	return u.follow(resp)
}

// body is the content from off on.
func (u *upload) body(ctx context.Context) (io.ReadCloser, error) {
	content, err := u.open()
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", u.desc.Digest, err)
	}
	if s, ok := content.(io.Seeker); ok {
		_, err = s.Seek(u.off, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, content, u.off)
	}
	if err != nil {
		content.Close()
		return nil, fmt.Errorf("blob %s: %w", u.desc.Digest, err)
	}
	return &counted{ctx: ctx, limit: u.c.limit, ReadCloser: content, n: u.off, told: u.off, step: u.tell}, nil
}

// follow takes the session's next address, which must not lead elsewhere: the
// requests to it carry credentials (invariant 4).
func (u *upload) follow(resp *http.Response) error {
	to, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) && u.session != nil {
		return nil
	}
	if err != nil {
		u.session = nil
		return u.fail(fmt.Errorf("%w: upload without a location: %v", ErrUnavailable, err))
	}
	if base := u.r.host.base; to.Host != base.Host || to.Scheme != base.Scheme || to.User != nil {
		u.session = nil
		return u.fail(fmt.Errorf("%w: the upload is to go on at %s", ErrRedirect, quoted(to.Scheme+"://"+to.Host)))
	}
	u.session = to
	return nil
}

// do sends one request with the credentials for pushing, and for reading the
// repositories that are named.
func (u *upload) do(ctx context.Context, method string, to *url.URL, body func(context.Context) (io.ReadCloser, error), size int64, from ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, u.fail(err)
	}
	if body != nil {
		if req.Body, err = body(ctx); err != nil {
			return nil, err
		}
		req.GetBody = func() (io.ReadCloser, error) { return body(ctx) } // after a challenge
		req.ContentLength = size
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.off, u.off+size-1))
	}
	ctx = auth.AppendRepositoryScope(ctx, registry.Reference{Registry: u.r.host.name, Repository: u.r.repository}, auth.ActionPull, auth.ActionPush)
	for _, f := range from {
		if f != "" {
			ctx = auth.AppendRepositoryScope(ctx, registry.Reference{Registry: u.r.host.name, Repository: f}, auth.ActionPull)
		}
	}
	resp, err := u.r.host.auth.Do(req.WithContext(ctx))
	if err != nil {
		return nil, u.fail(transportError(ctx, err))
	}
	return resp, nil
}

func (u *upload) fail(err error) error { return u.r.fail("blob "+u.desc.Digest.String(), err) }

// counted paces an upload and reports what was read of it, every 4 MiB.
type counted struct {
	io.ReadCloser
	ctx     context.Context
	limit   *ceiling
	n, told int64
	step    func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	b = b[:min(int64(len(b)), c.limit.block())]
	if err := c.limit.wait(c.ctx, int64(len(b))); err != nil {
		return 0, err
	}
	n, err := c.ReadCloser.Read(b)
	if c.n += int64(n); c.n-c.told >= 4<<20 {
		c.told = c.n
		c.step(c.n)
	}
	return n, err
}
