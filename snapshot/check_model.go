package snapshot

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/internal/ociref"
)

// Protocols are the ways in which a runtime can be asked.
var Protocols = []string{"openai-chat", "openai-completions", "openai-embeddings", "ollama", "exec"}

func (s *Snapshot) checkRuntimes(p *problems, policies map[string]bool) map[string]bool {
	names := map[string]bool{}
	if !p.count("runtimes", len(s.Runtimes), maxRuntimes) {
		return names
	}
	for i, r := range s.Runtimes {
		at := fmt.Sprintf("runtimes[%d]", i)
		p.addErr(at+".name", CheckName(r.Name))
		if names[r.Name] {
			p.add(at+".name", "%q stands twice", clip(r.Name))
		}
		names[r.Name] = true
		checkRuntime(p, at, r)
		if !policies[r.Policy] {
			p.add(at+".policy", "%q is not one of policies", clip(r.Policy))
		}
	}
	return names
}

func checkRuntime(p *problems, at string, r Runtime) {
	_, err := ParseVersion(r.Version)
	p.addErr(at+".version", err)
	checkSources(p, at, r.Reference, r.Mirrors)
	p.oneOf(at+".protocol", r.Protocol, Protocols...)
	if r.Port < 0 || r.Port > 65535 || r.Port == 0 && r.Protocol != "exec" {
		p.add(at+".port", "is %d, must be 1 to 65535", r.Port)
	}
	p.text(at+".health", r.Health, maxText)
	if r.Health != "" && !strings.HasPrefix(r.Health, "/") {
		p.add(at+".health", "%q must begin with /", clip(r.Health))
	}
	if p.count(at+".entrypoint", len(r.Entrypoint), maxArgs) {
		for i, a := range r.Entrypoint {
			p.text(fmt.Sprintf("%s.entrypoint[%d]", at, i), a, maxText)
		}
	}
	if p.count(at+".args", len(r.Args), maxArgs) {
		for i, a := range r.Args {
			p.addErr(fmt.Sprintf("%s.args[%d]", at, i), checkTemplate(a))
		}
	}
	if p.count(at+".env", len(r.Env), maxEnv) {
		for k, v := range r.Env {
			if !isEnvName(k) {
				p.add(at+".env", "%q is not the name of a variable", clip(k))
			}
			p.addErr(at+".env["+clip(k)+"]", checkTemplate(v))
		}
	}
	p.oneOf(at+".gpu", r.GPU, "required", "optional", "none")
	p.size(at+".memory", r.Memory)
	p.size(at+".shm", r.Shm)
	if r.CPUs < 0 || r.CPUs > 4096 || math.IsNaN(r.CPUs) {
		p.add(at+".cpus", "%g is outside 0 to 4096", r.CPUs)
	}
	if r.Pids < 0 || r.Pids > 1<<22 {
		p.add(at+".pids", "%d is outside 0 to %d", r.Pids, 1<<22)
	}
	p.addErr(at+".user", checkUser(r.User))
	if r.Home != "" {
		p.addErr(at+".home", checkMount(r.Home))
	}
	if p.count(at+".scratch", len(r.Scratch), maxScratch) {
		for i, m := range r.Scratch {
			p.addErr(fmt.Sprintf("%s.scratch[%d].path", at, i), checkMount(m.Path))
			p.size(fmt.Sprintf("%s.scratch[%d].size", at, i), m.Size)
			if m.Size == 0 {
				p.add(fmt.Sprintf("%s.scratch[%d].size", at, i), "is missing: a tmpfs without a size takes half of the memory")
			}
		}
	}
	p.within(at+".startTimeout", r.StartTimeout, 24*time.Hour)
}

func checkSources(p *problems, at, reference string, mirrors []string) {
	_, _, err := SplitReference(reference)
	p.addErr(at+".reference", err)
	if p.count(at+".mirrors", len(mirrors), maxMirrors) {
		for i, m := range mirrors {
			p.addErr(fmt.Sprintf("%s.mirrors[%d]", at, i), checkRepository(m))
		}
	}
}

// checkTemplate is what a node takes; [Runtime.CheckRunnable] also refuses
// blanks that are not ASCII.
func checkTemplate(s string) error {
	_, err := fill(s, func(action string) (string, bool) {
		_, ok := LaunchVars{}.fields()[strings.TrimSpace(action)]
		return "", ok
	})
	return err
}

func isEnvName(s string) bool {
	if s == "" || len(s) > maxName || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// checkUser wants numbers: a name is looked up in the image's passwd, which
// the image's author writes.
func checkUser(s string) error {
	if s == "" {
		return nil
	}
	uid, gid, both := strings.Cut(s, ":")
	ids := []string{uid}
	if both {
		ids = append(ids, gid)
	}
	for i, id := range ids {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != id {
			return fmt.Errorf("%q: write uid or uid:gid as numbers", clip(s))
		}
		if n == 0 {
			return fmt.Errorf("%q: %s 0 is root", clip(s), []string{"uid", "gid"}[i])
		}
	}
	return nil
}

func checkMount(s string) error {
	if !path.IsAbs(s) || path.Clean(s) != s || s == "/" || len(s) > maxText || strings.ContainsAny(s, "\x00,:\\\n") {
		return fmt.Errorf("%q is not a clean absolute path inside the container", clip(s))
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if s == kernel || strings.HasPrefix(s, kernel+"/") {
			return fmt.Errorf("%q lies in %s", clip(s), kernel)
		}
	}
	return nil
}

func (s *Snapshot) checkModels(p *problems, policies, runtimes map[string]bool) {
	if !p.count("models", len(s.Models), maxModels) {
		return
	}
	ids := map[string]bool{}
	for i, m := range s.Models {
		at := fmt.Sprintf("models[%d]", i)
		p.addErr(at+".name", CheckName(m.Name))
		p.addErr(at+".version", checkWord(m.Version, maxVersion))
		if ids[m.ID()] {
			p.add(at, "%q stands twice", clip(m.ID()))
		}
		ids[m.ID()] = true
		if !policies[m.Policy] {
			p.add(at+".policy", "%q is not one of policies", clip(m.Policy))
		}
		checkSources(p, at, m.Reference, m.Mirrors)
		if m.Size < 1 || Bytes(m.Size) > maxMemory {
			p.add(at+".size", "is %d, must be the bytes of all layers, 1 to %d", m.Size, int64(maxMemory))
		}
		if p.count(at+".chatTemplateDigests", len(m.ChatTemplateDigests), maxTemplates) {
			for j, d := range m.ChatTemplateDigests {
				p.addErr(fmt.Sprintf("%s.chatTemplateDigests[%d]", at, j), ociref.CheckDigest(d))
			}
		}
		checkCompat(p, at+".compat", m.Compat, runtimes)
		checkValidation(p, at+".validation", m.Validation)
	}
}

func checkCompat(p *problems, at string, c Compat, runtimes map[string]bool) {
	if !runtimes[c.Runtime] {
		p.add(at+".runtime", "%q is not one of runtimes", clip(c.Runtime))
	}
	for _, r := range []struct{ name, text string }{
		{"runtimeVersion", c.RuntimeVersion}, {"computeCapability", c.ComputeCapability}, {"driver", c.Driver},
	} {
		if r.text == "" {
			continue
		}
		_, err := ParseRange(r.text)
		p.addErr(at+"."+r.name, err)
	}
	p.size(at+".gpuMemory", c.GPUMemory)
	p.size(at+".memory", c.Memory)
	if p.count(at+".tasks", len(c.Tasks), maxTasks) {
		for i, t := range c.Tasks {
			p.addErr(fmt.Sprintf("%s.tasks[%d]", at, i), CheckName(t))
		}
	}
}

func checkValidation(p *problems, at string, v Validation) {
	if len(v.Request) > maxRequest {
		p.add(at+".request", "%d bytes, at most %d", len(v.Request), maxRequest)
	} else if !isObject(v.Request) {
		p.add(at+".request", "is not a JSON object")
	}
	e := v.Expect
	if e.Exact == "" && e.Contains == "" && e.Regexp == "" && e.Digest == "" && len(e.Schema) == 0 && e.Cosine == nil {
		p.add(at+".expect", "is empty: a test inference that expects nothing proves nothing")
	}
	p.text(at+".expect.exact", e.Exact, maxRequest)
	p.text(at+".expect.contains", e.Contains, maxRequest)
	if e.Regexp != "" {
		p.addErr(at+".expect.regexp", checkRegexp(e.Regexp))
	}
	if e.Digest != "" {
		p.addErr(at+".expect.digest", ociref.CheckDigest(e.Digest))
		if !v.Deterministic {
			p.add(at+".expect.digest", "needs deterministic: true")
		}
	}
	if len(e.Schema) > maxSchema || len(e.Schema) > 0 && !isObject(e.Schema) {
		p.add(at+".expect.schema", "is not a JSON object of at most %d bytes", maxSchema)
	}
	if e.Cosine != nil {
		checkCosine(p, at+".expect.cosine", *e.Cosine)
	}
	if v.MinTokensPerSecond < 0 || math.IsNaN(v.MinTokensPerSecond) || math.IsInf(v.MinTokensPerSecond, 0) {
		p.add(at+".minTokensPerSecond", "%g must not be negative", v.MinTokensPerSecond)
	}
	p.within(at+".maxLoadTime", v.MaxLoadTime, 24*time.Hour)
	p.within(at+".timeout", v.Timeout, 24*time.Hour)
	p.size(at+".maxMemory", v.MaxMemory)
}

func checkRegexp(s string) error {
	if len(s) > 1024 {
		return fmt.Errorf("%d bytes, at most 1024", len(s))
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return err
	}
	if re.MatchString("") {
		return fmt.Errorf("%q matches the empty answer", clip(s))
	}
	return nil
}

func checkCosine(p *problems, at string, c Cosine) {
	if n := len(c.Reference); n < 1 || n > maxCosine {
		p.add(at+".reference", "%d numbers, must be 1 to %d", n, maxCosine)
		return
	}
	norm := 0.0
	for _, x := range c.Reference {
		norm += x * x
	}
	if norm == 0 || math.IsInf(norm, 0) || math.IsNaN(norm) {
		p.add(at+".reference", "has no direction")
	}
	if !(c.Min > 0 && c.Min <= 1) {
		p.add(at+".min", "%g is outside 0 to 1", c.Min)
	}
}

func isObject(v jsontext.Value) bool { return v.Kind() == '{' }
