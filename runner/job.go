package runner

import (
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/snapshot"
)

// Image is the runtime's container image. The engine runs it by digest; a tag
// is never resolved and nothing is pulled.
type Image struct {
	Reference string        // registry/repository@sha256:…, for messages and evidence
	Manifest  digest.Digest // of the platform's manifest: what nerdctl runs
	Config    digest.Digest // of the image configuration: what docker and podman run

	// Name is what the archive calls the image. An image that is loaded under a
	// name is removed by [Engine.RemoveImages] when nobody keeps it; one without
	// stays in the engine.
	Name string

	// Archive writes the image as a docker or OCI archive whose manifest and
	// configuration have the digests above. It is called only when the engine
	// does not hold the image yet.
	Archive func(w io.Writer) error
}

// Job is one validation run: which model, on which runtime, with which test.
type Job struct {
	Name       string
	Version    string
	Manifest   digest.Digest // the model's content; part of the verdict's key
	ModelDir   string        // absolute path of the model's tree; mounted read-only
	Runtime    snapshot.Runtime
	Image      Image
	Validation snapshot.Validation
	Devices    []string // CDI names, vendor/class=name; empty: no device

	// StateDir keeps the run records by which a crashed run's container is
	// found, the seccomp profile and the proofs of the box. It is created when
	// absent, with mode 0700.
	StateDir string

	// Lock is the file whose lock makes runs exclusive; give all networks of a
	// node the same one. Empty: run.lock in StateDir.
	Lock string
	// GPULock is the file whose lock stands for the node's GPUs; the node's own
	// runtime holds it while it uses them. Empty: gpu.lock in StateDir. Used
	// only with Devices.
	GPULock string

	Progress progress.Sink
}

// Defaults for what a runtime's definition leaves out.
const (
	defaultMemory       = 4 << 30
	defaultShm          = 64 << 20
	defaultPids         = 512
	defaultUser         = "65532:65532"
	defaultTmp          = 256 << 20 // bytes of the tmpfs on /tmp
	defaultStartTimeout = 2 * time.Minute
	defaultAskTimeout   = 2 * time.Minute
)
