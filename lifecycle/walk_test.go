package lifecycle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// saying is a container engine on which every model passes its test, or none.
type saying bool

func (s saying) Validate(_ context.Context, j runner.Job) (*runner.Verdict, error) {
	v := &runner.Verdict{Passed: bool(s), Reason: "as this test wants it", Model: modelID(j.Name, j.Version), Manifest: j.Manifest, Started: time.Now(), Ended: time.Now()}
	if !s {
		v.Cause, v.Expected, v.Found = runner.CauseAnswer, "yes", "no"
	}
	return v, nil
}

func (s saying) Ask(ctx context.Context, j runner.Job, _ string, _ io.Writer) (*runner.Verdict, error) {
	return s.Validate(ctx, j)
}

func (s saying) Keep(ctx context.Context, j runner.Job, _ time.Duration, _ func(runner.Kept)) (*runner.Verdict, error) {
	return s.Validate(ctx, j)
}

func (saying) RemoveOrphans(context.Context, string) ([]string, error) { return nil, nil }

func (saying) RemoveImages(context.Context, string, string, []digest.Digest) ([]string, error) {
	return nil, nil
}

func (n *Node) says(passed bool) {
	n.engine = func(context.Context) (engine, error) { return saying(passed), nil }
}

// judging is a network with a runtime that can be fetched, and a node on which
// every model passes its test.
func judging(t *testing.T, models ...string) (*network, *Node) {
	t.Helper()
	w := newNetwork(t)
	image := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = image })
	for _, name := range models {
		w.list(name, "v1", w.push(name, w.key, name))
	}
	w.publish()
	n := w.node()
	n.says(true)
	return w, n
}

// full are the options of a collection on a disk that is short of space.
var full = cas.GCOptions{HighPercent: 2, LowPercent: 1}

// whole fails the test unless the store has every byte of what a record says
// is to stay.
func (w *network) whole(n *Node, when string) {
	w.t.Helper()
	recs, err := n.written()
	w.must(err)
	st, err := n.Store()
	w.must(err)
	for _, r := range recs {
		if r.rooting() != pinned {
			continue
		}
		if ref, err := st.Ref(n.modelRef(r.ID())); err != nil || !ref.Pinned {
			w.t.Fatalf("%s: %s is %s, its root: pinned %t, %v\n%+v", when, r.ID(), r.State, ref.Pinned, err, r.History)
		}
		tree, err := st.Tree(r.Manifest)
		if err != nil {
			w.t.Fatalf("%s: %s is %s: %v\n%+v", when, r.ID(), r.State, err, r.History)
		}
		for _, e := range tree.Entries {
			b, err := os.ReadFile(filepath.Join(tree.Path, e.Path))
			if err != nil || digest.NewDigestFromBytes(digest.SHA256, sum(b)) != e.Blob {
				w.t.Fatalf("%s: %s is %s: %s: %v", when, r.ID(), r.State, e.Path, err)
			}
		}
		for _, s := range r.Receipt.Evidence {
			if _, err := st.ReadAll(s.Digest, evidenceMax); err != nil {
				w.t.Fatalf("%s: %s is %s: its signature: %v", when, r.ID(), r.State, err)
			}
		}
	}
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// A model that came back by a test inference after it was disabled is as
// pinned as one that never went.
func TestEnabledByANewTestIsPinned(t *testing.T) {
	changes := map[string]func(w *network){
		"another timeout": func(w *network) {
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				d.Models[0].Validation.Timeout = snapshot.Duration(77 * time.Second)
				return nil
			}))
		},
		"another runtime": func(w *network) {
			image := w.pushRuntime("second")
			w.runtime(func(rt *snapshot.Runtime) { rt.Reference = image })
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.sync(n)
			w.must(w.repo.SetEnabled("tiny", "v1", false))
			w.publish()
			w.sync(n)
			w.state(n, "tiny@v1", Inactive)
			w.must(w.repo.SetEnabled("tiny", "v1", true))
			change(w)
			w.publish()
			if o := w.sync(n)["tiny@v1"]; o.Verb != Validate || o.After != Active {
				t.Fatalf("%+v", o)
			}
			_, err := n.GC(context.Background(), full)
			w.must(err)
			w.whole(n, "after a collection")
			w.state(n, "tiny@v1", Active)
			if ins, _ := n.Incidents("", 0); len(ins) > 0 {
				t.Errorf("incidents: %+v", ins)
			}
		})
	}
}

// Every move of the life cycle, cut off between any two of its writes, keeps
// the bytes of what its record says is to stay, and the next pass makes roots
// and records agree.
func TestCutOffMoveKeepsBytes(t *testing.T) {
	ctx := context.Background()
	w, n := judging(t, "tiny")
	w.sync(n)
	for from, all := range leavesTo {
		for _, to := range all {
			for _, tree := range []bool{false, true} {
				if tree && from != Failed && to != Failed {
					continue
				}
				for cut := range 3 {
					t.Run(fmt.Sprintf("%s to %s, tree %t, cut %d", from, to, tree, cut), func(t *testing.T) {
						w.t = t
						w.sync(n, func(o *SyncOptions) { o.Force = true })
						r := w.state(n, "tiny@v1", Active)
						in := func(s State) *Record {
							x := *r
							x.State = s
							if s == Absent || s == Archived || s == Failed && !tree {
								x.Tree, x.Receipt = "", nil
							}
							return &x
						}
						before, after := in(from), in(to)
						w.must(n.save(before))
						if before.rooting() == unrooted && after.rooting() == pinned {
							return // the root comes with the bytes, by another path
						}
						if cut > 0 && after.rooting() == pinned {
							w.must(n.pin(ctx, after, true))
						}
						if cut > 1 {
							w.must(n.models.write(after.ID(), after))
						}
						_, err := n.GC(ctx, full)
						w.must(err)
						w.whole(n, "after a collection")
						w.sync(n, func(o *SyncOptions) { o.Force = true })
						w.whole(n, "after the next pass")
						w.state(n, "tiny@v1", Active)
					})
				}
			}
		}
	}
}

// step is one command of a walk, run by a process of its own.
type step struct {
	Dir, Host, CA, Site, Archive, Export string
	Verb, Arg                            string
	Source                               string // where snapshots come from instead of Site
	Stuck                                string // a file to write once the container engine hangs
	Passed                               bool
}

// command is a process of its own that runs the step.
func (s step) command(out io.Writer) (*exec.Cmd, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), stepEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, nil
}

func (s step) start(out io.Writer) (*exec.Cmd, error) {
	cmd, err := s.command(out)
	if err != nil {
		return nil, err
	}
	return cmd, cmd.Start()
}

// stepEnv tells a test binary to run a step and exit.
const stepEnv = "RMODELS_TEST_STEP"

func runStep(text string) int {
	var s step
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Println(err)
		return 2
	}
	if s.Verb == "lock" {
		return lockAll(s.Dir)
	}
	w := network{oci: registryAt(s.Host, s.CA, s.Dir)}
	o := w.options(s.Dir)
	o.Archive = s.Archive
	n, err := Open(o)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	n.says(s.Passed)
	if s.Stuck != "" {
		n.engine = func(ctx context.Context) (engine, error) {
			err := os.WriteFile(s.Stuck, nil, 0o600)
			<-ctx.Done()
			return nil, err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	pass := SyncOptions{Source: snapshot.DirSource(s.Site), Wait: time.Second}
	if s.Source != "" {
		pass.Source = snapshot.HTTPSource(nil, s.Source)
	}
	switch s.Verb {
	case "sync":
		_, err = n.Sync(ctx, pass)
	case "sync NAME":
		pass.Only, pass.Force = []string{s.Arg}, true
		_, err = n.Sync(ctx, pass)
	case "pull":
		_, err = n.Sync(ctx, SyncOptions{Only: []string{s.Arg}, Install: true, Force: true})
	case "validate":
		_, err = n.Sync(ctx, SyncOptions{Only: []string{s.Arg}, Test: true, Force: true, Retest: true})
	case "apply":
		var b []byte
		if b, err = os.ReadFile(s.Arg); err == nil {
			_, _, err = n.Apply(ctx, b, s.Arg)
		}
	case "verify":
		_, err = n.Verify(ctx, VerifyOptions{Repair: s.Arg != ""})
	case "archive":
		_, err = n.Archive(ctx, s.Arg)
	case "restore":
		_, err = n.Sync(ctx, SyncOptions{Only: []string{s.Arg}, Force: true})
	case "export":
		_, err = n.Export(ctx, []string{s.Arg}, s.Export)
	case "ask":
		_, err = n.Ask(ctx, s.Arg, "ping", io.Discard)
	case "gc":
		_, err = n.GC(ctx, full)
	default:
		err = fmt.Errorf("no verb %q", s.Verb)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestWalks: whatever the network publishes and whichever commands run, also
// killed at any moment, a collection on a full disk takes no byte of what is to
// stay. RMODELS_SOAK gives the number of steps.
func TestWalks(t *testing.T) {
	steps := 200
	if s, err := strconv.Atoi(os.Getenv("RMODELS_SOAK")); err == nil {
		steps = s
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("RMODELS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d (RMODELS_SEED repeats its choices)", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w, n := judging(t, "alpha", "beta", "gamma")
	ca := w.oci.Hosts[w.host].CAFile
	s := step{Dir: n.o.StateDir, Host: w.host, CA: ca, Site: w.site, Archive: filepath.Join(t.TempDir(), "cold"), Export: filepath.Join(t.TempDir(), "export")}
	n.o.Archive = s.Archive
	images := []string{w.pushRuntime("first"), w.pushRuntime("second")}
	other, err := policy.GenerateKey()
	w.must(err)
	names := []string{"alpha", "beta", "gamma"}
	refs := map[string][]string{}
	for _, name := range names {
		refs[name] = []string{w.push(name, w.key, name), w.push(name, w.key, name, "again")}
		for _, r := range refs[name] {
			ref, err := w.ociReference(r)
			w.must(err)
			sig, err := policy.SignBundle(other, ref.Digest)
			w.must(err)
			w.must(w.client.AttachBundle(context.Background(), ref, sig))
		}
	}
	_, public, err := policy.MarshalKey(other)
	w.must(err)
	verbs := []string{"sync", "sync", "sync", "sync", "sync NAME", "pull", "validate", "apply", "verify", "archive", "archive", "restore", "export", "ask", "gc"}
	kills, reached := 0, map[State]int{}
	for i := range steps {
		name := names[rng.IntN(len(names))]
		if rng.IntN(2) == 0 {
			what := rng.IntN(9)
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				at := slices.IndexFunc(d.Models, func(m snapshot.Model) bool { return m.Name == name })
				if at < 0 {
					what = 0
				}
				switch what {
				case 0: // listed again
					if at < 0 {
						m := snapshot.Model{
							Name: name, Version: "v1", Enabled: true, Policy: "acme", Reference: refs[name][0], Size: 64 << 20, Compat: snapshot.Compat{Runtime: "llama"},
							Validation: snapshot.Validation{Request: []byte(`{"messages":[{"role":"user","content":"ping"}]}`), Expect: snapshot.Expect{Contains: "pong"}},
						}
						d.Models = append(d.Models, m)
					}
				case 1:
					d.Models = slices.Delete(d.Models, at, at+1)
				case 2:
					d.Models[at].Enabled = !d.Models[at].Enabled
				case 3:
					d.Models[at].Validation.Timeout = snapshot.Duration(time.Duration(60+i) * time.Second)
				case 4:
					d.Models[at].Reference = refs[name][rng.IntN(2)]
				case 5:
					d.Runtimes[0].Reference = images[rng.IntN(2)]
				case 6:
					d.Revocations = nil
					if rng.IntN(2) == 0 {
						d.Revocations = []snapshot.Revocation{{Digest: d.Models[at].Digest()}}
					}
				case 7:
					d.Policies[0].Authorities[0].Key = &snapshot.Key{Data: []string{w.public, string(public)}[rng.IntN(2)]}
				case 8: // an outdated version goes to the archive, or away
					d.Settings.Retention.Outdated = []string{"", "archive"}[rng.IntN(2)]
					d.Settings.RemoveUnlistedAfter = snapshot.Duration([]time.Duration{0, time.Hour}[rng.IntN(2)])
				}
				return nil
			}))
			bundle := filepath.Join(t.TempDir(), "push.json")
			w.must(os.WriteFile(bundle, w.publish(), 0o600))
		}
		s.Verb, s.Arg, s.Passed = verbs[rng.IntN(len(verbs))], name+"@v1", rng.IntN(5) > 0
		switch s.Verb {
		case "apply":
			b, err := w.repo.BundleFile()
			w.must(err)
			s.Arg = filepath.Join(t.TempDir(), "push.json")
			w.must(os.WriteFile(s.Arg, b, 0o600))
		case "verify":
			s.Arg = []string{"", "repair"}[rng.IntN(2)]
		}
		var out bytes.Buffer
		cmd, err := s.start(&out)
		w.must(err)
		kill := time.Duration(-1)
		if rng.IntN(3) == 0 {
			kill = time.Duration(20+rng.IntN(250)) * time.Millisecond
			time.AfterFunc(kill, func() { _ = cmd.Process.Kill() })
			kills++
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code == 2 || bytes.Contains(out.Bytes(), []byte("panic")) {
			t.Fatalf("step %d, %s %s: %s", i, s.Verb, s.Arg, out.String())
		}
		when := fmt.Sprintf("seed %d, step %d, %s %s, killed after %s: %s", seed, i, s.Verb, s.Arg, kill, out.String())
		_, err = n.GC(context.Background(), full)
		if err != nil {
			t.Fatalf("%s: gc: %v", when, err)
		}
		w.whole(n, when)
		ins, err := n.Incidents("", 0)
		w.must(err)
		for _, in := range ins {
			if in.Kind == CauseState || in.Kind == CauseHash {
				r, err := n.Record(in.Model)
				t.Fatalf("%s: %+v\n%+v, %v", when, in, r, err)
			}
		}
		recs, err := n.written()
		w.must(err)
		for _, r := range recs {
			reached[r.State]++
		}
	}
	t.Logf("%d steps, %d of them killed; states seen: %v", steps, kills, reached)
}
