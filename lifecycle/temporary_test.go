package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// TestLeftoversOfTheState: what a killed command left in the state goes with the
// next pass; what a command that is at work writes stays.
func TestLeftoversOfTheState(t *testing.T) {
	w, n := installed(t)
	w.list("busy", "v1", w.push("busy", w.key, "second"))
	w.publish()
	w.sync(n)
	lk, err := n.models.lock(context.Background(), "busy@v1")
	w.must(err)
	defer lk.Unlock()
	gone := []string{
		n.models.path("tiny@v1"), n.runtimes.path("engine@v1"), n.floorPath(),
		filepath.Join(n.dir, markHead+".json"), filepath.Join(n.dir, markSnapshot+".json"),
		filepath.Join(n.trustDir(), "accepted.json"), filepath.Join(n.trustDir(), "roots", "7.root.json"),
	}
	stay := durable.Temporary(n.models.path("busy@v1"))
	other := durable.Temporary(filepath.Join(filepath.Dir(n.floorPath()), "other.json"))
	left := []string{stay, other}
	for i, path := range gone {
		gone[i] = durable.Temporary(path)
	}
	for _, path := range append(left, gone...) {
		w.must(os.WriteFile(path, nil, 0o600))
	}
	old := durable.Temporary(filepath.Join(n.dir, markWithdrawn+".json"))
	fresh := durable.Temporary(filepath.Join(n.dir, markWithdrawn+".json"))
	for _, path := range []string{old, fresh} {
		w.must(os.WriteFile(path, nil, 0o600))
	}
	w.must(os.Chtimes(old, time.Now(), time.Now().Add(-2*time.Hour)))
	gone, left = append(gone, old), append(left, fresh)
	named := map[string]bool{}
	fs, err := n.Fsck(context.Background(), cas.FsckOptions{})
	w.must(err)
	for _, f := range fs {
		named[f.Name] = f.Kind == "temporary" && f.Remedy != ""
	}
	for _, path := range append(gone, stay) {
		if !named[path] {
			t.Errorf("fsck does not name %s", path)
		}
	}
	w.must(w.repo.RemoveModel("busy", "v1"))
	w.publish()
	w.sync(n)
	w.must(n.incident(Incident{Kind: CauseHash, Model: "tiny"}))
	for _, path := range gone {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still here: %v", path, err)
		}
	}
	for _, path := range left {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a live writer's: %v", err)
		}
	}
}
