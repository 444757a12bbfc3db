package snapshot_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
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
	ms := b.Elapsed().Seconds() * 1000 / float64(b.N)
	fmt.Printf("\n"+`{"bench":"accept: 1,000 models","vs":"budget of 200 ms","ratio":%.3f,"value":%.1f,"unit":"ms"}`+"\n", ms/200, ms)
}

// BenchmarkEndless is what a node allocates while it refuses a source of which
// one file does not end, for the worst file of a network with 1,000 models.
// Budget: 32 MiB, four times the cap of a push file.
func BenchmarkEndless(b *testing.B) {
	n, _, net := thousand(b)
	repo, err := ceremony.Open(net.dir)
	check(b, err)
	files, err := repo.Files()
	check(b, err)
	files["2.root.json"] = nil
	junk := bytes.Repeat([]byte(" "), 64<<10)
	var endless atomic.Value // the file without an end
	endless.Store("")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name != endless.Load() {
			if files[name] == nil {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = w.Write(files[name])
			return
		}
		for {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}))
	b.Cleanup(srv.Close)
	var worst uint64
	for b.Loop() {
		for name := range files {
			if name == "1.root.json" { // pinned, never asked for
				continue
			}
			endless.Store(name)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := n.Pull(b.Context(), snapshot.HTTPSource(nil, srv.URL), net.now()); !errors.Is(err, snapshot.ErrTooLarge) {
				b.Fatalf("%s without an end: %v", name, err)
			}
			runtime.ReadMemStats(&after)
			worst = max(worst, after.TotalAlloc-before.TotalAlloc)
		}
	}
	mib := float64(worst) / (1 << 20)
	fmt.Printf("\n"+`{"bench":"refuse: endless data","vs":"budget of 32 MiB","ratio":%.3f,"value":%.2f,"unit":"MiB allocated"}`+"\n", mib/32, mib)
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
	repo, err := ceremony.Init(net.dir, ceremony.InitOptions{Network: "mainnet", Now: net.now})
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
	signWith(b, repo)
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
