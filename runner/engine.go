package runner

import (
	"context"
	"errors"
	"io"
	"time"
)

// Classes of errors. An error means that the run could not be made; a model
// that fails its run is a [Verdict] with Passed false.
var (
	ErrNoEngine  = errors.New("no container engine")
	ErrEngine    = errors.New("container engine failed")
	ErrImage     = errors.New("runtime image refused")
	ErrRuntime   = errors.New("runtime definition refused")
	ErrModelDir  = errors.New("model directory refused")
	ErrBusy      = errors.New("another run is in progress")
	ErrGPUBusy   = errors.New("gpu is in use")
	ErrDevice    = errors.New("device not available")
	ErrIsolation = errors.New("the box is not closed")
)

// EngineOptions chooses the container engine.
type EngineOptions struct {
	Name string   // nerdctl, docker or podman; empty: the first of them on PATH
	Path string   // of its binary; empty: found on PATH
	Args []string // its global flags, e.g. --address, --namespace, --data-root, --cdi-spec-dirs
}

// Engine is a container engine that was found and answered.
type Engine struct {
	name    string
	path    string
	args    []string
	version string
}

// FindEngine finds a container engine and asks it for its version. It returns
// [ErrNoEngine] with what is missing and what to install.
func FindEngine(ctx context.Context, o EngineOptions) (*Engine, error) {
	return nil, ErrNoEngine
}

// Name is nerdctl, docker or podman.
func (e *Engine) Name() string { return e.name }

// Version is what the engine says of itself.
func (e *Engine) Version() string { return e.version }

// Validate makes one run and returns its verdict.
func (e *Engine) Validate(ctx context.Context, j Job) (*Verdict, error) { return nil, ErrNoEngine }

// Ask puts one question to the sealed engine and streams the answer's text to w.
func (e *Engine) Ask(ctx context.Context, j Job, prompt string, w io.Writer) (*Verdict, error) {
	return nil, ErrNoEngine
}

// Keep validates and leaves the sealed engine running for limit or until ctx ends;
// ready is called with how to look at it.
func (e *Engine) Keep(ctx context.Context, j Job, limit time.Duration, ready func(Kept)) (*Verdict, error) {
	return nil, ErrNoEngine
}

// Kept says how to look at a sealed engine that was left running.
type Kept struct {
	Container string    `json:"container"`
	Pid       int       `json:"pid"`
	Port      int       `json:"port,omitzero"`
	Until     time.Time `json:"until"`
	Verdict   *Verdict  `json:"verdict"`
}

// RemoveOrphans removes the containers of runs that died, by their records in
// stateDir, and returns their names.
func (e *Engine) RemoveOrphans(ctx context.Context, stateDir string) (removed []string, err error) {
	return nil, nil
}
