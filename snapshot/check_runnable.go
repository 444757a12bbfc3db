package snapshot

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/ociref"
)

// What stands here decides twice: a publisher is not given a signature under
// what every node refuses, and a node refuses that one runtime or that one
// test. It is no part of [Snapshot.Check]: a document that was signed before a
// rule came keeps its other models, and its revocations.

// CheckRunnable finds what [Snapshot.Check] lets pass and no node can use.
func (s *Snapshot) CheckRunnable() error {
	var p problems
	for i, r := range s.Runtimes {
		at := fmt.Sprintf("runtimes[%d]", i)
		p.addErr(at, r.CheckRunnable())
		checkReachable(&p, at, r.Reference, r.Mirrors)
		s.checkAdmissible(&p, at, r.Policy, r.Reference)
	}
	for i, m := range s.Models {
		at := fmt.Sprintf("models[%d]", i)
		rt, _ := s.Runtime(m.Compat.Runtime)
		p.addErr(at+".validation", m.Validation.CheckRunnable(rt.Protocol))
		checkReachable(&p, at, m.Reference, m.Mirrors)
		s.checkAdmissible(&p, at, m.Policy, m.Reference)
		if pol, ok := s.Policy(m.Policy); ok && pol.Content.Limits.TotalBytes > 0 && m.Size > pol.Content.Limits.TotalBytes {
			p.add(at+".size", "is %d bytes, policy %q takes at most %d in all", m.Size, clip(m.Policy), pol.Content.Limits.TotalBytes)
		}
		checkMeetable(&p, at+".compat", m.Compat, rt)
	}
	for i, f := range s.Sources.Fallback {
		rest := strings.TrimPrefix(f, "oci://")
		host, _, _ := strings.Cut(rest, "/")
		p.addErr(fmt.Sprintf("sources.fallback[%d]", i), ociref.CheckRegistry(host))
	}
	for i, pol := range s.Policies {
		for j, g := range pol.Images {
			host, _, _ := strings.Cut(g.Glob, "/")
			p.addErr(fmt.Sprintf("policies[%d].images[%d]", i, j), ociref.CheckRegistry(host))
		}
	}
	return p.err()
}

func (s *Snapshot) checkAdmissible(p *problems, at, policy, reference string) {
	pol, ok := s.Policy(policy)
	repository, _, err := SplitReference(reference)
	if !ok || err != nil {
		return // Check says so
	}
	if err := pol.CheckRepository(repository); err != nil {
		p.add(at+".reference", "%q, policy %q: %v", clip(repository), clip(policy), err)
	}
}

// checkMeetable refuses a model that no node is compatible with.
func checkMeetable(p *problems, at string, c Compat, rt Runtime) {
	if c.RuntimeVersion != "" {
		if ok, why := InRange(c.RuntimeVersion, rt.Version); !ok {
			p.add(at+".runtimeVersion", "needs runtime %s %s, the snapshot has %s%s", clip(rt.Name), clip(c.RuntimeVersion), clip(rt.Version), why)
		}
	}
	for _, r := range []struct{ name, text string }{{"computeCapability", c.ComputeCapability}, {"driver", c.Driver}} {
		if x, err := ParseRange(r.text); r.text != "" && err == nil && x.Empty() {
			p.add(at+"."+r.name, "%q: no version lies in this range", clip(r.text))
		}
	}
}

func checkReachable(p *problems, at, reference string, mirrors []string) {
	_, err := ociref.Parse(reference)
	p.addErr(at+".reference", err)
	for i, m := range mirrors {
		_, _, err := ociref.SplitName(m)
		p.addErr(fmt.Sprintf("%s.mirrors[%d]", at, i), err)
	}
}

// ModelTarget is where the model's tree is mounted inside the sandbox.
const ModelTarget = "/models/model"

const (
	minMemory = 16 << 20
	maxPids   = 1 << 20
	maxArgLen = 8 << 10 // bytes of an argument or a variable, with its template filled in
)

// CheckRunnable refuses a definition that no node can run sealed. It fails
// closed: what it does not understand is refused.
func (r Runtime) CheckRunnable() error {
	if r.Memory != 0 && r.Memory < minMemory || r.Shm < 0 || r.Pids < 0 || r.Pids > maxPids || r.StartTimeout < 0 {
		return fmt.Errorf("memory %d, shm %d, pids %d, startTimeout %s: out of range", r.Memory, r.Shm, r.Pids, r.StartTimeout)
	}
	if math.IsNaN(r.CPUs) || r.CPUs < 0 || r.CPUs > 4096 {
		return fmt.Errorf("cpus %v: out of range", r.CPUs)
	}
	if _, _, err := ParseUser(r.User); err != nil && r.User != "" {
		return err
	}
	if !slices.Contains([]string{"", "none", "optional", "required"}, r.GPU) {
		return fmt.Errorf("gpu %q is not required, optional or none", clip(r.GPU))
	}
	if err := r.checkPort(); err != nil {
		return err
	}
	if err := r.checkScratch(); err != nil {
		return err
	}
	vars := LaunchVars{Model: ModelTarget, ModelDir: ModelTarget, ModelName: "model", Port: r.Port}
	if _, err := r.Command(vars); err != nil {
		return err
	}
	_, err := r.Variables(vars)
	return err
}

func (r Runtime) checkPort() error {
	switch {
	case !slices.Contains(Protocols, r.Protocol):
		return fmt.Errorf("protocol %q is not known", clip(r.Protocol))
	case r.Protocol == "exec" && (r.Port != 0 || r.Health != ""):
		return errors.New("protocol exec takes no port and no health path")
	case r.Protocol == "exec":
		return nil
	case r.Port < 1 || r.Port > 65535:
		return fmt.Errorf("port %d: out of range", r.Port)
	}
	if r.Health != "" {
		if _, err := InsideURL(r.Port, r.Health); err != nil {
			return fmt.Errorf("health %w", err)
		}
	}
	return nil
}

// InsideURL is the address of a path of a runtime, as it is asked inside the
// sandbox.
func InsideURL(port int, path string) (string, error) {
	ref, err := url.Parse(path)
	if err != nil || ref.Host != "" || ref.Scheme != "" || ref.User != nil ||
		!strings.HasPrefix(path, "/") || strings.ContainsAny(path, " #") || len(path) > 256 {
		return "", fmt.Errorf("%q: not a path", clip(path))
	}
	base := &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	return base.ResolveReference(ref).String(), nil
}

var userPattern = regexp.MustCompile(`^([0-9]{1,10})(?::([0-9]{1,10}))?$`)

// ParseUser reads a [Runtime]'s user: uid or uid:gid, neither of them root's.
func ParseUser(s string) (uid, gid int, err error) {
	m := userPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("user %q: write it as uid or uid:gid", clip(s))
	}
	u, err := strconv.ParseInt(m[1], 10, 32)
	if err != nil || u == 0 {
		return 0, 0, fmt.Errorf("user %q: a uid above 0 is needed", clip(s))
	}
	g := u
	if m[2] != "" {
		if g, err = strconv.ParseInt(m[2], 10, 32); err != nil || g == 0 {
			return 0, 0, fmt.Errorf("user %q: a gid above 0 is needed", clip(s))
		}
	}
	return int(u), int(g), nil
}

// reserved are places where no tmpfs may be laid by a runtime or an image.
var reserved = []string{"/", "/proc", "/sys", "/dev", "/tmp", "/etc", ModelTarget}

// CheckScratch refuses a path in the sandbox that no tmpfs may cover.
func CheckScratch(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || len(p) > 255 || strings.ContainsAny(p, ",:\"\n\r\x00 ") {
		return fmt.Errorf("%q is not a clean absolute path", clip(p))
	}
	if slices.Contains(reserved, p) || within(p, "/proc") || within(p, "/sys") || within(p, "/dev") ||
		within(p, ModelTarget) || within(ModelTarget, p) {
		return fmt.Errorf("%q is reserved", clip(p))
	}
	return nil
}

// within says whether p lies below dir.
func within(p, dir string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (r Runtime) checkScratch() error {
	seen := map[string]bool{}
	for _, s := range r.Scratch {
		if s.Path != "/tmp" {
			if err := CheckScratch(s.Path); err != nil {
				return fmt.Errorf("scratch %w", err)
			}
		}
		if s.Size <= 0 {
			return fmt.Errorf("scratch %s has no size", clip(s.Path))
		}
		if seen[s.Path] {
			return fmt.Errorf("scratch %s is named twice", clip(s.Path))
		}
		seen[s.Path] = true
	}
	return nil
}

// Command is the entrypoint and the arguments, with their templates filled in.
func (r Runtime) Command(vars LaunchVars) ([]string, error) {
	words := slices.Concat(r.Entrypoint, r.Args)
	if len(words) > maxArgs {
		return nil, fmt.Errorf("more than %d arguments", maxArgs)
	}
	for i, w := range words {
		s, err := render(w, vars)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", clip(w), err)
		}
		if err := CheckArgument(s); err != nil {
			return nil, fmt.Errorf("argument %d %w", i+1, err)
		}
		words[i] = s
	}
	if len(r.Entrypoint) > 0 && words[0] == "" {
		return nil, errors.New("the entrypoint is empty")
	}
	return words, nil
}

// CheckArgument refuses what cannot be an argument of a program.
func CheckArgument(s string) error {
	if len(s) > maxArgLen || strings.ContainsRune(s, 0) {
		return errors.New("is too long or holds a NUL")
	}
	return nil
}

// Preloaded names variables that make a loader run code of the image inside
// whatever touches the container from outside (CVE-2025-23266).
var Preloaded = []string{"LD_PRELOAD", "LD_AUDIT"}

// Variables are the environment, with its templates filled in.
func (r Runtime) Variables(vars LaunchVars) (map[string]string, error) {
	env := map[string]string{}
	if r.Home != "" {
		if !path.IsAbs(r.Home) || path.Clean(r.Home) != r.Home || strings.ContainsAny(r.Home, "\x00\n\r") {
			return nil, fmt.Errorf("home %q is not a clean absolute path", clip(r.Home))
		}
		env["HOME"] = r.Home
	}
	for name, text := range r.Env {
		if !isEnvName(name) || slices.Contains(Preloaded, name) || strings.HasPrefix(name, "NVIDIA_") {
			return nil, fmt.Errorf("the variable %q may not be set", clip(name))
		}
		v, err := render(text, vars)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", name, err)
		}
		if len(v) > maxArgLen || strings.ContainsAny(v, "\x00\n\r") {
			return nil, fmt.Errorf("variable %s is too long or holds a line break", name)
		}
		env[name] = v
	}
	return env, nil
}

func render(text string, vars LaunchVars) (string, error) {
	return fill(text, func(action string) (string, bool) {
		s, ok := vars.fields()[strings.Trim(action, " \t\r\n")]
		return s, ok
	})
}

func (v LaunchVars) fields() map[string]string {
	return map[string]string{".Model": v.Model, ".ModelDir": v.ModelDir, ".ModelName": v.ModelName, ".Port": strconv.Itoa(v.Port)}
}

// fill puts values in the place of {{.Field}} of [LaunchVars]. Nothing else of
// Go's template language is taken: a range over a large number would never end
// on a publisher's machine or on a node.
func fill(text string, value func(action string) (string, bool)) (string, error) {
	if len(text) > maxText || strings.ContainsRune(text, 0) {
		return "", fmt.Errorf("is longer than %d bytes or holds a NUL byte", maxText)
	}
	var b strings.Builder
	for rest := text; ; {
		before, after, ok := strings.Cut(rest, "{{")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		action, tail, ok := strings.Cut(after, "}}")
		if !ok {
			return "", fmt.Errorf("template %q: {{ without }}", clip(text))
		}
		s, ok := value(action)
		if !ok {
			return "", fmt.Errorf("template %q: {{%s}} is not one of {{.Model}}, {{.ModelDir}}, {{.ModelName}}, {{.Port}}", clip(text), clip(action))
		}
		b.WriteString(s)
		rest = tail
	}
}

// CheckRunnable refuses a test that any answer would pass, and one that cannot
// be put to a runtime of this protocol.
func (v Validation) CheckRunnable(protocol string) error {
	embeds := protocol == "openai-embeddings"
	e := v.Expect
	textual := e.Exact != "" || e.Contains != "" || e.Regexp != "" || e.Digest != "" || len(e.Schema) > 0
	switch {
	case !textual && e.Cosine == nil:
		return errors.New("it expects nothing, so any answer would pass")
	case embeds != (e.Cosine != nil):
		return errors.New("cosine belongs to openai-embeddings, and nothing else does")
	case embeds && textual:
		return errors.New("an embedding has no text to compare")
	case e.Digest != "" && !v.Deterministic:
		return errors.New("an answer's digest is expected, yet the model is not called deterministic")
	case math.IsNaN(v.MinTokensPerSecond) || v.MinTokensPerSecond < 0:
		return fmt.Errorf("minTokensPerSecond %v: out of range", v.MinTokensPerSecond)
	}
	if e.Regexp != "" {
		if err := checkRegexp(e.Regexp); err != nil {
			return fmt.Errorf("regexp: %w", err)
		}
	}
	if e.Digest != "" {
		if err := ociref.CheckDigest(e.Digest); err != nil {
			return err
		}
	}
	if len(e.Schema) > 0 {
		if _, err := CompileSchema(e.Schema); err != nil {
			return fmt.Errorf("schema: %w", err)
		}
	}
	if e.Exact != "" {
		if why := e.refuses(e.Exact); why != "" {
			return fmt.Errorf("exact contradicts the rest: %s", why)
		}
	}
	if c := e.Cosine; c != nil {
		norm := 0.0
		for _, x := range c.Reference {
			norm += x * x
		}
		if len(c.Reference) == 0 || norm == 0 || math.IsInf(norm, 0) {
			return errors.New("cosine: the reference has no direction")
		}
		if !(c.Min > -1 && c.Min <= 1) {
			return fmt.Errorf("cosine: min %v is not above -1 and at most 1", c.Min)
		}
	}
	if protocol == "exec" && len(v.Request) > 0 {
		_, err := v.ExecArgs()
		return err
	}
	return nil
}

// refuses says what a text lacks besides being another one.
func (e Expect) refuses(text string) string {
	if e.Contains != "" && !strings.Contains(text, e.Contains) {
		return "it does not contain what contains asks for"
	}
	if e.Regexp != "" && !regexp.MustCompile(e.Regexp).MatchString(text) {
		return "it does not match regexp"
	}
	if e.Digest != "" && digest.FromString(text) != e.Digest {
		return "it has another digest"
	}
	if len(e.Schema) > 0 {
		var v any
		schema, err := CompileSchema(e.Schema)
		if err == nil {
			err = json.Unmarshal([]byte(text), &v)
		}
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			return "it does not fit schema: " + clip(err.Error())
		}
	}
	return ""
}

// ExecArgs are the arguments that a test of the protocol exec adds to the
// runtime's: its request is {"args": ["…"]}.
func (v Validation) ExecArgs() ([]string, error) {
	var request struct {
		Args []string `json:"args"`
	}
	if err := json.Unmarshal(v.Request, &request, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("an exec request is {\"args\": [\"…\"]}: %w", err)
	}
	if len(request.Args) > maxArgs {
		return nil, fmt.Errorf("more than %d arguments", maxArgs)
	}
	for i, a := range request.Args {
		if err := CheckArgument(a); err != nil {
			return nil, fmt.Errorf("argument %d %w", i+1, err)
		}
	}
	return request.Args, nil
}
