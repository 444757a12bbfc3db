package oci

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/resultity/rmodels/cas"

	"github.com/opencontainers/go-digest"
)

// EncodeChunkMap makes the map of some bytes and says that it is of blob.
func EncodeChunkMap(t testing.TB, b []byte, blob digest.Digest) []byte {
	t.Helper()
	m, err := mapChunks(bytes.NewReader(b), blob, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return m.encode()
}

// ReencodeChunkMap parses a map and writes it again.
func ReencodeChunkMap(b []byte) ([]byte, bool) {
	m, err := parseChunkMap(b)
	if err != nil {
		return nil, false
	}
	return m.encode(), true
}

// Plan reads a manifest and config as Resolve does after their digests fit.
func Plan(manifest, config []byte) ([]File, error) {
	m, err := parseManifest(manifest, "")
	if err != nil {
		return nil, err
	}
	a := &Artifact{Manifest: m, Config: config}
	if a.Format, err = detectFormat(m); err != nil {
		return nil, err
	}
	return planFiles(a)
}

// PlatformChild reads an index.
func PlatformChild(index []byte) error {
	_, err := platformChild(index, "linux/amd64")
	return err
}

// ContentRange reads a Content-Range header.
func ContentRange(s string) (first, last, size int64, err error) { return parseContentRange(s) }

// Unfold walks a packed layer within limits and returns the bytes of files.
func Unfold(b []byte, c Compression, l Limits) (total int64, paths []string, err error) {
	l = l.withDefaults()
	r, err := unfold(io.NopCloser(bytes.NewReader(b)), c, int64(len(b)), l)
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	err = walkTar(r, l, int64(len(b)), nil, func(e cas.LayerEntry, content io.Reader) error {
		n, err := io.Copy(io.Discard, content)
		total += n
		paths = append(paths, e.Path)
		return err
	})
	return total, paths, err
}

// HostsFile reads a hosts.toml.
func HostsFile(b []byte) error {
	_, err := parseHosts(b, "/etc/certs.d/x", "registry.example")
	return err
}

// BundleContent reads what a bundle's annotations need.
func BundleContent(b []byte) error {
	_, _, err := bundleContent(b)
	return err
}

// HasClass says whether an error is one that callers can act upon.
func HasClass(err error) bool {
	for _, class := range []error{ErrFormat, ErrPath, ErrTooLarge} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// RateOf is the limit that a client keeps to now.
func RateOf(c *Client) int64 { return c.limit.rate() }

// WithWindow is o with room for so many bytes of packed layers, at least 512 KiB.
func WithWindow(o Options, n int64) Options {
	o.window = n
	return o
}

// DialRefusal is what a dial to an address meets.
func DialRefusal(address string) error { return refuseMetadataAddress("tcp", address, nil) }

// OddNumber tells whether a redirect may not lead to a name, for its digits.
var OddNumber = isOddNumber
