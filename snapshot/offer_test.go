package snapshot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/snapshot"
)

// heldSource answers from a directory, and stops at one file until it is let go.
type heldSource struct {
	snapshot.Source
	at           string
	asked, letGo chan struct{}
}

func (h *heldSource) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if strings.HasSuffix(name, h.at) {
		close(h.asked)
		select {
		case <-h.letGo:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.Source.Fetch(ctx, name, max)
}

// TestApplyBesideHangingSource: a snapshot is accepted while a pull waits for
// its source, and the pull that ends later is overtaken, which is no replay.
func TestApplyBesideHangingSource(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	net.release()
	old := t.TempDir()
	check(t, net.publish(old))
	check(t, net.repo.AddModel(testModel("tiny", "v3")))
	newer := net.release()

	for _, file := range []string{"2.root.json", "timestamp.json", ".snapshot.json", snapshot.TargetName} {
		t.Run(file, func(t *testing.T) {
			n := newNode(t, "mainnet", net.root())
			src := &heldSource{snapshot.DirSource(old), file, make(chan struct{}), make(chan struct{})}
			type result struct {
				acc *snapshot.Accepted
				err error
			}
			done := make(chan result)
			go func() {
				acc, err := n.Pull(t.Context(), src, net.now())
				done <- result{acc, err}
			}()
			<-src.asked
			applied := make(chan error, 1)
			go func() { _, err := n.Apply(newer, net.now()); applied <- err }()
			select {
			case err := <-applied:
				check(t, err)
			case <-time.After(20 * time.Second):
				t.Fatal("an apply waits for another pull's source")
			}
			close(src.letGo)
			got := <-done
			if got.err != nil || got.acc.Document.Sequence != 3 {
				t.Errorf("the pull that was overtaken ends with %+v", got)
			}
			if cur := must1(n.Current(net.now()))(t); cur.Document.Sequence != 3 {
				t.Errorf("sequence %d stayed", cur.Document.Sequence)
			}
		})
	}
}

// failing answers name with err.
type failing struct {
	snapshot.Source
	name string
	err  error
}

func (f failing) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if name == f.name {
		return nil, f.err
	}
	return f.Source.Fetch(ctx, name, max)
}

// TestFetchChangesNothing: what was fetched is on the node only after Accept; a
// root that verified is kept also when the source fails behind it.
func TestFetchChangesNothing(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	net.rotate("targets-1")
	net.release()
	to := t.TempDir()
	check(t, net.publish(to))
	root := filepath.Join(n.dir, "roots", "2.root.json")
	state := func() string {
		var all strings.Builder
		for _, f := range []string{filepath.Join(n.dir, "accepted.json"), n.floor, root} {
			b, _ := os.ReadFile(f)
			all.Write(b)
		}
		return all.String()
	}
	before := state()
	broken := failing{snapshot.DirSource(to), "timestamp.json", errors.New("reset by peer")}
	o := must1(n.Fetch(t.Context(), broken, net.now()))(t)
	good := must1(n.Fetch(t.Context(), snapshot.DirSource(to), net.now()))(t)
	if state() != before {
		t.Error("Fetch changed the node")
	}
	_, err := n.Accept(t.Context(), o, net.now())
	wantErr(t, err, snapshot.ErrSource, "reset by peer")
	if _, err := os.Stat(root); err != nil {
		t.Error("the new root was not kept:", err)
	}
	if acc := must1(n.Accept(t.Context(), good, net.now()))(t); acc.RootVersion != 2 {
		t.Errorf("root %d", acc.RootVersion)
	}
	// Without a new root there is nothing to accept.
	_, err = n.Fetch(t.Context(), broken, net.now())
	wantErr(t, err, snapshot.ErrSource, "reset by peer")
}
