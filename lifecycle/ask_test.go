package lifecycle

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// TestWhatMayBeRun asks and keeps models in every state. What may not be used
// is refused for its own reason before a container engine is looked for; what
// may be fails for want of one, which this node has not.
func TestWhatMayBeRun(t *testing.T) {
	archived := func(w *network, n *Node) {
		w.must(w.repo.SetEnabled("tiny", "v1", false))
		w.publish()
		w.sync(n)
		_, err := n.Archive(context.Background(), "tiny@v1")
		w.must(err)
	}
	revoke := func(w *network) {
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
			d.Revocations = append(d.Revocations, snapshot.Revocation{Digest: digest.Digest("sha256:" + d.Models[0].Reference[len(d.Models[0].Reference)-64:])})
			return nil
		}))
	}
	accept := func(w *network, n *Node, change func()) { // accepted, and no pass has acted upon it yet
		change()
		b := w.publish()
		tr, err := n.trust()
		w.must(err)
		_, err = tr.Apply(b, n.now())
		w.must(err)
	}
	const may = "no engine"
	for _, c := range []struct {
		name      string
		make      func(*network, *Node)
		keep, ask string // part of the refusal
	}{
		{"active", func(w *network, n *Node) { w.forge(n, "tiny@v1", nil) }, may, may},
		{"pending", func(*network, *Node) {}, may, "is Pending (no container engine"},
		{"disabled", func(w *network, n *Node) {
			w.must(w.repo.SetEnabled("tiny", "v1", false))
			w.publish()
			w.sync(n)
		}, "may not be used", "may not be used"},
		{"disabled just now", func(w *network, n *Node) {
			w.forge(n, "tiny@v1", nil)
			accept(w, n, func() { w.must(w.repo.SetEnabled("tiny", "v1", false)) })
		}, "the snapshot disables it", "the snapshot disables it"},
		{"revoked", func(w *network, n *Node) { revoke(w); w.publish(); w.sync(n) }, "may not be used", "may not be used"},
		{"revoked just now", func(w *network, n *Node) {
			w.forge(n, "tiny@v1", nil)
			accept(w, n, func() { revoke(w) })
		}, "may not be used any more", "may not be used any more"},
		{"archived", archived, "may not be used", "may not be used"},
		{"no longer listed", func(w *network, n *Node) {
			w.forge(n, "tiny@v1", nil)
			accept(w, n, func() { w.must(w.repo.RemoveModel("tiny", "v1")) })
		}, "no longer lists it", "no longer lists it"},
		{"other content pinned", func(w *network, n *Node) {
			w.forge(n, "tiny@v1", nil)
			accept(w, n, func() {
				w.must(w.repo.RemoveModel("tiny", "v1"))
				w.list("tiny", "v1", w.push("tiny", w.key, "second"))
			})
		}, "other content", "other content"},
		{"quarantined by its test", func(w *network, n *Node) {
			w.forge(n, "tiny@v1", func(r *Record) { r.State, r.Cause, r.Reason = Failed, CauseValidation, "wrong answer" })
		}, "wrong answer", "wrong answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newNetwork(t)
			w.list("tiny", "v1", w.push("tiny", w.key, "first"))
			w.publish()
			n := w.node(func(o *Options) { o.Archive = filepath.Join(t.TempDir(), "cold") })
			w.sync(n)
			c.make(w, n)
			_, kept := n.KeepRunning(context.Background(), "tiny@v1", time.Minute, func(runner.Kept) { t.Error("it runs") })
			_, asked := n.Ask(context.Background(), "tiny@v1", "ping", io.Discard)
			for verb, got := range map[string]struct {
				err  error
				want string
			}{"keep": {kept, c.keep}, "ask": {asked, c.ask}} {
				f := AsFailure(got.err)
				switch {
				case f == nil:
					t.Errorf("%s: no error", verb)
				case got.want == may:
					if !errors.Is(got.err, runner.ErrNoEngine) {
						t.Errorf("%s: %v, want it to look for an engine", verb, got.err)
					}
				case f.Cause != CauseListing || !strings.Contains(f.Reason, got.want) || f.Hint == "":
					t.Errorf("%s: %s: %q, hint %q; want …%s…", verb, f.Cause, f.Reason, f.Hint, got.want)
				}
			}
		})
	}
}
