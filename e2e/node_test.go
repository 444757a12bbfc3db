package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// node is a machine that follows a network.
type node struct {
	t        *testing.T
	net      *network
	dir      string
	config   string
	settings settings
}

// settings are what a test changes in a node's configuration.
type settings struct {
	engine  string // path of nerdctl
	hosts   string // tables for registries
	store   string
	minFree string
}

// startNode sets a node up with the network's root pinned.
func (n *network) startNode(change ...func(*settings)) *node {
	n.t.Helper()
	d := &node{t: n.t, net: n, dir: n.t.TempDir()}
	d.config = filepath.Join(d.dir, "config.toml")
	d.settings = settings{engine: bed.Nerdctl, hosts: sharedHosts() + n.registry.hosts(), store: filepath.Join(d.dir, "state", "store")}
	d.configure(change...)
	d.run("init", "--root", filepath.Join(n.ceremony, "root.json")).ok()
	return d
}

// configure rewrites the node's configuration.
func (d *node) configure(change ...func(*settings)) {
	d.t.Helper()
	for _, f := range change {
		f(&d.settings)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "network = \"test\"\nstate-dir = %q\nstore-dir = %q\n", filepath.Join(d.dir, "state"), d.settings.store)
	if d.settings.minFree != "" {
		fmt.Fprintf(&b, "min-free = %q\n", d.settings.minFree)
	}
	args, err := json.Marshal(bed.EngineArgs)
	if err != nil {
		d.t.Fatal(err)
	}
	fmt.Fprintf(&b, "\n[snapshot]\nsource = %q\n\n[engine]\nname = \"nerdctl\"\npath = %q\nargs = %s\n\n%s",
		d.net.site, d.settings.engine, args, d.settings.hosts)
	write(d.t, d.config, b.String())
}

// run runs rmodels with JSON output.
func (d *node) run(args ...string) *result {
	d.t.Helper()
	return run(d.t, d.config, append(args, "--output", "json")...)
}

func (d *node) command(args ...string) *exec.Cmd {
	d.t.Helper()
	return command(d.t, d.config, append(args, "--output", "json")...)
}

// pass is what sync, pull and validate print.
type pass struct {
	Plan struct {
		Sequence int64    `json:"sequence"`
		Actions  []action `json:"actions"`
	} `json:"plan"`
	Changed         bool      `json:"changed"`
	SnapshotFailure *failure  `json:"snapshotFailure"`
	Outcomes        []outcome `json:"outcomes"`
	Fetched         int64     `json:"fetched"`
}

type action struct {
	Verb    string `json:"verb"`
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
	Next    string `json:"next"`
	Reason  string `json:"reason"`
	Bytes   int64  `json:"bytes"`
}

type outcome struct {
	action
	After   string   `json:"after"`
	Failure *failure `json:"failure"`
	Fetched int64    `json:"fetched"`
}

// pass runs a command that prints a pass and must end with the given code.
func (d *node) pass(code int, args ...string) pass {
	d.t.Helper()
	var p pass
	d.run(args...).exits(code).json(&p)
	return p
}

// outcome finds what became of one model.
func (p pass) outcome(t *testing.T, id string) outcome {
	t.Helper()
	for _, o := range p.Outcomes {
		if o.Name+"@"+o.Version == id {
			return o
		}
	}
	t.Fatalf("the pass says nothing of %s: %+v", id, p.Outcomes)
	return outcome{}
}

// record is one model of list and show.
type record struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Cause    string `json:"cause"`
	Manifest string `json:"manifest"`
	Tree     string `json:"tree"`
	Receipt  *struct {
		Policy   string `json:"policy"`
		Source   string `json:"source"`
		Decision struct {
			Allowed bool `json:"allowed"`
			Signers []struct {
				Authority string `json:"authority"`
			} `json:"signers"`
		} `json:"decision"`
	} `json:"receipt"`
	Verdict *struct {
		Passed    bool   `json:"passed"`
		Answer    string `json:"answer"`
		Expected  string `json:"expected"`
		Found     string `json:"found"`
		Isolation []struct {
			Name   string `json:"name"`
			Where  string `json:"where"`
			Passed bool   `json:"passed"`
			Found  string `json:"found"`
		} `json:"isolation"`
	} `json:"verdict"`
	History []struct {
		From string `json:"from"`
		To   string `json:"to"`
		By   string `json:"by"`
	} `json:"history"`
}

func (d *node) records() map[string]record {
	d.t.Helper()
	var l struct {
		Models []record `json:"models"`
	}
	d.run("list").ok().json(&l)
	m := map[string]record{}
	for _, r := range l.Models {
		m[r.Name+"@"+r.Version] = r
	}
	return m
}

func (d *node) show(id string) record {
	d.t.Helper()
	var r record
	d.run("show", id).ok().json(&r)
	return r
}

// expect compares the states of all models with those given.
func (d *node) expect(want map[string]string) {
	d.t.Helper()
	got := d.records()
	for id, state := range want {
		if got[id].State != state {
			d.t.Errorf("%s is %q (%s), want %s", id, got[id].State, got[id].Reason, state)
		}
	}
	for id, r := range got {
		if _, ok := want[id]; !ok {
			d.t.Errorf("%s is %s, want it not to be listed", id, r.State)
		}
	}
}

// incident is one failed check.
type incident struct {
	Kind     string `json:"kind"`
	Model    string `json:"model"`
	Version  string `json:"version"`
	Digest   string `json:"digest"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Source   string `json:"source"`
	Reason   string `json:"reason"`
	Action   string `json:"action"`
}

func (d *node) incidents() []incident {
	d.t.Helper()
	var l struct {
		Incidents []incident `json:"incidents"`
	}
	d.run("incidents").ok().json(&l)
	return l.Incidents
}

// onlyIncident checks that every incident is of that kind and complete, and
// returns the newest.
func (d *node) onlyIncident(kind string) incident {
	d.t.Helper()
	all := d.incidents()
	if len(all) == 0 {
		d.t.Fatalf("no incident, want one of kind %s", kind)
	}
	for _, in := range all {
		if in.Kind != kind || in.Expected == "" || in.Found == "" || in.Reason == "" || in.Action == "" {
			d.t.Errorf("incident is not of kind %s or lacks evidence: %+v", kind, in)
		}
	}
	return all[len(all)-1]
}

// apply hands a push file over.
func (d *node) apply(bundle string) *result {
	d.t.Helper()
	return d.run("snapshot", "apply", bundle)
}
