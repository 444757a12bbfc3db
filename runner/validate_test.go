package runner_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// nothingLeft fails the test when a run left a container, a record or a pipe.
func nothingLeft(t *testing.T, j runner.Job) {
	t.Helper()
	if names := strings.TrimSpace(engineCLI(t, "ps", "-a", "--format", "{{.Names}}")); names != "" {
		t.Errorf("containers left: %s", names)
	}
	entries, err := os.ReadDir(j.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "box-") {
			t.Errorf("left in the state directory: %s", e.Name())
		}
	}
}

func validate(t *testing.T, e *runner.Engine, j runner.Job) *runner.Verdict {
	t.Helper()
	v, err := e.Validate(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, j)
	b, err := json.Marshal(v, jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", b)
	return v
}

func TestGoodEngine(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	v := validate(t, e, j)
	if !v.Passed || v.Cause != runner.CausePassed {
		t.Fatalf("refused: %s: %s", v.Reason, v.Found)
	}
	for _, c := range v.Isolation {
		if !c.Passed {
			t.Errorf("check %s failed: %s", c.Name, c.Found)
		}
		// What was found is for people: no value in Go's notation, and never nothing.
		if c.Found == "" || strings.Contains(c.Found, "nil") || strings.Contains(c.Found, "%!") || strings.Contains(c.Found, "errno 0") {
			t.Errorf("check %s found %q", c.Name, c.Found)
		}
	}
	if len(v.Isolation) < 15 || v.LoadTime <= 0 || v.TimeToFirstToken <= 0 || v.Tokens != 3 || v.TokensPerSecond <= 0 || v.PeakMemory <= 0 {
		t.Errorf("evidence is missing: %d checks, load %s, first token %s, %d tokens, %v/s, %d bytes",
			len(v.Isolation), v.LoadTime, v.TimeToFirstToken, v.Tokens, v.TokensPerSecond, v.PeakMemory)
	}
}

func TestProtocols(t *testing.T) {
	e := testEngine(t)
	for name, c := range map[string]struct {
		protocol, request string
		expect            snapshot.Expect
	}{
		"chat whole":  {"openai-chat", `{"messages":[],"stream":false}`, snapshot.Expect{Exact: "the right words"}},
		"completions": {"openai-completions", `{"prompt":"x"}`, snapshot.Expect{Regexp: `^the \w+ words$`}},
		"embeddings":  {"openai-embeddings", `{"input":"x"}`, snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{3, 4, 0}, Min: 0.999}}},
		"generate":    {"ollama", `{"prompt":"x"}`, snapshot.Expect{Contains: "right"}},
		"ollama chat": {"ollama", `{"messages":[]}`, snapshot.Expect{Exact: "the right words"}},
	} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, "serve", "the right words")
			j.Runtime.Protocol, j.Validation.Request, j.Validation.Expect = c.protocol, jsontext.Value(c.request), c.expect
			if v := validate(t, e, j); !v.Passed {
				t.Errorf("refused: %s: %s", v.Reason, v.Found)
			}
		})
	}
}

func TestBadEngines(t *testing.T) {
	e := testEngine(t)
	for name, c := range map[string]struct {
		part  []string
		cause runner.Cause
		found string // in Found
		tune  func(*runner.Job)
	}{
		"wrong answer":     {[]string{"serve", "other words"}, runner.CauseAnswer, "other words", nil},
		"exits at once":    {[]string{"exit"}, runner.CauseExit, "no such model\ufffd[31m format", nil},
		"daemonises":       {[]string{"daemonise"}, runner.CauseExit, "exit code 0", nil},
		"never healthy":    {[]string{"deaf"}, runner.CauseHealth, "HTTP status 404", func(j *runner.Job) { j.Runtime.StartTimeout = snapshot.Duration(time.Second) }},
		"never listens":    {[]string{"mute"}, runner.CauseHealth, "connection refused", func(j *runner.Job) { j.Runtime.StartTimeout = snapshot.Duration(time.Second) }},
		"never answers":    {[]string{"hang"}, runner.CauseHealth, "deadline", func(j *runner.Job) { j.Runtime.StartTimeout = snapshot.Duration(time.Second) }},
		"answers for ever": {[]string{"endless"}, runner.CauseTimeout, "and so on", func(j *runner.Job) { j.Validation.Timeout = snapshot.Duration(time.Second) }},
		"garbage":          {[]string{"garbage"}, runner.CauseProtocol, "", nil},
		"huge line":        {[]string{"huge-line"}, runner.CauseProtocol, "too long", nil},
		"redirect":         {[]string{"redirect"}, runner.CauseProtocol, "302", nil},
		"breaks off":       {[]string{"break"}, runner.CauseProtocol, "", nil},
		"big header":       {[]string{"big-header"}, runner.CauseProtocol, "", nil},
		"error status":     {[]string{"status"}, runner.CauseProtocol, "model not found \ufffd[31m", nil},
		"dies":             {[]string{"die"}, runner.CauseExit, "exit code 9", nil},
		"terminal escapes": {[]string{"escape"}, runner.CauseAnswer, `\x1b[2Jthe`, nil},
		"fork bomb":        {[]string{"fork"}, runner.CauseHealth, "refused", func(j *runner.Job) { j.Runtime.StartTimeout = snapshot.Duration(time.Second) }},
		"memory hog":       {[]string{"hog"}, runner.CauseMemory, "limit 96MiB", func(j *runner.Job) { j.Runtime.Memory = 96 << 20 }},
		"slow":             {[]string{"slow"}, runner.CauseSpeed, "", func(j *runner.Job) { j.Validation.MinTokensPerSecond = 50 }},
		"loads slowly": {[]string{"late"}, runner.CauseLoad, "", func(j *runner.Job) {
			j.Validation.Expect.Exact = "ok"
			j.Validation.MaxLoadTime = snapshot.Duration(200 * time.Millisecond)
		}},
		"wants memory": {[]string{"serve", "the right words"}, runner.CauseMemory, "", func(j *runner.Job) { j.Validation.MaxMemory = 1000 }},
	} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, c.part...)
			if c.tune != nil {
				c.tune(&j)
			}
			began := time.Now()
			v := validate(t, e, j)
			if v.Passed || v.Cause != c.cause || !strings.Contains(v.Found, c.found) {
				t.Errorf("cause %s, found %q; want %s, %q", v.Cause, v.Found, c.cause, c.found)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("took %s", took)
			}
			if strings.ContainsAny(v.Found+v.LogTail+v.Answer, "\x1b\a\r") {
				t.Error("escapes reached the verdict")
			}
		})
	}
}

func TestFlood(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "flood")
	j.Validation.Expect.Exact = "ok"
	v := validate(t, e, j)
	if !v.Passed {
		t.Errorf("refused: %s: %s", v.Reason, v.Found)
	}
	if v.LogBytes == 0 || len(v.LogTail) > 8<<10 || strings.ContainsAny(v.LogTail, "\x1b\a") {
		t.Errorf("log of %d bytes, tail of %d", v.LogBytes, len(v.LogTail))
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	e := testEngine(t)
	for name, after := range map[string]time.Duration{"while made": 150 * time.Millisecond, "while waiting": time.Second} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, "mute")
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			if _, err := e.Validate(ctx, j); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			nothingLeft(t, j)
		})
	}
}

func TestExecProtocol(t *testing.T) {
	e := testEngine(t)
	for name, c := range map[string]struct {
		args  []string
		cause runner.Cause
		found string
	}{
		"answers":     {[]string{"say", "the right"}, runner.CausePassed, ""},
		"fails":       {[]string{"fail"}, runner.CauseExit, "exit code 4"},
		"never ends":  {[]string{"mute"}, runner.CauseTimeout, ""},
		"floods":      {[]string{"flood"}, runner.CauseTimeout, ""},
		"setuid root": {[]string{"become-root"}, runner.CauseExit, "uid 65532"},
		"is not here": {[]string{"nothing"}, runner.CauseExit, "unknown part"},
	} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, c.args...)
			j.Runtime.Protocol, j.Runtime.Port = "exec", 0
			j.Validation.Request = jsontext.Value(`{"args":["words"]}`)
			j.Validation.Expect.Exact = "the right words\n"
			j.Validation.Timeout = snapshot.Duration(time.Second)
			if v := validate(t, e, j); v.Cause != c.cause || !strings.Contains(v.Found, c.found) {
				t.Errorf("cause %s, found %q; want %s, %q", v.Cause, v.Found, c.cause, c.found)
			}
		})
	}
}
