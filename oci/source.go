package oci

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// source is one place that an artifact may be fetched from.
type source interface {
	// String is the name that reports and incidents use.
	String() string
	// budget is the host whose connections a read takes; nil for none.
	budget() *host
	// manifest returns at most max bytes and the media type that the source
	// gives them. The bytes are not yet checked against anything.
	manifest(ctx context.Context, reference string, max int64) (content []byte, mediaType string, err error)
	// read opens n bytes of a blob from off. The stream may start or end
	// elsewhere: its fields say where.
	read(ctx context.Context, blob ocispec.Descriptor, off, n int64) (*stream, error)
	// referrers lists the descriptors of manifests whose subject is d, at most
	// max of them.
	referrers(ctx context.Context, d digest.Digest, max int) ([]ocispec.Descriptor, error)
}

// stream brings n bytes of a blob from off on.
type stream struct {
	io.ReadCloser
	off, n int64
	whole  bool // a range was asked for and the source sends the whole blob
}

// remote is a repository of a registry.
type remote struct {
	host       *host
	repository string
	root       string // path of the API, "/v2"
	ns         string // the registry that it mirrors, where a hosts.toml says so
	moved      moved
}

func (r *remote) String() string {
	if r.ns != "" {
		return r.host.name + "/" + r.repository + "?ns=" + r.ns
	}
	return r.host.name + "/" + r.repository
}

func (r *remote) budget() *host { return r.host }

// get asks for a path below the repository.
func (r *remote) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	query := ""
	if r.ns != "" {
		query = url.Values{"ns": {r.ns}}.Encode()
	}
	return r.host.do(ctx, http.MethodGet, r.root+"/"+r.repository+path, query, r.repository, header, "pull")
}

// manifestTypes are the manifests that are understood; indexes are fetched so
// that the error can say what they are.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest,
	mediaTypeDockerManifest,
	ocispec.MediaTypeImageIndex,
	mediaTypeDockerList,
}

const (
	mediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func (r *remote) manifest(ctx context.Context, reference string, max int64) ([]byte, string, error) {
	what := "manifest " + reference
	header := http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}
	resp, err := r.get(ctx, "/manifests/"+reference, header)
	if err != nil {
		return nil, "", r.fail(what, transportError(ctx, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", r.fail(what, answerError(resp))
	}
	b, err := readCapped(ctx, resp.Body, resp.ContentLength, max)
	if err != nil {
		return nil, "", r.fail(what, err)
	}
	return b, resp.Header.Get("Content-Type"), nil
}

func (r *remote) read(ctx context.Context, blob ocispec.Descriptor, off, n int64) (*stream, error) {
	what := "blob " + blob.Digest.String()
	header := http.Header{"Accept-Encoding": {"identity"}}
	ranged := off != 0 || n != blob.Size
	if ranged {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	resp, err := r.blob(ctx, blob.Digest, header)
	if err != nil {
		return nil, r.fail(what, transportError(ctx, err))
	}
	s, err := openStream(resp, blob, off, n)
	if err != nil {
		resp.Body.Close()
		return nil, r.fail(what, err)
	}
	return s, nil
}

func (r *remote) fail(what string, err error) error {
	return &SourceError{Source: r.String(), What: what, Err: err}
}

// openStream accepts an answer only when it says exactly which bytes it is.
func openStream(resp *http.Response, blob ocispec.Descriptor, off, n int64) (*stream, error) {
	ranged := off != 0 || n != blob.Size
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" &&
		(resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
		return nil, fmt.Errorf("%w: the answer is encoded as %q though identity was asked for", ErrUnavailable, enc)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if !ranged {
			return nil, fmt.Errorf("%w: answers 206 to a request without a range", ErrUnavailable)
		}
		first, last, size, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrUnavailable, err)
		}
		if first != off || last > off+n-1 || size >= 0 && size != blob.Size {
			return nil, &rangeError{asked: fmt.Sprintf("%d-%d/%d", off, off+n-1, blob.Size), got: resp.Header.Get("Content-Range"), wrongSize: size >= 0 && size != blob.Size, size: size}
		}
		if resp.ContentLength >= 0 && resp.ContentLength != last-first+1 {
			return nil, fmt.Errorf("%w: Content-Length %d beside Content-Range %q", ErrUnavailable, resp.ContentLength, resp.Header.Get("Content-Range"))
		}
		return &stream{ReadCloser: resp.Body, off: first, n: last - first + 1}, nil
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != blob.Size {
			return nil, &rangeError{asked: fmt.Sprintf("all of %d bytes", blob.Size), got: fmt.Sprintf("%d bytes", resp.ContentLength), wrongSize: true, size: resp.ContentLength}
		}
		return &stream{ReadCloser: resp.Body, off: 0, n: blob.Size, whole: ranged}, nil
	}
	return nil, answerError(resp)
}

// rangeError is an answer about other bytes than were asked for.
type rangeError struct {
	asked, got string
	wrongSize  bool  // it speaks of a blob of another size, which cannot have the right digest
	size       int64 // that one
}

func (e *rangeError) Error() string {
	return fmt.Sprintf("%v: asked for %s, got %q", ErrUnavailable, e.asked, e.got)
}

func (e *rangeError) Unwrap() error { return ErrUnavailable }

// parseContentRange reads "bytes first-last/size" (RFC 9110, 14.4); size is -1
// for "*".
func parseContentRange(s string) (first, last, size int64, err error) {
	bad := func() (int64, int64, int64, error) {
		return 0, 0, 0, fmt.Errorf("content-range %q cannot be read", terminal.Clip(s, 80))
	}
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return bad()
	}
	span, total, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	if first, ok = parseDecimal(from); !ok {
		return bad()
	}
	if last, ok = parseDecimal(to); !ok || last < first {
		return bad()
	}
	size = -1
	if total != "*" {
		if size, ok = parseDecimal(total); !ok || last >= size {
			return bad()
		}
	}
	return first, last, size, nil
}

// parseDecimal accepts digits alone; strconv would also take a sign.
func parseDecimal(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

// readCapped reads to the end, never more than max bytes.
func readCapped(ctx context.Context, r io.Reader, claimed, max int64) ([]byte, error) {
	if claimed > max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, claimed, max)
	}
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, transportError(ctx, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	return b, nil
}
