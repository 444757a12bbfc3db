package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// A failure in a row doubles the wait, up to the snapshot's limit.
func TestBackoffDoubles(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		d.Settings.Retry = snapshot.Retry{Initial: snapshot.Duration(time.Minute), Max: snapshot.Duration(5 * time.Minute)}
		return nil
	}))
	w.publish()
	now := time.Now().UTC().Truncate(time.Second)
	n := w.node(func(o *Options) { o.Now = func() time.Time { return now } })
	rotten := func(r *http.Request, b []byte) []byte {
		if strings.Contains(r.URL.Path, "/blobs/") && len(b) > 100_000 {
			b[len(b)/2] ^= 1
		}
		return b
	}
	w.faults(nil, rotten)
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		if o := w.sync(n)["tiny@v1"]; o.After != Failed {
			t.Fatalf("attempt %d: %+v", i+1, o)
		}
		r, err := n.Record("tiny@v1")
		w.must(err)
		if got := r.RetryAfter.Sub(now); got != want {
			t.Errorf("after failure %d: next attempt in %s, want %s", i+1, got, want)
		}
		now = r.RetryAfter.Add(-time.Second)
		if o := w.sync(n)["tiny@v1"]; o.Verb != Wait {
			t.Errorf("a second too early: %+v", o)
		}
		now = r.RetryAfter
	}
	w.faults(nil, nil)
	if o := w.sync(n)["tiny@v1"]; o.After != Pending {
		t.Fatalf("good bytes at last: %+v", o)
	}
}

// A command that names one model may bring a new snapshot here: that rules the
// other models at once, too (invariant 5).
func TestNamedSyncObeysTheWholeSnapshot(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.list("other", "v1", w.push("other", w.key, "second"))
	w.publish()
	n := w.node()
	w.sync(n)
	r := w.state(n, "other@v1", Pending)
	w.must(w.repo.Revoke(snapshot.Revocation{Digest: r.Manifest, Reason: "found harmful"}, ceremony.Unlisted))
	w.publish()
	w.sync(n, func(o *SyncOptions) { o.Only = []string{"tiny@v1"} })
	w.state(n, "tiny@v1", Pending)
	w.state(n, "other@v1", Failed)
}

// What a scrub finds is out of use when the scrub ends, not with the next pass.
func TestScrubTakesDamagedModelsOutOfUse(t *testing.T) {
	w, n := installed(t)
	r := w.state(n, "tiny@v1", Pending)
	st, err := n.Store()
	w.must(err)
	ref, err := st.Ref(n.modelRef("tiny@v1"))
	w.must(err)
	var largest digest.Digest
	var size int64
	for _, d := range ref.Blobs {
		if stat, err := st.Stat(d); err == nil && stat.Size > size {
			largest, size = d, stat.Size
		}
	}
	hex := largest.Encoded()
	path := filepath.Join(n.o.StoreDir, "blobs", "sha256", hex[:2], hex)
	w.must(os.Chmod(path, 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt([]byte("rot"), size/2)
	w.must(err)
	w.must(f.Close())
	w.must(os.Chmod(path, 0o444))
	res, err := st.Scrub(context.Background(), cas.ScrubOptions{})
	w.must(err)
	if len(res.Findings) == 0 {
		t.Fatal("nothing found")
	}
	w.must(n.ScrubFindings(context.Background(), res.Findings))
	if got := w.state(n, "tiny@v1", Failed); got.Cause != CauseHash {
		t.Errorf("cause %s", got.Cause)
	}
	if ins, _ := n.Incidents("tiny@v1", 0); len(ins) != 1 || ins[0].Digest != r.Manifest {
		t.Errorf("incidents %+v", ins)
	}
	if all, _ := n.Incidents("", 0); len(all) != 1 {
		t.Errorf("the same damage is told %d times", len(all))
	}
}

// What a stranger said keeps no record from being saved, and is clean in it.
func TestFailureOfInvalidText(t *testing.T) {
	evil := "https://\xff.example\x1b[2J\u202e"
	for _, err := range []error{
		errors.New(evil),
		fmt.Errorf("%s: %w", evil, oci.ErrUnavailable),
		&Failure{Cause: CauseHash, Reason: evil, Hint: evil, Expected: evil, Found: evil, Source: evil},
		&oci.DigestError{What: evil, Source: evil},
	} {
		f := AsFailure(err)
		for _, s := range []string{f.Reason, f.Hint, f.Expected, f.Found, f.Source} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, terminal.Obeys) {
				t.Errorf("%v: %q", err, s)
			}
		}
	}
	b, err := seal(Record{Name: "m", Reason: evil})
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := unseal(b, &back); err != nil || back.Name != "m" {
		t.Errorf("%+v, %v", back, err)
	}
	if b, err = (Entry{Incident: &Incident{Kind: CauseHash, Reason: evil, Source: evil}}).encode(); err != nil || !utf8.Valid(b) {
		t.Errorf("%q, %v", b, err)
	}
}
