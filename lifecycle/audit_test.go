package lifecycle

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
)

func auditLog(t *testing.T, n *Node) ([]Entry, AuditResult) {
	t.Helper()
	var all []Entry
	res, err := n.Audit(func(line []byte) error {
		var e Entry
		if err := json.Unmarshal(line, &e, json.RejectUnknownMembers(true)); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, res
}

// TestAudit: snapshots, admissions and refusals stand in one log, in order,
// each with its time and the snapshot that it happened under.
func TestAudit(t *testing.T) {
	w := newNetwork(t)
	good := w.push("tiny", w.key, "first")
	w.list("tiny", "v1", good)
	w.publish()
	n := w.node()
	w.sync(n)
	first, err := n.Current()
	w.must(err)
	w.list("unsigned", "v1", w.push("unsigned", nil, "second"))
	w.publish()
	w.sync(n)
	second, err := n.Current()
	w.must(err)
	all, res := auditLog(t, n)
	if res.Broken != 0 || res.Torn != 0 || res.Entries != len(all) || len(all) != 4 {
		t.Fatalf("%+v: %+v", res, all)
	}
	if a := all[0].Accepted; a == nil || a.Sequence != 1 || a.Snapshot != first.Digest || a.Before != "" || len(a.Signers) != 1 || a.Time.IsZero() {
		t.Errorf("first snapshot: %+v", a)
	}
	if a := all[1].Admitted; a == nil || a.Reference != good || a.Snapshot != first.Digest || a.Rule != "policies[acme].threshold" ||
		len(a.Signers) != 1 || a.Signers[0].Authority != "publisher" || a.Signers[0].Evidence == "" || a.Time.IsZero() {
		t.Errorf("admission: %+v", a)
	}
	if a := all[2].Accepted; a == nil || a.Sequence != 2 || a.Snapshot != second.Digest || a.Before != first.Digest {
		t.Errorf("second snapshot: %+v", a)
	}
	if in := all[3].Incident; in == nil || in.Model != "unsigned" || in.Snapshot != second.Digest || in.Time.IsZero() {
		t.Errorf("refusal: %+v", in)
	}
	w.sync(n, func(o *SyncOptions) { o.Source = nil })
	if again, _ := auditLog(t, n); len(again) != len(all) {
		t.Errorf("a pass that did nothing wrote %+v", again[len(all):])
	}
}

// TestAuditChain: no line can be changed, dropped, moved or put in unseen, and
// the head tells when the end was cut off.
func TestAuditChain(t *testing.T) {
	n := newNode(Options{StateDir: t.TempDir(), Network: "lab"})
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				if err := n.incident(Incident{Kind: CauseHash, Model: "tiny", Version: "v1"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	whole, err := os.ReadFile(n.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	_, honest := auditLog(t, n)
	if honest.Entries != 40 || honest.Broken != 0 || honest.Head == "" {
		t.Fatalf("%+v", honest)
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(whole, []byte("\n")), []byte("\n"))
	for name, c := range map[string]struct {
		lines  [][]byte
		broken int
	}{
		"changed": {slices.Concat(lines[:7], [][]byte{bytes.Replace(lines[7], []byte("tiny"), []byte("tidy"), 1)}, lines[8:]), 9},
		"dropped": {slices.Delete(slices.Clone(lines), 7, 8), 8},
		"moved":   {slices.Concat(lines[:7], [][]byte{lines[8], lines[7]}, lines[9:]), 8},
		"put in":  {slices.Insert(slices.Clone(lines), 7, []byte(`{"incident":{"kind":"hash"}}`+"\n")), 8},
		"cut off": {lines[:39], 0},
		"emptied": {nil, 0},
		"begun":   {lines[1:], 1},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(n.auditPath(), bytes.Join(c.lines, nil), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, res := auditLog(t, n); res.Broken != c.broken || res.Broken == 0 && !res.Cut {
				t.Errorf("%+v, the whole log's head is %s", res, honest.Head)
			}
			if len(c.lines) > 0 {
				return
			}
			if err := n.incident(Incident{Kind: CauseHash}); err != nil {
				t.Fatal(err)
			}
			if _, res := auditLog(t, n); res.Broken != 1 {
				t.Errorf("a log that went on after it was emptied: %+v", res)
			}
		})
	}
}

// TestAuditLineFits: whatever a decision holds, its line fits and says how
// much was left out.
func TestAuditLineFits(t *testing.T) {
	var d policy.Decision
	for range 200 {
		d.Signers = append(d.Signers, policy.Signer{Authority: strings.Repeat("a", 128), Key: digest.FromString("k"), Source: strings.Repeat("s", 4000), Evidence: digest.FromString("e")})
	}
	for _, e := range []Entry{
		{Admitted: &Admitted{Reference: strings.Repeat("r", 500), Signers: d.Signers}},
		{Accepted: &Acceptance{Signers: slices.Repeat([]string{strings.Repeat("f", 64)}, 64)}},
		{Incident: &Incident{Found: strings.Repeat("\x00", 9000), Expected: strings.Repeat("\\", 9000)}},
	} {
		e.Previous = digest.FromString("before")
		b, err := e.encode()
		if err != nil || len(b) > lineMax {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		if e.Admitted == nil {
			continue
		}
		var back Entry
		if err := json.Unmarshal(b, &back); err != nil || len(back.Admitted.Signers)+back.Admitted.More != 200 {
			t.Errorf("%d signers kept, %d more, %v", len(back.Admitted.Signers), back.Admitted.More, err)
		}
	}
}
