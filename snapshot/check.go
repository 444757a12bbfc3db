package snapshot

import (
	"fmt"
	"strings"
	"time"

	"github.com/resultity/rmodels/internal/ociref"
	"github.com/resultity/rmodels/internal/terminal"
)

// Bounds of a document. They are far above real use and far below what hurts
// a node that reads a hostile one.
const (
	maxProblems    = 16
	maxName        = 128 // bytes; with a version still below NAME_MAX
	maxVersion     = 64
	maxText        = 4096
	maxPolicies    = 256
	maxAuthorities = 64
	maxIdentities  = 64
	maxGlobs       = 256
	maxRuntimes    = 256
	maxModels      = 10000
	maxMirrors     = 32
	maxRevocations = 10000
	maxTrustRoots  = 16
	maxArgs        = 256
	maxEnv         = 256
	maxScratch     = 16
	maxTemplates   = 64
	maxTasks       = 32
	maxRequest     = 64 << 10
	maxSchema      = 64 << 10
	maxCosine      = 16384 // dimensions; the largest public embedding models have 8192
	maxTerm        = 5 * 366 * 24 * time.Hour
	maxMemory      = Bytes(1) << 50
)

// problems collects what is wrong with a document, so that a publisher sees
// all of it at once.
type problems struct {
	list    []string
	dropped int
}

func (p *problems) add(path, format string, args ...any) {
	if len(p.list) == maxProblems {
		p.dropped++
		return
	}
	p.list = append(p.list, path+": "+fmt.Sprintf(format, args...))
}

func (p *problems) addErr(path string, err error) {
	if err != nil {
		p.add(path, "%s", err)
	}
}

func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	more := ""
	if p.dropped > 0 {
		more = fmt.Sprintf("; and %d more", p.dropped)
	}
	return fmt.Errorf("%w: %s%s", ErrInvalid, strings.Join(p.list, "; "), more)
}

func (p *problems) count(path string, n, limit int) bool {
	if n > limit {
		p.add(path, "%d entries, at most %d", n, limit)
		return false
	}
	return true
}

func (p *problems) oneOf(path, got string, allowed ...string) {
	for _, a := range allowed {
		if got == a {
			return
		}
	}
	p.add(path, "is %q, must be one of %q", clip(got), allowed)
}

func (p *problems) text(path, s string, limit int) {
	if len(s) > limit {
		p.add(path, "%d bytes, at most %d", len(s), limit)
	}
	if strings.ContainsRune(s, 0) {
		p.add(path, "holds a NUL byte")
	}
}

func (p *problems) within(path string, d Duration, limit time.Duration) {
	if d.Std() < 0 || d.Std() > limit {
		p.add(path, "%s is outside 0 to %s", d, limit)
	}
}

func (p *problems) size(path string, b Bytes) {
	if b < 0 || b > maxMemory {
		p.add(path, "%s is outside 0 to %s", b, maxMemory)
	}
}

// clip keeps hostile text short in messages.
func clip(s string) string {
	return terminal.Clip(s, 80)
}

// CheckName accepts what is safe as a file name, a metric label and a word on
// a command line: lower-case letters, digits, '.', '_' and '-', beginning with
// a letter or digit.
func CheckName(s string) error { return checkWord(s, maxName) }

func checkWord(s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("is empty")
	case len(s) > limit:
		return fmt.Errorf("%q is %d bytes, at most %d", clip(s), len(s), limit)
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if alnum || i > 0 && (c == '.' || c == '_' || c == '-') {
			continue
		}
		return fmt.Errorf("%q: byte %d is not in [a-z0-9], or [._-] after the first", clip(s), i)
	}
	return nil
}

// Check is [Parse] without the decoding, for documents that a publisher
// builds in memory.
func (s *Snapshot) Check() error {
	var p problems
	s.checkHeader(&p)
	s.checkTrustRoots(&p)
	policies := s.checkPolicies(&p)
	runtimes := s.checkRuntimes(&p, policies)
	s.checkModels(&p, policies, runtimes)
	s.checkRevocations(&p)
	return p.err()
}

func (s *Snapshot) checkHeader(p *problems) {
	if s.APIVersion != APIVersion {
		p.add("apiVersion", "is %q, this program reads %q", clip(s.APIVersion), APIVersion)
	}
	if s.Kind != Kind {
		p.add("kind", "is %q, must be %q", clip(s.Kind), Kind)
	}
	p.addErr("network", CheckName(s.Network))
	if s.Sequence < 1 {
		p.add("sequence", "is %d, must be at least 1", s.Sequence)
	}
	switch {
	case s.Created.IsZero():
		p.add("created", "is missing")
	case s.Expires.IsZero():
		p.add("expires", "is missing")
	case !s.Expires.After(s.Created):
		p.add("expires", "%s is not after created %s", s.Expires.Format(time.RFC3339), s.Created.Format(time.RFC3339))
	case s.Expires.Sub(s.Created) > maxTerm:
		p.add("expires", "is more than %s after created", maxTerm)
	}
	p.within("offlineGrace", s.OfflineGrace, 366*24*time.Hour)
	if s.Default != "reject" {
		p.add("default", "is %q, must be \"reject\": what no policy admits is refused", clip(s.Default))
	}
	t := s.Settings
	p.within("settings.retestInterval", t.RetestInterval, maxTerm)
	p.within("settings.retry.initial", t.Retry.Initial, maxTerm)
	p.within("settings.retry.max", t.Retry.Max, maxTerm)
	if t.Retry.Max != 0 && t.Retry.Initial > t.Retry.Max {
		p.add("settings.retry.initial", "%s is above max %s", t.Retry.Initial, t.Retry.Max)
	}
	p.within("settings.removeUnlistedAfter", t.RemoveUnlistedAfter, maxTerm)
	p.oneOf("settings.retention.outdated", t.Retention.Outdated, "", "remove", "archive")
	p.within("settings.retention.keep", t.Retention.Keep, maxTerm)
	p.oneOf("settings.expired", t.Expired, "", "hold", "stop")
	if p.count("sources.fallback", len(s.Sources.Fallback), maxMirrors) {
		for i, f := range s.Sources.Fallback {
			path := fmt.Sprintf("sources.fallback[%d]", i)
			rest, ok := strings.CutPrefix(f, "oci://")
			if !ok {
				p.add(path, "is %q, must be oci://host[/prefix]", clip(f))
				continue
			}
			p.addErr(path, checkFallback(rest))
		}
	}
	for name := range s.Extensions {
		p.text("extensions", name, maxName)
	}
}

func checkFallback(s string) error {
	if !strings.Contains(s, "/") {
		return checkRegistry(s)
	}
	return checkRepository(s)
}

func (s *Snapshot) checkTrustRoots(p *problems) {
	if !p.count("trustRoots", len(s.TrustRoots), maxTrustRoots) {
		return
	}
	for name, r := range s.TrustRoots {
		path := "trustRoots[" + clip(name) + "]"
		p.addErr(path, CheckName(name))
		p.addErr(path+".target", CheckName(r.Target))
		if r.Target == TargetName {
			p.add(path+".target", "is the document itself")
		}
		p.addErr(path+".digest", ociref.CheckDigest(r.Digest))
	}
}

func (s *Snapshot) checkRevocations(p *problems) {
	if !p.count("revocations", len(s.Revocations), maxRevocations) {
		return
	}
	for i, r := range s.Revocations {
		path := fmt.Sprintf("revocations[%d]", i)
		set := 0
		if r.Digest != "" {
			set++
			p.addErr(path+".digest", ociref.CheckDigest(r.Digest))
		}
		if r.Key != "" {
			set++
			p.addErr(path+".key", ociref.CheckDigest(r.Key))
		}
		if r.Identity != nil {
			set++
			checkIdentity(p, path+".identity", *r.Identity)
		}
		if set != 1 {
			p.add(path, "has %d of digest, key and identity, must have exactly one", set)
		}
		p.oneOf(path+".action", r.Action, "", "stop")
		p.text(path+".reason", r.Reason, maxText)
	}
}
