package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/runner"
)

// all visits every command of the tree that does something.
func all(t *testing.T, visit func(*cobra.Command)) {
	t.Helper()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return
		}
		visit(c)
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	walk(a.rootCommand())
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	n := 0
	all(t, func(c *cobra.Command) {
		n++
		if c.Short == "" {
			t.Errorf("%s: no short help", c.CommandPath())
		}
		if c.HasParent() && c.Example == "" {
			t.Errorf("%s: no examples", c.CommandPath())
		}
		if !c.Runnable() && c.HasParent() {
			t.Errorf("%s: does nothing", c.CommandPath())
		}
	})
	if n < 20 {
		t.Errorf("only %d commands were visited", n)
	}
}

var (
	fence = regexp.MustCompile("(?s)```sh\n(.*?)```")
	cron  = regexp.MustCompile(`^[0-9*/,-]+ +[0-9*/,-]+ .*? root +`)
)

// commandLines are the rmodels lines of a text: help examples, or the shell
// blocks of a document.
func commandLines(text string) []string {
	var out []string
	for _, l := range strings.Split(text, "\n") {
		l = cron.ReplaceAllString(strings.TrimSpace(l), "")
		if l, _, _ = strings.Cut(l, "#"); strings.HasPrefix(l, "rmodels ") {
			for _, part := range strings.Split(l, "&&") {
				out = append(out, strings.TrimSpace(part))
			}
		}
	}
	return out
}

// words splits a command line as a shell does, up to a redirection.
func words(l string) []string {
	l, _, _ = strings.Cut(l, " > ")
	var out []string
	for i, part := range strings.Split(l, "\"") {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// TestDocumentedCommandsExist parses every command line of the manuals and of
// the help's examples: the command, its flags and the number of its arguments
// must be right.
func TestDocumentedCommandsExist(t *testing.T) {
	lines := map[string]string{}
	for _, pattern := range []string{"../../README.md", "../../docs/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range fence.FindAllStringSubmatch(string(b), -1) {
				for _, l := range commandLines(strings.ReplaceAll(m[1], "\\\n", "")) { // lines that go on
					lines[l] = f
				}
			}
		}
	}
	all(t, func(c *cobra.Command) {
		for _, l := range commandLines(c.Example) {
			lines[l] = c.CommandPath() + " --help"
		}
	})
	if len(lines) < 30 {
		t.Fatalf("only %d command lines found: %v", len(lines), lines)
	}
	for l, where := range lines {
		a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
		root := a.rootCommand()
		root.InitDefaultCompletionCmd()
		c, rest, err := root.Find(words(l)[1:])
		if err != nil || c == root {
			t.Errorf("%s: %q: no such command", where, l)
			continue
		}
		if err := c.ParseFlags(rest); err != nil {
			t.Errorf("%s: %q: %v", where, l, err)
			continue
		}
		if err := c.ValidateArgs(c.Flags().Args()); err != nil {
			t.Errorf("%s: %q: %v", where, l, err)
		}
	}
}

// TestExitCodesAreDocumented compares the manual, the help and the code.
func TestExitCodesAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := exitOK; code <= exitPartial; code++ {
		if !strings.Contains(string(manual), fmt.Sprintf("| %d | ", code)) {
			t.Errorf("docs/operator.md does not explain exit code %d", code)
		}
		if !strings.Contains(exitHelp, fmt.Sprintf("\n  %-2d  ", code)) {
			t.Errorf("help does not explain exit code %d", code)
		}
	}
}

// TestEverySettingIsDocumented asks for a flag, a variable and a line in help.
func TestEverySettingIsDocumented(t *testing.T) {
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	flags := a.rootCommand().PersistentFlags()
	for _, s := range settings {
		if flags.Lookup(s.flag()) == nil {
			t.Errorf("%s has no flag", s.key)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	emptyDir, linkDir, draft := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "ceremony")
	if err := os.Symlink("/etc/hostname", filepath.Join(linkDir, "link")); err != nil {
		t.Fatal(err)
	}
	if code := run([]string{"snapshot", "init", draft, "--network", "lab"}, &bytes.Buffer{}, &bytes.Buffer{}); code != exitOK {
		t.Fatalf("a draft: exit code %d", code)
	}
	for _, args := range [][]string{
		{"nonsense"},
		{"snapshot", "nonsense"},
		{"list", "too", "many"},
		{"pull"},
		{"list", "--no-such-flag"},
		{"list", "--output", "yaml"},
		{"init"},
		{"init", "--network", "UPPER", "--root", "x"},
		{"init", "--network", "../up", "--root", "x"},
		{"list", "--min-free", "much"},
		{"list", "--registry-connections", "many"},
		{"list", "--config", "/does/not/exist.toml"},
		{"sign", "registry.example/x@sha256:00", "--key", "k"},
		{"sign", "registry.example/x:tag", "--key", "k"},
		{"snapshot", "publish", "."},
		{"pack", ".", "registry.example/x", "--entrypoint", "/bin/x"},
		{"pack", "/does/not/exist", "registry.example/x"},
		{"pack", ".", "demo/big"},
		{"pack", ".", "registry.example/x:tag", "--dry-run"},
		{"pack", "command_test.go", "registry.example/x"},
		{"pack", emptyDir, "registry.example/x"},
		{"pack", linkDir, "registry.example/x"},
		{"snapshot", "sign", "/does/not/exist"},
		{"snapshot", "disable", draft, "nope@v1"},
		{"snapshot", "enable", draft, "nope@v1"},
		{"snapshot", "remove", draft, "nope"},
		{"import", "/does/not/exist"},
		{"gc"},
		{"gc", "--high-percent", "200"},
		{"gc", "--low-percent", "-5"},
		{"gc", "--high-percent", "10", "--low-percent", "90"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Setenv("RMODELS_STATE_DIR", t.TempDir())
			empty := filepath.Join(t.TempDir(), "empty.toml")
			if err := os.WriteFile(empty, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("RMODELS_CONFIG", empty)
			var out, errs bytes.Buffer
			if code := run(args, &out, &errs); code != exitUsage {
				t.Errorf("exit code %d, want %d; %s", code, exitUsage, &errs)
			}
			if out.Len() != 0 {
				t.Errorf("printed on standard output: %s", &out)
			}
			if !strings.HasPrefix(errs.String(), "rmodels: ") {
				t.Errorf("standard error: %q", &errs)
			}
		})
	}
}

func TestEarlyErrorsAreJSON(t *testing.T) {
	for _, c := range []struct {
		args []string
		json bool
	}{
		{[]string{"list", "--nosuch", "--output=json"}, true},
		{[]string{"list", "--nosuch", "--output", "json"}, true},
		{[]string{"list", "--nosuch", "-ojson"}, true},
		{[]string{"list", "--nosuch", "-o=json"}, true},
		{[]string{"list", "--nosuch", "-o", "json"}, true},
		{[]string{"list", "--nosuch", "-qvojson"}, true},
		{[]string{"-ojson", "show", "a\xff"}, true},
		{[]string{"--output=json", "show", "a\xff"}, true},
		{[]string{"-o=json", "nosuch"}, true},
		{[]string{"--output=text", "show", "a\xff", "--output=json"}, true},
		{[]string{"list", "--nosuch", "json"}, false},
		{[]string{"show", "a\xff", "--", "-ojson"}, false},
		{[]string{"list", "--nosuch", "--config=o", "json"}, false},
		{[]string{"list", "--nosuch", "-o"}, false},
	} {
		var out, errs strings.Builder
		if code := run(c.args, &out, &errs); code != exitUsage || out.String() != "" {
			t.Errorf("%q: exit %d, %s", c.args, code, &out)
		}
		var e struct{ Event string }
		if err := json.Unmarshal([]byte(errs.String()), &e); (err == nil && e.Event == "error") != c.json {
			t.Errorf("%q: %s", c.args, &errs)
		}
	}
}

func TestErrorsAreJSONWhenAskedFor(t *testing.T) {
	t.Setenv("RMODELS_STATE_DIR", t.TempDir())
	empty := filepath.Join(t.TempDir(), "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RMODELS_CONFIG", empty)
	var out, errs bytes.Buffer
	if code := run([]string{"list", "--output", "json"}, &out, &errs); code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{`"event":"error"`, `"exitCode":2`, `"cause":"state"`, `"hint":"set one up with: rmodels init`} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%s is not in %s", want, &errs)
		}
	}
}

func TestPassCode(t *testing.T) {
	ok := lifecycle.Outcome{Action: lifecycle.Action{Verb: lifecycle.Install}, After: lifecycle.Active}
	kept := lifecycle.Outcome{Action: lifecycle.Action{Verb: lifecycle.Keep}, After: lifecycle.Active}
	failed := func(v lifecycle.Verb, c lifecycle.Cause) lifecycle.Outcome {
		return lifecycle.Outcome{Action: lifecycle.Action{Verb: v}, After: lifecycle.Failed, Failure: &lifecycle.Failure{Cause: c}}
	}
	cases := []struct {
		name  string
		out   []lifecycle.Outcome
		snap  lifecycle.Cause
		named bool
		want  int
	}{
		{"nothing", nil, "", false, exitOK},
		{"all well", []lifecycle.Outcome{ok, kept}, "", false, exitOK},
		{"one bad signature", []lifecycle.Outcome{failed(lifecycle.Install, lifecycle.CauseSignature)}, "", false, exitCheckFailed},
		{"one bad among good", []lifecycle.Outcome{ok, failed(lifecycle.Install, lifecycle.CauseHash)}, "", false, exitPartial},
		{"one bad among kept", []lifecycle.Outcome{kept, failed(lifecycle.Install, lifecycle.CauseHash)}, "", false, exitPartial},
		{"bad in two ways", []lifecycle.Outcome{failed(lifecycle.Install, lifecycle.CauseHash), failed(lifecycle.Validate, lifecycle.CauseValidation)}, "", false, exitPartial},
		{"bad twice alike", []lifecycle.Outcome{failed(lifecycle.Install, lifecycle.CauseHash), failed(lifecycle.Install, lifecycle.CauseHash)}, "", false, exitCheckFailed},
		{"not for this node", []lifecycle.Outcome{ok, failed(lifecycle.Refuse, lifecycle.CauseCompatibility)}, "", false, exitOK},
		{"not for this node, asked for", []lifecycle.Outcome{failed(lifecycle.Refuse, lifecycle.CauseCompatibility)}, "", true, exitIncompatible},
		{"no space", []lifecycle.Outcome{failed(lifecycle.Refuse, lifecycle.CauseSpace)}, "", false, exitNoSpace},
		{"still failed", []lifecycle.Outcome{failed(lifecycle.Wait, lifecycle.CauseSignature)}, "", false, exitCheckFailed},
		{"snapshot rejected", []lifecycle.Outcome{ok}, lifecycle.CauseSnapshot, false, exitSnapshot},
		{"snapshot rejected and one bad", []lifecycle.Outcome{ok, failed(lifecycle.Install, lifecycle.CauseHash)}, lifecycle.CauseSnapshot, false, exitSnapshot},
		{"source down", []lifecycle.Outcome{kept}, lifecycle.CauseUnavailable, false, exitUnavailable},
		{"source down and one bad", []lifecycle.Outcome{kept, failed(lifecycle.Install, lifecycle.CauseHash)}, lifecycle.CauseUnavailable, false, exitPartial},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			res := &lifecycle.SyncResult{Outcomes: c.out}
			if c.snap != "" {
				res.SnapshotFailure = &lifecycle.Failure{Cause: c.snap}
			}
			if got := passCode(res, c.named); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// Cron mails whatever is printed: a quiet pass tells of changes and failures.
func TestQuietPass(t *testing.T) {
	outcome := func(v lifecycle.Verb, before, after lifecycle.State, cause lifecycle.Cause) lifecycle.Outcome {
		x := lifecycle.Outcome{Action: lifecycle.Action{Name: "m", Version: "v1", Verb: v, State: before}, After: after}
		if cause != "" {
			x.Failure = &lifecycle.Failure{Cause: cause, Reason: "because"}
		}
		return x
	}
	kept := outcome(lifecycle.Keep, lifecycle.Active, lifecycle.Active, "")
	alien := outcome(lifecycle.Refuse, lifecycle.Absent, lifecycle.Absent, lifecycle.CauseCompatibility)
	cases := []struct {
		name  string
		res   lifecycle.SyncResult
		quiet bool
		tells bool
	}{
		{"nothing changed", lifecycle.SyncResult{Outcomes: []lifecycle.Outcome{kept, alien}}, true, false},
		{"nothing changed, and asked", lifecycle.SyncResult{Outcomes: []lifecycle.Outcome{kept, alien}}, false, true},
		{"installed", lifecycle.SyncResult{Outcomes: []lifecycle.Outcome{kept, outcome(lifecycle.Install, lifecycle.Absent, lifecycle.Active, "")}}, true, true},
		{"still failed", lifecycle.SyncResult{Outcomes: []lifecycle.Outcome{outcome(lifecycle.Wait, lifecycle.Failed, lifecycle.Failed, lifecycle.CauseHash)}}, true, true},
		{"no room", lifecycle.SyncResult{Outcomes: []lifecycle.Outcome{outcome(lifecycle.Refuse, lifecycle.Absent, lifecycle.Absent, lifecycle.CauseSpace)}}, true, true},
		{"no snapshot", lifecycle.SyncResult{SnapshotFailure: &lifecycle.Failure{Reason: "because"}, Outcomes: []lifecycle.Outcome{kept}}, true, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			printOutcomes(&out, &c.res, c.quiet)
			if tells := out.Len() > 0; tells != c.tells {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}

func TestConfigPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(args ...string) (*config, error) {
		a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
		root := a.rootCommand()
		if err := root.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		c, _, err := loadConfig(root.PersistentFlags(), file, false)
		return c, err
	}
	write("network = \"file\"\nmin-free = \"1GiB\"\n[engine]\nargs = [\"--a\"]\n[hosts.\"r.example\"]\nusername = \"u\"\n")
	c, err := load()
	if err != nil || c.Network != "file" || c.MinFree != 1<<30 || c.Hosts["r.example"].Username != "u" {
		t.Fatalf("%+v, %v", c, err)
	}
	t.Setenv("RMODELS_NETWORK", "variable")
	t.Setenv("RMODELS_ENGINE_ARGS", "--b,--c")
	if c, _ = load(); c.Network != "variable" || strings.Join(c.Engine.Args, " ") != "--b --c" {
		t.Errorf("variables: %+v", c)
	}
	if c, _ = load("--network", "flag", "--engine-args=--d", "--host", "r.example;password-file=/p;plain-http=true"); c.Network != "flag" ||
		strings.Join(c.Engine.Args, " ") != "--d" || c.Hosts["r.example"] != (host{Username: "u", PasswordFile: "/p", PlainHTTP: true}) {
		t.Errorf("flags: %+v", c)
	}
	for _, bad := range []string{"netwrok = \"x\"", "network = 3", "min-free = \"lots\"", "[hosts.x]\nusr = \"u\"", "network = "} {
		write(bad)
		if _, err := load(); exitCode(err) != exitUsage || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A value from outside begins no line of its own.
func TestOneValueOneLine(t *testing.T) {
	evil := "no\nadmitted\tby me\r\u2028too"
	var out bytes.Buffer
	printRecord(&out, &lifecycle.Record{
		Name: "tiny", Version: "v1", Reason: evil,
		Verdict: &runner.Verdict{Reason: evil, LogTail: "one\nadmitted by me"},
	}, time.Now())
	printExplanation(&out, lifecycle.Explanation{Reason: evil, Incidents: []lifecycle.Incident{{Reason: evil}}}, time.Now())
	table(&out, [][]string{{evil}})
	for l := range strings.SplitSeq(out.String(), "\n") {
		if strings.HasPrefix(l, "admitted") || strings.ContainsAny(l, "\t\r\u2028") {
			t.Errorf("forged line %q in\n%s", l, &out)
		}
	}
	if !strings.Contains(out.String(), "\n             admitted by me\n") {
		t.Errorf("the engine log lost its lines:\n%s", &out)
	}
}

func TestJSONHoldsNothingThatATerminalObeys(t *testing.T) {
	const evil = "\u009b31m\u202ered\x7f, grüße \U0001F600"
	var out, events bytes.Buffer
	a := &app{stdout: &out, stderr: &events, output: "json"}
	if err := a.result(map[string]string{"s": evil}, nil); err != nil {
		t.Fatal(err)
	}
	a.progress()(progress.Event{Kind: progress.Note, Model: "s", Message: evil})
	for _, s := range []string{out.String(), events.String()} {
		if strings.ContainsAny(s, "\u009b\u202e\x7f") || !strings.Contains(s, `\u009b31m\u202ered\u007f, grüße`+" \U0001F600") {
			t.Errorf("%q", s)
		}
	}
	events.Reset()
	a.printError(nil, errors.New(evil), 1)
	if s := events.String(); strings.ContainsAny(s, "\u009b\u202e\x7f") || !strings.Contains(s, "red\ufffd, grüße \U0001F600") {
		t.Errorf("%q", s)
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["s"] != evil {
		t.Errorf("%q, %v", back, err)
	}
	for l := range strings.Lines(events.String()) {
		if !json.Valid([]byte(l)) {
			t.Errorf("no JSON: %q", l)
		}
	}
}

// A registry that is no UTF-8 in one place takes nothing else off the screen.
func TestInvalidTextKeepsTheRestOfJSON(t *testing.T) {
	const evil = "redirect to https://\xff\xfe.example\u202e/blob"
	var out, events bytes.Buffer
	a := &app{stdout: &out, stderr: &events, output: "json"}
	failed := lifecycle.AsFailure(fmt.Errorf("%s: %w", evil, oci.ErrUnavailable))
	if err := a.result([]any{failed, lifecycle.Record{Name: "good", Reason: evil}, evil}, nil); err != nil {
		t.Fatal(err)
	}
	a.progress()(progress.Event{Kind: progress.Note, Model: "s", Message: evil})
	a.printError(nil, &lifecycle.Failure{Cause: lifecycle.CauseUnavailable, Reason: evil, Source: evil}, 7)
	if !json.Valid(out.Bytes()) || !strings.Contains(out.String(), `"good"`) {
		t.Errorf("%q", out.String())
	}
	lines := slices.Collect(strings.Lines(events.String()))
	if len(lines) != 2 {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("no JSON: %q", l)
		}
	}
}

// What is not UTF-8 on the command line, in a variable or in the configuration
// is wrong usage, and said as JSON.
func TestInvalidTextIsWrongUsage(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	for name, c := range map[string]struct {
		args     []string
		variable string
		config   string
	}{
		"an argument": {args: []string{"show", "a\xff"}},
		"a flag":      {args: []string{"list", "--network", "a\xff"}},
		"a variable":  {args: []string{"list"}, variable: "a\xff"},
		"a key":       {args: []string{"list"}, config: "network = \"a\xff\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.variable != "" {
				t.Setenv("RMODELS_NETWORK", c.variable)
			}
			var out, errs bytes.Buffer
			code := run(append([]string{"-o", "json", "--config", file, "--state-dir", dir}, c.args...), &out, &errs)
			if code != exitUsage || out.Len() > 0 || !json.Valid(errs.Bytes()) || !strings.Contains(errs.String(), "\"usage\"") {
				t.Errorf("exit code %d\n%s%s", code, &out, &errs)
			}
		})
	}
}

// What libraries write to the log of package log stays off the streams, or is
// JSON beside JSON.
func TestLibrariesLog(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var errs bytes.Buffer
		a := &app{stdout: io.Discard, stderr: &errs, output: "json"}
		root := a.rootCommand()
		root.AddCommand(&cobra.Command{Use: "noise", Run: func(*cobra.Command, []string) { log.Print("Unsolicited response \xff\u202e") }})
		args := []string{"noise", "-o", "json"}
		if verbose {
			args = append(args, "-v")
		}
		root.SetArgs(args)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		if verbose != (errs.Len() > 0) || verbose && (!json.Valid(errs.Bytes()) || strings.Contains(errs.String(), "\u202e")) {
			t.Errorf("verbose %t: %q", verbose, &errs)
		}
	}
}

// TestPublishersEntries adds the entries of the publisher's manual to a draft,
// and every example of a runtime as it is.
func TestPublishersEntries(t *testing.T) {
	manual, err := os.ReadFile("../../docs/publisher.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	rmodels := func(args ...string) {
		t.Helper()
		var errs bytes.Buffer
		if code := run(args, &bytes.Buffer{}, &errs); code != exitOK {
			t.Fatalf("%v: exit code %d: %s", args, code, &errs)
		}
	}
	draft, key := filepath.Join(dir, "ceremony"), filepath.Join(dir, "publisher")
	rmodels("snapshot", "init", draft, "--network", "lab")
	rmodels("keygen", key)
	rmodels("keygen", key+"-scanner")
	line := func(file string) string { // as JSON has it
		public, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(public), "\n", "\\n")
	}
	digest := "sha256:" + strings.Repeat("0", 64)
	fill := strings.NewReplacer("-----BEGIN PUBLIC KEY-----\\n… of the scanner", line(key+"-scanner.pub"), "-----BEGIN PUBLIC KEY-----\\n…", line(key+".pub"), "sha256:…", digest)
	add := func(kind, entry string, flags ...string) {
		t.Helper()
		file := filepath.Join(dir, "entry.json")
		if err := os.WriteFile(file, []byte(entry), 0o600); err != nil {
			t.Fatal(err)
		}
		rmodels(append([]string{"snapshot", "add", kind, draft, file}, flags...)...)
	}
	var models []string
	policies := 0
	for _, m := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(manual), -1) {
		switch entry := fill.Replace(m[1]); {
		case strings.Contains(entry, `"authorities"`):
			add("policy", entry)
			policies++
		default:
			models = append(models, entry)
		}
	}
	examples, err := filepath.Glob("../../runner/examples/*.json")
	if err != nil || len(examples) < 5 || policies != 3 || len(models) != 1 {
		t.Fatalf("%d policies, %d models, runtimes %v, %v", policies, len(models), examples, err)
	}
	for _, e := range examples {
		rmodels("snapshot", "add", "runtime", draft, e, "--reference", "registry.example/rt/engine@"+digest)
	}
	for _, m := range models { // on a runtime that the examples define
		add("model", m, "--size", "1")
	}
}
