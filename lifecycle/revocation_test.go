package lifecycle

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// parts are the config and the layers of an artifact.
func (w *network) parts(reference string) []digest.Digest {
	w.t.Helper()
	ref, err := oci.ParseReference(reference)
	w.must(err)
	a, err := w.client.Resolve(context.Background(), ref, nil)
	w.must(err)
	var out []digest.Digest
	for _, d := range a.Blobs() {
		out = append(out, d.Digest)
	}
	return out
}

// weights is the largest layer of the first model of the draft.
func (w *network) weights() digest.Digest {
	w.t.Helper()
	var reference string
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { reference = d.Models[0].Reference; return nil }))
	ref, err := oci.ParseReference(reference)
	w.must(err)
	a, err := w.client.Resolve(context.Background(), ref, nil)
	w.must(err)
	return slices.MaxFunc(a.Blobs(), func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Size, b.Size) }).Digest
}

// A model that holds one revoked file is revoked, wherever else that file is
// and whether the model is here already or not.
func TestRevokedPart(t *testing.T) {
	w := newNetwork(t)
	bad := w.push("tiny", w.key, "first")
	w.list("tiny", "v1", bad)
	w.list("other", "v1", w.push("other", w.key, "second"))
	w.publish()
	n := w.node()
	w.sync(n)
	for _, part := range w.parts(bad) {
		w.must(w.repo.Revoke(snapshot.Revocation{Digest: part, Reason: "found harmful"}, ceremony.Unlisted))
		w.publish()
		w.sync(n)
		w.state(n, "other@v1", Pending)
		if r := w.state(n, "tiny@v1", Failed); r.Cause != CauseRevoked || !strings.Contains(r.Reason, "found harmful") {
			t.Errorf("%s: %s: %s", part, r.Cause, r.Reason)
		}
		fresh := w.node()
		w.requests()
		if o := w.sync(fresh)["tiny@v1"]; o.Failure == nil || o.Failure.Cause != CauseRevoked {
			t.Errorf("%s: fetched: %+v", part, o)
		}
		for _, r := range w.requests() {
			if strings.Contains(r, "/acme/tiny/blobs/") && strings.Contains(r, part.Encoded()) {
				t.Errorf("a revoked blob was asked for: %s", r)
			}
		}
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Revocations = nil; return nil }))
		w.publish()
		w.sync(n, func(o *SyncOptions) { o.Force = true })
		w.state(n, "tiny@v1", Pending)
	}
}

// A runtime's image that holds a revoked layer judges no model any more.
func TestRevokedLayerOfARuntime(t *testing.T) {
	w := newNetwork(t)
	image := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = image; speaking("one")(rt) })
	w.answers("alpha", "one")
	w.publish()
	n, _ := w.engineNode()
	w.sync(n)
	w.state(n, "alpha@v1", Active)
	parts := w.parts(image)
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: parts[len(parts)-1], Reason: "backdoored"}, ceremony.Unlisted))
	w.publish()
	w.sync(n)
	if r := w.state(n, "alpha@v1", Pending); !strings.Contains(r.Reason, "backdoored") {
		t.Errorf("%s: %s", r.Cause, r.Reason)
	}
}
