package lifecycle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// resigned is a network whose one model is Active, and a change of the draft
// that asks for another key, by which the model is signed, too.
func resigned(t *testing.T) (w *network, n *Node, change func()) {
	t.Helper()
	w = newNetwork(t)
	reference := w.push("tiny", w.key, "first")
	w.list("tiny", "v1", reference)
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		engines := d.Policies[0]
		engines.Name = "engines"
		engines.Authorities = slices.Clone(engines.Authorities)
		engines.Authorities[0].Key = &snapshot.Key{Data: w.public}
		d.Policies = append(d.Policies, engines)
		d.Runtimes[0].Policy = engines.Name
		return nil
	}))
	w.publish()
	n = w.node()
	w.sync(n)
	w.forgeRuntime(n)
	w.forge(n, "tiny@v1", func(r *Record) { r.Verdict = &runner.Verdict{Passed: true} })
	second, err := policy.GenerateKey()
	w.must(err)
	_, public, err := policy.MarshalKey(second)
	w.must(err)
	ref, err := oci.ParseReference(reference)
	w.must(err)
	sig, err := policy.SignBundle(second, ref.Digest)
	w.must(err)
	w.must(w.client.AttachBundle(context.Background(), ref, sig))
	return w, n, func() {
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
			d.Policies[0].Authorities[0].Key.Data = string(public)
			return nil
		}))
	}
}

// forgeRuntime gives the node the runtime's image as if it had been fetched.
func (w *network) forgeRuntime(n *Node) {
	w.t.Helper()
	ctx := context.Background()
	acc, err := n.Current()
	w.must(err)
	rt := acc.Document.Runtimes[0]
	sig, err := policy.SignBundle(w.key, rt.Digest())
	w.must(err)
	st, err := n.Store()
	w.must(err)
	l, err := st.Lease(ctx, "test")
	w.must(err)
	defer l.Release()
	d := digest.FromBytes(sig)
	w.must(st.Put(ctx, l, d, sig))
	id := modelID(rt.Name, rt.Version)
	w.must(st.PutRef(ctx, cas.Ref{Name: n.runtimeRef(id), Blobs: []digest.Digest{d}, Pinned: true}))
	w.must(n.runtimes.write(id, &RuntimeRecord{
		Name: rt.Name, Version: rt.Version, Reference: rt.Reference,
		Receipt: &Receipt{Evidence: []StoredEvidence{{Digest: d, MediaType: policy.BundleMediaType}}},
	}))
}

// A snapshot that changes who must have signed, and withdraws the model for
// another reason, withdraws it: the first must not hide the second.
func TestNewSignersDoNotHideTheRest(t *testing.T) {
	for name, c := range map[string]struct {
		withdraw func(w *network)
		want     State
	}{
		"signers alone":  {func(*network) {}, Active},
		"disabled":       {func(w *network) { w.must(w.repo.SetEnabled("tiny", "v1", false)) }, Inactive},
		"a part revoked": {func(w *network) { w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.weights()}, ceremony.Unlisted)) }, Failed},
		"engine revoked": {func(w *network) {
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				d.Revocations = append(d.Revocations, snapshot.Revocation{Digest: d.Runtimes[0].Digest()})
				return nil
			}))
		}, Pending},
	} {
		t.Run(name+", sync", func(t *testing.T) {
			w, n, change := resigned(t)
			c.withdraw(w)
			change()
			w.publish()
			w.sync(n)
			w.state(n, "tiny@v1", c.want)
		})
		t.Run(name+", apply", func(t *testing.T) {
			w, n, change := resigned(t)
			c.withdraw(w)
			change()
			_, _, err := n.Apply(context.Background(), w.publish(), "test")
			w.must(err)
			w.state(n, "tiny@v1", c.want)
		})
	}
}

// A root that the disk damaged, of whichever model, keeps nothing in use that
// the snapshot withdraws.
func TestDamagedRootDoesNotHoldUpARevocation(t *testing.T) {
	w, n := installed(t)
	w.forge(n, "tiny@v1", nil)
	w.must(os.WriteFile(filepath.Join(n.o.StoreDir, "refs", "model%2Felsewhere%2Fother@v1"), []byte("garbage"), 0o644))
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "tiny@v1", Active).Manifest}, ceremony.Unlisted))
	w.publish()
	if _, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)}); err == nil {
		t.Error("nobody was told of the damaged root")
	}
	w.state(n, "tiny@v1", Failed)
}

// Without its root a model is not held by the store: it does not stay in use,
// and what it holds is known all the same.
func TestLostRoot(t *testing.T) {
	w, n := installed(t)
	st, err := n.Store()
	w.must(err)
	lose := func() {
		w.must(st.DeleteRef(context.Background(), n.modelRef("tiny@v1")))
		w.forge(n, "tiny@v1", nil)
	}
	lose()
	w.sync(n)
	w.state(n, "tiny@v1", Pending)
	if _, err := st.Ref(n.modelRef("tiny@v1")); err != nil {
		t.Error(err)
	}
	lose()
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.weights()}, ceremony.Unlisted))
	w.publish()
	w.sync(n)
	if r := w.state(n, "tiny@v1", Failed); r.Cause != CauseRevoked {
		t.Errorf("%s: %s", r.Cause, r.Reason)
	}
}

// What was written to, or only touched, is mended by the pass that meets it;
// nothing is fetched for what was only touched.
func TestTouchedIsMended(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"touched": func(path string) error { return os.Chtimes(path, time.Now(), time.Now()) },
		"written": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("X"), 100)
			return errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, n := installed(t)
			w.forge(n, "tiny@v1", nil)
			hex := w.weights().Encoded()
			w.must(harm(filepath.Join(n.o.StoreDir, "blobs", "sha256", hex[:2], hex)))
			w.sync(n)
			w.state(n, "tiny@v1", Pending)
			st, err := n.Store()
			w.must(err)
			w.must(st.CheckTree(context.Background(), w.state(n, "tiny@v1", Pending).Manifest))
		})
	}
}

// What a command accepted that died before it acted is acted upon by the next,
// whichever model that names.
func TestAcceptedByACommandThatDied(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.list("other", "v1", w.push("other", w.key, "second"))
	w.publish()
	n := w.node()
	w.sync(n)
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: w.state(n, "other@v1", Pending).Manifest}, ceremony.Unlisted))
	tr, err := n.trust()
	w.must(err)
	_, err = tr.Apply(w.publish(), n.now())
	w.must(err)
	w.sync(n, func(o *SyncOptions) { o.Only = []string{"tiny@v1"} })
	w.state(n, "other@v1", Failed)
}

// The log tells for ever that it was cut off, shows nothing that a terminal
// obeys, and names a snapshot once whenever a crash came.
func TestAuditAfterTrouble(t *testing.T) {
	w, n := installed(t)
	evil := "\u009b31m\u202e\u2028\u2066"
	w.must(n.incident(Incident{Kind: CauseHash, Reason: evil}))
	whole, err := os.ReadFile(n.auditPath())
	w.must(err)
	if strings.ContainsFunc(string(whole), func(r rune) bool { return r != '\n' && terminal.Obeys(r) }) {
		t.Errorf("%q", whole)
	}
	for _, which := range []string{markHead, markSnapshot} { // as if it had died before it marked
		w.must(os.Remove((records{n.dir}).path(which)))
	}
	w.sync(n)
	all, res := auditLog(t, n)
	times := 0
	for _, e := range all {
		if e.Accepted != nil {
			times++
		}
	}
	if times != 1 || res.Broken != 0 || res.Cut {
		t.Errorf("%d acceptances of one snapshot: %+v", times, res)
	}
	w.must(n.incident(Incident{Kind: CauseHash, Model: "tiny"}))
	lines := strings.SplitAfter(strings.TrimSuffix(string(whole), "\n"), "\n")
	w.must(os.WriteFile(n.auditPath(), []byte(strings.Join(lines[:len(lines)-1], "")), 0o644))
	w.must(n.incident(Incident{Kind: CauseHash, Model: "after"}))
	if _, res := auditLog(t, n); res.Broken != len(lines) {
		t.Errorf("a log that was cut off and went on: %+v", res)
	}
}
