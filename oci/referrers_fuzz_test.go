package oci_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/oci"
)

// answers is a registry that says what it is told: a list of referrers in the
// API and under the fallback tag, one manifest, one blob.
type answers struct{ list, manifest, blob []byte }

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, mediaType := a.blob, "application/octet-stream"
	switch {
	case strings.Contains(r.URL.Path, "/referrers/"), strings.Contains(r.URL.Path, "/manifests/sha256-") && !strings.HasSuffix(r.URL.Path, ".sig"):
		body, mediaType = a.list, "application/vnd.oci.image.index.v1+json"
	case strings.Contains(r.URL.Path, "/manifests/"):
		body, mediaType = a.manifest, "application/vnd.oci.image.manifest.v1+json"
	}
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {mediaType}}, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}, nil
}

// Whatever a registry lists as referrers: evidence of a kind that is known,
// within its caps, whose bytes are those that the manifest names.
func FuzzReferrers(f *testing.F) {
	blob := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`)
	layer := func(mediaType string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"dev.cosignproject.cosign/signature":"AA=="}}`, mediaType, digest.FromBytes(blob), len(blob))
	}
	manifest := func(subject string, layers ...string) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":7}}`,
			digest.FromString("{}"), strings.Join(layers, ","), subject)
	}
	list := func(m []byte, times int) []byte {
		d := fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d}`, digest.FromBytes(m), len(m))
		return fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[%s]}`, strings.TrimSuffix(strings.Repeat(d+",", times), ","))
	}
	bundle, simple := layer("application/vnd.dev.sigstore.bundle.v0.3+json"), layer("application/vnd.dev.cosign.simplesigning.v1+json")
	honest := manifest(someDigest, bundle)
	f.Add(list(honest, 1), honest, blob)
	f.Add(list(honest, 100), honest, blob)
	moved := manifest(digest.FromString("another").String(), bundle)
	f.Add(list(moved, 1), moved, blob)
	many := manifest(someDigest, strings.TrimSuffix(strings.Repeat(bundle+","+simple+",", 50), ","))
	f.Add(list(many, 3), many, blob)
	f.Add(list(honest, 1), honest, []byte("other bytes"))
	f.Add([]byte(`{"manifests":[null,{"digest":"sha256:..","size":-1}]}`), []byte(`{"layers":[{"size":9223372036854775807}]}`), blob)
	f.Add([]byte(`null`), []byte(`[]`), []byte(nil))
	ref, err := oci.ParseReference("registry.example/acme/tiny@" + someDigest)
	if err != nil {
		f.Fatal(err)
	}
	config := f.TempDir() + "/config.json"
	f.Fuzz(func(t *testing.T, list, manifest, blob []byte) {
		c, err := oci.New(oci.Options{Transport: answers{list, manifest, blob}, DockerConfig: config, Attempts: 1, Backoff: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		ev, _ := c.Evidence(context.Background(), ref, nil)
		if len(ev) > 64 {
			t.Fatalf("%d pieces of evidence", len(ev))
		}
		for _, e := range ev {
			if !strings.HasPrefix(e.MediaType, "application/vnd.dev.sigstore.bundle") && e.MediaType != "application/vnd.dev.cosign.simplesigning.v1+json" {
				t.Fatalf("evidence of type %q", e.MediaType)
			}
			if !bytes.Equal(e.Payload, blob) || !bytes.Contains(manifest, []byte(digest.FromBytes(blob))) {
				t.Fatalf("evidence that the manifest does not name: %q", e.Payload)
			}
		}
	})
}

// Whatever stands under a TUF repository's tag.
func FuzzTUF(f *testing.F) {
	f.Add([]byte(`{"artifactType":"application/vnd.tuf.repository.v1","config":{"digest":"`+someDigest+`","size":2},"layers":[{"digest":"`+someDigest+`","size":0,"annotations":{"tuf.io/filename":"timestamp.json"}}]}`), []byte(nil))
	f.Add([]byte(`{"layers":[{"annotations":{"tuf.io/filename":"../x"}}]}`), []byte("x"))
	config := f.TempDir() + "/config.json"
	f.Fuzz(func(t *testing.T, manifest, blob []byte) {
		c, err := oci.New(oci.Options{Transport: answers{nil, manifest, blob}, DockerConfig: config, Attempts: 1, Backoff: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.TUF("registry.example/net/snapshots")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := s.Fetch(context.Background(), "timestamp.json", 16); err == nil && (len(b) > 16 || !bytes.Equal(b, blob)) {
			t.Fatalf("%q", b)
		}
	})
}
