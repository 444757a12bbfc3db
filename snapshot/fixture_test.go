package snapshot_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// start is the time at which every test's network is founded.
var start = time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC)

const days = 24 * time.Hour

// clock is a settable time.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func (c *clock) forward(d time.Duration) { c.t = c.t.Add(d) }

const testKey = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`

func testDigest(s string) digest.Digest { return digest.FromString(s) }

func testPolicy() snapshot.Policy {
	return snapshot.Policy{
		Name: "acme", Images: []snapshot.ImageGlob{{Glob: "registry.example/**"}}, Threshold: 1,
		Authorities: []snapshot.Authority{{Name: "ci", SignatureFormat: "bundle", Key: &snapshot.Key{Data: testKey}}},
	}
}

func testRuntime() snapshot.Runtime {
	return snapshot.Runtime{
		Name: "llama", Version: "1.2.3", Policy: "acme", Reference: "registry.example/rt/llama@" + testDigest("runtime").String(),
		Protocol: "openai-chat", Port: 8080, Args: []string{"-m", "{{.Model}}", "--port", "{{.Port}}"}, GPU: "none",
	}
}

func testModel(name, version string) snapshot.Model {
	return snapshot.Model{
		Name: name, Version: version, Enabled: true, Policy: "acme",
		Reference: "registry.example/acme/" + name + "@" + testDigest(name+version).String(), Size: 1000,
		Compat: snapshot.Compat{Runtime: "llama"},
		Validation: snapshot.Validation{
			Request: []byte(`{"messages":[{"role":"user","content":"ping"}]}`),
			Expect:  snapshot.Expect{Contains: "pong"},
		},
	}
}

// network is a publisher and the clock that it shares with its nodes.
type network struct {
	t    *testing.T
	repo *ceremony.Repository
	dir  string
	*clock
}

func newNetwork(t *testing.T, change ...func(*ceremony.InitOptions)) *network {
	t.Helper()
	n := &network{t: t, clock: &clock{start}}
	o := ceremony.InitOptions{Network: "mainnet", Now: n.now}
	for _, c := range change {
		c(&o)
	}
	n.dir = filepath.Join(t.TempDir(), "ceremony")
	repo, err := ceremony.Init(n.dir, o)
	check(t, err)
	n.repo = repo
	check(t, repo.AddPolicy(testPolicy()))
	check(t, repo.AddRuntime(testRuntime()))
	check(t, repo.AddModel(testModel("tiny", "v1")))
	return n
}

func (n *network) key(name string) string { return filepath.Join(n.dir, "keys", name+".pem") }

// release signs with the keys (none: all) and returns the push file.
func (n *network) release(keys ...string) []byte {
	n.t.Helper()
	var files []string
	for _, k := range keys {
		files = append(files, n.key(k))
	}
	signWith(n.t, n.repo, files...)
	b, err := n.repo.BundleFile()
	check(n.t, err)
	return b
}

// signWith signs with key files, none meaning all in keys/, whatever it is for.
func signWith(t testing.TB, repo *ceremony.Repository, files ...string) *ceremony.Status {
	t.Helper()
	keys, err := repo.LoadKeys(nil, files...)
	check(t, err)
	res, err := repo.Sign(ceremony.SignOptions{Keys: keys, Root: true, Confirm: func(*ceremony.Pending) error { return nil }})
	check(t, err)
	return res
}

// root is the root to pin.
func (n *network) root() []byte {
	n.t.Helper()
	b, err := n.repo.RootJSON()
	check(n.t, err)
	return b
}

// node is one machine's trust directory and floor.
type node struct {
	t          *testing.T
	dir, floor string
	*snapshot.Trust
}

func newNode(t *testing.T, network string, root []byte) *node {
	t.Helper()
	base := t.TempDir()
	n := &node{t: t, dir: filepath.Join(base, "trust"), floor: filepath.Join(base, "floor", network+".json")}
	check(t, snapshot.Pin(n.dir, n.floor, network, root))
	n.reopen()
	return n
}

func (n *node) reopen() {
	n.t.Helper()
	tr, err := snapshot.OpenTrust(n.dir, n.floor)
	check(n.t, err)
	n.Trust = tr
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks the class and that the message says all of words.
func wantErr(t testing.TB, err, class error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %v", class)
	}
	if class != nil && !errors.Is(err, class) {
		t.Fatalf("error %q is not of class %q", err, class)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// publish writes the newest set where nodes pull it.
func (n *network) publish(dir string) error {
	return n.repo.Publish(context.Background(), ceremony.PublishOptions{NewSite: true}, ceremony.DirSite(dir))
}
