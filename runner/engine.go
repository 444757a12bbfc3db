package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
)

// EngineOptions chooses the container engine.
type EngineOptions struct {
	Name string   // nerdctl, docker or podman; empty: the first of them on PATH that answers
	Path string   // of its binary; empty: found on PATH
	Args []string // its global flags, e.g. --address, --namespace, --data-root, --cdi-spec-dirs

	// DataRoot is where a client that keeps notes of its own (nerdctl: locks,
	// names) shall keep them, unless Args say so; empty: where it does by itself.
	DataRoot string

	// Probe is the static binary that looks at the box from within; empty:
	// rmodels-probe beside this program, or this program (see [Main]).
	Probe string
}

// Engine is a container engine that was found and answered. It may be used by
// several goroutines; its runs exclude each other by the job's lock.
type Engine struct {
	traits
	path    string
	args    []string
	version string
	probe   string
}

// Bounds on one call of the engine's command line.
const (
	callOutput  = 1 << 20          // bytes of stdout; an inspect answer is a few KiB
	callErrors  = 16 << 10         // bytes of stderr kept for messages
	callTimeout = 30 * time.Second // of a call that only asks
	makeTimeout = 90 * time.Second // to make a container
	stopTimeout = 45 * time.Second // to remove a container, whatever the caller's context says
)

// environment lists the variables that the engine's command line may inherit:
// where its daemon and its own configuration are, and nothing else.
var environment = []string{
	"PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR",
	"CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE", "CONTAINERD_SNAPSHOTTER", "NERDCTL_TOML",
	"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
	"CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF",
}

// FindEngine finds a container engine and asks it for its version. It returns
// [ErrNoEngine] with what is missing and what to install.
func FindEngine(ctx context.Context, o EngineOptions) (*Engine, error) {
	names := engineNames
	if o.Name != "" {
		if _, ok := engines[o.Name]; !ok {
			return nil, fmt.Errorf("%w: %q is not one of %s", ErrNoEngine, o.Name, strings.Join(engineNames, ", "))
		}
		names = []string{o.Name}
	} else if o.Path != "" {
		base := filepath.Base(o.Path)
		if _, ok := engines[base]; !ok {
			return nil, fmt.Errorf("%w: the name of %s does not tell which engine it is; name it: %s",
				ErrNoEngine, o.Path, strings.Join(engineNames, ", "))
		}
		names = []string{base}
	}
	var tried []string
	for _, name := range names {
		path := o.Path
		if path == "" {
			found, err := exec.LookPath(name)
			if err != nil {
				tried = append(tried, name+": not on PATH")
				continue
			}
			path = found
		}
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		if err := checkEngine(path, o.Path != ""); errors.Is(err, durable.ErrExposed) {
			if o.Path != "" {
				return nil, fmt.Errorf("%w: %w", ErrNoEngine, err)
			}
			tried = append(tried, name+": "+err.Error())
			continue
		}
		e := &Engine{traits: engines[name], path: path, args: o.Args, probe: o.Probe}
		if f := e.dataRootFlag; f != "" && o.DataRoot != "" && !namesFlag(o.Args, f) {
			e.args = append([]string{f, o.DataRoot}, o.Args...)
		}
		if err := e.readVersion(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			tried = append(tried, name+": "+err.Error())
			continue
		}
		return e, nil
	}
	return nil, fmt.Errorf("%w: %s; install containerd and nerdctl (or docker, or podman), start its daemon, and run this again as a user who may use it",
		ErrNoEngine, strings.Join(tried, "; "))
}

// checkEngine refuses a program that other users can write: it runs as this
// user. Where the configuration names it, what is above it counts, too; a PATH
// is trusted as it is given.
func checkEngine(path string, named bool) error {
	if named {
		return durable.CheckProgram(path)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	return durable.CheckWritable(path, fi)
}

func namesFlag(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
}

// Name is nerdctl, docker or podman.
func (e *Engine) Name() string { return e.name }

// Version is what the engine says of itself: client and, where there is one,
// daemon and runc, as "client 2.2.2, containerd 1.6.20, runc 1.1.5".
func (e *Engine) Version() string { return e.version }

func (e *Engine) readVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := e.call(ctx, "version", "--format", "{{json .}}")
	if err != nil {
		return err
	}
	e.version, err = parseVersion(out)
	return err
}

// parseVersion reads what the three engines print for "version --format json":
// docker and nerdctl {Client, Server{Components}}, podman {Client, Server?}.
func parseVersion(out []byte) (string, error) {
	type component struct{ Name, Version string }
	var v struct {
		Client struct{ Version string }
		Server *struct {
			Version    string
			Components []component
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return "", fmt.Errorf("unreadable version: %w", err)
	}
	if v.Client.Version == "" {
		return "", errors.New("unreadable version: no client version")
	}
	parts := []string{"client " + strings.TrimPrefix(v.Client.Version, "v")}
	if v.Server != nil {
		if v.Server.Version != "" && v.Server.Version != v.Client.Version {
			parts = append(parts, "server "+v.Server.Version)
		}
		for i, c := range v.Server.Components {
			if i == 8 {
				break
			}
			if n := strings.ToLower(c.Name); n == "containerd" || n == "runc" || n == "crun" {
				parts = append(parts, n+" "+c.Version)
			}
		}
	}
	return terminal.Clip(terminal.Clean(strings.Join(parts, ", ")), 256), nil
}

// callError is a call of the engine that ended with another exit code than 0.
type callError struct {
	verb   string
	code   int // -1: killed
	stderr string
}

func (c *callError) Error() string {
	if c.stderr == "" {
		return fmt.Sprintf("%s: exit code %d", c.verb, c.code)
	}
	return fmt.Sprintf("%s: exit code %d: %s", c.verb, c.code, c.stderr)
}

// call runs the engine's command line and returns its stdout. Exit code 0 is
// success whatever stderr says: nerdctl prints "forward signal child exited"
// on good runs.
func (e *Engine) call(ctx context.Context, args ...string) ([]byte, error) {
	return e.callWith(ctx, nil, nil, args...)
}

// callWith gives the call a stdin and a file to keep open while it runs.
func (e *Engine) callWith(ctx context.Context, stdin, held *os.File, args ...string) ([]byte, error) {
	cmd := e.command(ctx, args...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if held != nil {
		cmd.ExtraFiles = []*os.File{held}
	}
	out, errs := &boundedBuffer{max: callOutput}, &tailBuffer{max: callErrors}
	cmd.Stdout, cmd.Stderr = out, errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s %s: %w", e.name, args[0], context.Cause(ctx))
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, &callError{verb: e.name + " " + args[0], code: exit.ExitCode(), stderr: terminal.Clip(oneLine(errs.String()), 1024)}
		}
		if start, ok := errors.AsType[*fs.PathError](err); ok {
			err = start.Err // "fork/exec" tells an operator nothing
		}
		return nil, fmt.Errorf("%s cannot be started: %w", e.path, err)
	}
	if out.over {
		return nil, fmt.Errorf("%s %s: more than %d bytes of output", e.name, args[0], callOutput)
	}
	return out.b, nil
}

// command prepares a call that ends with ctx, with its whole process group.
func (e *Engine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.path, append(append([]string(nil), e.args...), args...)...)
	cmd.Env = callEnvironment()
	cmd.Dir = "/"
	// A group of its own: a terminal's interrupt reaches us alone, and we end
	// the call in our own order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func callEnvironment() []string {
	env := []string{"LC_ALL=C"}
	for _, k := range environment {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// boundedBuffer keeps the first max bytes and swallows the rest, so that the
// writer is never blocked. Its buffer is no embedded field: its ReadFrom
// would bypass the bound.
type boundedBuffer struct {
	b    []byte
	max  int
	over bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), b.max-len(b.b))
	b.over = b.over || keep < len(p)
	b.b = append(b.b, p[:keep]...)
	return len(p), nil
}

// tailBuffer keeps the last max bytes and counts all.
type tailBuffer struct {
	b     []byte
	max   int
	total int64
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.total += int64(len(p))
	n := len(p)
	if len(p) > t.max {
		p = p[len(p)-t.max:]
	}
	// Grown to twice the bound before it is cut, so that a flood of short
	// writes costs one copy per max bytes.
	t.b = append(t.b, p...)
	if len(t.b) > 2*t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
	}
	return n, nil
}

func (t *tailBuffer) String() string {
	if len(t.b) > t.max {
		return string(t.b[len(t.b)-t.max:])
	}
	return string(t.b)
}
