package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// forge writes a record as if the model had been validated.
func (w *network) forge(n *Node, id string, change func(*Record)) {
	w.t.Helper()
	r, err := n.Record(id)
	w.must(err)
	acc, err := n.Current()
	w.must(err)
	m, ok := acc.Document.Model(r.Name, r.Version)
	if ok {
		f, err := n.facts(context.Background())
		w.must(err)
		r.Holds = verdictKey(acc.Document, &m, f)
	}
	r.State = Active
	r.Tested = n.now()
	if change != nil {
		change(r)
	}
	w.must(n.models.write(r.ID(), r))
}

// State that somebody else could have written is not believed.
func TestExposedState(t *testing.T) {
	w, n := installed(t)
	for _, dir := range []string{n.o.StateDir, n.dir, n.models.dir, n.trustDir(), filepath.Dir(n.floorPath())} {
		before, err := os.Stat(dir)
		w.must(err)
		for _, mode := range []os.FileMode{0o777, 0o775, os.ModeSticky | 0o777} {
			w.must(os.Chmod(dir, mode))
			if _, err := Open(n.o); AsFailure(err).Cause != CauseState {
				t.Errorf("%s with mode %v: %v", dir, mode, err)
			}
		}
		w.must(os.Chmod(dir, before.Mode()))
	}
	_, err := Open(n.o)
	w.must(err)
}

func TestApplyRepinned(t *testing.T) {
	w, n := installed(t)
	w.forge(n, "tiny@v1", nil)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.list("tiny", "v1", w.push("tiny", w.key, "second"))
	b := w.publish()
	_, _, err := n.Apply(context.Background(), b, "x")
	w.must(err)
	r, _ := n.Record("tiny@v1")
	if r.State == Active {
		t.Errorf("Active with content that the snapshot in force does not pin: %s", r.Manifest)
	}
}

func TestApplyBusy(t *testing.T) {
	w, n := installed(t)
	w.forge(n, "tiny@v1", nil)
	old, err := n.Current()
	w.must(err)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	b := w.publish()
	lk, err := n.models.lock(context.Background(), "tiny@v1") // a retest is at work
	w.must(err)
	_, outs, err := n.Apply(context.Background(), b, "push file")
	w.must(err)
	if len(outs) != 1 || outs[0].Failure == nil || outs[0].Failure.Cause != CauseBusy {
		t.Errorf("outcomes: %+v", outs)
	}
	if _, err := n.Ask(context.Background(), "tiny@v1", "ping", io.Discard); AsFailure(err) == nil || AsFailure(err).Cause != CauseListing {
		t.Errorf("asked, although the snapshot in force does not list it: %v", err)
	}
	lk.Unlock()
	// The retest ends: whatever it found, the model is out of use.
	n.do(context.Background(), old, Action{Verb: Keep, Name: "tiny", Version: "v1", State: Active}, SyncOptions{})
	w.state(n, "tiny@v1", Inactive)
}

func TestRefsOfOtherNetwork(t *testing.T) {
	w, n := installed(t)
	st, err := n.Store()
	w.must(err)
	ref, err := st.Ref(n.modelRef("tiny@v1"))
	w.must(err)
	ref.Name = "model/lab.eu/tiny@v1" // what network "lab.eu" names its root
	w.must(st.PutRef(context.Background(), ref))
	w.sync(n)
	if _, err := st.Ref(ref.Name); err != nil {
		t.Errorf("a pass of network lab deleted the root of network lab.eu: %v", err)
	}
}

func TestCrashBetweenSaveAndDropRef(t *testing.T) {
	w, n := installed(t)
	st, err := n.Store()
	w.must(err)
	ref, err := st.Ref(n.modelRef("tiny@v1"))
	w.must(err)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.publish()
	w.sync(n)
	w.sync(n)
	w.state(n, "tiny@v1", Absent)
	w.must(st.PutRef(context.Background(), ref)) // killed before DeleteRef
	w.sync(n)
	w.sync(n)
	w.collect(n)
	if _, err := st.Ref(ref.Name); err == nil {
		t.Errorf("the root of a model that is Absent stays for ever")
	}
}

func TestEvictedInactive(t *testing.T) {
	w, n := installed(t)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	w.state(n, "tiny@v1", Inactive)
	st, err := n.Store()
	w.must(err)
	for range 2 {
		_, err = st.GC(context.Background(), cas.GCOptions{MinFree: 1 << 60})
		w.must(err)
	}
	if _, err := st.Ref(n.modelRef("tiny@v1")); err == nil {
		t.Fatal("not evicted")
	}
	// No pass has met it yet, and everybody says what the next one will.
	if r, err := n.Record("tiny"); err != nil || r.State != Absent || r.Reason != freedByGC || r.Tree != "" {
		t.Errorf("remembered: %+v, %v", r, err)
	}
	es, err := n.Explain(context.Background(), "tiny")
	if err != nil || len(es) != 1 || es[0].State != Absent || es[0].Reason != freedByGC || es[0].Admission != nil || es[0].Next.Verb != Keep {
		t.Errorf("explained: %+v, %v", es, err)
	}
	res, err := n.Sync(context.Background(), SyncOptions{DryRun: true})
	if err != nil || len(res.Plan.Actions) != 1 || res.Plan.Actions[0].Verb != Keep || res.Plan.Actions[0].State != Absent {
		t.Errorf("planned: %+v, %v", res.Plan, err)
	}
	w.sync(n)
	if r := w.state(n, "tiny@v1", Absent); r.History[len(r.History)-1].Why != freedByGC {
		t.Errorf("written down: %+v", r)
	}
	w.must(w.repo.SetEnabled("tiny", "v1", true))
	w.publish()
	if o := w.sync(n)["tiny@v1"]; o.Verb != Install || o.After != Pending {
		t.Errorf("enabled again: %+v, %+v", o, o.Failure)
	}
	ins, _ := n.Incidents("", 0)
	for _, in := range ins {
		t.Errorf("false incident: %s %s", in.Kind, in.Reason)
	}
}

func TestEvictedInactiveVerify(t *testing.T) {
	w, n := installed(t)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	st, err := n.Store()
	w.must(err)
	for range 2 {
		_, err = st.GC(context.Background(), cas.GCOptions{MinFree: 1 << 60})
		w.must(err)
	}
	if _, err := n.Verify(context.Background(), VerifyOptions{}); err != nil {
		t.Error(err)
	}
	ins, _ := n.Incidents("", 0)
	for _, in := range ins {
		t.Errorf("false incident: %s %s", in.Kind, in.Reason)
	}
}

func TestNamedButNothingDone(t *testing.T) {
	w, n := installed(t)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.publish()
	w.sync(n)
	res, err := n.Sync(context.Background(), SyncOptions{Install: true, Force: true, Only: []string{"tiny@v1"}})
	if err == nil && len(res.Outcomes) == 0 {
		t.Error("pull of an unlisted model: nothing done, no error")
	}
	es, err := n.Explain(context.Background(), "tiny@v1")
	if err == nil && len(es) == 0 {
		t.Error("explain says nothing and no error")
	}
}

func TestBadArchiveDiscardsHotCopy(t *testing.T) {
	w := newNetwork(t)
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		d.Settings.Retention = snapshot.Retention{Outdated: "archive"}
		return nil
	}))
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node(func(o *Options) { o.Archive = "oci://" + w.host + "/cold" })
	w.sync(n)
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.list("tiny", "v2", w.push("tiny", w.key, "second"))
	w.publish()
	w.sync(n)
	before := w.state(n, "tiny@v1", Inactive)
	w.forge(n, "tiny@v2", nil)
	w.faults(nil, func(r *http.Request, b []byte) []byte { // the archive reads back wrong
		if strings.Contains(r.URL.Path, "/v2/cold/") && strings.Contains(r.URL.Path, "/blobs/") && len(b) > 100_000 {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
		}
		return b
	})
	if o := w.sync(n)["tiny@v1"]; o.Failure == nil || o.Failure.Cause != CauseUnavailable {
		t.Errorf("got %+v", o)
	}
	r, _ := n.Record("tiny@v1")
	st, _ := n.Store()
	_, err := st.Ref(n.modelRef("tiny@v1"))
	if r.Tree == "" || err != nil {
		t.Errorf("the archive is bad, and the good hot copy was given up: state %s, tree %q (was %q), ref: %v", r.State, r.Tree, before.Tree, err)
	}
}

func TestHugeAnnotation(t *testing.T) {
	w := newNetwork(t)
	refs := w.push("tiny", w.key, "first")
	ref, err := oci.ParseReference(refs)
	w.must(err)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(p string) []byte {
		resp, err := c.Get("https://" + w.host + p)
		w.must(err)
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return b
	}
	var idx struct{ Manifests []struct{ Digest string } }
	w.must(json.Unmarshal(get("/v2/acme/tiny/referrers/"+ref.Digest.String()), &idx))
	var m map[string]any
	w.must(json.Unmarshal(get("/v2/acme/tiny/manifests/"+idx.Manifests[0].Digest), &m))
	a, _ := m["annotations"].(map[string]any)
	if a == nil {
		a = map[string]any{}
	}
	a["x"] = strings.Repeat("A", 1500<<10)
	m["annotations"] = a
	b, _ := json.Marshal(m)
	req, _ := http.NewRequest("PUT", "https://"+w.host+"/v2/acme/tiny/manifests/"+digest.FromBytes(b).String(), bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	resp, err := c.Do(req)
	w.must(err)
	w.must(resp.Body.Close())
	w.list("tiny", "v1", refs)
	w.publish()
	n := w.node()
	w.sync(n)
	_, err = n.Record("tiny@v1")
	if err != nil {
		t.Errorf("record cannot be read back: %.300v", err)
	}
	if o := w.sync(n)["tiny@v1"]; o.Verb != Validate {
		t.Errorf("again: %+v", o)
	}
	if ins, _ := n.Incidents("", 0); len(ins) != 0 {
		t.Errorf("incidents: %+v", ins)
	}
}

func TestArchiveSharedDigest(t *testing.T) {
	w := newNetwork(t)
	refs := w.push("tiny", w.key, "first")
	w.list("tiny", "v1", refs)
	w.list("tiny", "v2", refs)
	w.publish()
	cold := filepath.Join(t.TempDir(), "cold")
	n := w.node(func(o *Options) { o.Archive = cold })
	w.sync(n)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.must(w.repo.SetEnabled("tiny", "v2", false))
	w.publish()
	w.sync(n)
	for _, id := range []string{"tiny@v1", "tiny@v2"} {
		_, err := n.Archive(context.Background(), id)
		w.must(err)
	}
	// v1 is dropped and its retention ends; v2 stays listed and archived
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Settings.Retention.Keep = 1; return nil }))
	w.publish()
	n.o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	w.sync(n)
	w.state(n, "tiny@v1", Absent)
	w.state(n, "tiny@v2", Archived)
	there, err := oci.InLayout(context.Background(), cold)
	r, _ := n.Record("tiny@v2")
	if _, ok := there[r.Manifest]; !ok {
		t.Errorf("v2 is Archived, and its cold copy went with v1's: %v %v", there, err)
	}
}

func TestVerifyRepairDisabled(t *testing.T) {
	w, n := installed(t)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	st, err := n.Store()
	w.must(err)
	w.must(st.DeleteRef(context.Background(), n.modelRef("tiny@v1"))) // any damage
	vs, err := n.Verify(context.Background(), VerifyOptions{Repair: true})
	w.must(err)
	v := vs[0]
	if !v.OK && v.Failure == nil {
		t.Errorf("not ok, and no failure to take an exit code from: state %s", v.State)
	}
}

func TestRestoreForgetsArchive(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	cold := filepath.Join(t.TempDir(), "cold")
	n := w.node(func(o *Options) { o.Archive = cold })
	w.sync(n)
	w.must(w.repo.SetEnabled("tiny", "v1", false))
	w.publish()
	w.sync(n)
	_, err := n.Archive(context.Background(), "tiny@v1")
	w.must(err)
	w.collect(n)
	w.faults(func(r *http.Request) int { // the registry has lost it
		if strings.Contains(r.URL.Path, "/v2/acme/") {
			return http.StatusNotFound
		}
		return 0
	}, nil)
	// Listed again, at first with a size that is too small.
	size := func(b snapshot.Bytes) {
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Models[0].Size = int64(b); d.Models[0].Enabled = true; return nil }))
		w.publish()
	}
	size(10)
	o := w.sync(n)["tiny@v1"]
	size(64 << 20)
	o = w.sync(n, func(o *SyncOptions) { o.Force = true })["tiny@v1"]
	if o.After != Pending {
		t.Errorf("the archive holds it and is not asked any more")
	}
	// dropped by the network: is the cold copy freed?
	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.publish()
	w.sync(n)
	w.sync(n)
	there, err := oci.InLayout(context.Background(), cold)
	if err != nil || len(there) != 0 {
		t.Errorf("left in the archive: %v, %v", there, err)
	}
}

func TestRuntimeLeak(t *testing.T) {
	w, n := installed(t)
	st, err := n.Store()
	w.must(err)
	ref, err := st.Ref(n.modelRef("tiny@v1"))
	w.must(err)
	ref.Name = n.runtimeRef("old@0.1.0") // a runtime that no snapshot lists any more
	w.must(st.PutRef(context.Background(), ref))
	w.sync(n)
	w.collect(n)
	if _, err := st.Ref(ref.Name); err == nil {
		t.Error("the image of a runtime that nobody lists is kept for ever")
	}
}

// A log that cannot be written is no reason to leave a revoked model in use.
func TestRevocationHoldsWithoutALog(t *testing.T) {
	w, n := installed(t)
	r := w.state(n, "tiny@v1", Pending)
	audit := n.auditPath()
	w.must(os.Rename(audit, audit+".aside"))
	w.must(os.Mkdir(audit, 0o700))
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: r.Manifest, Reason: "stolen"}, ceremony.Unlisted))
	_, _, err := n.Apply(context.Background(), w.publish(), "test")
	if err == nil {
		t.Error("nobody was told that the log cannot be written")
	}
	w.state(n, "tiny@v1", Failed)

	w.must(os.Remove(audit))
	w.must(os.Rename(audit+".aside", audit))
	acc, err := n.Current()
	w.must(err)
	if ins, err := n.Incidents("tiny", 0); err != nil || len(ins) != 1 {
		t.Errorf("before it is logged: %+v, %v", ins, err)
	}
	w.sync(n)
	kept := w.state(n, "tiny@v1", Failed)
	w.sync(n)
	// Killed between the line and the record that says so.
	first := w.lastIncident(n)
	kept.Unlogged = []Incident{first}
	w.must(n.models.write(kept.ID(), kept))
	w.sync(n)
	times, incidents := 0, 0
	all, res := auditLog(t, n)
	for _, e := range all {
		if e.Accepted != nil && e.Accepted.Snapshot == acc.Digest {
			times++
		}
		if e.Incident != nil && e.Incident.Kind == CauseRevoked {
			incidents++
		}
	}
	if times != 1 || incidents != 1 || res.Broken != 0 || res.Cut {
		t.Errorf("the snapshot that could not be logged is in the log %d times, the incident %d times: %+v", times, incidents, res)
	}
	if ins, err := n.Incidents("tiny", 0); err != nil || len(ins) != 1 {
		t.Errorf("after it was logged: %+v, %v", ins, err)
	}
}

func (w *network) lastIncident(n *Node) Incident {
	w.t.Helper()
	ins, err := n.Incidents("", 1)
	if err != nil || len(ins) != 1 {
		w.t.Fatalf("%+v, %v", ins, err)
	}
	return ins[0]
}

// A disabled model does not come back on an engine that was revoked meanwhile,
// whether or not its receipt is still here.
func TestEnabledOnARevokedEngine(t *testing.T) {
	w, n := installed(t)
	r := w.state(n, "tiny@v1", Pending)
	acc, err := n.Current()
	w.must(err)
	rt := acc.Document.Runtimes[0]
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: rt.Digest(), Reason: "backdoored"}, ceremony.Unlisted))
	w.publish()
	w.sync(n)
	acc, err = n.Current()
	w.must(err)
	m, _ := acc.Document.Model("tiny", "v1")
	f, err := n.facts(context.Background())
	w.must(err)
	r.Holds, r.Verdict = verdictKey(acc.Document, &m, f), &runner.Verdict{Passed: true}
	for _, from := range []State{Active, Inactive} {
		r.State = from
		w.must(n.save(r))
		p, err := n.plan(context.Background(), acc, SyncOptions{})
		w.must(err)
		for _, a := range p.Actions {
			if a.Verb == Enable || a.Verb == Keep {
				t.Errorf("%s, and the next pass would %s it: %s", from, a.Verb, a.Reason)
			}
		}
	}
}
