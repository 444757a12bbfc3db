package runner

import "errors"

// Classes of errors. An error means that the run could not be made; a model
// that fails its run is a [Verdict] with Passed false.
var (
	ErrNoEngine  = errors.New("no container engine")
	ErrEngine    = errors.New("container engine failed")
	ErrImage     = errors.New("runtime image refused")
	ErrRuntime   = errors.New("runtime definition refused")
	ErrTest      = errors.New("test refused")
	ErrModelDir  = errors.New("model directory refused")
	ErrStateDir  = errors.New("state directory refused")
	ErrBusy      = errors.New("another run is in progress")
	ErrGPUBusy   = errors.New("gpu is in use")
	ErrDevice    = errors.New("device not available")
	ErrProbe     = errors.New("no probe")
	ErrIsolation = errors.New("the container is not sealed")
)
