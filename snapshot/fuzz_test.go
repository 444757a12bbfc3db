package snapshot_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// FuzzParse: whatever is accepted is well formed when written and read again.
func FuzzParse(f *testing.F) {
	s := validSnapshot()
	f.Add(mustJSON(f, s))
	s.Models[0].Validation.Expect = snapshot.Expect{Regexp: "^p.ng$"}
	s.Runtimes[0].Scratch = []snapshot.Scratch{{Path: "/scratch", Size: 1 << 20}}
	f.Add(mustJSON(f, s))
	for _, seed := range []string{"", "{}", "null", "[]", `{"apiVersion":"rmodels/v1"}`, `{"sequence":1e400}`, strings.Repeat("[", 20000), `{"models":[{"name":"\u0000"}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := snapshot.Parse(b)
		if err != nil {
			return
		}
		again, err := snapshot.Parse(mustJSON(t, s))
		if err != nil {
			t.Fatalf("accepted, but not when written again: %v", err)
		}
		if !bytes.Equal(mustJSON(t, again), mustJSON(t, s)) {
			t.Fatal("reads back differently")
		}
		for _, m := range s.Models {
			if m.Digest() == "" || strings.ContainsAny(m.ID(), "/\\\x00") {
				t.Fatalf("model %q", m.ID())
			}
		}
	})
}

// fuzzStage is a node and a set of files that it would accept.
func fuzzStage(f *testing.F) (*node, *forge, *network) {
	t := &testing.T{}
	dir := f.TempDir()
	net := &network{t: t, clock: &clock{start}, dir: dir + "/ceremony"}
	repo, err := ceremony.Init(net.dir, ceremony.InitOptions{Network: "mainnet", Now: net.now})
	check(f, err)
	net.repo = repo
	check(f, repo.AddPolicy(testPolicy()))
	check(f, repo.AddRuntime(testRuntime()))
	check(f, repo.AddModel(testModel("tiny", "v1")))
	signWith(f, repo)
	files, err := repo.Files()
	check(f, err)
	n := &node{t: t, dir: dir + "/trust", floor: dir + "/floor/mainnet.json"}
	check(f, snapshot.Pin(n.dir, n.floor, "mainnet", files["1.root.json"]))
	n.Trust, err = snapshot.OpenTrust(n.dir, n.floor)
	check(f, err)
	return n, &forge{t, net, files}, net
}

// FuzzBundle: no push file makes a node accept another document.
func FuzzBundle(f *testing.F) {
	n, set, net := fuzzStage(f)
	good := set.bundle()
	first, err := n.Apply(good, net.now())
	check(f, err)
	f.Add(good)
	for _, seed := range []string{"", "{}", `{"kind":"rmodels-push","version":1,"files":{}}`, `{"kind":"rmodels-push","version":1,"files":{"timestamp.json":"e30="}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if acc, err := n.Apply(b, net.now()); err == nil && acc.Digest != first.Digest {
			t.Fatalf("accepted %s", acc.Raw)
		}
	})
}

// FuzzMetadata: nor does any one file of the repository in other bytes.
func FuzzMetadata(f *testing.F) {
	n, set, net := fuzzStage(f)
	first, err := n.Pull(f.Context(), set, net.now())
	check(f, err)
	names := append(slices.Sorted(maps.Keys(set.files)), "2.root.json")
	for i, name := range names {
		f.Add(uint8(i), set.files[name])
		f.Add(uint8(i), []byte(`{"signed":{"_type":"root","version":2,"roles":{"root":null}},"signatures":null}`))
		f.Add(uint8(i), []byte(`{"signed":{"_type":"timestamp","version":9,"META":{"snapshot.json":null}},"signatures":[]}`))
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		changed := &forge{set.t, set.net, maps.Clone(set.files)}
		changed.files[names[int(i)%len(names)]] = b
		if acc, err := n.Pull(t.Context(), changed, net.now()); err == nil && acc.Digest != first.Digest {
			t.Fatalf("accepted %s", acc.Raw)
		}
	})
}

// FuzzKey: keys that parse are of a kind and size that is accepted.
func FuzzKey(f *testing.F) {
	f.Add(testKey)
	f.Add(rsa1024)
	f.Add("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")
	f.Fuzz(func(t *testing.T, s string) {
		pub, d, err := snapshot.ParseKey(s)
		if err == nil && (pub == nil || d.Validate() != nil) {
			t.Fatalf("%v %q", pub, d)
		}
	})
}
