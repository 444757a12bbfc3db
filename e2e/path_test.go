package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/internal/tinygguf"
)

// The demo's path: four models of which one is good, then two more snapshots.
func TestFromNothingToActive(t *testing.T) {
	n := startNetwork(t)
	good := n.list("tiny-chat", "v1", tinygguf.Options{}, nil)
	n.list("tiny-poet", "v1", tinygguf.Options{Words: []string{"small", "words"}}, nil)
	stranger := n.pack("stranger", "unknown", tinygguf.Options{Seed: 1})
	n.add("model", n.model("stranger", "v1", stranger, nil))
	n.list("giant", "v1", tinygguf.Options{Seed: 2}, object{"compat": object{"runtime": runtimeName, "gpuMemory": "8TiB"}})
	rotten := n.list("rotten", "v1", tinygguf.Options{Seed: 3}, nil)
	first := n.publish()
	n.registry.fault(`{"name":"rot","kind":"blob","digest":"` + rotten.weights + `","flip":4000000}`)
	d := n.startNode()

	t.Run("a dry run plans and changes nothing", func(t *testing.T) {
		p := d.pass(0, "sync", "--dry-run")
		verbs := map[string]string{}
		for _, a := range p.Plan.Actions {
			verbs[a.Name] = a.Verb
		}
		for name, verb := range map[string]string{"tiny-chat": "install", "tiny-poet": "install", "stranger": "install", "rotten": "install", "giant": "refuse"} {
			if verbs[name] != verb {
				t.Errorf("%s: %q is planned, want %s", name, verbs[name], verb)
			}
		}
		d.expect(nil)
	})

	mark := len(n.registry.log())
	p := d.pass(11, "sync")
	d.expect(map[string]string{
		"tiny-chat@v1": "Active", "tiny-poet@v1": "Active", "stranger@v1": "Failed", "rotten@v1": "Failed", "giant@v1": "Absent",
	})

	t.Run("the good model has its evidence", func(t *testing.T) {
		r := d.show("tiny-chat@v1")
		if r.Manifest != good.digest() {
			t.Errorf("manifest %s, the snapshot pins %s", r.Manifest, good.digest())
		}
		if r.Receipt == nil || !r.Receipt.Decision.Allowed || len(r.Receipt.Decision.Signers) != 1 || r.Receipt.Decision.Signers[0].Authority != "acme" {
			t.Errorf("receipt %+v does not say that acme signed it", r.Receipt)
		}
		if r.Verdict == nil || !r.Verdict.Passed || r.Verdict.Answer != good.answer(t) {
			t.Errorf("verdict %+v, want the answer %q", r.Verdict, good.answer(t))
		}
		if len(r.Verdict.Isolation) == 0 {
			t.Error("the verdict has no isolation checks")
		}
		for _, c := range r.Verdict.Isolation {
			if !c.Passed {
				t.Errorf("the box was open: %+v", c)
			}
		}
		b, err := os.ReadFile(filepath.Join(r.Tree, "model.gguf"))
		if err != nil || sha(b) != good.weights {
			t.Errorf("the tree's file is not what was published: %v", err)
		}
		if st, err := os.Stat(filepath.Join(r.Tree, "model.gguf")); err == nil && st.Mode().Perm()&0o222 != 0 {
			t.Errorf("the tree's file may be written: %v", st.Mode())
		}
	})

	t.Run("a stranger's signature is refused before a layer is fetched", func(t *testing.T) {
		if f := p.outcome(t, "stranger@v1").Failure; f == nil || f.Cause != "signature" || f.Hint == "" {
			t.Errorf("failure %+v", f)
		}
		if sent := n.registry.blobBytes(mark, stranger.weights); sent != 0 {
			t.Errorf("%d bytes of its layer were sent", sent)
		}
	})

	t.Run("a wrong byte is found and its source named", func(t *testing.T) {
		f := p.outcome(t, "rotten@v1").Failure
		if f == nil || f.Cause != "hash" || f.Expected != rotten.weights || f.Found == "" || !strings.Contains(f.Source, n.registry.Address) {
			t.Errorf("failure %+v", f)
		}
		if r := d.show("rotten"); r.Tree != "" {
			t.Errorf("it has a tree: %s", r.Tree)
		}
	})

	t.Run("what the node cannot run is never asked for", func(t *testing.T) {
		for _, q := range n.registry.log()[mark:] {
			if q.Repository == "models/giant" {
				t.Errorf("%s %s was requested", q.Method, q.Reference)
			}
		}
		if r := d.show("giant"); !strings.Contains(r.Reason, "needs 8 TiB GPU memory") {
			t.Errorf("its reason does not say what is short: %s", r.Reason)
		}
	})

	t.Run("failed checks are incidents with their evidence", func(t *testing.T) {
		found := map[string]string{}
		for _, in := range d.incidents() {
			found[in.Model] = in.Kind
			if in.Expected == "" || in.Found == "" || in.Source == "" || in.Action == "" {
				t.Errorf("incident lacks evidence: %+v", in)
			}
		}
		if len(found) != 3 || found["stranger"] != "signature" || found["rotten"] != "hash" || found["giant"] != "compatibility" {
			t.Errorf("incidents %v", found)
		}
	})

	t.Run("what is installed verifies", func(t *testing.T) {
		var v struct {
			Models []struct {
				Name string `json:"name"`
				OK   bool   `json:"ok"`
			} `json:"models"`
		}
		d.run("verify", "tiny-chat", "tiny-poet").ok().json(&v)
		if len(v.Models) != 2 || !v.Models[0].OK || !v.Models[1].OK {
			t.Errorf("verified %+v", v.Models)
		}
	})

	// The second snapshot: v2 comes, the poet is disabled, the bad ones go.
	n.list("tiny-chat", "v2", tinygguf.Options{Words: []string{"version", "two"}}, nil)
	n.run("snapshot", "disable", n.ceremony, "tiny-poet@v1").ok()
	for _, id := range []string{"stranger", "rotten", "giant"} {
		n.run("snapshot", "remove", n.ceremony, id).ok()
	}
	n.publish()
	d.pass(0, "sync")
	d.expect(map[string]string{"tiny-chat@v1": "Active", "tiny-chat@v2": "Active", "tiny-poet@v1": "Inactive"})

	// The third drops v1, whose bytes gc then frees.
	n.run("snapshot", "remove", n.ceremony, "tiny-chat@v1").ok()
	n.publish()
	d.pass(0, "sync")
	d.expect(map[string]string{"tiny-chat@v2": "Active", "tiny-poet@v1": "Inactive"})
	t.Run("gc frees what nothing lists", func(t *testing.T) {
		var plan, done struct {
			FreeBytes int64 `json:"freeBytes"`
			Freed     int64 `json:"freed"`
		}
		d.run("gc", "--dry-run").ok().json(&plan)
		before := d.storeHas(good.weights)
		d.run("gc", "--high-percent", "100").ok().json(&done) // however full this disk is
		if !before || d.storeHas(good.weights) {
			t.Errorf("v1's weights were there before: %v, after: %v", before, d.storeHas(good.weights))
		}
		if done.Freed < good.size {
			t.Errorf("freed %d bytes, v1 alone had %d", done.Freed, good.size)
		}
	})

	t.Run("cron has nothing to mail when nothing changed", func(t *testing.T) {
		for _, args := range [][]string{{"sync", "--quiet", "--wait", "1m"}, {"gc", "--quiet", "--high-percent", "100"}} {
			if r := run(t, d.config, args...).ok(); len(r.stdout)+len(r.stderr) > 0 {
				t.Errorf("rmodels %s printed %q and %q", strings.Join(args, " "), r.stdout, r.stderr)
			}
		}
	})

	t.Run("a replayed snapshot is refused and changes nothing", func(t *testing.T) {
		before := d.records()
		if f := d.apply(first).exits(10).failure(); f.Cause != "snapshot" || f.Hint == "" {
			t.Errorf("failure %+v", f)
		}
		if after := d.records(); len(after) != len(before) || after["tiny-chat@v2"].State != "Active" {
			t.Errorf("the refused snapshot changed the models: %v", after)
		}
		all := d.incidents()
		if in := all[len(all)-1]; in.Kind != "snapshot" || in.Expected == "" || in.Found == "" {
			t.Errorf("newest incident %+v", in)
		}
	})

	t.Run("a disabled model is active again without a fetch", func(t *testing.T) {
		n.run("snapshot", "enable", n.ceremony, "tiny-poet@v1").ok()
		n.publish()
		mark := len(n.registry.log())
		d.pass(0, "sync")
		d.expect(map[string]string{"tiny-chat@v2": "Active", "tiny-poet@v1": "Active"})
		if sent := n.registry.blobBytes(mark, ""); sent != 0 {
			t.Errorf("%d bytes were fetched", sent)
		}
	})
}

// storeHas reports whether a blob's bytes are in the node's store.
func (d *node) storeHas(digest string) bool {
	d.t.Helper()
	_, hex, _ := strings.Cut(digest, ":")
	found := false
	err := filepath.WalkDir(d.settings.store, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(filepath.Base(path), hex) && strings.Contains(path, "blobs") {
			found = true
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return found
}

// A rotten model heals as soon as its source does.
func TestFailedModelHeals(t *testing.T) {
	n := startNetwork(t)
	a := n.list("rotten", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	n.registry.fault(`{"kind":"blob","digest":"` + a.weights + `","flip":1}`)
	d.pass(4, "sync")
	d.expect(map[string]string{"rotten@v1": "Failed"})
	n.registry.fault()
	d.pass(0, "sync", "--force")
	d.expect(map[string]string{"rotten@v1": "Active"})
}

// pull brings bytes, validate makes Active; each can be used alone.
func TestPullThenValidate(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	d.apply(filepath.Join(n.dir, "snapshot-1.json")).ok()
	d.pass(0, "pull", "tiny", "--dry-run")
	d.expect(nil)
	d.pass(0, "pull", "tiny")
	d.expect(map[string]string{"tiny@v1": "Pending"})
	d.pass(0, "validate", "tiny")
	d.expect(map[string]string{"tiny@v1": "Active"})
	d.pass(0, "sync")
	if len(d.incidents()) != 0 {
		t.Errorf("incidents: %+v", d.incidents())
	}
}

// What is random is still repeatable: the engine gives the same answer twice.
func TestDeterministicAnswerHoldsOverRuns(t *testing.T) {
	n := startNetwork(t)
	a := n.pack("noise", "acme", tinygguf.Options{Mode: tinygguf.Random})
	a.options = tinygguf.Options{}
	n.add("model", n.model("noise", "v1", a, object{"validation": object{
		"request":       object{"messages": []object{{"role": "user", "content": "ping"}}, "temperature": 0, "max_tokens": 8},
		"expect":        object{"regexp": "(?s)^.+$"},
		"deterministic": true,
		"timeout":       "30s",
	}}))
	n.publish()
	d := n.startNode()
	d.pass(0, "sync")
	first := d.show("noise").Verdict.Answer
	d.pass(0, "validate", "noise")
	if second := d.show("noise").Verdict.Answer; first == "" || second != first {
		t.Errorf("answered %q, then %q", first, second)
	}
}
