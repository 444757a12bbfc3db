package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bed is the testbed that all tests share.
var bed struct {
	Directory  string   `json:"directory"`
	Nerdctl    string   `json:"nerdctl"`
	EngineArgs []string `json:"engineArgs"`
	Namespace  string   `json:"namespace"`
	Registry   struct {
		Binary   string `json:"binary"`
		Address  string `json:"address"`
		CA       string `json:"ca"`
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"registry"`

	rmodels string // the program under test
	runtime string // root filesystem of the inference engine
	keys    string // directory with acme.key, unknown.key and their public halves
}

func TestMain(m *testing.M) {
	if err := openBed(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		fmt.Fprintln(os.Stderr, "e2e: run this package with make test, or inside hack/testbed/with.sh")
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(bed.keys)
	os.Exit(code)
}

func openBed() error {
	file := map[string]*string{"RMODELS_TEST_RMODELS": &bed.rmodels, "RMODELS_TEST_RUNTIME": &bed.runtime}
	for name, to := range file {
		if *to = os.Getenv(name); *to == "" {
			return fmt.Errorf("%s is not set", name)
		}
		if _, err := os.Stat(*to); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	b, err := os.ReadFile(os.Getenv("RMODELS_TEST_BED"))
	if err != nil {
		return fmt.Errorf("RMODELS_TEST_BED: %w", err)
	}
	if err := json.Unmarshal(b, &bed); err != nil {
		return fmt.Errorf("RMODELS_TEST_BED: %w", err)
	}
	if bed.keys, err = os.MkdirTemp("", "rmodels-e2e-keys-"); err != nil {
		return err
	}
	for _, name := range []string{"acme", "unknown"} {
		if out, err := exec.Command(bed.rmodels, "keygen", filepath.Join(bed.keys, name)).CombinedOutput(); err != nil {
			return fmt.Errorf("keygen %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// result is one run of the command line.
type result struct {
	t      *testing.T
	args   []string
	code   int
	stdout []byte
	stderr []byte
}

// command prepares a run of rmodels with a configuration file.
func command(t *testing.T, config string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), bed.rmodels, args...)
	c.Env = append(os.Environ(), "RMODELS_CONFIG="+config)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	return c
}

func run(t *testing.T, config string, args ...string) *result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := command(t, config, args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	r := &result{t, args, c.ProcessState.ExitCode(), stdout.Bytes(), stderr.Bytes()}
	if r.code != 0 {
		t.Logf("rmodels %s: exit code %d: %s", strings.Join(args, " "), r.code, r.said())
	}
	return r
}

// said is what the command told about its failures, for go test -v.
func (r *result) said() string {
	var pass struct {
		Outcomes []struct {
			Name    string   `json:"name"`
			Failure *failure `json:"failure"`
		} `json:"outcomes"`
	}
	var words []string
	if json.Unmarshal(r.stdout, &pass) == nil {
		for _, o := range pass.Outcomes {
			if o.Failure != nil {
				words = append(words, o.Name+": "+o.Failure.Reason+"; next: "+o.Failure.Hint)
			}
		}
	}
	if words == nil {
		lines := bytes.Split(bytes.TrimSpace(r.stderr), []byte("\n"))
		words = []string{string(lines[len(lines)-1])}
	}
	return strings.Join(words, " | ")
}

// ok stops the test unless the command succeeded.
func (r *result) ok() *result {
	r.t.Helper()
	return r.exits(0)
}

func (r *result) exits(code int) *result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("rmodels %s: exit code %d, want %d\n%s%s", strings.Join(r.args, " "), r.code, code, r.stdout, r.stderr)
	}
	return r
}

// failure is what the command said went wrong, with --output json.
type failure struct {
	Cause    string `json:"cause"`
	Reason   string `json:"reason"`
	Hint     string `json:"hint"`
	Digest   string `json:"digest"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Source   string `json:"source"`
}

// failure reads the error that ended the command, the last line of stderr,
// and checks that it says what to do next.
func (r *result) failure() failure {
	r.t.Helper()
	lines := bytes.Split(bytes.TrimSpace(r.stderr), []byte("\n"))
	var e struct {
		Event    string  `json:"event"`
		ExitCode int     `json:"exitCode"`
		Error    failure `json:"error"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &e); err != nil || e.Event != "error" {
		r.t.Fatalf("rmodels %s: no error event: %v\n%s", strings.Join(r.args, " "), err, r.stderr)
	}
	if e.ExitCode != r.code {
		r.t.Errorf("error event says exit code %d, the process ended with %d", e.ExitCode, r.code)
	}
	return e.Error
}

// json decodes what the command printed.
func (r *result) json(v any) *result {
	r.t.Helper()
	if err := json.Unmarshal(r.stdout, v); err != nil {
		r.t.Fatalf("rmodels %s: %v\n%s%s", strings.Join(r.args, " "), err, r.stdout, r.stderr)
	}
	return r
}

// eventually polls a condition that another process brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// once makes a fixture that tests share, and fails each of them if it fails.
type once[T any] struct {
	sync.Once
	v  T
	ok bool
}

func (o *once[T]) get(t *testing.T, create func() T) T {
	t.Helper()
	o.Do(func() {
		o.v = create()
		o.ok = true
	})
	if !o.ok {
		t.Fatal("a shared fixture could not be made; an earlier test says why")
	}
	return o.v
}
