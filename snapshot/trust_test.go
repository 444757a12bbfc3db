package snapshot_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

func TestPushAndCurrent(t *testing.T) {
	net := newNetwork(t)
	b1 := net.release()
	n := newNode(t, "mainnet", net.root())
	if _, err := n.Current(net.now()); !errors.Is(err, snapshot.ErrNone) {
		t.Fatalf("before the first acceptance: %v", err)
	}
	acc := must1(n.Apply(b1, net.now()))(t)
	if acc.Document.Sequence != 1 || !acc.Changed || acc.Previous != "" || acc.Freshness != snapshot.Fresh || len(acc.Signers) != 3 {
		t.Errorf("%+v", acc)
	}
	if !acc.Document.Created.Equal(start) || !acc.Document.Expires.Equal(start.Add(30*days)) {
		t.Errorf("created %s expires %s", acc.Document.Created, acc.Document.Expires)
	}
	again := must1(n.Apply(b1, net.now().Add(time.Hour)))(t)
	if again.Changed || again.Previous != "" {
		t.Errorf("the same file again: %+v", again)
	}

	net.forward(time.Hour)
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release("targets-1", "targets-3", "online")
	acc2 := must1(n.Apply(b2, net.now()))(t)
	if acc2.Document.Sequence != 2 || !acc2.Changed || acc2.Previous != acc.Digest || len(acc2.Signers) != 2 || len(acc2.Document.Models) != 2 {
		t.Errorf("%+v", acc2)
	}
	n.reopen()
	cur := must1(n.Current(net.now()))(t)
	if cur.Digest != acc2.Digest || cur.Changed || cur.Freshness != snapshot.Fresh || !cur.AcceptedAt.Equal(latestOf(net.now(), start.Add(time.Hour))) {
		t.Errorf("%+v", cur)
	}
	if changes := must1(cur.Changes())(t); cur.Previous != acc.Digest || len(changes) != 1 || changes[0].Verb != "added" || changes[0].Kind != "model" || changes[0].Name != "tiny@v2" {
		t.Errorf("since %s: %+v", cur.Previous, changes)
	}
	_, err := n.Apply(b1, net.now())
	wantErr(t, err, snapshot.ErrReplay)
	if cur := must1(n.Current(net.now()))(t); cur.Digest != acc2.Digest {
		t.Error("a refused snapshot changed the last good one")
	}
}

func latestOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestPullSources(t *testing.T) {
	net := newNetwork(t)
	net.release()
	to := t.TempDir()
	check(t, net.publish(to))
	srv := httptest.NewServer(http.FileServer(http.Dir(to)))
	defer srv.Close()
	for name, src := range map[string]snapshot.Source{
		"directory": snapshot.DirSource(to),
		"http":      snapshot.HTTPSource(nil, srv.URL),
		"http path": snapshot.HTTPSource(srv.Client(), srv.URL+"/"),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "mainnet", net.root())
			acc := must1(n.Pull(context.Background(), src, net.now()))(t)
			if acc.Document.Sequence != 1 {
				t.Errorf("sequence %d", acc.Document.Sequence)
			}
		})
	}
	t.Run("nothing there", func(t *testing.T) {
		n := newNode(t, "mainnet", net.root())
		_, err := n.Pull(context.Background(), snapshot.DirSource(filepath.Join(to, "none")), net.now())
		wantErr(t, err, snapshot.ErrSource)
		if errors.Is(err, snapshot.ErrRejected) {
			t.Error("an unreachable source is not a rejection")
		}
		_, err = n.Pull(context.Background(), snapshot.DirSource(t.TempDir()), net.now())
		wantErr(t, err, snapshot.ErrInvalid, "timestamp.json")
		srv.Close()
		_, err = n.Pull(context.Background(), snapshot.HTTPSource(nil, srv.URL), net.now())
		wantErr(t, err, snapshot.ErrSource)
	})
}

// TestFreshness: fresh, stale, expired by the real clock, while the stored
// bytes are verified as of their acceptance.
func TestFreshness(t *testing.T) {
	net := newNetwork(t)
	b := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b, net.now()))(t)
	for _, c := range []struct {
		after time.Duration
		want  snapshot.Freshness
	}{
		{0, snapshot.Fresh},
		{7 * days, snapshot.Fresh}, // the last moment of the timestamp's term
		{7*days + time.Second, snapshot.Stale},
		{21 * days, snapshot.Stale},
		{21*days + time.Second, snapshot.Expired},
		{4000 * days, snapshot.Expired},
		{-100 * days, snapshot.Fresh}, // a clock set back does not make time
	} {
		acc := must1(n.Current(start.Add(c.after)))(t)
		if acc.Freshness != c.want || (acc.Reason == "") != (c.want == snapshot.Fresh) {
			t.Errorf("after %s: %s (%s), want %s", c.after, acc.Freshness, acc.Reason, c.want)
		}
	}
	_, err := n.Apply(b, start.Add(8*days))
	wantErr(t, err, snapshot.ErrExpired, "timestamp")
	// A clock set back behind the last acceptance does not revive anything.
	net.forward(7 * days)
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release()
	must1(n.Apply(b2, net.now()))(t)
	net2 := must1(n.Current(start))(t)
	if net2.Document.Sequence != 2 || net2.Freshness != snapshot.Fresh {
		t.Errorf("%+v", net2)
	}
}

func TestPin(t *testing.T) {
	net, other := newNetwork(t), newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
	wantErr(t, snapshot.Pin(n.dir, n.floor, "mainnet", other.root()), snapshot.ErrPinned)
	wantErr(t, snapshot.Pin(n.dir, n.floor, "testnet", net.root()), snapshot.ErrPinned)
	wantErr(t, snapshot.Pin(t.TempDir(), filepath.Join(t.TempDir(), "f"), "../x", net.root()), snapshot.ErrInvalid)
	wantErr(t, snapshot.Pin(t.TempDir(), filepath.Join(t.TempDir(), "f"), "mainnet", []byte("{}")), snapshot.ErrInvalid)
	_, err := snapshot.OpenTrust(t.TempDir(), n.floor)
	wantErr(t, err, snapshot.ErrNotPinned, "rmodels init")
	_, err = n.Apply(other.release(), start)
	wantErr(t, err, snapshot.ErrSignature)
}

// TestNetworksApart: the same keys may sign for two networks; a node takes its
// own alone.
func TestNetworksApart(t *testing.T) {
	net := newNetwork(t, func(o *ceremony.InitOptions) { o.Network = "testnet" })
	n := newNode(t, "mainnet", net.root())
	_, err := n.Apply(net.release(), net.now())
	wantErr(t, err, snapshot.ErrNetwork, "testnet", "mainnet")
}

// TestFloorApart: a wiped cache does not open the way for a replay.
func TestFloorApart(t *testing.T) {
	net := newNetwork(t)
	b1 := net.release()
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b2, net.now()))(t)
	check(t, os.RemoveAll(n.dir))
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
	n.reopen()
	_, err := n.Current(net.now())
	wantErr(t, err, snapshot.ErrNone, "sequence 2")
	_, err = n.Apply(b1, net.now())
	wantErr(t, err, snapshot.ErrReplay, "sequence 1", "2")
	must1(n.Apply(b2, net.now()))(t)

	// The other way round: the floor is lost, the cache is not. Numbers of the
	// metadata are high enough, the sequence alone is not.
	check(t, os.Remove(n.floor))
	n.reopen()
	_, err = n.Apply(b1, net.now())
	wantErr(t, err, snapshot.ErrReplay)
	f := net.forge()
	f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 1 }), "targets-1", "targets-2")
	_, err = n.Apply(f.bundle(), net.now())
	wantErr(t, err, snapshot.ErrReplay, "sequence 1")
	must1(n.Current(net.now()))(t)

	// And a damaged floor refuses: without it a replay could not be told.
	check(t, os.WriteFile(n.floor, []byte("{"), 0o600))
	if _, err := n.Apply(b2, net.now()); err == nil {
		t.Error("accepted over a damaged floor")
	}
}

// TestStoredBytes: the last good snapshot is verified again at every start.
func TestStoredBytes(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	b := net.release()
	must1(n.Apply(b, net.now()))(t)
	file := filepath.Join(n.dir, "accepted.json")
	good := mustRead(t, file)
	for i := 0; i < len(good); i += 1 + len(good)/97 {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x20
		check(t, os.WriteFile(file, bad, 0o600))
		acc, err := n.Current(net.now())
		if err == nil && string(acc.Raw) != string(must1(reread(t, n, file, good, net.now()))(t).Raw) {
			t.Fatalf("byte %d: another document came back", i)
		}
	}
	check(t, os.WriteFile(file, []byte("{"), 0o600))
	_, err := n.Current(net.now())
	wantErr(t, err, snapshot.ErrCache)
	must1(n.Apply(b, net.now()))(t) // a damaged cache is healed by the next acceptance
	must1(n.Current(net.now()))(t)
}

func reread(t *testing.T, n *node, file string, good []byte, now time.Time) (*snapshot.Accepted, error) {
	t.Helper()
	check(t, os.WriteFile(file, good, 0o600))
	return n.Current(now)
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return b
}

// TestDamagedRoot: a stored root that changed on disk stops the node. Nothing
// takes its place but what a person pins, and the floor outlives that.
func TestDamagedRoot(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	stolen := net.forge().bundle()
	net.rotate("targets-1")
	newest := net.release()
	must1(n.Apply(newest, net.now()))(t)
	file := filepath.Join(n.dir, "roots", "2.root.json")
	bad := bytes.Replace(mustRead(t, file), []byte("targets"), []byte("tarGets"), 1)
	for name, damage := range map[string][]byte{"changed": bad, "empty": nil, "cut off": bad[:len(bad)/2], "too long": make([]byte, 1<<20)} {
		t.Run(name, func(t *testing.T) {
			check(t, os.WriteFile(file, damage, 0o600))
			n.reopen()
			_, err := n.Apply(newest, net.now())
			wantErr(t, err, snapshot.ErrTrustState)
			_, err = n.Current(net.now())
			wantErr(t, err, snapshot.ErrTrustState)
			for _, word := range []string{file, n.dir, "rmodels init --network mainnet --root"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if !bytes.Equal(mustRead(t, file), damage) {
				t.Error("the stored root was replaced")
			}
		})
	}
	check(t, os.Rename(n.dir, n.dir+".aside"))
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
	n.reopen()
	_, err := n.Apply(stolen, net.now())
	if !errors.Is(err, snapshot.ErrRejected) {
		t.Errorf("the snapshot before the rotation, after pinning anew: %v", err)
	}
	must1(n.Apply(newest, net.now()))(t)
}

// TestDamagedPin: a pin that changed on disk is no pin.
func TestDamagedPin(t *testing.T) {
	net, other := newNetwork(t), newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	file := filepath.Join(n.dir, "pin.json")
	swapped := strings.Replace(string(mustRead(t, file)), base64.StdEncoding.EncodeToString(net.root()), base64.StdEncoding.EncodeToString(other.root()), 1)
	check(t, os.WriteFile(file, []byte(swapped), 0o600))
	if _, err := snapshot.OpenTrust(n.dir, n.floor); !errors.Is(err, snapshot.ErrTrustState) || !strings.Contains(err.Error(), "digest") {
		t.Errorf("opened with another root: %v", err)
	}
}

// TestTwoAtOnce: two processes apply different snapshots; the newer one stays
// whichever comes first.
func TestTwoAtOnce(t *testing.T) {
	net := newNetwork(t)
	b1 := net.release()
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release()
	n := newNode(t, "mainnet", net.root())
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			tr, err := snapshot.OpenTrust(n.dir, n.floor)
			if err != nil {
				t.Error(err)
				return
			}
			b := b1
			if i%2 == 0 {
				b = b2
			}
			if _, err := tr.Apply(b, start); err != nil && !errors.Is(err, snapshot.ErrReplay) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if acc := must1(n.Current(start))(t); acc.Document.Sequence != 2 {
		t.Errorf("sequence %d stayed", acc.Document.Sequence)
	}
}

// TestForeignState: who may not read the trust state is told so, whichever of
// its files is met first, and not to begin anew.
func TestForeignState(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	net.rotate("targets-1")
	must1(n.Apply(net.release(), net.now()))(t)
	to := t.TempDir()
	check(t, net.publish(to))
	for _, file := range []string{filepath.Join(n.dir, "pin.json"), filepath.Join(n.dir, "roots", "2.root.json"), filepath.Join(n.dir, "accepted.json"), filepath.Join(n.dir, "lock"), n.floor} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			check(t, os.Chmod(file, 0))
			err := make(chan error)
			go func() { // whose thread, without root's privileges, ends with it
				runtime.LockOSThread()
				var none [2]unix.CapUserData
				e := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
				var tr *snapshot.Trust
				if e == nil {
					tr, e = snapshot.OpenTrust(n.dir, n.floor)
				}
				if e == nil {
					_, e = tr.Pull(context.Background(), snapshot.DirSource(to), net.now())
				}
				err <- e
			}()
			got := <-err
			check(t, os.Chmod(file, 0o600))
			wantErr(t, got, snapshot.ErrNotOwner)
			if !strings.Contains(got.Error(), "run as its owner") || strings.Contains(got.Error(), "damaged") || strings.Contains(got.Error(), "rmodels init") {
				t.Error(got)
			}
		})
	}
}
