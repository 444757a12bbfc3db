package lifecycle

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

func TestInstallWithoutAnEngineStaysPending(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node()
	o := w.sync(n)["tiny@v1"]
	if o.After != Pending || o.Failure == nil || o.Failure.Cause != CauseEngine || o.Fetched == 0 {
		t.Fatalf("got %+v", o)
	}
	r := w.state(n, "tiny@v1", Pending)
	if r.Receipt == nil || len(r.Receipt.Decision.Signers) != 1 || r.Receipt.Decision.Signers[0].Authority != "publisher" {
		t.Errorf("receipt: %+v", r.Receipt)
	}
	b, err := os.ReadFile(filepath.Join(r.Tree, "README.md"))
	if err != nil || string(b) != "# tiny\n" {
		t.Errorf("tree: %q, %v", b, err)
	}
	if ins, _ := n.Incidents("", 0); len(ins) != 0 {
		t.Errorf("a missing engine is no incident: %+v", ins)
	}
	w.requests()
	if o := w.sync(n)["tiny@v1"]; o.Verb != Validate || o.After != Pending {
		t.Errorf("second pass: %+v", o)
	}
	for _, r := range w.requests() {
		if strings.Contains(r, "/acme/tiny/blobs/") {
			t.Errorf("fetched again: %s", r)
		}
	}
}

func TestRefusalsLeaveNothingUsable(t *testing.T) {
	cases := []struct {
		name     string
		prepare  func(*network) string // returns the reference
		change   func(*snapshot.Model)
		faults   func(*network, string)
		after    State
		cause    Cause
		incident bool
	}{
		{
			name:    "unsigned",
			prepare: func(w *network) string { return w.push("tiny", nil, "first") },
			after:   Failed, cause: CauseSignature, incident: true,
		},
		{
			name: "signed by a stranger",
			prepare: func(w *network) string {
				k, err := policy.GenerateKey()
				w.must(err)
				return w.push("tiny", k, "first")
			},
			after: Failed, cause: CauseSignature, incident: true,
		},
		{
			name:    "larger than listed",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			change:  func(m *snapshot.Model) { m.Size = 10 },
			after:   Failed, cause: CauseLayout, incident: true,
		},
		{
			name:    "needs a GPU",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			change:  func(m *snapshot.Model) { m.Compat.GPUMemory = 80 << 30 },
			after:   Absent, cause: CauseCompatibility, incident: true,
		},
		{
			name:    "one wrong byte",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			faults: func(w *network, _ string) {
				w.faults(nil, func(r *http.Request, b []byte) []byte {
					if strings.Contains(r.URL.Path, "/blobs/") && len(b) > 100_000 {
						b[len(b)/2] ^= 1
					}
					return b
				})
			},
			after: Failed, cause: CauseHash, incident: true,
		},
		{
			name:    "another manifest under the digest",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			faults: func(w *network, ref string) {
				_, digest, _ := strings.Cut(ref, "@")
				w.faults(nil, func(r *http.Request, b []byte) []byte {
					if strings.HasSuffix(r.URL.Path, "/manifests/"+digest) {
						return []byte(strings.Replace(string(b), "README.md", "README.mx", 1))
					}
					return b
				})
			},
			after: Failed, cause: CauseHash, incident: true,
		},
		{
			name: "not on the registry", // which is not the same as unsigned
			prepare: func(w *network) string {
				ref := w.push("tiny", w.key, "first")
				return ref[:len(ref)-64] + strings.Repeat("0", 64)
			},
			after: Absent, cause: CauseUnavailable,
		},
		{
			name:    "registry down",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			faults: func(w *network, _ string) {
				w.faults(func(*http.Request) int { return http.StatusServiceUnavailable }, nil)
			},
			after: Absent, cause: CauseUnavailable,
		},
		{
			name:    "wrong password",
			prepare: func(w *network) string { return w.push("tiny", w.key, "first") },
			faults: func(w *network, _ string) {
				w.faults(func(*http.Request) int { return http.StatusUnauthorized }, nil)
			},
			after: Absent, cause: CauseUnavailable,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newNetwork(t)
			ref := c.prepare(w)
			w.list("tiny", "v1", ref, func(m *snapshot.Model) {
				if c.change != nil {
					c.change(m)
				}
			})
			w.publish()
			n := w.node()
			if c.faults != nil {
				c.faults(w, ref)
			}
			w.requests()
			o := w.sync(n)["tiny@v1"]
			if o.After != c.after || o.Failure == nil || o.Failure.Cause != c.cause {
				t.Fatalf("got %s, %+v; want %s because of %s", o.After, o.Failure, c.after, c.cause)
			}
			r := w.state(n, "tiny@v1", c.after)
			if r.Tree != "" || r.Cause != c.cause {
				t.Errorf("record: tree %q, cause %q", r.Tree, r.Cause)
			}
			ins, err := n.Incidents("tiny", 0)
			if err != nil || (len(ins) == 1) != c.incident || len(ins) > 1 {
				t.Errorf("incidents: %+v, %v", ins, err)
			}
			for _, in := range ins {
				if in.Kind != c.cause || in.Expected == "" || in.Found == "" || in.Source == "" {
					t.Errorf("incident says too little: %+v", in)
				}
			}
			if c.cause == CauseSignature {
				for _, r := range w.requests() {
					if strings.Contains(r, "/acme/tiny/blobs/") && strings.HasPrefix(r, http.MethodGet) && !slices.Contains(w.signatureBlobs(ref), r) {
						t.Errorf("fetched before the signature was verified: %s", r)
					}
				}
			}
			st, err := n.Store()
			w.must(err)
			refs, err := st.Refs()
			if err != nil || len(refs) != 0 {
				t.Errorf("roots left in the store: %+v, %v", refs, err)
			}
			if _, err := st.GC(context.Background(), cas.GCOptions{}); err != nil {
				t.Fatal(err)
			}

			// The fault goes away: the next pass brings the model in.
			if c.faults == nil {
				return
			}
			w.faults(nil, nil)
			o = w.sync(n, func(o *SyncOptions) { o.Force = true })["tiny@v1"]
			if o.After != Pending {
				t.Errorf("after the fault: %s, %+v", o.After, o.Failure)
			}
		})
	}
}

// signatureBlobs are the requests that looking for signatures may make.
func (w *network) signatureBlobs(ref string) []string {
	r, err := w.ociReference(ref)
	w.must(err)
	ev, err := w.client.Evidence(context.Background(), r, nil)
	w.must(err)
	var out []string
	for _, e := range ev {
		out = append(out, "GET /v2/acme/tiny/blobs/"+digestFrom(e.Payload))
	}
	return out
}

func TestSecondSnapshotMovesModels(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.list("poet", "v1", w.push("poet", w.key, "verse"))
	first := w.publish()
	n := w.node()
	w.sync(n)
	v1 := w.state(n, "tiny@v1", Pending)

	w.list("tiny", "v2", w.push("tiny", w.key, "second"))
	w.must(w.repo.SetEnabled("poet", "v1", false))
	w.publish()
	w.sync(n)
	w.state(n, "tiny@v2", Pending)
	w.state(n, "poet@v1", Inactive)

	w.must(w.repo.RemoveModel("tiny", "v1"))
	w.publish()
	w.sync(n)
	gone := w.state(n, "tiny@v1", Absent)
	if gone.Tree != "" || gone.Reason == "" {
		t.Errorf("record of a removed model: %+v", gone)
	}
	st, err := n.Store()
	w.must(err)
	for range 2 { // what one run moves to the trash, the next deletes
		if _, err := st.GC(context.Background(), cas.GCOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(v1.Tree); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tree of v1 is still there: %v", err)
	}
	if _, err := st.Stat(v1.Manifest); !errors.Is(err, cas.ErrNotFound) {
		t.Errorf("the manifest of v1 is still there: %v", err)
	}

	before, err := n.Current()
	w.must(err)
	_, _, err = n.Apply(context.Background(), first, "push file")
	if f := AsFailure(err); f == nil || f.Cause != CauseSnapshot || !errors.Is(err, snapshot.ErrReplay) {
		t.Errorf("a replayed snapshot: %v", err)
	}
	after, err := n.Current()
	w.must(err)
	if before.Digest != after.Digest {
		t.Errorf("the replay changed the snapshot in force")
	}
	ins, _ := n.Incidents("", 0)
	if len(ins) != 1 || ins[0].Kind != CauseSnapshot || ins[0].Expected == "" || ins[0].Found == "" || ins[0].Source == "" {
		t.Errorf("incidents: %+v", ins)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node()
	before := listing(t, n.StateDir())
	res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site), DryRun: true})
	w.must(err)
	if len(res.Plan.Actions) != 1 || res.Plan.Actions[0].Verb != Install || len(res.Outcomes) != 0 {
		t.Errorf("plan: %+v", res.Plan)
	}
	if after := listing(t, n.StateDir()); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter  %v", before, after)
	}
	if _, err := n.Current(); !errors.Is(err, snapshot.ErrNone) {
		t.Errorf("a dry run accepted the snapshot: %v", err)
	}
}

// listing is every file below dir with its size.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			out = append(out, p+" "+i.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSourceDownKeepsTheLastGoodSnapshot(t *testing.T) {
	w, n := installed(t)
	w.must(os.Rename(w.site, w.site+".gone"))
	res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
	if err != nil || res.SnapshotFailure == nil || res.SnapshotFailure.Cause != CauseUnavailable {
		t.Fatalf("got %+v, %v", res.SnapshotFailure, err)
	}
	if len(res.Outcomes) != 1 {
		t.Errorf("the pass did not go on: %+v", res.Outcomes)
	}
}

func TestRevokedDigestIsQuarantined(t *testing.T) {
	w := newNetwork(t)
	ref := w.push("tiny", w.key, "first")
	w.list("tiny", "v1", ref)
	w.publish()
	n := w.node()
	w.sync(n)
	r := w.state(n, "tiny@v1", Pending)
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: r.Manifest, Reason: "found harmful"}, ceremony.Unlisted))
	w.publish()
	if o := w.sync(n)["tiny@v1"]; o.Verb != Quarantine || o.After != Failed {
		t.Fatalf("got %+v", o)
	}
	if o := w.sync(n, func(o *SyncOptions) { o.Force = true })["tiny@v1"]; o.Verb != Refuse || o.After != Failed {
		t.Errorf("forced: %+v", o)
	}
	if ins, _ := n.Incidents("tiny", 0); len(ins) != 1 || ins[0].Kind != CauseRevoked {
		t.Errorf("incidents: %+v", ins)
	}
}

func TestPolicyChangeIsCheckedOnWhatIsInstalled(t *testing.T) {
	w, n := installed(t)
	w.state(n, "tiny@v1", Pending)
	other, err := policy.GenerateKey()
	w.must(err)
	_, public, err := policy.MarshalKey(other)
	w.must(err)
	w.must(w.repo.AddPolicy(snapshot.Policy{
		Name: "acme", Threshold: 1, Images: []snapshot.ImageGlob{{Glob: w.host + "/**"}},
		Authorities: []snapshot.Authority{{Name: "new-publisher", SignatureFormat: "bundle", Key: &snapshot.Key{Data: string(public)}}},
		Content:     snapshot.Content{ChatTemplates: "any"},
	}))
	w.publish()
	if o := w.sync(n)["tiny@v1"]; o.After != Failed || o.Failure.Cause != CauseSignature {
		t.Fatalf("the old signer still counts: %+v", o)
	}
	// The new signer signs the same artifact: it comes back without its layers being fetched again.
	r := w.state(n, "tiny@v1", Failed)
	ref, err := w.ociReference(w.reference("tiny", r.Manifest.String()))
	w.must(err)
	sig, err := policy.SignBundle(other, r.Manifest)
	w.must(err)
	w.must(w.client.AttachBundle(context.Background(), ref, sig))
	if o := w.sync(n, func(o *SyncOptions) { o.Force = true })["tiny@v1"]; o.After != Pending || o.Fetched != 0 {
		t.Errorf("signed anew: %+v", o)
	}
}

func TestDamagedTreeIsFoundAndMended(t *testing.T) {
	w, n := installed(t)
	r := w.state(n, "tiny@v1", Pending)
	gguf := filepath.Join(r.Tree, "model.gguf")
	w.must(os.Chmod(gguf, 0o600))
	f, err := os.OpenFile(gguf, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt([]byte("rot"), 200_000)
	w.must(err)
	w.must(f.Close())
	vs, err := n.Verify(context.Background(), VerifyOptions{})
	w.must(err)
	if len(vs) != 1 || vs[0].OK || vs[0].State != Failed || vs[0].Failure.Cause != CauseHash {
		t.Fatalf("verify: %+v", vs)
	}
	reader, err := os.Open(gguf) // a container that has the file open while it is mended
	w.must(err)
	defer reader.Close()
	vs, err = n.Verify(context.Background(), VerifyOptions{Repair: true})
	w.must(err)
	if len(vs) != 1 || vs[0].State != Pending {
		t.Fatalf("repair: %+v, %+v", vs, vs[0].Failure)
	}
	b := make([]byte, 3)
	if _, err := reader.ReadAt(b, 200_000); err != nil || string(b) == "rot" {
		t.Errorf("the open file still reads %q, %v", b, err)
	}
	if got := w.state(n, "tiny@v1", Pending).Receipt.Fetched; got == 0 || got > r.Size*9/10 {
		t.Errorf("repair fetched %d bytes of %d", got, r.Size)
	}
	if vs, err = n.Verify(context.Background(), VerifyOptions{}); err != nil || !vs[0].OK {
		t.Errorf("after repair: %+v, %v", vs, err)
	}
}

func TestDamagedRecordIsRebuilt(t *testing.T) {
	w, n := installed(t)
	w.must(os.WriteFile(n.models.path("tiny@v1"), []byte(`{"version":1,"sum":"00","record":{"state":"Active"}}`), 0o600))
	if recs, err := n.Records(); len(recs) != 0 || !errors.Is(err, errCorrupt) {
		t.Fatalf("a forged record was read: %+v, %v", recs, err)
	}
	if o := w.sync(n)["tiny@v1"]; o.After != Pending || o.Fetched != 0 {
		t.Errorf("got %+v", o)
	}
	if ins, _ := n.Incidents("tiny", 0); len(ins) != 1 || ins[0].Kind != CauseState {
		t.Errorf("incidents: %+v", ins)
	}
}

func TestTwoPassesAtOnce(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	n := w.node()
	lk, err := takeLock(context.Background(), filepath.Join(n.dir, "sync.lock"), "test", 0)
	w.must(err)
	_, err = n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
	if f := AsFailure(err); f == nil || f.Cause != CauseBusy {
		t.Errorf("got %v", err)
	}
	lk.Unlock()
	if _, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site), Wait: time.Second}); err != nil {
		t.Error(err)
	}
}

func TestUnlistedNameIsRefused(t *testing.T) {
	_, n := installed(t)
	_, err := n.Sync(context.Background(), SyncOptions{Only: []string{"other"}, Install: true})
	if f := AsFailure(err); f == nil || f.Cause != CauseListing || f.Hint == "" {
		t.Errorf("got %v", err)
	}
}

func TestStaleSnapshotActivatesNothing(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	bundle := w.publish()
	n := w.node()
	_, _, err := n.Apply(context.Background(), bundle, "push file")
	w.must(err)
	// The same node, ten days later: the timestamp's week is over.
	n.o.Now = func() time.Time { return time.Now().Add(10 * 24 * time.Hour) }
	res, err := n.Sync(context.Background(), SyncOptions{})
	w.must(err)
	if res.Plan.Freshness != snapshot.Stale || len(res.Outcomes) != 1 || res.Outcomes[0].Verb != Wait || res.Outcomes[0].After != Absent {
		t.Errorf("got %s, %+v", res.Plan.Freshness, res.Outcomes)
	}
}

// activeNow gives a Pending model what a passed run would have written.
func (w *network) activeNow(n *Node, id string) *Record {
	w.t.Helper()
	r := w.state(n, id, Pending)
	acc, err := n.Current()
	w.must(err)
	m, _ := acc.Document.Model(r.Name, r.Version)
	f, err := n.facts(context.Background())
	w.must(err)
	w.must(r.move(Active, "test", "as if validated", acc.Digest, n.now()))
	r.Holds = verdictKey(acc.Document, &m, f)
	w.must(n.settle(context.Background(), acc, r, nil))
	return r
}

func TestAppliedSnapshotTakesModelsOutOfUseAtOnce(t *testing.T) {
	w := newNetwork(t)
	for _, name := range []string{"dropped", "disabled", "revoked", "kept"} {
		w.list(name, "v1", w.push(name, w.key, name))
	}
	w.publish()
	n := w.node()
	w.sync(n)
	for _, name := range []string{"dropped", "disabled", "revoked", "kept"} {
		w.activeNow(n, name+"@v1")
	}
	w.must(w.repo.RemoveModel("dropped", ""))
	w.must(w.repo.SetEnabled("disabled", "v1", false))
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "revoked@v1", Active).Manifest}, ceremony.Unlisted))
	bundle := w.publish()
	_, outs, err := n.Apply(context.Background(), bundle, "push file")
	w.must(err)
	if len(outs) != 3 {
		t.Errorf("outcomes: %+v", outs)
	}
	w.state(n, "dropped@v1", Inactive)
	w.state(n, "disabled@v1", Inactive)
	w.state(n, "revoked@v1", Failed)
	w.state(n, "kept@v1", Active)
}

func TestNothingIsActivatedUnderAnOlderSnapshot(t *testing.T) {
	w, n := installed(t)
	r := w.state(n, "tiny@v1", Pending)
	old, err := n.Current()
	w.must(err)
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Settings.RetestInterval = 1e9; return nil }))
	_, _, err = n.Apply(context.Background(), w.publish(), "push file")
	w.must(err)
	// A run that began before the new snapshot came ends now.
	w.must(r.move(Active, "test", "passed", old.Digest, n.now()))
	if err := n.settle(context.Background(), old, r, nil); AsFailure(err) == nil || AsFailure(err).Cause != CauseBusy {
		t.Errorf("got %v", err)
	}
	if r.State != Pending {
		t.Errorf("in memory: %s", r.State)
	}
	w.state(n, "tiny@v1", Pending)
}
