package lifecycle

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

func TestPreflight(t *testing.T) {
	w, n := installed(t)
	// The same README: one blob of the new version is here.
	second := w.push("tiny", w.key, "second")
	w.list("tiny", "v2", second)
	w.list("stranger", "v1", w.push("stranger", nil, "third"))
	w.publish()
	look := func() map[string]Preflight {
		t.Helper()
		before := listing(t, n.StateDir())
		res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site), DryRun: true})
		w.must(err)
		if after := listing(t, n.StateDir()); !slices.Equal(before, after) {
			t.Errorf("before %v\nafter  %v", before, after)
		}
		out := map[string]Preflight{}
		for _, f := range res.Preflight {
			out[modelID(f.Name, f.Version)] = f
		}
		return out
	}
	// What an interrupted fetch left is not fetched again.
	const part = 100
	for _, b := range look()["tiny@v2"].Blobs {
		if slices.Equal(b.Files, []string{"model.gguf"}) {
			w.interrupt(n, second, b, part)
		}
	}
	found := look()
	if len(found) != 2 {
		t.Fatalf("looked at %v", found)
	}
	f := found["tiny@v2"]
	here := map[string]bool{}
	var sum int64
	left := int64(0)
	for _, b := range f.Blobs {
		left += b.Part
		here[strings.Join(b.Files, " ")] = b.Here
		sum += b.Size
	}
	if f.Failure != nil || !slices.Equal(f.Signers, []string{"publisher"}) || f.Format != "modelpack" || f.Source != w.host+"/acme/tiny" || f.Packed {
		t.Errorf("got %+v", f)
	}
	if len(here) != 3 || here["model.gguf"] || !here["README.md"] || f.Here == 0 || f.Fetch == 0 || f.Here+f.Fetch != sum || f.Disk != f.Fetch || left != part {
		t.Errorf("blobs %v: %d to fetch, %d here, %d of disk", f.Blobs, f.Fetch, f.Here, f.Disk)
	}
	if f := found["stranger@v1"]; f.Failure == nil || f.Failure.Cause != CauseSignature || len(f.Blobs) == 0 {
		t.Errorf("unsigned: %+v", f)
	}
	ins, err := n.Incidents("", 0)
	if err != nil || len(ins) != 0 {
		t.Errorf("a dry run wrote incidents: %v, %v", ins, err)
	}

	// It is what the install then fetches.
	got := w.sync(n)["tiny@v2"].Fetched
	if got != f.Fetch {
		t.Errorf("%d bytes were to be fetched, %d were", f.Fetch, got)
	}

	w.list("tiny", "v3", w.push("tiny", w.key, "fourth"))
	w.publish()
	w.faults(func(*http.Request) int { return http.StatusServiceUnavailable }, nil)
	if f := look()["tiny@v3"]; f.Failure == nil || f.Failure.Cause != CauseUnavailable {
		t.Errorf("without a registry: %+v", f)
	}
}

// interrupt fetches the first bytes of a blob.
func (w *network) interrupt(n *Node, reference string, b PreflightBlob, bytes int64) {
	w.t.Helper()
	ctx := context.Background()
	ref, err := oci.ParseReference(reference)
	w.must(err)
	c, err := n.client()
	w.must(err)
	st, err := n.store()
	w.must(err)
	l, err := st.Lease(ctx, "interrupted")
	w.must(err)
	in, err := st.Ingest(ctx, l, b.Digest, b.Size, cas.IngestOptions{})
	w.must(err)
	_, err = c.FetchRange(ctx, ref, nil, ocispec.Descriptor{Digest: b.Digest, Size: b.Size}, 0, bytes, in)
	w.must(err)
	w.must(in.Close())
	w.must(l.Release())
}
