package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/internal/tinygguf"
)

// network is a publisher with a registry for its models.
type network struct {
	t        *testing.T
	dir      string
	config   string // publisher's configuration file
	ceremony string
	site     string // published snapshots
	registry *registry
	sequence int
}

const runtimeName = "llama-cpp"

var runtimeReference once[string]

// runtimeImage is the inference engine, packed, pushed to the shared registry
// and signed by acme.
func runtimeImage(t *testing.T) string {
	t.Helper()
	return runtimeReference.get(t, func() string {
		config := filepath.Join(t.TempDir(), "config.toml")
		write(t, config, sharedHosts())
		var p struct {
			Reference string `json:"reference"`
		}
		run(t, config, "pack", bed.runtime, bed.Registry.Address+"/runtimes/"+runtimeName, "--image",
			"--entrypoint", "/usr/bin/llama-server", "--user", "65532:65532",
			"--sign-key", filepath.Join(bed.keys, "acme.key"), "--output", "json").ok().json(&p)
		return p.Reference
	})
}

func sharedHosts() string {
	return hosts(bed.Registry.Address, bed.Registry.CA, bed.Registry.Username, bed.Registry.Password)
}

// startNetwork makes keys, a ceremony with the policy and the runtime, and a
// registry of the network's own.
func startNetwork(t *testing.T, flags ...string) *network {
	t.Helper()
	n := &network{t: t, dir: t.TempDir(), registry: startRegistry(t)}
	n.ceremony, n.site = filepath.Join(n.dir, "ceremony"), filepath.Join(n.dir, "site")
	n.config = filepath.Join(n.dir, "config.toml")
	write(t, n.config, sharedHosts()+n.registry.hosts())
	n.run(append([]string{"snapshot", "init", n.ceremony, "--network", "test"}, flags...)...).ok()
	pem, err := os.ReadFile(filepath.Join(bed.keys, "acme.pub"))
	if err != nil {
		t.Fatal(err)
	}
	n.add("policy", object{
		"name": "signed", "threshold": 1,
		"images": []object{{"glob": n.registry.Address + "/**"}, {"glob": bed.Registry.Address + "/**"}},
		"authorities": []object{{
			"name": "acme", "signatureFormat": "bundle", "key": object{"data": string(pem)},
		}},
	})
	n.addRuntime(nil)
	return n
}

// object is a JSON object.
type object map[string]any

func (o object) with(more object) object {
	out := object{}
	for _, x := range []object{o, more} {
		for k, v := range x {
			out[k] = v
		}
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *network) run(args ...string) *result {
	n.t.Helper()
	return run(n.t, n.config, args...)
}

// add puts a policy, runtime or model into the draft.
func (n *network) add(kind string, entry object) {
	n.t.Helper()
	b, err := json.Marshal(entry)
	if err != nil {
		n.t.Fatal(err)
	}
	file := filepath.Join(n.dir, kind+".json")
	write(n.t, file, string(b))
	n.run("snapshot", "add", kind, n.ceremony, file).ok()
}

// addRuntime adds llama-server; change replaces members of its definition.
func (n *network) addRuntime(change object) {
	n.t.Helper()
	n.add("runtime", object{
		"name": runtimeName, "version": "1.0.0", "policy": "signed", "reference": runtimeImage(n.t),
		"protocol": "openai-chat", "port": 8080, "health": "/health",
		"entrypoint": []string{"/usr/bin/llama-server"},
		"args": []string{
			"--model", "{{.Model}}", "--host", "127.0.0.1", "--port", "{{.Port}}",
			"--threads", "2", "--ctx-size", "512", "--parallel", "1", "--offline",
		},
		"gpu": "none", "memory": "2GiB", "cpus": 2, "startTimeout": "1m",
	}.with(change))
}

// artifact is a packed model.
type artifact struct {
	Reference string `json:"reference"`
	options   tinygguf.Options
	weights   string // digest of the GGUF, which is a layer as it is
	size      int64  // of the GGUF
}

func (a artifact) digest() string {
	_, d, _ := strings.Cut(a.Reference, "@")
	return d
}

func (a artifact) answer(t *testing.T) string {
	t.Helper()
	s, err := tinygguf.Answer(a.options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pack makes, packs and pushes a model; key "" leaves it unsigned.
func (n *network) pack(name, key string, o tinygguf.Options) artifact {
	n.t.Helper()
	a := artifact{options: o}
	a.options.Name = name
	var b bytes.Buffer
	if err := tinygguf.Write(&b, a.options); err != nil {
		n.t.Fatal(err)
	}
	a.weights, a.size = sha(b.Bytes()), int64(b.Len())
	dir := filepath.Join(n.t.TempDir(), "model")
	write(n.t, filepath.Join(dir, "model.gguf"), b.String())
	write(n.t, filepath.Join(dir, "README.md"), "# "+name+"\n")
	args := []string{"pack", dir, n.registry.Address + "/models/" + name, "--name", name, "--output", "json"}
	if key != "" {
		args = append(args, "--sign-key", filepath.Join(bed.keys, key+".key"))
	}
	r := n.run(args...).ok()
	if !bytes.Contains(r.stderr, []byte(`"step":"push"`)) {
		n.t.Errorf("pack says nothing of its push: %s", r.stderr)
	}
	r.json(&a)
	return a
}

// model is a snapshot entry for an artifact; change replaces members.
func (n *network) model(name, version string, a artifact, change object) object {
	n.t.Helper()
	return object{
		"name": name, "version": version, "enabled": true, "policy": "signed", "reference": a.Reference, "size": a.size + 1<<16,
		"chatTemplateDigests": []string{sha([]byte(tinygguf.ChatTemplate))},
		"compat":              object{"runtime": runtimeName},
		"validation": object{
			"request": object{"messages": []object{{"role": "user", "content": "ping"}}, "temperature": 0, "max_tokens": 32},
			"expect":  object{"exact": a.answer(n.t)}, "timeout": "30s",
		},
	}.with(change)
}

// list packs a signed chain model and adds it to the draft.
func (n *network) list(name, version string, o tinygguf.Options, change object) artifact {
	n.t.Helper()
	a := n.pack(name, "acme", o)
	n.add("model", n.model(name, version, a, change))
	return a
}

// publish signs the draft, hands it out and returns its push file.
func (n *network) publish() string {
	n.t.Helper()
	var pending struct {
		Digest string `json:"digest"`
	}
	n.run("snapshot", "diff", n.ceremony, "--output", "json").ok().json(&pending)
	n.run("snapshot", "sign", n.ceremony, "--yes", pending.Digest).ok()
	n.sequence++
	bundle := filepath.Join(n.dir, fmt.Sprintf("snapshot-%d.json", n.sequence))
	n.run("snapshot", "publish", n.ceremony, "--to", n.site, "--bundle", bundle).ok()
	return bundle
}
