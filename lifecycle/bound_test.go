package lifecycle

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/oci"
)

// TestLongAnswers: a source names what it likes, as long as it likes. The
// failure says so in a sentence, and the record of it is saved.
func TestLongAnswers(t *testing.T) {
	w := newNetwork(t)
	w.list("tiny", "v1", w.push("tiny", w.key, "first"))
	w.publish()
	for name, location := range map[string]string{
		"a host":          "http://" + strings.Repeat("a", 100_000) + "/x",
		"a scheme":        strings.Repeat("a", 100_000) + "://host/x",
		"combining marks": "http://a" + strings.Repeat("\u0301", 3000) + "/x",
		"no URL":          "http://" + strings.Repeat("%", 100_000),
		"5 MB":            "http://" + strings.Repeat("a", 5_000_000) + "/x",
	} {
		t.Run(name, func(t *testing.T) {
			w.mu.Lock()
			w.bad = func(rw http.ResponseWriter, r *http.Request) bool {
				rw.Header().Set("Location", location)
				rw.WriteHeader(http.StatusTemporaryRedirect)
				return true
			}
			w.mu.Unlock()
			n := w.node()
			out := w.sync(n)["tiny@v1"]
			b, err := terminal.MarshalJSON(out)
			if err != nil || out.Failure == nil || len(b) > 8<<10 {
				t.Fatalf("the outcome takes %d bytes, %v", len(b), err)
			}
			if out.Failure.Cause != CauseUnavailable || strings.Count(out.Failure.Reason, strings.Repeat("a", 300)) > 1 {
				t.Errorf("%s: %s", out.Failure.Cause, out.Failure.Reason)
			}
			r, err := n.Record("tiny@v1")
			if err != nil || r.Cause != CauseUnavailable || r.Reason == "" || len(r.Reason) > reasonMax {
				t.Errorf("the record: %+v, %v", r, err)
			}
		})
	}
}

// TestRecordsCanBeSaved: whatever is said of a model, its record is saved, with
// a full history and incidents that wait for the log.
func TestRecordsCanBeSaved(t *testing.T) {
	n := newNetwork(t).node()
	long := strings.Repeat("\"\x1b\n\u0301", 1<<20)
	r := &Record{Name: "tiny", Version: "v1", State: Absent}
	for i := range 2 * historyKept {
		to := []State{Failed, Absent}[i%2]
		if err := r.move(to, "test", long, "", n.now()); err != nil {
			t.Fatal(err)
		}
	}
	for range unloggedMax {
		r.Unlogged = append(r.Unlogged, n.note(Incident{Kind: CauseHash, Expected: long, Found: long, Source: long, Reason: long, Action: long}))
	}
	if err := n.save(r); err != nil {
		t.Fatal(err)
	}
	if got, err := n.Record("tiny@v1"); err != nil || len(got.History) != historyKept || got.Reason == "" {
		t.Errorf("%v, %v", got, err)
	}
	f := AsFailure(fmt.Errorf("%w: %w", errors.New(long), oci.ErrFormat))
	for name, s := range map[string]string{"reason": f.Reason, "expected": f.Expected, "found": f.Found} {
		if s == "" || len(s) > reasonMax || strings.Contains(s, "\x1b") {
			t.Errorf("%s takes %d bytes", name, len(s))
		}
	}
}

// TestInitMakesNothingForOthers: where another user could replace what init
// makes, it makes nothing.
func TestInitMakesNothingForOthers(t *testing.T) {
	w := newNetwork(t)
	for name, c := range map[string]struct {
		mode os.FileMode
		uid  int
		good bool
	}{
		"everybody writes": {mode: 0o777},
		"another user's":   {mode: 0o755, uid: 65534},
		"sticky":           {mode: os.ModeSticky | 0o777, good: true},
		"ours":             {mode: 0o755, good: true},
	} {
		for _, what := range []string{"state", "store"} {
			above := filepath.Join(t.TempDir(), "above")
			w.must(os.Mkdir(above, 0o755))
			w.must(os.Chmod(above, c.mode))
			if c.uid != 0 && os.Geteuid() != 0 {
				continue // another user's directory is made by root alone
			}
			if c.uid != 0 {
				w.must(os.Chown(above, c.uid, -1))
			}
			o := w.options(t.TempDir())
			if what == "state" {
				o.StateDir, o.StoreDir = filepath.Join(above, "a", "state"), t.TempDir()
			} else {
				o.StoreDir = filepath.Join(above, "a", "store")
			}
			err := Init(o, w.root)
			made, rerr := os.ReadDir(above)
			w.must(rerr)
			if c.good && err != nil || !c.good && (!errors.Is(err, durable.ErrExposed) || len(made) > 0) {
				t.Errorf("%s, %s: %v, made %d entries", name, what, err, len(made))
			}
		}
	}
}
