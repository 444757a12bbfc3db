package lifecycle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/disktest"
	"github.com/resultity/rmodels/snapshot"
)

// lockAll is a local user who locks every file of a directory that he can
// open, and stays.
func lockAll(dir string) int {
	var held []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what he cannot read, he cannot lock
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil && unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
			held = append(held, fd)
		}
		return nil
	})
	if err != nil {
		return 2
	}
	fmt.Println("locked", len(held))
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// trouble is a server that behaves badly until the round is over.
type trouble struct {
	kind string
	over <-chan struct{}
	met  func()
}

var troubles = []string{"hangs", "drips", "lies", "is dead", "is busy"}

func (t trouble) serve(rw http.ResponseWriter, r *http.Request) bool {
	t.met()
	wait := func(d time.Duration) bool {
		select {
		case <-t.over:
		case <-r.Context().Done():
		case <-time.After(d):
			return true
		}
		return false
	}
	switch t.kind {
	case "hangs":
		wait(time.Hour)
	case "drips":
		rw.Header().Set("Content-Length", "4096")
		rw.WriteHeader(http.StatusOK)
		for wait(500 * time.Millisecond) {
			if _, err := rw.Write([]byte{' '}); err != nil {
				return true
			}
			_ = http.NewResponseController(rw).Flush()
		}
	case "lies":
		_, _ = rw.Write(bytes.Repeat([]byte("{]"), 512))
	case "is dead":
		if c, _, err := http.NewResponseController(rw).Hijack(); err == nil {
			c.Close()
		}
	case "is busy":
		rw.Header().Set("Retry-After", "120")
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	return true
}

// children are the processes of a round.
type children struct {
	t   *testing.T
	all []*exec.Cmd
	out []*bytes.Buffer
}

func (c *children) start(s step) *exec.Cmd {
	c.t.Helper()
	out := new(bytes.Buffer)
	cmd, err := s.start(out)
	if err != nil {
		c.t.Fatal(err)
	}
	c.all, c.out = append(c.all, cmd), append(c.out, out)
	return cmd
}

func (c *children) end() string {
	var said strings.Builder
	for i, cmd := range c.all {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		fmt.Fprintf(&said, "\n  %v: %s", cmd.ProcessState, strings.TrimSpace(c.out[i].String()))
	}
	return said.String()
}

// TestChaos: beside registries and snapshot sources that hang, drip, lie, are
// busy or dead, passes and runs that hang in them, a local user who locks what
// he can, a full disk and kills, a revocation that reaches the node by any way
// is in force within ten seconds for every reader. RMODELS_CHAOS gives the
// number of rounds.
func TestChaos(t *testing.T) {
	const limit = 10 * time.Second
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("RMODELS_CHAOS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("RMODELS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d (RMODELS_SEED repeats its choices)", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	names := []string{"alpha", "beta", "gamma"}
	w, _ := judging(t, names...)
	extra := w.push("extra", w.key, "extra")
	disk := disktest.Tmpfs(t, 256<<20, 0)
	n := w.node(func(o *Options) { o.StateDir = filepath.Join(disk, "state") })
	n.says(true)
	s := step{Dir: n.o.StateDir, Host: w.host, CA: w.oci.Hosts[w.host].CAFile, Site: w.site, Passed: true}
	program := w.strangersProgram()
	met := map[string]int{}
	var worst time.Duration
	for round := range rounds {
		w.sync(n, func(o *SyncOptions) { o.Force = true })
		for _, name := range names {
			w.state(n, name+"@v1", Active)
		}
		if t.Failed() {
			t.Fatalf("round %d does not begin well", round)
		}
		victim := names[rng.IntN(len(names))]
		manifest := w.state(n, victim+"@v1", Active).Manifest
		over := make(chan struct{})
		c := &children{t: t}
		var what []string
		with := func(share int, name string) bool {
			if rng.IntN(100) >= share {
				return false
			}
			what = append(what, name)
			return true
		}
		kind := troubles[rng.IntN(len(troubles))]
		what = append(what, "the registry "+kind)
		var once sync.Once
		reached := make(chan struct{})
		bad := trouble{kind, over, func() { once.Do(func() { close(reached) }) }}
		w.mu.Lock()
		w.bad = bad.serve
		w.mu.Unlock()
		if with(70, "a pass fetches from it") {
			w.list("extra", "v1", extra)
			w.publish()
			x := s
			x.Verb = "sync"
			c.start(x)
			<-reached
		}
		if with(30, "a run of the model hangs") {
			x := s
			x.Verb, x.Arg, x.Stuck = "validate", victim+"@v1", filepath.Join(t.TempDir(), "stuck")
			c.start(x)
			until(t, "the run does not begin", func() bool { _, err := os.Stat(x.Stuck); return err == nil })
		}
		var source *httptest.Server
		if with(50, "a pass asks a bad source") {
			asked := make(chan struct{})
			var once sync.Once
			srv := trouble{troubles[rng.IntN(len(troubles))], over, func() { once.Do(func() { close(asked) }) }}
			source = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { srv.serve(rw, r) }))
			x := s
			x.Verb, x.Source = "sync", source.URL
			c.start(x)
			<-asked
		}
		var stranger *exec.Cmd
		if with(50, "a local user locks what he can") {
			x := s
			x.Verb = "lock"
			stranger = w.stranger(x, program)
		}
		if with(40, "the disk is full") {
			disktest.FillBlocks(t, disk)
		}
		w.must(w.repo.Revoke(snapshot.Revocation{Digest: manifest, Reason: "stolen"}))
		bundle := filepath.Join(t.TempDir(), "push.json")
		w.must(os.WriteFile(bundle, w.publish(), 0o600))
		arrive := s
		arrive.Verb = "sync"
		if with(50, "the snapshot is handed over") {
			arrive.Verb, arrive.Arg = "apply", bundle
		}
		began := time.Now()
		first := c.start(arrive)
		if with(30, "the command is killed, and cron's next comes") {
			time.AfterFunc(time.Duration(rng.IntN(200))*time.Millisecond, func() { _ = first.Process.Kill() })
			_ = first.Wait()
			c.start(arrive)
		}
		inForce := func() bool {
			x, err := Open(n.o)
			w.must(err)
			r, err := x.Record(victim + "@v1")
			w.must(err)
			return r.State != Active
		}
		for !inForce() && time.Since(began) < limit {
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(began)
		held := inForce()
		if _, err := n.Ask(context.Background(), victim+"@v1", "ping", io.Discard); err == nil {
			held = false
		}
		close(over)
		if stranger != nil {
			_ = stranger.Process.Kill()
			_ = stranger.Wait()
		}
		said := c.end()
		if source != nil {
			source.CloseClientConnections()
			source.Close()
		}
		if !held {
			t.Errorf("seed %d, round %d: %s: not in force after %s%s", seed, round, strings.Join(what, "; "), took, said)
		}
		worst = max(worst, took)
		for _, x := range what {
			met[x]++
		}
		w.mu.Lock()
		w.bad = nil
		w.mu.Unlock()
		disktest.Empty(t, disk)
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
			d.Revocations = nil
			d.Models = slices.DeleteFunc(d.Models, func(m snapshot.Model) bool { return m.Name == "extra" })
			return nil
		}))
		w.publish()
	}
	t.Logf("%d rounds, the slowest in force after %s; met: %v", rounds, worst.Round(time.Millisecond), met)
}

// strangersProgram is this test's program where others may run it.
func (w *network) strangersProgram() string {
	w.t.Helper()
	path := filepath.Join(shortDir(w.t), "stranger")
	b, err := os.ReadFile(os.Args[0])
	w.must(err)
	w.must(os.WriteFile(path, b, 0o755))
	return path
}

// stranger runs a step as a user without rights, and waits until it has begun.
func (w *network) stranger(s step, program string) *exec.Cmd {
	w.t.Helper()
	r, out, err := os.Pipe()
	w.must(err)
	defer r.Close()
	in, stdin, err := os.Pipe()
	w.must(err)
	w.t.Cleanup(func() { stdin.Close() })
	cmd, err := s.command(out)
	w.must(err)
	cmd.Path, cmd.Stdin = program, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	w.must(cmd.Start())
	out.Close()
	in.Close()
	b := make([]byte, 64)
	k, err := r.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:k]), "locked") {
		w.t.Fatalf("the stranger says %q, %v", b[:k], err)
	}
	return cmd
}
