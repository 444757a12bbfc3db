package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/internal/tinygguf"
)

// A bad artifact fails its check with the documented code and a complete
// incident, leaves nothing behind, and does not touch its good neighbour.
func TestBadArtifacts(t *testing.T) {
	for _, c := range []struct {
		name  string
		list  func(t *testing.T, n *network) // puts the model bad@v1 into the draft
		code  int
		cause string
		says  string // somewhere in reason, expected or found
	}{
		{"unsigned", func(t *testing.T, n *network) {
			n.add("model", n.model("bad", "v1", n.pack("bad", "", tinygguf.Options{Seed: 1}), nil))
		}, 4, "signature", ""},
		{"wrong signer", func(t *testing.T, n *network) {
			n.add("model", n.model("bad", "v1", n.pack("bad", "unknown", tinygguf.Options{Seed: 1}), nil))
		}, 4, "signature", "acme"},
		{"signature moved from another artifact", func(t *testing.T, n *network) {
			signed := n.pack("bad", "acme", tinygguf.Options{Seed: 1})
			bad := n.pack("bad", "", tinygguf.Options{Seed: 2})
			n.registry.moveSignature("models/bad", signed.digest(), bad.digest())
			n.add("model", n.model("bad", "v1", bad, nil))
		}, 4, "signature", ""},
		{"wrong byte in the manifest", func(t *testing.T, n *network) {
			a := n.list("bad", "v1", tinygguf.Options{Seed: 1}, nil)
			n.registry.fault(`{"kind":"manifest","method":"GET","repository":"models/bad","digest":"` + a.digest() + `","flip":20}`)
		}, 4, "hash", ""},
		{"wrong byte in the config", func(t *testing.T, n *network) {
			a := n.list("bad", "v1", tinygguf.Options{Seed: 1}, nil)
			n.registry.fault(`{"kind":"blob","digest":"` + n.registry.configDigest("models/bad", a.digest()) + `","flip":3}`)
		}, 4, "hash", ""},
		{"wrong byte in a layer", func(t *testing.T, n *network) {
			a := n.list("bad", "v1", tinygguf.Options{Seed: 1}, nil)
			n.registry.fault(`{"kind":"blob","digest":"` + a.weights + `","flip":5000000}`)
		}, 4, "hash", ""},
		{"path that leaves the directory", func(t *testing.T, n *network) {
			n.listCrafted(func(m object, layer object) {
				layer["annotations"] = object{"org.cncf.model.filepath": "../../etc/cron.d/evil"}
			})
		}, 4, "layout", "../../etc/cron.d/evil"},
		{"absolute path", func(t *testing.T, n *network) {
			n.listCrafted(func(m object, layer object) {
				layer["annotations"] = object{"org.cncf.model.filepath": "/etc/passwd"}
			})
		}, 4, "layout", "/etc/passwd"},
		{"claims a petabyte", func(t *testing.T, n *network) {
			n.listCrafted(func(m object, layer object) { layer["size"] = int64(1) << 50 })
		}, 4, "layout", ""},
		{"claims more than the snapshot allows", func(t *testing.T, n *network) {
			n.add("model", n.model("bad", "v1", n.pack("bad", "acme", tinygguf.Options{Seed: 1}), object{"size": 1000}))
		}, 4, "layout", "1000"},
		{"a pickle under the name of weights", func(t *testing.T, n *network) {
			n.listCrafted(func(m object, layer object) {
				layer["annotations"] = object{"org.cncf.model.filepath": "model.gguf"}
			})
		}, 4, "content", ""},
		{"chat template that is not pinned", func(t *testing.T, n *network) {
			n.list("bad", "v1", tinygguf.Options{Seed: 1}, object{"chatTemplateDigests": []string{sha([]byte("another"))}})
		}, 4, "content", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := startNetwork(t)
			n.list("good", "v1", tinygguf.Options{}, nil)
			c.list(t, n)
			bundle := n.publish()
			d := n.startNode()
			d.apply(bundle).ok()
			p := d.pass(11, "pull", "good", "bad")
			d.expect(map[string]string{"good@v1": "Pending", "bad@v1": "Failed"})
			f := p.outcome(t, "bad@v1").Failure
			if f == nil || f.Cause != c.cause || f.Hint == "" {
				t.Fatalf("failure %+v, want cause %s and a hint", f, c.cause)
			}
			in := d.onlyIncident(c.cause)
			if in.Model != "bad" || !strings.Contains(in.Reason+in.Expected+in.Found, c.says) {
				t.Errorf("incident does not say %q: %+v", c.says, in)
			}
			if r := d.show("bad"); r.Tree != "" {
				t.Errorf("it has a tree: %s", r.Tree)
			}
			// Asked for by name, the model's own code is the command's.
			d.pass(c.code, "pull", "bad")
			d.expect(map[string]string{"good@v1": "Pending", "bad@v1": "Failed"})
		})
	}
}

// What lies outside of its policy's repositories, which every node refuses, is
// not signed: the text alone tells it.
func TestOutsideThePolicysRepositoriesIsNotSigned(t *testing.T) {
	t.Parallel()
	n := startNetwork(t)
	n.add("policy", object{
		"name": "narrow", "threshold": 1, "images": []object{{"glob": n.registry.Address + "/approved/*"}},
		"authorities": []object{{"name": "acme", "signatureFormat": "bundle", "key": object{"data": n.acme()}}},
	})
	n.list("bad", "v1", tinygguf.Options{Seed: 1}, object{"policy": "narrow"})
	var pending struct {
		Digest string `json:"digest"`
	}
	n.run("snapshot", "diff", n.ceremony, "--output", "json").ok().json(&pending)
	r := n.run("snapshot", "sign", n.ceremony, "--yes", pending.Digest).exits(10)
	if !strings.Contains(string(r.stderr), "outside what the policy is for") {
		t.Errorf("it says %s", r.stderr)
	}
}

func (n *network) acme() string {
	n.t.Helper()
	return read(n.t, filepath.Join(bed.keys, "acme.pub"))
}

// listCrafted pushes a ModelPack artifact whose one layer change bends, signs
// it and lists it as bad@v1.
func (n *network) listCrafted(change func(manifest, layer object)) {
	n.t.Helper()
	const repository = "models/bad"
	weights := []byte("\x80\x04\x95c__builtin__\neval\n.") // how a pickle begins
	config := []byte(`{"descriptor":{"name":"bad"},"config":{},"modelfs":{"type":"layers","diffIds":["` + sha(weights) + `"]}}`)
	n.registry.pushBlob(repository, weights)
	n.registry.pushBlob(repository, config)
	layer := object{
		"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": sha(weights), "size": len(weights),
		"annotations": object{"org.cncf.model.filepath": "model.gguf"},
	}
	m := object{
		"schemaVersion": 2, "mediaType": manifestType, "artifactType": "application/vnd.cncf.model.manifest.v1+json",
		"config": object{"mediaType": "application/vnd.cncf.model.config.v1+json", "digest": sha(config), "size": len(config)},
		"layers": []object{layer},
	}
	change(m, layer)
	b, err := json.Marshal(m)
	if err != nil {
		n.t.Fatal(err)
	}
	n.registry.pushManifest(repository, sha(b), manifestType, b)
	a := artifact{Reference: n.registry.Address + "/" + repository + "@" + sha(b), size: 1 << 20}
	n.run("sign", a.Reference, "--key", filepath.Join(bed.keys, "acme.key")).ok()
	n.add("model", n.model("bad", "v1", a, nil))
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

func (r *registry) configDigest(repository, manifest string) string {
	r.t.Helper()
	var m struct {
		Config struct {
			Digest string `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(r.manifest(repository, manifest), &m); err != nil {
		r.t.Fatal(err)
	}
	return m.Config.Digest
}

// moveSignature attaches the signature of one manifest to another, as someone
// with write access to the registry could.
func (r *registry) moveSignature(repository, from, to string) {
	r.t.Helper()
	tag := func(digest string) string { return strings.Replace(digest, ":", "-", 1) }
	var index struct {
		Manifests []object `json:"manifests"`
	}
	if err := json.Unmarshal(r.manifest(repository, tag(from)), &index); err != nil || len(index.Manifests) == 0 {
		r.t.Fatalf("no referrers of %s: %v", from, err)
	}
	var moved []object
	for _, d := range index.Manifests {
		b := r.manifest(repository, d["digest"].(string))
		target := r.manifest(repository, to)
		changed := bytes.ReplaceAll(b, []byte(from), []byte(to))
		if bytes.Equal(b, changed) {
			r.t.Fatalf("the signature %s does not name its subject", d["digest"])
		}
		// The subject's size is part of its descriptor.
		var m object
		if err := json.Unmarshal(changed, &m); err != nil {
			r.t.Fatal(err)
		}
		m["subject"].(map[string]any)["size"] = len(target)
		changed, err := json.Marshal(m)
		if err != nil {
			r.t.Fatal(err)
		}
		r.pushManifest(repository, sha(changed), manifestType, changed)
		moved = append(moved, d.with(object{"digest": sha(changed), "size": len(changed)}))
	}
	b, err := json.Marshal(object{"schemaVersion": 2, "mediaType": indexType, "manifests": moved})
	if err != nil {
		r.t.Fatal(err)
	}
	r.pushManifest(repository, tag(to), indexType, b)
}

// Tags and unlisted names never get as far as a registry.
func TestWhatIsNotPinnedOrListed(t *testing.T) {
	n := startNetwork(t)
	a := n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	d.pass(0, "sync")

	t.Run("a tag in the snapshot's draft", func(t *testing.T) {
		entry := n.model("tagged", "v1", artifact{Reference: n.registry.Address + "/models/tiny:latest"}, nil)
		b, err := json.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(n.dir, "tagged.json")
		write(t, file, string(b))
		r := n.run("snapshot", "add", "model", n.ceremony, file, "--output", "json")
		if r.code == 0 {
			t.Fatal("a tag was taken into the draft")
		}
		if f := r.failure(); !strings.Contains(f.Reason, "sha256") && !strings.Contains(f.Reason, "digest") {
			t.Errorf("failure does not ask for a digest: %+v", f)
		}
	})
	t.Run("a tag to sign", func(t *testing.T) {
		n.run("sign", n.registry.Address+"/models/tiny:latest", "--key", filepath.Join(bed.keys, "acme.key"), "--output", "json").exits(2)
	})
	t.Run("a tag to pull", func(t *testing.T) {
		mark := len(n.registry.log())
		d.run("pull", n.registry.Address+"/models/tiny:latest").exits(3)
		if len(n.registry.log()) != mark {
			t.Error("the registry was asked")
		}
	})
	t.Run("an unlisted name", func(t *testing.T) {
		for _, command := range []string{"pull", "validate"} {
			if f := d.run(command, "mistral").exits(3).failure(); f.Cause != "listing" || f.Hint == "" || !strings.Contains(f.Reason, "mistral") {
				t.Errorf("%s: failure %+v", command, f)
			}
		}
	})
	t.Run("an unlisted version", func(t *testing.T) {
		d.run("pull", "tiny@v9").exits(3)
	})
	d.expect(map[string]string{"tiny@v1": "Active"})
	if a.digest() != d.show("tiny").Manifest {
		t.Error("the installed model changed")
	}
}

// A snapshot is taken from nobody but the network.
func TestRejectedSnapshots(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	first := n.publish()
	d := n.startNode()
	d.pass(0, "sync")

	refused := func(t *testing.T, bundle string) {
		t.Helper()
		f := d.apply(bundle).exits(10).failure()
		if f.Cause != "snapshot" || f.Hint == "" {
			t.Errorf("failure %+v", f)
		}
		d.expect(map[string]string{"tiny@v1": "Active"})
		all := d.incidents()
		if len(all) == 0 || all[len(all)-1].Kind != "snapshot" {
			t.Errorf("no incident: %+v", all)
		}
	}
	t.Run("of another network", func(t *testing.T) {
		other := startNetwork(t)
		other.list("evil", "v1", tinygguf.Options{Seed: 9}, nil)
		refused(t, other.publish())
	})
	t.Run("with one byte changed", func(t *testing.T) {
		text := read(t, first)
		changed := strings.Replace(text, "tiny", "evil", 1)
		if changed == text {
			// The document travels encoded: change a letter in the middle.
			b := []byte(text)
			i := len(b) / 2
			b[i] = map[bool]byte{true: 'B', false: 'A'}[b[i] == 'A']
			changed = string(b)
		}
		file := filepath.Join(t.TempDir(), "changed.json")
		write(t, file, changed)
		refused(t, file)
	})
	t.Run("replayed", func(t *testing.T) {
		n.list("second", "v1", tinygguf.Options{Seed: 2}, nil)
		n.publish()
		d.pass(0, "sync")
		f := d.apply(first).exits(10).failure()
		if f.Cause != "snapshot" {
			t.Errorf("failure %+v", f)
		}
		d.expect(map[string]string{"tiny@v1": "Active", "second@v1": "Active"})
	})
	t.Run("not a snapshot at all", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "text.json")
		write(t, file, "hello")
		d.apply(file).exits(10)
	})
}

// An expired snapshot activates nothing new.
func TestExpiredSnapshot(t *testing.T) {
	n := startNetwork(t, "--term", "10s", "--offline-grace", "0s")
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	bundle := n.publish()
	d := n.startNode()
	eventually(t, "the snapshot expires", func() bool {
		r := d.apply(bundle)
		return r.code == 10 && strings.Contains(r.failure().Reason, "expired")
	})
	d.expect(nil)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A snapshot that revokes a model ends what runs of it (the agent's part is to
// follow the state; a box of rmodels' own is ended by rmodels).
func TestRevokedWhileItRuns(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	d.pass(0, "sync")
	var r record
	d.run("show", "tiny").ok().json(&r)
	c := d.command("validate", "tiny", "--keep", "10m")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // its first word comes when the engine is up
		t.Fatalf("the engine did not come up: %v\n%s", err, &stderr)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	n.run("snapshot", "revoke", n.ceremony, "--digest", r.Manifest, "--reason", "steals data").ok()
	bundle := n.publish()
	d.run("snapshot", "apply", bundle).ok()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		if c.ProcessState.ExitCode() != 3 || !strings.Contains(stderr.String(), "newer snapshot") {
			t.Errorf("%v: %s", err, &stderr)
		}
	case <-time.After(time.Minute):
		_ = c.Process.Kill()
		t.Fatal("the box of a revoked model still runs after a minute")
	}
	d.expect(map[string]string{"tiny@v1": "Failed"})
}
