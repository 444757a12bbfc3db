package lifecycle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// These tests run on a real container engine with the runner's fixture in the
// place of an inference server: it answers "this is NAME of " and a word of
// the runtime's definition.

const howToSetUp = `this test needs a container engine: start containerd (root, own --root and --state, CRI plugin disabled) and set
RMODELS_TEST_CONTAINERD to its address and RMODELS_TEST_NERDCTL to the path of nerdctl; "make test" does both`

var fixtures = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rmodels-fixture-")
	if err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"fixture": "../runner/testdata/fixture", "rmodels-probe": "../runner/probe/rmodels-probe"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, errors.Join(err, errors.New(string(out)))
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if text := os.Getenv(stepEnv); text != "" {
		os.Exit(runStep(text))
	}
	code := m.Run()
	if dir, err := fixtures(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// pushRuntime packs the fixture as a runtime's image and signs it; word makes
// it an image of its own.
func (w *network) pushRuntime(word string) string {
	w.t.Helper()
	dir, err := fixtures()
	w.must(err)
	rootfs := w.t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, "fixture"))
	w.must(err)
	w.must(os.WriteFile(filepath.Join(rootfs, "fixture"), b, 0o755))
	p, err := oci.PackImage(context.Background(), rootfs, oci.ImageOptions{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"for": word}})
	w.must(err)
	ref, err := w.client.Push(context.Background(), p, w.host+"/rt/llama")
	w.must(err)
	sig, err := policy.SignBundle(w.key, ref.Digest)
	w.must(err)
	w.must(w.client.AttachBundle(context.Background(), ref, sig))
	return ref.String()
}

// runtime changes the one runtime of the draft.
func (w *network) runtime(change func(*snapshot.Runtime)) {
	w.t.Helper()
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { change(&d.Runtimes[0]); return nil }))
}

func speaking(word string) func(*snapshot.Runtime) {
	return func(rt *snapshot.Runtime) { rt.Args = []string{"serve", "this is {{.ModelName}} of", word} }
}

// nerdctl calls the engine of these tests.
func nerdctl(t *testing.T, o runner.EngineOptions, args ...string) string {
	t.Helper()
	out, err := exec.Command(o.Path, slices.Concat(o.Args, []string{"--data-root", t.TempDir()}, args)...).Output()
	if err != nil {
		t.Fatalf("nerdctl %q: %v", args, err)
	}
	return string(out)
}

// engineNode is a node with a container engine and the device "fake".
func (w *network) engineNode() (*Node, runner.EngineOptions) {
	w.t.Helper()
	path, address := os.Getenv("RMODELS_TEST_NERDCTL"), os.Getenv("RMODELS_TEST_CONTAINERD")
	if path == "" || address == "" {
		w.t.Fatal(howToSetUp)
	}
	dir, err := fixtures()
	w.must(err)
	cdi := w.t.TempDir()
	w.must(os.WriteFile(filepath.Join(cdi, "fake.json"), []byte(`{"cdiVersion":"0.5.0","kind":"example.com/gpu","devices":[
		{"name":"all","containerEdits":{"deviceNodes":[{"path":"/dev/fake0","hostPath":"/dev/null","type":"c","major":1,"minor":3}]}}]}`), 0o600))
	eng := runner.EngineOptions{
		Name: "nerdctl", Path: path, Probe: filepath.Join(dir, "rmodels-probe"),
		Args: []string{"--address", address, "--namespace", "rmodels-lifecycle-test", "--cdi-spec-dirs", cdi},
	}
	n := w.node(func(o *Options) {
		o.Engine, o.Devices = eng, []string{"example.com/gpu=all"}
		o.Facts = &policy.Facts{GPUs: []policy.GPU{{Name: "Fake", UUID: "GPU-0", Memory: 8 << 30, ComputeCapability: "9.0"}}}
		o.StateDir = shortDir(w.t)
	})
	return n, eng
}

// shortDir has no characters in its name that a test's name may bring along.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rmodels-node-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// answers lists a model whose test wants the runtime to say word.
func (w *network) answers(name, word string, change ...func(*snapshot.Model)) {
	w.t.Helper()
	w.list(name, "v1", w.push(name, w.key, name), append(change, func(m *snapshot.Model) {
		m.Validation.Expect = snapshot.Expect{Regexp: "^this is " + name + " of (" + word + ")$"}
		m.Validation.Deterministic = true
	})...)
}

func TestVerdictOverTime(t *testing.T) {
	w := newNetwork(t)
	first := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = first; speaking("one")(rt) })
	w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
		d.Settings.RetestInterval = snapshot.Duration(time.Hour)
		return nil
	}))
	w.answers("alpha", "one|two")
	w.publish()
	n, eng := w.engineNode()
	clock := time.Now()
	n.o.Now = func() time.Time { return clock }
	w.sync(n)
	r := w.state(n, "alpha@v1", Active)
	v := r.Verdict
	if v == nil || !v.Passed || v.Answer != "this is alpha of one" || v.AnswerDigest == "" || len(v.Isolation) < 60 || len(v.Flags) < 20 || v.ImageManifest == "" || v.Runtime != "llama@1.0.0" {
		t.Fatalf("verdict %+v", v)
	}

	t.Run("not tested again before the interval is over", func(t *testing.T) {
		clock = clock.Add(59 * time.Minute)
		if o := w.sync(n)["alpha@v1"]; o.Verb != Keep {
			t.Errorf("%+v", o)
		}
	})
	t.Run("tested again after it, and nothing changed", func(t *testing.T) {
		r := w.state(n, "alpha@v1", Active)
		r.Tree = t.TempDir() // the store, not a record, says where the files are
		w.must(n.save(r))
		clock = clock.Add(2 * time.Minute)
		if o := w.sync(n)["alpha@v1"]; o.Verb != Retest || o.After != Active {
			t.Errorf("%+v", o)
		}
		if r := w.state(n, "alpha@v1", Active); !r.Tested.After(clock.Add(-time.Minute)) || !r.Verdict.Started.After(v.Started) {
			t.Errorf("tested %s, verdict of %s", r.Tested, r.Verdict.Started)
		}
		if ins, _ := n.Incidents("", 0); len(ins) != 0 {
			t.Errorf("incidents: %+v", ins)
		}
	})
	t.Run("another answer and half the speed are incidents", func(t *testing.T) {
		w.forge(n, "alpha@v1", func(r *Record) { // as if the last run had been another
			r.Verdict.AnswerDigest = "sha256:" + v.AnswerDigest[len("sha256:"):len(v.AnswerDigest)-1] + "0"
			if r.Verdict.AnswerDigest == v.AnswerDigest {
				t.Fatal("the same digest")
			}
			r.Verdict.Tokens, r.Verdict.TokensPerSecond = 1_000_000, 1_000_000
		})
		w.sync(n, func(o *SyncOptions) { o.Retest = true })
		w.state(n, "alpha@v1", Active)
		ins, err := n.Incidents("alpha@v1", 0)
		w.must(err)
		if len(ins) != 2 || ins[0].Kind != CauseValidation || !strings.Contains(ins[0].Reason, "another answer") || !strings.Contains(ins[1].Reason, "half") ||
			ins[0].Found != v.AnswerDigest.String() || ins[1].Expected != "1000000.00 tokens per second" {
			t.Errorf("incidents: %+v", ins)
		}
	})
	t.Run("the image of a runtime that was replaced leaves the engine", func(t *testing.T) {
		images := func() string { return nerdctl(t, eng, "images", "--format", "{{.Repository}}:{{.Tag}}") }
		before := images()
		second := w.pushRuntime("second")
		w.runtime(func(rt *snapshot.Runtime) { rt.Reference = second; speaking("two")(rt) })
		w.publish()
		if o := w.sync(n)["alpha@v1"]; o.Verb != Validate || o.After != Active {
			t.Errorf("%+v", o)
		}
		after := images()
		old, now := v.ImageManifest.Encoded(), w.state(n, "alpha@v1", Active).Verdict.ImageManifest.Encoded()
		if old == now || !strings.Contains(before, old) || strings.Contains(after, old) || !strings.Contains(after, now) {
			t.Errorf("images before:\n%safter:\n%s", before, after)
		}
	})
	t.Run("a wrong answer fails the model and keeps its bytes", func(t *testing.T) {
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
			d.Models[0].Validation.Expect = snapshot.Expect{Exact: "something else"}
			return nil
		}))
		w.publish()
		w.sync(n)
		r := w.state(n, "alpha@v1", Failed)
		ins, err := n.Incidents("alpha@v1", 1)
		w.must(err)
		if r.Cause != CauseValidation || r.Tree == "" || r.Verdict == nil || r.Verdict.Cause != runner.CauseAnswer ||
			len(ins) != 1 || !strings.Contains(ins[0].Found, "this is alpha of two") || !strings.Contains(ins[0].Expected, "something else") {
			t.Errorf("%+v, incident %+v", r, ins)
		}
	})
	t.Run("without the runtime none of its images stays", func(t *testing.T) {
		w.must(w.repo.RemoveModel("alpha", "v1"))
		w.must(w.repo.Edit(func(d *snapshot.Snapshot) error { d.Runtimes = nil; return nil }))
		w.publish()
		w.sync(n)
		if left := nerdctl(t, eng, "images", "--format", "{{.Repository}}:{{.Tag}}"); strings.Contains(left, "rmodels.invalid/llama") {
			t.Errorf("left in the engine:\n%s", left)
		}
	})
}

// TestRuntimeChange: its models are Pending from then on, and tested again one
// at a time, the oldest verdict first.
func TestRuntimeChange(t *testing.T) {
	w := newNetwork(t)
	reference := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = reference; speaking("one")(rt) })
	names := []string{"young", "old", "middle"}
	for _, name := range names {
		w.answers(name, "one|two")
	}
	w.publish()
	n, _ := w.engineNode()
	w.sync(n)
	age := map[string]time.Duration{"young": time.Minute, "old": time.Hour, "middle": 30 * time.Minute}
	for _, name := range names {
		w.state(n, name+"@v1", Active)
		w.forge(n, name+"@v1", func(r *Record) { r.Tested = n.now().Add(-age[name]) })
	}
	w.answers("new", "one|two") // comes with the change, and after those that were in use
	w.runtime(speaking("two"))
	w.publish()
	res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.DirSource(w.site)})
	w.must(err)
	var steps []string
	for _, o := range res.Outcomes {
		steps = append(steps, string(o.Verb)+" "+o.Name+" "+string(o.After))
	}
	want := []string{
		"demote young Pending", "demote old Pending", "demote middle Pending",
		"validate old Active", "validate middle Active", "validate young Active", "install new Active",
	}
	if !slices.Equal(steps, want) {
		t.Errorf("got %q, want %q", steps, want)
	}
	var last time.Time
	for _, name := range []string{"old", "middle", "young", "new"} {
		v := w.state(n, name+"@v1", Active).Verdict
		if v.Answer != "this is "+name+" of two" || v.Started.Before(last) || !v.Ended.After(v.Started) {
			t.Errorf("%s: %q, from %s to %s; the one before ended %s", name, v.Answer, v.Started, v.Ended, last)
		}
		last = v.Ended
	}
	if h := w.state(n, "old@v1", Active).History; len(h) < 2 || h[len(h)-2].To != Pending || !strings.Contains(h[len(h)-2].Why, "runtime") {
		t.Errorf("history %+v", h)
	}
}

// TestGPUIsHeld: the node's own runtime holds the GPU. The model waits with
// that reason, and becomes Active once the GPU is free.
func TestGPUIsHeld(t *testing.T) {
	w := newNetwork(t)
	reference := w.pushRuntime("first")
	w.runtime(func(rt *snapshot.Runtime) { rt.Reference = reference; rt.GPU = "required"; speaking("one")(rt) })
	w.answers("alpha", "one")
	w.publish()
	n, _ := w.engineNode()
	path := filepath.Join(n.StateDir(), "gpu.lock")
	w.must(os.WriteFile(path, []byte("vllm of the agent, process 7\n"), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	w.must(err)
	defer f.Close()
	w.must(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	o := w.sync(n)["alpha@v1"]
	if o.After != Pending || o.Failure == nil || o.Failure.Cause != CauseBusy || !strings.Contains(o.Failure.Hint, "GPU is held") {
		t.Errorf("%+v, failure %+v", o, o.Failure)
	}
	if r := w.state(n, "alpha@v1", Pending); !strings.Contains(r.Reason, "vllm of the agent, process 7") || r.Cause != CauseBusy {
		t.Errorf("reason %q, cause %s", r.Reason, r.Cause)
	}
	if es, err := n.Explain(context.Background(), "alpha"); err != nil || len(es) != 1 || !strings.Contains(es[0].Reason, "gpu is in use") {
		t.Errorf("explained as %+v, %v", es, err)
	}
	if ins, _ := n.Incidents("", 0); len(ins) != 0 {
		t.Errorf("a held GPU is no incident: %+v", ins)
	}
	w.must(unix.Flock(int(f.Fd()), unix.LOCK_UN))
	w.sync(n)
	r := w.state(n, "alpha@v1", Active)
	if !slices.Equal(r.Verdict.Devices, []string{"example.com/gpu=all"}) {
		t.Errorf("devices %q", r.Verdict.Devices)
	}
	// While it is Active, a held GPU only puts its next test off.
	w.must(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	if o := w.sync(n, func(o *SyncOptions) { o.Retest = true })["alpha@v1"]; o.After != Active || o.Failure == nil {
		t.Errorf("%+v", o)
	}
}

// TestDevicesOfARuntime: what the configuration names is passed on as it is,
// index, UUID or MIG slice; without it, all of them where the host has any.
func TestDevicesOfARuntime(t *testing.T) {
	ctx := context.Background()
	h, err := runner.HostFacts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	has := slices.Contains(h.CDIDevices, "nvidia.com/gpu=all")
	plain := newNode(Options{StateDir: t.TempDir(), Network: "lab"})
	for _, gpu := range []string{"required", "optional"} {
		got, err := plain.devices(ctx, gpu)
		switch {
		case has && (err != nil || !slices.Equal(got, []string{"nvidia.com/gpu=all"})):
			t.Errorf("%s on a host with GPUs: %q, %v", gpu, got, err)
		case !has && gpu == "required" && (!errors.Is(err, runner.ErrDevice) || AsFailure(err).Hint == ""):
			t.Errorf("required on a host without: %q, %v", got, err)
		case !has && gpu == "optional" && (err != nil || got != nil):
			t.Errorf("optional on a host without: %q, %v", got, err)
		}
	}
	named := []string{"nvidia.com/gpu=0", "nvidia.com/gpu=GPU-4f1b2c3d", "nvidia.com/gpu=0:1"}
	n := newNode(Options{StateDir: t.TempDir(), Network: "lab", Devices: named})
	for gpu, want := range map[string][]string{"required": named, "optional": named, "none": nil, "": nil} {
		if got, err := n.devices(ctx, gpu); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", gpu, got, err, want)
		}
	}
}
