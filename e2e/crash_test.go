package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/tinygguf"
)

// progressEvent is a line of stderr with --output json.
type progressEvent struct {
	Event  string `json:"event"`
	Model  string `json:"model"`
	Digest string `json:"digest"`
	Done   int64  `json:"done"`
	Total  int64  `json:"total"`
}

// A pull that is killed in the middle goes on where it stopped: what was
// checkpointed is not fetched again.
func TestKillInMidPull(t *testing.T) {
	n := startNetwork(t)
	const size = 128 << 20
	a := n.list("large", "v1", tinygguf.Options{MinSize: size}, nil)
	n.publish()
	d := n.startNode()
	d.run("sync", "--dry-run").ok()
	n.registry.fault(`{"name":"slow","kind":"blob","digest":"` + a.weights + `","rate":2000000}`)

	c := d.command("sync")
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var fetched int64
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var e progressEvent
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "bytes" && e.Digest == a.weights {
			if fetched = e.Done; fetched > a.size/2 {
				break
			}
		}
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if fetched <= a.size/2 {
		t.Fatalf("killed after %d of %d bytes", fetched, a.size)
	}

	kept := d.partial(a)
	// A kill loses what came after the last note of what is on disk.
	if kept < fetched-2<<20 {
		t.Errorf("%d bytes were counted before the kill, and %d are kept", fetched, kept)
	}

	n.registry.fault()
	restarted := time.Now()
	var events bytes.Buffer
	c = d.command("sync")
	c.Stderr = &events
	if err := c.Run(); err != nil {
		t.Fatalf("second sync: %v\n%s", err, events.Bytes())
	}
	d.expect(map[string]string{"large@v1": "Active"})
	// What the kill cut off is logged late, so the log's order tells nothing.
	var sent int64
	for _, q := range n.registry.log() {
		if q.Time.After(restarted) && q.Method == http.MethodGet && q.Reference == a.weights {
			sent += q.Bytes
		}
	}
	var first int64 = -1
	for line := range bytes.Lines(events.Bytes()) {
		var e progressEvent
		if json.Unmarshal(line, &e) == nil && e.Event == "bytes" && e.Digest == a.weights && first < 0 {
			first = e.Done
		}
	}
	t.Logf("killed after %d of %d bytes, of which %d were kept; the next sync began at %d and asked for %d", fetched, a.size, kept, first, sent)
	// What is kept is not fetched again, but for ranges that two connections
	// shared: what is on its way is sent in vain when another takes it over.
	if most := a.size - kept + a.size/20; sent > most {
		t.Errorf("%d of %d bytes were sent again after %d had been kept, want at most %d", sent, a.size, kept, most)
	}
	if first < kept {
		t.Errorf("progress begins at %d bytes after a resume, want at least %d", first, kept)
	}
	if in := d.incidents(); len(in) != 0 {
		t.Errorf("incidents: %+v", in)
	}
}

// partial is how much of a model's weights the node holds and would not ask for
// again.
func (d *node) partial(a artifact) int64 {
	d.t.Helper()
	s, err := cas.Open(d.settings.store, cas.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer s.Close()
	return s.Partial(digest.Digest(a.weights), a.size)
}

// Two passes at once: one works, the other says so or waits for it.
func TestTwoSyncsAtOnce(t *testing.T) {
	n := startNetwork(t)
	a := n.list("tiny", "v1", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	n.registry.fault(`{"name":"slow","kind":"blob","digest":"` + a.weights + `","rate":4000000}`)
	first := d.command("sync")
	var out bytes.Buffer
	first.Stdout, first.Stderr = &out, &out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first sync is at work", func() bool {
		locks, _ := filepath.Glob(filepath.Join(d.dir, "state", "networks", "*", "sync.lock"))
		for _, l := range locks {
			if b, err := os.ReadFile(l); err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(first.Process.Pid) {
				return true
			}
		}
		return false
	})
	eventually(t, "the second sync is turned away", func() bool {
		r := d.run("sync")
		if r.code == 8 {
			if f := r.failure(); f.Cause != "busy" || f.Hint == "" {
				t.Errorf("failure %+v", f)
			}
			return true
		}
		return false
	})
	d.pass(0, "sync", "--wait", "1m")
	if err := first.Wait(); err != nil {
		t.Errorf("first sync: %v\n%s", err, out.Bytes())
	}
	d.expect(map[string]string{"tiny@v1": "Active"})
	if sent := n.registry.blobBytes(0, a.weights); sent != a.size {
		t.Errorf("%d bytes were sent for a layer of %d", sent, a.size)
	}
}

// A sync that is killed at any moment leaves a node that the next sync mends.
func TestKillAtAnyMoment(t *testing.T) {
	n := startNetwork(t)
	n.list("tiny", "v0", tinygguf.Options{}, nil)
	n.publish()
	d := n.startNode()
	want := map[string]string{"tiny@v0": "Active"}
	// The runtime image is fetched once, so that its step comes first.
	for i, step := range []string{"runtime image", "verify signatures", "fetch", "check content", "build tree", "test inference"} {
		t.Run("after the start of "+step, func(t *testing.T) {
			id := "tiny@v0"
			if i > 0 {
				version := fmt.Sprintf("v%d", i)
				id = "tiny@" + version
				n.list("tiny", version, tinygguf.Options{Seed: uint64(i)}, nil)
				n.publish()
				want[id] = "Active"
			}
			c := d.command("sync")
			stderr, err := c.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			reached := false
			for lines := bufio.NewScanner(stderr); !reached && lines.Scan(); {
				reached = bytes.Contains(lines.Bytes(), []byte(`"event":"start"`)) && bytes.Contains(lines.Bytes(), []byte(`"step":"`+step+`"`))
			}
			_ = c.Process.Signal(syscall.SIGKILL)
			_ = c.Wait()
			if !reached {
				t.Fatal("the sync never came that far")
			}
			d.pass(0, "sync", "--force")
			d.expect(want)
			if r := d.show(id); r.Verdict == nil || !r.Verdict.Passed {
				t.Errorf("verdict %+v", r.Verdict)
			}
		})
	}
}
