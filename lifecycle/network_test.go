package lifecycle

import (
	"bytes"
	"context"
	"crypto"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// network is a whole network on loopback: a registry with TLS, a publisher
// with a key, and a published snapshot. There is no container engine, so that
// models get as far as Pending; what comes after is tested end to end.
type network struct {
	t      *testing.T
	host   string
	oci    oci.Options
	client *oci.Client
	key    crypto.Signer
	public string
	repo   *ceremony.Repository
	site   string
	root   []byte

	mu     sync.Mutex
	bad    func(http.ResponseWriter, *http.Request) bool // answers itself where it returns true
	deny   func(*http.Request) int                       // status to answer with; 0 lets the request through
	tamper func(*http.Request, []byte) []byte
	seen   []string
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	w := &network{t: t, site: filepath.Join(t.TempDir(), "site")}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, r.Method+" "+r.URL.Path)
		bad, deny, tamper := w.bad, w.deny, w.tamper
		w.mu.Unlock()
		if bad != nil && bad(rw, r) {
			return
		}
		if deny != nil {
			if code := deny(r); code != 0 {
				rw.WriteHeader(code)
				return
			}
		}
		if tamper == nil || r.Method != http.MethodGet {
			inner.ServeHTTP(rw, r)
			return
		}
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			rw.Header()[k] = v
		}
		rw.WriteHeader(rec.Code)
		_, _ = rw.Write(tamper(r, rec.Body.Bytes()))
	}))
	t.Cleanup(srv.Close)
	w.host = strings.TrimPrefix(srv.URL, "https://")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	w.must(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	w.oci = registryAt(w.host, ca, t.TempDir())
	var err error
	w.client, err = oci.New(w.oci)
	w.must(err)
	w.key, err = policy.GenerateKey()
	w.must(err)
	_, public, err := policy.MarshalKey(w.key)
	w.must(err)
	w.public = string(public)
	w.repo, err = ceremony.Init(filepath.Join(t.TempDir(), "ceremony"), ceremony.InitOptions{
		Network: "lab", RootKeys: 1, TargetsKeys: 1,
	})
	w.must(err)
	w.root, err = w.repo.RootJSON()
	w.must(err)
	w.must(w.repo.AddPolicy(snapshot.Policy{
		Name: "acme", Threshold: 1, Images: []snapshot.ImageGlob{{Glob: w.host + "/**"}},
		Authorities: []snapshot.Authority{{Name: "publisher", SignatureFormat: "bundle", Key: &snapshot.Key{Data: w.public}}},
		Content:     snapshot.Content{ChatTemplates: "any"},
	}))
	w.must(w.repo.AddRuntime(snapshot.Runtime{
		Name: "llama", Version: "1.0.0", Policy: "acme", Reference: w.host + "/rt/llama@" + "sha256:" + strings.Repeat("0", 64),
		Protocol: "openai-chat", Port: 8080, Args: []string{"--model", "{{.Model}}"}, GPU: "none",
	}))
	return w
}

func (w *network) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// push packs a model that answers with words, and signs it unless key is nil.
func (w *network) push(name string, key crypto.Signer, words ...string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	var b bytes.Buffer
	w.must(tinygguf.Write(&b, tinygguf.Options{Name: name, Words: words}))
	w.must(os.WriteFile(filepath.Join(dir, "model.gguf"), b.Bytes(), 0o600))
	w.must(os.WriteFile(filepath.Join(dir, "README.md"), []byte("# "+name+"\n"), 0o600))
	p, err := oci.Pack(context.Background(), dir, oci.PackOptions{Name: name})
	w.must(err)
	ref, err := w.client.Push(context.Background(), p, w.host+"/acme/"+name)
	w.must(err)
	if key != nil {
		sig, err := policy.SignBundle(key, ref.Digest)
		w.must(err)
		w.must(w.client.AttachBundle(context.Background(), ref, sig))
	}
	return ref.String()
}

// list adds a model to the draft.
func (w *network) list(name, version, reference string, change ...func(*snapshot.Model)) {
	w.t.Helper()
	m := snapshot.Model{
		Name: name, Version: version, Enabled: true, Policy: "acme", Reference: reference, Size: 64 << 20,
		Compat: snapshot.Compat{Runtime: "llama"},
		Validation: snapshot.Validation{
			Request: []byte(`{"messages":[{"role":"user","content":"ping"}]}`), Expect: snapshot.Expect{Contains: "pong"},
		},
	}
	for _, c := range change {
		c(&m)
	}
	w.must(w.repo.AddModel(m))
}

// publish signs the draft and makes it the newest snapshot.
func (w *network) publish() []byte {
	w.t.Helper()
	keys, err := w.repo.LoadKeys(nil)
	w.must(err)
	_, err = w.repo.Sign(ceremony.SignOptions{Keys: keys, Confirm: func(*ceremony.Pending) error { return nil }})
	w.must(err)
	w.must(w.repo.Publish(context.Background(), ceremony.PublishOptions{Unrevoke: true, NewSite: true}, ceremony.DirSite(w.site)))
	b, err := w.repo.BundleFile()
	w.must(err)
	return b
}

// options are those of a node whose state is in dir.
func (w *network) options(dir string) Options {
	o := Options{StateDir: dir, Network: "lab", OCI: w.oci, By: "test"}
	o.Engine.Path = "/nonexistent/engine"
	o.Engine.Name = "nerdctl"
	return o
}

// registryAt are the options for this network's registry.
func registryAt(host, ca, dir string) oci.Options {
	return oci.Options{Hosts: map[string]oci.Host{host: {CAFile: ca}}, DockerConfig: filepath.Join(dir, "none.json"), Attempts: 2}
}

// node sets up a node of this network.
func (w *network) node(change ...func(*Options)) *Node {
	w.t.Helper()
	o := w.options(w.t.TempDir())
	for _, c := range change {
		c(&o)
	}
	w.must(Init(o, w.root))
	n, err := Open(o)
	w.must(err)
	return n
}

// installed is a network that lists tiny@v1, and a node that has it.
func installed(t *testing.T) (*network, *Node) {
	t.Helper()
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node()
	w.sync(n)
	return w, n
}

// sync runs one pass and returns the outcomes by name@version.
func (w *network) sync(n *Node, change ...func(*SyncOptions)) map[string]Outcome {
	w.t.Helper()
	o := SyncOptions{Source: snapshot.DirSource(w.site)}
	for _, c := range change {
		c(&o)
	}
	res, err := n.Sync(context.Background(), o)
	w.must(err)
	out := map[string]Outcome{}
	for _, x := range res.Outcomes {
		out[x.ID()] = x
	}
	return out
}

func (w *network) state(n *Node, id string, want State) *Record {
	w.t.Helper()
	r, err := n.Record(id)
	w.must(err)
	if r.State != want {
		w.t.Errorf("%s is %s (%s), want %s", id, r.State, r.Reason, want)
	}
	return r
}

// requests lists what the registry was asked for since the last call.
func (w *network) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

func (w *network) faults(deny func(*http.Request) int, tamper func(*http.Request, []byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deny, w.tamper = deny, tamper
}

func (w *network) ociReference(s string) (oci.Reference, error) { return oci.ParseReference(s) }

func (w *network) reference(name, digest string) string {
	return w.host + "/acme/" + name + "@" + digest
}

func digestFrom(b []byte) string { return digest.FromBytes(b).String() }
