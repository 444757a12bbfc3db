package snapshot_test

import (
	"math"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// TestRotation: a node that was pinned to the first root walks to the newest,
// whichever keys changed, in one step or in several.
func TestRotation(t *testing.T) {
	net := newNetwork(t)
	first := net.root()
	early := newNode(t, "mainnet", first)
	must1(early.Apply(net.release(), net.now()))(t)

	for i, keys := range [][]string{{"root-1"}, {"targets-1"}, {"online"}, {"root-2", "root-3", "targets-2"}} {
		net.rotate(keys...)
		b := net.release()
		acc := must1(early.Apply(b, net.now()))(t)
		if acc.RootVersion != int64(i+2) || acc.Freshness != snapshot.Fresh {
			t.Errorf("%v: %+v", keys, acc)
		}
		late := newNode(t, "mainnet", first)
		if acc := must1(late.Apply(b, net.now()))(t); acc.RootVersion != int64(i+2) {
			t.Errorf("%v: %+v", keys, acc)
		}
		newest := newNode(t, "mainnet", net.root())
		must1(newest.Apply(b, net.now()))(t)
		early.reopen()
		must1(early.Current(net.now()))(t)
	}
}

// TestPinAgain: pinning the first root again does not bring it back.
func TestPinAgain(t *testing.T) {
	net := newNetwork(t)
	first := net.root()
	n := newNode(t, "mainnet", first)
	must1(n.Apply(net.release(), net.now()))(t)
	stolen := net.forge()
	net.rotate("targets-1", "targets-2", "targets-3")
	must1(n.Apply(net.release(), net.now()))(t)
	check(t, snapshot.Pin(n.dir, n.floor, "mainnet", first))
	n.reopen()
	stolen.document(stolen.edited(func(s *snapshot.Snapshot) { s.Sequence = 99 }), "targets-1", "targets-2")
	stolen.online(stolen.targets(), "online", 9) // newer than any that was signed
	_, err := n.Apply(stolen.bundle(), net.now())
	wantErr(t, err, snapshot.ErrSignature)
	if acc := must1(n.Current(net.now()))(t); acc.RootVersion != 2 {
		t.Errorf("%+v", acc)
	}
}

// TestFastForward: a thief of the targets and online keys pushes everything to
// the highest numbers. A root that replaces the keys brings the node back
// (TUF specification, fast-forward recovery), and the thief's document does
// not come again.
func TestFastForward(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	f := net.forge()
	f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = math.MaxInt64 }), "targets-1", "targets-2")
	tg := f.targets()
	tg.Signed.Version = math.MaxInt32
	put(f, "2147483647.targets.json", tg, "targets-1", "targets-2")
	f.online(tg, "online", math.MaxInt32)
	evil := f.bundle()
	if acc := must1(n.Apply(evil, net.now()))(t); acc.Document.Sequence != math.MaxInt64 {
		t.Fatalf("%+v", acc)
	}
	// Without new keys the node is stuck: that is what the floor is for.
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	_, err := n.Apply(net.release(), net.now())
	wantErr(t, err, snapshot.ErrReplay)

	net.rotate("targets-1", "targets-2", "online")
	acc := must1(n.Apply(net.release(), net.now()))(t)
	if acc.Document.Sequence != 3 || acc.RootVersion != 2 {
		t.Errorf("%+v", acc)
	}
	n.reopen()
	must1(n.Current(net.now()))(t)
	_, err = n.Apply(evil, net.now())
	wantErr(t, err, snapshot.ErrSignature)
}

// TestFloorStays: replacing one targets key of three does not lower the floor,
// because the two that stay could still sign what was there before.
func TestFloorStays(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	for range 3 {
		must1(n.Apply(net.release(), net.now()))(t)
	}
	net.rotate("targets-1")
	net.release()
	f := net.forge()
	f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 2 }), "targets-2", "targets-3")
	_, err := n.Apply(f.bundle(), net.now())
	wantErr(t, err, snapshot.ErrReplay, "sequence 2", "3")
}

// TestFloorKnowsKeysInAnySpelling: a root that writes the same targets keys
// otherwise replaces none of them.
func TestFloorKnowsKeysInAnySpelling(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	for range 3 {
		must1(n.Apply(net.release(), net.now()))(t)
	}
	f := net.forge()
	root := f.root(1)
	root.Signed.Version = 2
	for _, id := range root.Signed.Roles[metadata.TARGETS].KeyIDs {
		k := root.Signed.Keys[id]
		k.Value.PublicKey = strings.ToUpper(k.Value.PublicKey)
	}
	put(f, "2.root.json", root, "root-1", "root-2")
	f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 2 }), "targets-1", "targets-2")
	_, err := n.Apply(f.bundle(), net.now())
	wantErr(t, err, snapshot.ErrReplay, "sequence 2", "3")
}

// TestSuperseded: a new root that arrives without the rest (a mirror withholds
// it) replaced the keys of what the node holds: it stays, but is not fresh.
func TestSuperseded(t *testing.T) {
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	acc := must1(n.Apply(net.release(), net.now()))(t)
	net.rotate("targets-1", "targets-2")
	net.release()
	f := net.forge()
	f.files["timestamp.json"] = []byte("{}")
	_, err := n.Apply(f.bundle(), net.now())
	wantErr(t, err, snapshot.ErrInvalid)
	cur := must1(n.Current(net.now()))(t)
	if cur.Digest != acc.Digest || cur.Freshness != snapshot.Stale || cur.Reason == "" {
		t.Errorf("%+v", cur)
	}
	// A root that keeps enough of the keys does not disturb.
	net2 := newNetwork(t)
	n2 := newNode(t, "mainnet", net2.root())
	must1(n2.Apply(net2.release(), net2.now()))(t)
	net2.rotate("root-1")
	net2.release()
	f2 := net2.forge()
	f2.files["timestamp.json"] = []byte("{}")
	_, err = n2.Apply(f2.bundle(), net2.now())
	wantErr(t, err, snapshot.ErrInvalid)
	if cur := must1(n2.Current(net2.now()))(t); cur.Freshness != snapshot.Fresh {
		t.Errorf("%s: %s", cur.Freshness, cur.Reason)
	}
}
