package runner

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Cause classes a verdict. Callers decide on it; Reason is for people.
type Cause string

const (
	CausePassed    Cause = "passed"
	CauseIsolation Cause = "isolation" // the box was not closed: an incident whatever the answer
	CauseExit      Cause = "exit"      // the engine ended before it answered
	CauseHealth    Cause = "health"    // never healthy within startTimeout
	CauseTimeout   Cause = "timeout"   // healthy, but no whole answer within the request's timeout
	CauseProtocol  Cause = "protocol"  // the answer is not what the protocol says
	CauseAnswer    Cause = "answer"    // a well-formed answer that the expectation refuses
	CauseSpeed     Cause = "speed"     // fewer tokens per second than required
	CauseLoad      Cause = "load"      // loaded slower than allowed
	CauseMemory    Cause = "memory"    // used more memory than allowed, or was killed for it
)

// Check is one claim about the box and what was found.
type Check struct {
	Name   string `json:"name"`
	Where  string `json:"where"` // outside (the live process), inside (the probe), image
	Passed bool   `json:"passed"`
	Found  string `json:"found,omitzero"`
}

// Verdict is the result of one run with its evidence. It holds for exactly
// what Key is made of: manifest, image, engine flags and devices.
type Verdict struct {
	Passed   bool      `json:"passed"`
	Cause    Cause     `json:"cause"`
	Reason   string    `json:"reason"`
	Expected string    `json:"expected,omitzero"`
	Found    string    `json:"found,omitzero"`
	Key      string    `json:"key"` // sha256 over manifest, image, flags, devices and test
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`

	Model          string        `json:"model"` // name@version
	Manifest       digest.Digest `json:"manifest"`
	Runtime        string        `json:"runtime"` // name@version
	ImageReference string        `json:"imageReference"`
	ImageManifest  digest.Digest `json:"imageManifest"`
	ImageConfig    digest.Digest `json:"imageConfig,omitzero"`
	Engine         string        `json:"engine"`        // nerdctl, docker, podman
	EngineVersion  string        `json:"engineVersion"` // of client and, where it tells, of its daemon
	Flags          []string      `json:"flags"`         // as given to the container engine, without the run's own name
	Devices        []string      `json:"devices,omitzero"`

	Isolation []Check `json:"isolation"`
	ProofFrom string  `json:"proofFrom,omitzero"` // "run" when the inside probe ran for this verdict, "cache" when an earlier proof held

	LoadTime         snapshot.Duration `json:"loadTime,omitzero"`         // container start to healthy
	TimeToFirstToken snapshot.Duration `json:"timeToFirstToken,omitzero"` // request to first piece of the answer
	AnswerTime       snapshot.Duration `json:"answerTime,omitzero"`       // request to last byte
	Overhead         snapshot.Duration `json:"overhead,omitzero"`         // the run's time that was neither load nor answer
	Tokens           int64             `json:"tokens,omitzero"`
	TokensPerSecond  float64           `json:"tokensPerSecond,omitzero"`
	PeakMemory       int64             `json:"peakMemory,omitzero"`    // bytes, of the container's cgroup
	PeakGPUMemory    int64             `json:"peakGPUMemory,omitzero"` // bytes, when NVML tells
	ExitCode         *int              `json:"exitCode,omitzero"`      // when the engine ended by itself

	Answer       string        `json:"answer,omitzero"` // sanitised, at most 4 KiB
	AnswerDigest digest.Digest `json:"answerDigest,omitzero"`
	LogTail      string        `json:"logTail,omitzero"` // sanitised, at most 4 KiB
	LogBytes     int64         `json:"logBytes,omitzero"`
}
