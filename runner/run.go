package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

// run is one use of the sealed box: a validation, a question, or a box that
// is kept for a look. The order of its steps is the package's promise.
type run struct {
	engine  *Engine
	job     Job
	purpose string
	expect  *expectation // nil: no test, the answer stands for itself
	prompt  string       // asked instead of the test's request
	onText  func([]byte)

	launch  *launch
	image   imageFacts
	verdict *Verdict
	box     *box

	began  time.Time
	loaded time.Duration
	asked  time.Duration
}

// Validate makes one run and returns its verdict. A verdict that has not
// passed is no error; an error means that no verdict could be reached. When
// ctx ends, the box is removed before Validate returns.
func (e *Engine) Validate(ctx context.Context, j Job) (*Verdict, error) {
	x, err := newExpectation(j.Validation, j.Runtime.Protocol)
	if err != nil {
		return nil, err
	}
	r := &run{engine: e, job: j, purpose: "validate", expect: x}
	return r.do(ctx, nil)
}

// Ask puts one question to the model in the sealed box and writes the
// answer's text to w as it comes, made fit for a terminal.
func (e *Engine) Ask(ctx context.Context, j Job, prompt string, w io.Writer) (*Verdict, error) {
	p, ok := protocols[j.Runtime.Protocol]
	if ok && p.prompt == nil && j.Runtime.Protocol != "exec" {
		return nil, fmt.Errorf("%w: protocol %s takes no question", ErrTest, j.Runtime.Protocol)
	}
	if prompt == "" {
		return nil, fmt.Errorf("%w: the question is empty", ErrTest)
	}
	r := &run{engine: e, job: j, purpose: "ask", prompt: prompt}
	out := newTerminalWriter(w)
	r.onText = out.write
	v, err := r.do(ctx, nil)
	if err == nil {
		err = out.flush()
	}
	return v, err
}

// Keep validates, and leaves the engine of a passed run in its box until
// limit is over or ctx ends. ready is called with how to look at it.
func (e *Engine) Keep(ctx context.Context, j Job, limit time.Duration, ready func(Kept)) (*Verdict, error) {
	if limit <= 0 || limit > MaxKeep {
		return nil, fmt.Errorf("%w: a container is kept for more than nothing and at most %s, not %s", ErrRuntime, MaxKeep, limit)
	}
	x, err := newExpectation(j.Validation, j.Runtime.Protocol)
	if err != nil {
		return nil, err
	}
	r := &run{engine: e, job: j, purpose: "keep", expect: x}
	return r.do(ctx, func(ctx context.Context) {
		until := time.Now().Add(limit)
		if ready != nil {
			ready(Kept{Container: r.box.record.Container, Pid: r.box.proc.pid, Port: r.launch.port, Until: until, Verdict: r.verdict})
		}
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		r.box.waitEnd(ctx)
	})
}

// MaxKeep is how long a box may be kept.
const MaxKeep = 24 * time.Hour

// Kept says how to look at a sealed engine that was left running.
type Kept struct {
	Container string    `json:"container"`
	Pid       int       `json:"pid"` // of the engine, on the host
	Port      int       `json:"port,omitzero"`
	Until     time.Time `json:"until"`
	Verdict   *Verdict  `json:"verdict"`
}

func (r *run) note(format string, a ...any) {
	r.job.Progress.Emit(progress.Event{Kind: progress.Note, Model: r.job.Name + "@" + r.job.Version, Step: "validate", Message: fmt.Sprintf(format, a...)})
}

func (r *run) do(ctx context.Context, keep func(context.Context)) (_ *Verdict, err error) {
	r.began = time.Now()
	j := &r.job
	if j.Name == "" || j.Manifest.Validate() != nil {
		return nil, fmt.Errorf("%w: the run names no model or no manifest digest", ErrModelDir)
	}
	// What can be refused without the container engine is refused first.
	if _, err := newLaunch(*j, imageFacts{}); err != nil {
		return nil, err
	}
	if err := r.engine.checkDevices(j.Devices); err != nil {
		return nil, err
	}
	if err := prepareStateDir(j.StateDir); err != nil {
		return nil, err
	}
	release, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer release()
	if _, _, err := r.engine.removeStale(ctx, j.StateDir); err != nil {
		return nil, err
	}
	r.note("checking the runtime image")
	if r.image, err = r.engine.image(ctx, *j, r.note); err != nil {
		return nil, err
	}
	if r.launch, err = newLaunch(*j, r.image); err != nil {
		return nil, err
	}
	if r.launch.seccomp, err = writeSeccomp(j.StateDir); err != nil {
		return nil, err
	}
	req, err := r.buildRequest()
	if err != nil {
		return nil, err
	}
	if r.verdict, err = r.newVerdict(); err != nil {
		return nil, err
	}
	checks, from, err := r.proveInside(ctx)
	if err != nil {
		return nil, err
	}
	r.verdict.Isolation, r.verdict.ProofFrom = checks, from
	if c, failed := firstFailed(checks); failed {
		r.verdict.fail(CauseIsolation, "the container is not sealed: a probe in it could "+c.Name, "a refusal", c.Found)
		r.verdict.Ended = time.Now()
		return r.verdict, nil
	}
	if j.Runtime.Protocol == "exec" {
		if err := r.holdProgram(); err != nil {
			return nil, err
		}
	}
	r.note("starting %s in its sealed container", j.Runtime.Name)
	r.box, err = r.engine.start(ctx, *j, r.launch, r.image, j.Name+"@"+j.Version, true)
	if r.box != nil {
		defer func() {
			if cerr := r.box.close(ctx); cerr != nil {
				err = errors.Join(err, cerr)
			}
			if r.verdict != nil {
				r.verdict.Ended = time.Now()
				r.verdict.Overhead = snapshot.Duration(max(time.Since(r.began)-r.loaded-r.asked, 0))
			}
		}()
	}
	switch {
	case errors.Is(err, errNotRunning):
		r.explainExit(ctx, "the engine exited as soon as it was started")
		return r.verdict, nil
	case err != nil:
		return nil, err
	}
	if err := r.converse(ctx, req); err != nil {
		return nil, err
	}
	r.verdict.PeakMemory, r.verdict.PeakGPUMemory = r.box.peakMemory(), r.box.peakGPUMemory()
	r.readLog(ctx)
	if keep != nil && r.verdict.Passed {
		kept := time.Now()
		keep(ctx)
		r.loaded += time.Since(kept)
	}
	return r.verdict, nil
}

// converse proves the box, waits for the engine, asks, and fills the verdict.
// Its error is that of the run, never of the model.
func (r *run) converse(ctx context.Context, req jsontext.Value) error {
	v := r.verdict
	checks, err := r.box.proveOutside(ctx)
	v.Isolation = append(v.Isolation, checks...)
	switch {
	case errors.Is(err, errEnded):
		r.explainExit(ctx, "the engine exited before its container could be checked")
		return nil
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return fmt.Errorf("%w: the running engine could not be checked: %w", ErrIsolation, err)
	}
	if c, failed := firstFailed(checks); failed {
		v.fail(CauseIsolation, "the container is not sealed: the check \""+c.Name+"\" failed", "a closed container", c.Found)
		return nil
	}
	return r.talk(ctx, req)
}

// talk waits until the server is healthy and asks it.
func (r *run) talk(ctx context.Context, req jsontext.Value) error {
	p := protocols[r.job.Runtime.Protocol]
	if p.health == "" {
		return r.readExec(ctx)
	}
	client := insideClient(r.box.netns)
	r.note("waiting for the engine to load the model")
	if done, err := r.waitHealthy(ctx, client); done || err != nil {
		return err
	}
	if r.prompt == "" {
		r.note("asking the test question")
	} else {
		r.note("asking")
	}
	limit := r.job.Validation.Timeout.Std()
	if limit <= 0 {
		limit = defaultAskTimeout
	}
	actx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a := &answer{onText: r.onText}
	fields, err := p.buildRequest(req, r.job.Name)
	if err != nil {
		return err
	}
	err = p.ask(actx, client, r.launch.port, fields, a)
	r.asked = a.took
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.judge(ctx, a, err, limit, actx.Err() != nil)
	return nil
}

// waitHealthy returns done when the verdict is reached without an answer.
func (r *run) waitHealthy(ctx context.Context, client *http.Client) (done bool, err error) {
	target, err := snapshot.InsideURL(r.launch.port, r.launch.health)
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrRuntime, err)
	}
	deadline := r.box.began.Add(r.launch.startLimit)
	hctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var last error
	for wait := 5 * time.Millisecond; ; wait = min(wait*5/4, 250*time.Millisecond) {
		if last = r.box.healthy(hctx, client, target); last == nil {
			r.loaded = r.box.age()
			r.verdict.LoadTime = snapshot.Duration(r.loaded)
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if r.box.proc.wait(wait) {
			r.loaded = r.box.age()
			r.explainExit(ctx, "the engine exited before it was ready")
			return true, nil
		}
		if time.Now().After(deadline) {
			r.loaded = r.box.age()
			r.verdict.fail(CauseHealth, fmt.Sprintf("the engine was not ready within %s", r.launch.startLimit),
				"HTTP status 200 on "+r.launch.health, terminal.Clip(oneLine(last.Error()), 512))
			return true, nil
		}
	}
}

// judge turns an answer, or its absence, into the verdict.
func (r *run) judge(ctx context.Context, a *answer, err error, limit time.Duration, late bool) {
	v := r.verdict
	v.AnswerTime, v.TimeToFirstToken = snapshot.Duration(a.took), snapshot.Duration(a.first)
	v.Tokens = a.count()
	v.TokensPerSecond = math.Round(a.perSecond()*100) / 100
	v.Answer = terminal.Clip(terminal.Clean(string(a.text)), answerShown)
	switch {
	case len(a.embedding) > 0:
		v.AnswerDigest = embeddingDigest(a.embedding)
	case len(a.text) > 0:
		v.AnswerDigest = digest.FromBytes(a.text)
	}
	v.PeakMemory = r.box.peakMemory()
	expected := "an answer"
	if r.expect != nil {
		expected = r.expect.describe()
	}
	switch {
	case err != nil && r.box.oomKilled():
		r.explainExit(ctx, "the engine was killed for memory")
		return
	case late:
		v.fail(CauseTimeout, fmt.Sprintf("no whole answer within %s", limit), expected, v.Answer)
		return
	case err != nil && r.box.proc.wait(200*time.Millisecond):
		r.explainExit(ctx, "the engine exited while it was asked")
		return
	case err != nil:
		v.fail(CauseProtocol, "the answer could not be read", expected, terminal.Clip(oneLine(err.Error()), 1024))
		return
	}
	if r.expect != nil {
		if no := r.expect.check(a); no != nil {
			v.fail(no.cause, no.reason, no.expected, no.found)
			return
		}
		if no := checkFigures(r.job.Validation, v, r.loaded.Seconds(), a.perSecond()); no != nil {
			v.fail(no.cause, no.reason, no.expected, no.found)
			return
		}
	}
	v.Passed, v.Cause, v.Reason = true, CausePassed, "the container is sealed and the model answered as expected"
	if r.expect == nil {
		v.Reason = "the container is sealed and the model answered"
	}
}

// explainExit is the verdict on an engine that is gone.
func (r *run) explainExit(ctx context.Context, reason string) {
	v := r.verdict
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	cause, found := CauseExit, "it exited"
	state, err := r.box.state(cctx)
	if err == nil && !state.Running {
		v.ExitCode = &state.ExitCode
		found = fmt.Sprintf("exit code %d", state.ExitCode)
	}
	if state.OOMKilled || r.box.oomKilled() {
		cause, reason = CauseMemory, "the engine was killed for memory"
		found += fmt.Sprintf(", limit %s", snapshot.Bytes(r.launch.memory))
	}
	r.readLog(cctx)
	if v.LogTail != "" {
		found += "; its last words: " + terminal.ClipTail(oneLine(v.LogTail), 512)
	}
	v.fail(cause, reason, "an engine that keeps running", found)
}

func (b *box) oomKilled() bool { return b.cgroup.memory != "" && b.cgroup.oomKills() > 0 }

// waitEnd waits until the engine ends or ctx does.
func (b *box) waitEnd(ctx context.Context) {
	for ctx.Err() == nil && !b.proc.wait(100*time.Millisecond) {
	}
}

const answerShown = 4 << 10

func (v *Verdict) fail(cause Cause, reason, expected, found string) {
	v.Passed, v.Cause, v.Reason, v.Expected, v.Found = false, cause, reason, expected, found
}

func (r *run) readLog(ctx context.Context) {
	if r.verdict.LogTail != "" {
		return
	}
	text, total := r.box.output(ctx)
	r.verdict.LogTail, r.verdict.LogBytes = terminal.ClipTail(terminal.Clean(text), logTail), total
}

// lock takes the run lock and, with devices, the GPU lock.
func (r *run) lock() (release func(), err error) {
	j := r.job
	if j.Lock == "" {
		j.Lock = filepath.Join(j.StateDir, "run.lock")
	}
	if j.GPULock == "" {
		j.GPULock = filepath.Join(j.StateDir, "gpu.lock")
	}
	purpose := fmt.Sprintf("%s %s@%s", r.purpose, j.Name, j.Version)
	first, err := lockFile(j.Lock, purpose, ErrBusy)
	if err != nil {
		return nil, err
	}
	if len(j.Devices) == 0 {
		return func() { unlock(first) }, nil
	}
	second, err := lockFile(j.GPULock, purpose, ErrGPUBusy)
	if err != nil {
		unlock(first)
		return nil, err
	}
	return func() { unlock(second); unlock(first) }, nil
}

func prepareStateDir(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, ",\"\n\r\x00?#%") {
		return fmt.Errorf("%w: %q is not a clean absolute path without , \" ? # %%", ErrStateDir, dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	return nil
}

// buildRequest is the test's request or the question's, checked.
func (r *run) buildRequest() (jsontext.Value, error) {
	p := protocols[r.job.Runtime.Protocol]
	raw := r.job.Validation.Request
	if r.prompt != "" {
		var v any = map[string]any{"args": []string{r.prompt}}
		if p.prompt != nil {
			ask := p.prompt(r.prompt)
			// What the engine calls the model is in the test, where that is not its
			// name here (an Ollama store has names of its own).
			var test struct {
				Model jsontext.Value `json:"model"`
			}
			if json.Unmarshal(r.job.Validation.Request, &test) == nil && len(test.Model) > 0 {
				ask["model"] = test.Model
			}
			v = ask
		}
		var err error
		if raw, err = json.Marshal(v); err != nil {
			return nil, fmt.Errorf("%w: the question: %w", ErrTest, err)
		}
	}
	if p.health == "" {
		return raw, r.setExecArgs(raw)
	}
	_, err := p.buildRequest(raw, r.job.Name)
	return raw, err
}

func (r *run) newVerdict() (*Verdict, error) {
	j := r.job
	// The key is made of what the verdict holds for, without this host's paths.
	portable := *r.launch
	portable.modelDir, portable.seccomp = j.Manifest.String(), seccompDigest.String()
	key, err := json.Marshal([]any{
		j.Manifest, j.Image.Manifest, portable.flags(r.engine.traits), portable.args, slices.Sorted(slices.Values(j.Devices)), j.Validation,
	}, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTest, err)
	}
	return &Verdict{
		Key: digest.FromBytes(key).String(), Started: r.began,
		Model: j.Name + "@" + j.Version, Manifest: j.Manifest,
		Runtime: j.Runtime.Name + "@" + j.Runtime.Version, ImageReference: j.Image.Reference,
		ImageManifest: j.Image.Manifest, ImageConfig: j.Image.Config,
		Engine: r.engine.name, EngineVersion: r.engine.version,
		Flags: slices.Concat(r.launch.flags(r.engine.traits), []string{r.image.id.String()}, r.launch.args), Devices: j.Devices,
		Isolation: []Check{},
	}, nil
}
