package snapshot_test

import (
	"fmt"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// BenchmarkAccept is the acceptance of a snapshot with 1,000 models as a push
// file, durable writes and the node's own state included. Budget: 200 ms.
func BenchmarkAccept(b *testing.B) {
	n, bundle, net := thousand(b)
	b.SetBytes(int64(len(bundle)))
	for b.Loop() {
		if _, err := n.Apply(bundle, net.now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCurrent is what every command pays to verify it again.
func BenchmarkCurrent(b *testing.B) {
	n, bundle, net := thousand(b)
	_, err := n.Apply(bundle, net.now())
	check(b, err)
	for b.Loop() {
		if _, err := n.Current(net.now()); err != nil {
			b.Fatal(err)
		}
	}
}

func thousand(b *testing.B) (*node, []byte, *network) {
	b.Helper()
	dir := b.TempDir()
	net := &network{clock: &clock{start}, dir: dir + "/ceremony"}
	repo, err := snapshot.InitRepository(net.dir, snapshot.InitOptions{Network: "mainnet", Now: net.now})
	check(b, err)
	check(b, repo.Edit(func(s *snapshot.Snapshot) error {
		s.Policies, s.Runtimes = []snapshot.Policy{testPolicy()}, []snapshot.Runtime{testRuntime()}
		for i := range 1000 {
			m := testModel(fmt.Sprintf("model-%04d", i), "v1")
			m.Mirrors = []string{"mirror-a.example/acme/" + m.Name, "mirror-b.example/acme/" + m.Name}
			m.Compat.RuntimeVersion, m.Compat.ComputeCapability = ">=1.0 <2", ">=8.0"
			m.Compat.Tasks = []string{"chat", "completion"}
			s.Models = append(s.Models, m)
		}
		return nil
	}))
	_, err = repo.Sign()
	check(b, err)
	bundle, err := repo.BundleFile()
	check(b, err)
	root, err := repo.RootJSON()
	check(b, err)
	n := &node{dir: dir + "/trust", floor: dir + "/floor/mainnet.json"}
	check(b, snapshot.Pin(n.dir, n.floor, "mainnet", root))
	n.Trust, err = snapshot.OpenTrust(n.dir, n.floor)
	check(b, err)
	return n, bundle, net
}
