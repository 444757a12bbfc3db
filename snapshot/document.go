package snapshot

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
)

// APIVersion and Kind are the only values that a document of this major
// version may carry; a node that meets another refuses the document.
const (
	APIVersion = "rmodels/v1"
	Kind       = "Snapshot"
)

// Snapshot is the network's signed statement of what a node may run. It is
// decoded by [Parse] alone: unknown, duplicate or trailing data is an error.
type Snapshot struct {
	APIVersion   string                    `json:"apiVersion"`
	Kind         string                    `json:"kind"`
	Network      string                    `json:"network"`
	Sequence     int64                     `json:"sequence"`
	Created      time.Time                 `json:"created"`
	Expires      time.Time                 `json:"expires"`
	OfflineGrace Duration                  `json:"offlineGrace"`
	Default      string                    `json:"default"` // always "reject"
	Settings     Settings                  `json:"settings"`
	Sources      Sources                   `json:"sources"`
	TrustRoots   map[string]TrustRoot      `json:"trustRoots,omitzero"`
	Policies     []Policy                  `json:"policies"`
	Runtimes     []Runtime                 `json:"runtimes"`
	Models       []Model                   `json:"models"`
	Revocations  []Revocation              `json:"revocations,omitzero"`
	Extensions   map[string]jsontext.Value `json:"extensions,omitzero"` // ignored by this version
}

// Settings are the network's knobs for the life cycle of models on a node.
type Settings struct {
	RetestInterval      Duration  `json:"retestInterval,omitzero"`
	Retry               Retry     `json:"retry,omitzero"`
	RemoveUnlistedAfter Duration  `json:"removeUnlistedAfter,omitzero"` // zero: at once
	Retention           Retention `json:"retention,omitzero"`
	Expired             string    `json:"expired,omitzero"` // "hold" (default): nothing new is activated; "stop": Active models become Inactive
}

// Retry bounds the exponential backoff of a Failed model.
type Retry struct {
	Initial Duration `json:"initial,omitzero"` // default 1m
	Max     Duration `json:"max,omitzero"`     // default 6h
}

// Retention says what becomes of a version that the snapshot replaced.
type Retention struct {
	Outdated string   `json:"outdated,omitzero"` // "remove" (default) or "archive"
	Keep     Duration `json:"keep,omitzero"`     // how long an archived version is kept; zero: for ever
}

// Sources says where artifacts may be fetched from besides the reference.
type Sources struct {
	Fallback  []string `json:"fallback,omitzero"` // oci://host[/prefix], tried after a model's own mirrors
	AllowNode bool     `json:"allowNode"`         // whether a node's own mirrors count
}

// TrustRoot names a Sigstore trusted_root.json that the TUF repository
// carries as a target, pinned by digest.
type TrustRoot struct {
	Target string        `json:"target"`
	Digest digest.Digest `json:"digest"`
}

// Policy says who must have signed an artifact and what it may contain. Its
// zero value admits nothing.
type Policy struct {
	Name         string        `json:"name"`
	Images       []ImageGlob   `json:"images"`    // references outside every glob are refused
	Threshold    int           `json:"threshold"` // distinct authorities with distinct keys or identities that must have signed; at least 1
	Authorities  []Authority   `json:"authorities"`
	Attestations []Attestation `json:"attestations,omitzero"`
	Content      Content       `json:"content,omitzero"`
}

// ImageGlob matches registry/repository; "*" is one path segment, "**" any
// number of them.
type ImageGlob struct {
	Glob string `json:"glob"`
}

// Authority is one signer that a policy names. Exactly one of Key and
// Keyless is set. SignatureFormat is "bundle" or "legacy"; legacy is allowed
// with Key alone (CVE-2026-24122 has no fix in the legacy keyless path).
type Authority struct {
	Name            string   `json:"name"`
	SignatureFormat string   `json:"signatureFormat"`
	AttestsOnly     bool     `json:"attestsOnly,omitzero"` // its signatures do not count towards the threshold, only its attestations
	Key             *Key     `json:"key,omitzero"`
	Keyless         *Keyless `json:"keyless,omitzero"`
	CTLog           *LogRef  `json:"ctlog,omitzero"`            // require an SCT from this trust root's CT logs
	TLog            *LogRef  `json:"tlog,omitzero"`             // require a transparency log entry (always required for keyless)
	Timestamp       *LogRef  `json:"rfc3161timestamp,omitzero"` // require a signed timestamp from this trust root's authorities
}

// Key is a public key in PEM (SubjectPublicKeyInfo).
type Key struct {
	Data string `json:"data"`
}

// Keyless is a certificate identity issued under a private trust root.
type Keyless struct {
	TrustRootRef string     `json:"trustRootRef"`
	Identities   []Identity `json:"identities"`
}

// Identity is matched exactly, and by the type of the certificate's name (URI,
// e-mail address, user name) that Subject is spelled as; there are no patterns,
// because an unanchored one accepts look-alike names.
type Identity struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// LogRef names an entry of [Snapshot.TrustRoots].
type LogRef struct {
	TrustRootRef string `json:"trustRootRef"`
}

// Attestation requires a signed in-toto statement of one predicate type.
type Attestation struct {
	PredicateType string   `json:"predicateType"`
	Authorities   []string `json:"authorities"` // any one of them, by name
}

// Content is the allow-list for an artifact's files. Empty lists mean the
// defaults of package policy; a listed value replaces the default.
type Content struct {
	MediaTypes    []string `json:"mediaTypes,omitzero"`    // layer media types; empty: every type of a known artifact format
	Formats       []string `json:"formats,omitzero"`       // safetensors, gguf, json, text, onnx, sentencepiece, jinja
	ChatTemplates string   `json:"chatTemplates,omitzero"` // "pinned" (default) or "any"
	RemoteCode    string   `json:"remoteCode,omitzero"`    // "refuse" (default) or "ignore": whether auto_map may stand in JSON
	Limits        Limits   `json:"limits,omitzero"`
}

// Limits bound an artifact before a byte is allocated for it; zero means the
// default of package policy.
type Limits struct {
	Files       int   `json:"files,omitzero"`
	FileBytes   int64 `json:"fileBytes,omitzero"`
	TotalBytes  int64 `json:"totalBytes,omitzero"`
	ExpandRatio int   `json:"expandRatio,omitzero"`
}

// Runtime is an inference engine as a container image, pinned by digest.
// Args, Env values and Test paths are Go templates over [LaunchVars].
type Runtime struct {
	Name         string            `json:"name"`
	Version      string            `json:"version"` // semver
	Policy       string            `json:"policy"`
	Reference    string            `json:"reference"` // registry/repository@sha256:…
	Mirrors      []string          `json:"mirrors,omitzero"`
	Protocol     string            `json:"protocol"` // openai-chat, openai-completions, openai-embeddings, ollama, exec
	Port         int               `json:"port,omitzero"`
	Health       string            `json:"health,omitzero"` // path that answers 200 once the engine is ready; default per protocol
	Entrypoint   []string          `json:"entrypoint,omitzero"`
	Args         []string          `json:"args"`
	Env          map[string]string `json:"env,omitzero"`
	GPU          string            `json:"gpu"`                   // required, optional, none
	Memory       Bytes             `json:"memory,omitzero"`       // limit of the container; default 4GiB
	CPUs         float64           `json:"cpus,omitzero"`         // limit of the container; default: all but none
	User         string            `json:"user,omitzero"`         // uid[:gid], never 0; default 65532:65532
	Home         string            `json:"home,omitzero"`         // absolute; a tmpfs is mounted there when it names one of Scratch
	Scratch      []Scratch         `json:"scratch,omitzero"`      // writable tmpfs mounts besides /tmp
	Shm          Bytes             `json:"shm,omitzero"`          // size of /dev/shm; default 64MiB
	Pids         int64             `json:"pids,omitzero"`         // default 512
	StartTimeout Duration          `json:"startTimeout,omitzero"` // until healthy; default 2m
}

// Scratch is a sized tmpfs, nosuid and nodev, noexec unless Exec.
type Scratch struct {
	Path string `json:"path"`
	Size Bytes  `json:"size"`
	Exec bool   `json:"exec,omitzero"`
}

// LaunchVars are the values that templates of a [Runtime] may use.
type LaunchVars struct {
	Model     string // path inside the container: the single weight file if there is exactly one GGUF, else the model's directory
	ModelDir  string // path of the model's directory inside the container
	ModelName string
	Port      int
}

// Model is one entry of the allow-list. Name and Version together are its
// identity on a node; the digest in Reference is its content.
type Model struct {
	Name                string          `json:"name"`
	Version             string          `json:"version"`
	Enabled             bool            `json:"enabled"`
	Policy              string          `json:"policy"`
	Reference           string          `json:"reference"`        // registry/repository@sha256:…
	Mirrors             []string        `json:"mirrors,omitzero"` // registry/repository, tried after Reference in order
	Size                int64           `json:"size"`             // bytes of all layers; a larger artifact is refused
	ChatTemplateDigests []digest.Digest `json:"chatTemplateDigests,omitzero"`
	Compat              Compat          `json:"compat"`
	Validation          Validation      `json:"validation"`
}

// Compat is what a model needs of a node.
type Compat struct {
	Runtime           string   `json:"runtime"`                    // name of a Runtime
	RuntimeVersion    string   `json:"runtimeVersion,omitzero"`    // semver range
	GPUMemory         Bytes    `json:"gpuMemory,omitzero"`         // of the largest GPU
	ComputeCapability string   `json:"computeCapability,omitzero"` // version range, ">=8.0"
	Driver            string   `json:"driver,omitzero"`            // version range
	Memory            Bytes    `json:"memory,omitzero"`            // host memory
	Tasks             []string `json:"tasks,omitzero"`             // chat, completion, embedding, …
}

// Validation is the test inference that a model must pass to become Active.
type Validation struct {
	Request            jsontext.Value `json:"request"`
	Expect             Expect         `json:"expect"`
	Deterministic      bool           `json:"deterministic,omitzero"` // the answer digest must not change between runs
	MinTokensPerSecond float64        `json:"minTokensPerSecond,omitzero"`
	MaxLoadTime        Duration       `json:"maxLoadTime,omitzero"`
	MaxMemory          Bytes          `json:"maxMemory,omitzero"`
	Timeout            Duration       `json:"timeout,omitzero"` // of the request; default 2m
}

// Expect says what a right answer is; every field that is set must hold, and
// at least one must be set.
type Expect struct {
	Exact    string         `json:"exact,omitzero"`
	Contains string         `json:"contains,omitzero"`
	Regexp   string         `json:"regexp,omitzero"` // one that matches the empty string is refused
	Digest   digest.Digest  `json:"digest,omitzero"` // of the answer text; only with Deterministic
	Schema   jsontext.Value `json:"schema,omitzero"` // JSON Schema of the answer
	Cosine   *Cosine        `json:"cosine,omitzero"` // embeddings only
}

// Cosine compares an embedding with a reference vector.
type Cosine struct {
	Reference []float64 `json:"reference"`
	Min       float64   `json:"min"`
}

// Revocation withdraws every artifact that is a digest or holds it (manifest,
// config, layer or file), or a signer by its key (sha256 of the
// SubjectPublicKeyInfo in DER) or identity. Exactly one of Digest, Key and
// Identity is set.
type Revocation struct {
	Digest   digest.Digest `json:"digest,omitzero"`
	Key      digest.Digest `json:"key,omitzero"`
	Identity *Identity     `json:"identity,omitzero"`
	Action   string        `json:"action,omitzero"` // "stop" (default for digests): running uses are ended too
	Reason   string        `json:"reason,omitzero"`
}
