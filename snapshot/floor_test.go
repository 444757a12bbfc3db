package snapshot_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// rooted is a node that holds sequence 1 and has seen root 2, from a set that
// it could not take; the trust directory is as before, as from a backup.
func rooted(t *testing.T) (net *network, n *node, withheld, whole *forge) {
	t.Helper()
	net = newNetwork(t)
	net.release()
	n = newNode(t, "mainnet", net.root())
	withheld = net.forge()
	must1(n.Apply(withheld.bundle(), net.now()))(t)
	backup := filepath.Join(t.TempDir(), "backup")
	check(t, os.CopyFS(backup, os.DirFS(n.dir)))
	whole = net.forge()
	r := whole.root(1)
	r.Signed.Version = 2
	put(whole, "2.root.json", r, "root-1", "root-2")
	cut := net.forge()
	cut.files["2.root.json"] = whole.files["2.root.json"]
	delete(cut.files, "timestamp.json")
	_, err := n.Apply(cut.bundle(), net.now())
	wantErr(t, err, snapshot.ErrInvalid)
	check(t, os.RemoveAll(n.dir))
	check(t, os.Rename(backup, n.dir))
	n.reopen()
	return net, n, withheld, whole
}

// TestRootSeen: a root that was seen is remembered beside the floor, also when
// the trust directory comes back from a backup.
func TestRootSeen(t *testing.T) {
	net, n, withheld, whole := rooted(t)
	acc := must1(n.Current(net.now()))(t)
	if acc.Freshness != snapshot.Stale || acc.Reason == "" {
		t.Errorf("%s: %q: the node has seen root 2 and does not hold it", acc.Freshness, acc.Reason)
	}
	_, err := n.Apply(withheld.bundle(), net.now())
	wantErr(t, err, snapshot.ErrReplay, "version 1", "seen 2")

	// Another root 2, by the same stolen keys.
	other := net.forge()
	r := other.root(1)
	r.Signed.Version = 2
	check(t, r.Signed.AddKey(other.tufKey("mallory"), "targets"))
	put(other, "2.root.json", r, "root-1", "root-2")
	_, err = n.Apply(other.bundle(), net.now())
	wantErr(t, err, snapshot.ErrReplay, "two roots")
	check(t, os.WriteFile(filepath.Join(n.dir, "roots", "2.root.json"), other.files["2.root.json"], 0o600))
	_, err = n.Current(net.now())
	wantErr(t, err, snapshot.ErrTrustState, "two roots")
	check(t, os.Remove(filepath.Join(n.dir, "roots", "2.root.json")))

	// Pinned anew, it is still the one that was seen.
	check(t, os.RemoveAll(n.dir))
	wantErr(t, snapshot.Pin(n.dir, n.floor, "mainnet", other.files["2.root.json"]), snapshot.ErrPinned, "two roots")
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
	n.reopen()

	// A signature that was added later does not make it another root.
	r = load[metadata.RootType](whole, "2.root.json")
	must1(r.Sign(whole.signer("root-3")))(t)
	whole.files["2.root.json"] = must1(r.ToBytes(false))(t)
	if acc := must1(n.Apply(whole.bundle(), net.now()))(t); acc.RootVersion != 2 {
		t.Errorf("root %d", acc.RootVersion)
	}
}

// TestRootSeenLater: a root that an acceptance brought is remembered as well,
// and so is one that a crash left stored above the floor.
func TestRootSeenLater(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	root := func() float64 {
		var f struct{ Root struct{ Version float64 } }
		check(t, json.Unmarshal(mustRead(t, n.floor), &f))
		return f.Root.Version
	}
	if v := root(); v != 1 {
		t.Errorf("root %v", v)
	}
	before := mustRead(t, n.floor)
	net.rotate("root-1")
	must1(n.Apply(net.release(), net.now()))(t)
	if v := root(); v != 2 {
		t.Errorf("root %v after the acceptance", v)
	}
	check(t, os.WriteFile(n.floor, before, 0o600)) // the crash
	check(t, n.Witness(t.Context(), net.now()))
	if v := root(); v != 2 {
		t.Errorf("root %v after the crash", v)
	}
	// The floor of a version that remembered neither roots nor times.
	var f map[string]any
	check(t, json.Unmarshal(mustRead(t, n.floor), &f))
	delete(f, "root")
	delete(f, "seenAt")
	check(t, os.WriteFile(n.floor, must1(json.Marshal(f))(t), 0o600))
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Fresh {
		t.Errorf("%s: %s", acc.Freshness, acc.Reason)
	}
	check(t, n.Witness(t.Context(), net.now()))
	if v := root(); v != 2 || !strings.Contains(string(mustRead(t, n.floor)), "seenAt") {
		t.Errorf("root %v: %s", v, mustRead(t, n.floor))
	}
}

// TestFloorLost: a floor that is gone is told, and raised again from what is
// stored.
func TestFloorLost(t *testing.T) {
	net := newNetwork(t)
	b1 := net.release()
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b2, net.now()))(t)
	check(t, n.Witness(t.Context(), net.now()))
	check(t, os.Remove(n.floor))
	err := n.Witness(t.Context(), net.now().Add(8*days))
	wantErr(t, err, snapshot.ErrFloorLost, n.floor, "sequence 2", "root 1")
	if errors.Is(err, snapshot.ErrRejected) || errors.Is(err, snapshot.ErrTrustState) {
		t.Errorf("it is repaired: %v", err)
	}
	check(t, n.Witness(t.Context(), net.now())) // told once
	if acc := must1(n.Current(net.now()))(t); acc.Freshness != snapshot.Stale {
		t.Errorf("%s: the time seen was not written down", acc.Freshness)
	}
	check(t, os.RemoveAll(n.dir)) // the cache goes as well: the floor alone tells the replay
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
	n.reopen()
	_, err = n.Apply(b1, net.now())
	wantErr(t, err, snapshot.ErrReplay, "sequence 1")

	// Before anything was accepted there is nothing to raise it from, and it
	// is told all the same.
	fresh := newNode(t, "mainnet", net.root())
	check(t, fresh.Witness(t.Context(), net.now()))
	check(t, os.Remove(fresh.floor))
	wantErr(t, fresh.Witness(t.Context(), net.now()), snapshot.ErrFloorLost)
	check(t, fresh.Witness(t.Context(), net.now()))
	must1(fresh.Apply(b2, net.now()))(t)
}
