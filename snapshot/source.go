package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// Source fetches a named TUF file of at most max bytes. A file that does not
// exist is reported as an error that matches [fs.ErrNotExist]; one that is
// longer than max as one that matches [ErrTooLarge]. Nothing that a source
// returns is trusted. Names are those of a consistent TUF repository:
// "timestamp.json", "7.targets.json", "targets/<sha256>.snapshot.v1.json".
//
// An answer that is none of the repository's (a refusal, a portal's page) is an
// error that matches [ErrSource]: it says something about the way to the
// repository and nothing about the network that signs.
type Source interface {
	Fetch(ctx context.Context, name string, max int64) ([]byte, error)
}

// DirSource reads a published directory.
func DirSource(path string) Source { return dirSource(path) }

type dirSource string

func (d dirSource) Fetch(_ context.Context, name string, max int64) ([]byte, error) {
	if err := checkFileName(name); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		// A missing directory is not "no such file of the repository": that
		// answer ends the walk over the roots.
		return nil, fmt.Errorf("%w: %s", ErrSource, err)
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s in %s: %w", name, string(d), fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s in %s is not a regular file", ErrSource, name, string(d))
	}
	return readCapped(f, name, max)
}

func readCapped(r io.Reader, name string, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrSource, name, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrTooLarge, name, max)
	}
	return b, nil
}

// maxHeader bounds the header of an answer in bytes.
const maxHeader = 256 << 10

// HTTPSource reads a published directory behind an HTTP server. A nil client
// is one without cookies and with bounded connection set-up; every file has
// deadlines of its own, whatever the client.
func HTTPSource(client *http.Client, baseURL string) Source {
	if client == nil {
		client = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 20 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: time.Minute,
			MaxResponseHeaderBytes: maxHeader,
			DisableCompression:     true, // a length cap on what was sent, too
		}}
	}
	return &httpSource{client, strings.TrimSuffix(baseURL, "/")}
}

type httpSource struct {
	client *http.Client
	base   string
}

func (h *httpSource) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := checkFileName(name); err != nil {
		return nil, err
	}
	u, err := url.Parse(h.base)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("%w: %q is not an http or https address", ErrSource, clip(h.base))
	}
	ctx, stop := newPacer(ctx, max)
	defer stop.end()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath(name).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, causeOf(ctx, err))
	}
	defer resp.Body.Close()
	stop.began()
	switch resp.StatusCode {
	case http.StatusOK:
		b, err := readCapped(stop.pace(resp.Body), name, max)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrSource, req.URL.Redacted(), context.Cause(ctx))
		}
		if err == nil && !beginsJSON(b) {
			return nil, fmt.Errorf("%w: %s: the answer (%s) is not a file of the repository: a login page or a proxy may stand between",
				ErrSource, req.URL.Redacted(), clip(cmp.Or(resp.Header.Get("Content-Type"), "of no type")))
		}
		return b, err
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %s: %w", req.URL.Redacted(), resp.Status, fs.ErrNotExist)
	case http.StatusForbidden:
		// Object stores answer so for what does not exist when the reader may
		// not list the bucket, which is how the roots end there; for any other
		// file it is the source that refuses.
		return nil, fmt.Errorf("%w: %s: %s: %w", ErrSource, req.URL.Redacted(), resp.Status, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%w: %s: %s", ErrSource, req.URL.Redacted(), resp.Status)
}

// beginsJSON reports whether b can be one of a repository's files: all of them
// are JSON objects or arrays.
func beginsJSON(b []byte) bool {
	b = bytes.TrimLeft(b, " \t\r\n")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}
