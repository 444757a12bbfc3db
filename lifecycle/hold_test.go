package lifecycle

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/filelock"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// stuck is a container engine that never answers.
func (n *Node) stuck(asked chan<- struct{}) {
	n.engine = func(ctx context.Context) (engine, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

// until waits for a condition, and fails the test where it does not come.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// onDisk is the state that a model's record itself says.
func (w *network) onDisk(n *Node, id string) State {
	w.t.Helper()
	var r Record
	w.must(n.models.read(id, &r))
	return r.State
}

// What a pass asks, or waits for, holds up no withdrawal: it is on the disk
// while the pass still hangs.
func TestNothingHoldsUpAWithdrawal(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(silent.Close)
	t.Cleanup(silent.CloseClientConnections)
	for name, c := range map[string]struct {
		trouble func(w *network, n *Node, asked chan struct{}) SyncOptions
		stored  bool // the snapshot was accepted by a command that died
	}{
		"the container engine": {trouble: func(w *network, n *Node, asked chan struct{}) SyncOptions {
			n.stuck(asked)
			return SyncOptions{Source: snapshot.DirSource(w.site)}
		}},
		"another pass": {trouble: func(w *network, n *Node, asked chan struct{}) SyncOptions {
			lk, err := takeLock(context.Background(), filepath.Join(n.dir, "sync.lock"), "test", 0)
			w.must(err)
			w.t.Cleanup(lk.Unlock)
			close(asked)
			return SyncOptions{Source: snapshot.DirSource(w.site), Wait: time.Hour}
		}},
		"the snapshot's source": {stored: true, trouble: func(_ *network, _ *Node, asked chan struct{}) SyncOptions {
			close(asked)
			return SyncOptions{Source: snapshot.HTTPSource(nil, silent.URL), SourceName: silent.URL}
		}},
		"a registry that has other signatures": {trouble: func(w *network, n *Node, asked chan struct{}) SyncOptions {
			other, err := policy.GenerateKey()
			w.must(err)
			_, public, err := policy.MarshalKey(other)
			w.must(err)
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				d.Revocations = nil
				d.Policies[0].Authorities[0].Key = &snapshot.Key{Data: string(public)}
				return nil
			}))
			w.publish()
			w.faults(func(r *http.Request) int {
				select {
				case <-hang:
				case <-r.Context().Done():
				}
				return http.StatusServiceUnavailable
			}, nil)
			close(asked)
			return SyncOptions{Source: snapshot.DirSource(w.site)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.sync(n)
			manifest := w.state(n, "tiny@v1", Active).Manifest
			w.must(w.repo.Revoke(snapshot.Revocation{Digest: manifest}, ceremony.Unlisted))
			bundle := w.publish()
			asked := make(chan struct{}, 1)
			o := c.trouble(w, n, asked)
			if c.stored {
				tr, err := n.trust()
				w.must(err)
				_, err = tr.Apply(bundle, n.now())
				w.must(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error)
			go func() {
				_, err := n.Sync(ctx, o)
				ended <- err
			}()
			until(t, "the model stays in use while the pass hangs", func() bool { return w.onDisk(n, "tiny@v1") != Active })
			<-asked
			select {
			case err := <-ended:
				t.Fatalf("the pass did not hang: %v", err)
			default:
			}
			cancel()
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// A stopped process that holds the log's lock costs one wait, however many
// models are revoked, and each incident is logged once when it lets go.
func TestAStuckLogHoldsNothingUp(t *testing.T) {
	names := []string{"one", "two", "three", "four"}
	w, n := judging(t, names...)
	w.sync(n)
	for _, name := range names {
		w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, name+"@v1", Active).Manifest}))
	}
	bundle := w.publish()
	lk, err := filelock.Try(n.auditPath()+".lock", filelock.Exclusive)
	w.must(err)
	began := time.Now()
	if _, _, err := n.Apply(context.Background(), bundle, "test"); err == nil {
		t.Error("nobody was told that the log is locked")
	}
	if took := time.Since(began); took > logWait+3*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, name := range names {
		if s := w.onDisk(n, name+"@v1"); s != Failed {
			t.Errorf("%s is %s", name, s)
		}
	}
	lk.Unlock()
	again, err := Open(n.o)
	w.must(err)
	w.sync(again)
	w.sync(again)
	all, _ := auditLog(t, again)
	count := map[string]int{}
	for _, e := range all {
		if e.Incident != nil {
			count[e.Incident.Model]++
		}
	}
	for _, name := range names {
		if count[name] != 1 {
			t.Errorf("logged: %v", count)
		}
	}
}

// Who may not change the state of a node can lock nothing that it waits for.
func TestStrangersLockNothing(t *testing.T) {
	for name, take := range map[string]func(w *network, n *Node, bundle []byte) error{
		"sync": func(w *network, n *Node, _ []byte) error {
			_, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
			return err
		},
		"apply": func(_ *network, n *Node, bundle []byte) error {
			_, _, err := n.Apply(context.Background(), bundle, "test")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := judging(t, "tiny")
			n := w.node(func(o *Options) { o.StateDir = filepath.Join(shortDir(t), "state") })
			n.says(true)
			w.sync(n)
			w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "tiny@v1", Active).Manifest}))
			bundle := w.publish()
			stranger := w.stranger(step{Dir: n.o.StateDir, Verb: "lock"}, w.strangersProgram())
			defer func() { _ = stranger.Wait() }()
			defer func() { _ = stranger.Process.Kill() }()
			began := time.Now()
			w.must(take(w, n, bundle))
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
			if s := w.onDisk(n, "tiny@v1"); s != Failed {
				t.Errorf("it is %s", s)
			}
			if _, err := n.GC(context.Background(), full); err != nil {
				t.Error(err)
			}
		})
	}
}

// A refresh brings a revocation beside a pass that is at work, and brings
// nothing else in.
func TestRefresh(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	lk, err := takeLock(context.Background(), filepath.Join(n.dir, "sync.lock"), "test", 0)
	w.must(err)
	defer lk.Unlock()
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "tiny@v1", Active).Manifest}))
	w.list("late", "v1", w.push("late", w.key, "late"))
	w.publish()
	w.requests()
	n.engine = nil // is not asked
	acc, res, err := n.Refresh(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
	w.must(err)
	if !res.Changed || acc.Document.Sequence != 2 || len(res.Outcomes) != 1 || res.Outcomes[0].After != Failed {
		t.Errorf("snapshot %d: %+v", acc.Document.Sequence, res)
	}
	if s := w.onDisk(n, "tiny@v1"); s != Failed {
		t.Errorf("it is %s", s)
	}
	if asked := w.requests(); len(asked) > 0 {
		t.Errorf("a registry was asked: %q", asked)
	}
	if _, res, err = n.Refresh(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)}); err != nil || res.Changed || len(res.Outcomes) > 0 {
		t.Errorf("again: %+v, %v", res, err)
	}
}

// Between the acceptance of a snapshot and its effect on the records, and while
// a long action keeps a record, every reader shows what the snapshot makes of
// it, and nobody uses the model.
func TestReadersGoByTheAcceptedSnapshot(t *testing.T) {
	w := newNetwork(t)
	names := []string{"revoked", "part", "disabled", "dropped", "repinned", "unsigned", "kept"}
	refs := map[string]string{}
	for _, name := range names {
		refs[name] = w.push(name, w.key, name)
		w.list(name, "v1", refs[name])
	}
	image := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = image })
	w.publish()
	n := w.node()
	n.says(true)
	w.sync(n)
	w.sync(n) // marks the records that the first wrote
	n.o.Archive = filepath.Join(t.TempDir(), "cold")
	parts := w.parts(refs["part"])
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "revoked@v1", Active).Manifest, Reason: "stolen"}, ceremony.Unlisted))
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: parts[len(parts)-1], Reason: "stolen"}, ceremony.Unlisted))
	w.must(w.repo.SetEnabled("disabled", "v1", false))
	w.must(w.repo.RemoveModel("dropped", "v1"))
	other, err := policy.GenerateKey()
	w.must(err)
	_, public, err := policy.MarshalKey(other)
	w.must(err)
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		strict := d.Policies[0]
		strict.Name = "strict"
		strict.Authorities = []snapshot.Authority{{Name: "other", SignatureFormat: "bundle", Key: &snapshot.Key{Data: string(public)}}}
		d.Policies = append(d.Policies, strict)
		for i, m := range d.Models {
			switch m.Name {
			case "unsigned":
				d.Models[i].Policy = "strict"
			case "repinned":
				d.Models[i].Reference = refs["kept"]
			}
		}
		return nil
	}))
	tr, err := n.trust()
	w.must(err)
	_, err = tr.Apply(w.publish(), n.now())
	w.must(err)
	ctx := context.Background()
	look := func(t *testing.T) {
		for id, want := range map[string]State{
			"revoked@v1": Failed, "part@v1": Failed, "disabled@v1": Inactive, "dropped@v1": Inactive, "repinned@v1": Inactive, "unsigned@v1": Inactive, "kept@v1": Active,
		} {
			r := w.state(n, id, want) // list, show
			es, err := n.Explain(ctx, id)
			if err != nil || len(es) == 0 || es[0].State != want || es[0].Record == nil || es[0].Record.State != want || es[0].Reason != r.Reason {
				t.Errorf("%s is explained as %+v, %v", id, es, err)
			}
			_, err = n.Ask(ctx, id, "ping", io.Discard)
			if (err == nil) != (want == Active) {
				t.Errorf("%s, %s: asked: %v", id, want, err)
			}
			if _, err := n.Export(ctx, []string{id}, t.TempDir()); (err == nil) != (want == Active || want == Inactive && id != "unsigned@v1") {
				t.Errorf("%s, %s: exported: %v", id, want, err)
			}
		}
	}
	t.Run("after a command that died", func(t *testing.T) {
		look(t)
		for _, name := range names {
			if s := w.onDisk(n, name+"@v1"); s != Active {
				t.Errorf("%s is %s on the disk already", name, s)
			}
		}
	})
	t.Run("while a long action keeps the records", func(t *testing.T) {
		var held []*filelock.Lock
		for _, name := range names {
			lk, err := n.models.lock(ctx, name+"@v1")
			w.must(err)
			held = append(held, lk)
		}
		var res SyncResult
		w.must(n.withdrawStored(ctx, &res))
		if done := n.withdrawn().Seen; len(done) != 1 || done["kept@v1"] == "" {
			t.Errorf("done with: %q", done)
		}
		look(t)
		for _, lk := range held {
			lk.Unlock()
		}
	})
	t.Run("written down by a collection", func(t *testing.T) {
		_, err := n.GC(ctx, cas.GCOptions{})
		w.must(err)
		for _, name := range names {
			if s := w.onDisk(n, name+"@v1"); (s == Active) != (name == "kept") {
				t.Errorf("%s is %s on the disk", name, s)
			}
		}
		look(t)
	})
}

// Time alone takes a model out of use where the settings say so, and lets
// nothing new in, in the middle of a run, too.
func TestExpiryTakesForceAtOnce(t *testing.T) {
	for setting, want := range map[string]State{"": Active, "stop": Inactive} {
		t.Run("expired, settings say "+setting, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Settings.Expired = setting; return nil }))
			w.publish()
			w.sync(n)
			w.state(n, "tiny@v1", Active)
			clock := time.Now()
			n.o.Now = func() time.Time { return clock }
			clock = clock.Add(400 * 24 * time.Hour)
			w.state(n, "tiny@v1", want)
			if _, err := n.Ask(context.Background(), "tiny", "ping", io.Discard); (err == nil) != (want == Active) {
				t.Errorf("asked: %v", err)
			}
		})
	}
	t.Run("stale when the run ends", func(t *testing.T) {
		w, n := judging(t, "tiny")
		clock := time.Now()
		n.o.Now = func() time.Time { return clock }
		n.engine = func(context.Context) (engine, error) {
			clock = clock.Add(10 * 24 * time.Hour)
			return saying(true), nil
		}
		if o := w.sync(n)["tiny@v1"]; o.Failure == nil || o.Failure.Cause != CauseSnapshot || !strings.Contains(o.Failure.Reason, "stale") {
			t.Errorf("%+v", o)
		}
		if s := w.onDisk(n, "tiny@v1"); s != Pending {
			t.Errorf("it is %s", s)
		}
	})
}

// No signature is verified twice by one process under one snapshot, and each
// snapshot is asked anew.
func TestAdmissionIsMadeOncePerSnapshot(t *testing.T) {
	w, n := judging(t, "tiny")
	w.sync(n)
	r := w.state(n, "tiny@v1", Active)
	acc, err := n.Current()
	w.must(err)
	m, _ := acc.Document.Model("tiny", "v1")
	hex := r.Receipt.Evidence[0].Digest.Encoded()
	path := filepath.Join(n.o.StoreDir, "blobs", "sha256", hex[:2], hex)
	ask := func(n *Node, acc *snapshot.Accepted) policy.Decision {
		return n.readmit(acc, m.Policy, m.Reference, r.Receipt, n.modelRef(r.ID()))
	}
	if d := ask(n, acc); !d.Allowed {
		t.Fatal(d.Reason)
	}
	w.must(os.Rename(path, path+".away")) // who reads the evidence again sees that it is gone
	if d := ask(n, acc); !d.Allowed {
		t.Errorf("asked twice under one snapshot: %s", d.Reason)
	}
	again, err := Open(n.o)
	w.must(err)
	if d := ask(again, acc); d.Allowed || !strings.Contains(d.Reason, "cannot be read from the store any more") {
		t.Errorf("another process: %+v", d)
	}
	next := *acc
	next.Digest = digest.FromString("another snapshot")
	if d := ask(n, &next); d.Allowed {
		t.Error("the answer under another snapshot was taken")
	}
}
