package lifecycle

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

func TestPreflight(t *testing.T) {
	w, n := installed(t)
	// The same README: one blob of the new version is here.
	w.list("tiny", "v2", w.push("tiny", w.key, "second"))
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
	found := look()
	if len(found) != 2 {
		t.Fatalf("looked at %v", found)
	}
	f := found["tiny@v2"]
	here := map[string]bool{}
	var sum int64
	for _, b := range f.Blobs {
		here[strings.Join(b.Files, " ")] = b.Here
		sum += b.Size
	}
	if f.Failure != nil || !slices.Equal(f.Signers, []string{"publisher"}) || f.Format != "modelpack" || f.Source != w.host+"/acme/tiny" || f.Packed {
		t.Errorf("got %+v", f)
	}
	if len(here) != 3 || here["model.gguf"] || !here["README.md"] || f.Here == 0 || f.Fetch == 0 || f.Here+f.Fetch != sum || f.Disk != f.Fetch {
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
