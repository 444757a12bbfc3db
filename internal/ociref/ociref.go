// Package ociref is the grammar of references to artifacts: one parser for the
// documents that publishers sign, for the nodes that read them, and for the
// client that fetches what they name.
package ociref

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/terminal"
)

var (
	// ErrTag is a reference that no digest pins.
	ErrTag = errors.New("a tag does not pin content")
	// ErrReference is what is no reference.
	ErrReference = errors.New("not a reference")
	// ErrUnreachable is an [ErrReference] in the form of a reference that no
	// client can follow: a host without a domain, a port or an address that
	// cannot be, a path longer than registries take.
	ErrUnreachable = fmt.Errorf("%w that can be followed", ErrReference)
)

// Reference names one artifact for ever: where it was published and the
// digest of its manifest.
type Reference struct {
	Registry   string // host[:port], as written
	Repository string // path inside the registry
	Digest     digest.Digest
}

// String is registry/repository@sha256:….
func (r Reference) String() string { return r.Name() + "@" + r.Digest.String() }

// Name is registry/repository.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

const (
	// Max is the longest reference in bytes.
	Max = 512
	// maxPath is the longest path that registries take.
	maxPath = 255
	// maxHost is the longest name of a host (RFC 1035, 2.3.4, as text).
	maxHost = 253
)

// Parse reads registry/repository@sha256:<hex>. A reference with a tag, alone
// or beside a digest, is an [ErrTag]; everything else that is not in this form
// is an [ErrReference]. There are no defaults: docker.io must be written out.
// With an [ErrUnreachable] the reference is returned, too.
func Parse(s string) (Reference, error) {
	if len(s) > Max {
		return Reference{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrReference, len(s), Max)
	}
	name, pin, pinned := strings.Cut(s, "@")
	registry, repository, unreachable := SplitName(name)
	if unreachable != nil && !errors.Is(unreachable, ErrUnreachable) {
		return Reference{}, unreachable
	}
	if !pinned {
		return Reference{}, fmt.Errorf("%q: %w: it has no digest; append @sha256:… of the manifest", shown(s), ErrTag)
	}
	d := digest.Digest(pin)
	if err := CheckDigest(d); err != nil {
		return Reference{}, fmt.Errorf("%q: %w", shown(s), err)
	}
	return Reference{Registry: registry, Repository: repository, Digest: d}, unreachable
}

// SplitName checks registry/repository and cuts it in two; see [Parse].
func SplitName(name string) (registry, repository string, err error) {
	if len(name) > Max {
		return "", "", fmt.Errorf("%w: a repository of %d bytes, at most %d are allowed", ErrReference, len(name), Max)
	}
	registry, repository, ok := strings.Cut(name, "/")
	if !ok {
		return "", "", fmt.Errorf("%q: %w: write registry/repository", shown(name), ErrReference)
	}
	if path, tag, tagged := strings.Cut(repository, ":"); tagged {
		return "", "", fmt.Errorf("%q: %w: replace %q by the manifest's digest, %s/%s@sha256:…", shown(name), ErrTag, shown(":"+tag), shown(registry), shown(path))
	}
	for part := range strings.SplitSeq(repository, "/") {
		if !IsComponent(part) {
			return "", "", fmt.Errorf("%q: %w: %q cannot be part of a repository's name", shown(name), ErrReference, shown(part))
		}
	}
	if err := CheckRegistry(registry); err != nil {
		if errors.Is(err, ErrUnreachable) {
			return registry, repository, err
		}
		return "", "", err
	}
	if len(repository) > maxPath {
		return registry, repository, fmt.Errorf("%w: a repository of %d bytes, at most %d are allowed", ErrUnreachable, len(repository), maxPath)
	}
	return registry, repository, nil
}

// CheckRegistry accepts host, host:port, [ipv6] and [ipv6]:port. A single
// label without a port ("library") is an [ErrUnreachable], except localhost:
// it is more likely a forgotten registry.
func CheckRegistry(s string) error {
	name, port, ported := s, "", false
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		name, port, ported = s[:i], s[i+1:], true
	}
	if ported && (len(port) < 1 || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return fmt.Errorf("%q: %w: its port is no number", shown(s), ErrReference)
	}
	if v6, ok := strings.CutPrefix(name, "["); ok {
		v6, closed := strings.CutSuffix(v6, "]")
		if !closed || len(v6) < 2 || strings.Trim(v6, "0123456789abcdefABCDEF:.") != "" {
			return fmt.Errorf("%q: %w: no registry's address", shown(s), ErrReference)
		}
		if a, err := netip.ParseAddr(v6); err != nil || !a.Is6() || a.IsUnspecified() {
			return fmt.Errorf("%q: %w: %q is no IPv6 address of a host", shown(s), ErrUnreachable, shown(v6))
		}
	} else if !isDomain(name) {
		return fmt.Errorf("%q: %w: no registry's address", shown(s), ErrReference)
	} else if len(name) > maxHost {
		return fmt.Errorf("%q: %w: a host of %d bytes, at most %d are allowed", shown(s), ErrUnreachable, len(name), maxHost)
	} else if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Contains(name, ".") && strings.Trim(last, "0123456789") == "" {
		if a, err := netip.ParseAddr(name); err != nil || a.IsUnspecified() {
			return fmt.Errorf("%q: %w: %q is no IPv4 address of a host", shown(s), ErrUnreachable, shown(name))
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); ported && (err != nil || n == 0) {
		return fmt.Errorf("%q: %w: no port %s", shown(s), ErrUnreachable, port)
	}
	if !ported && name != "localhost" && !strings.ContainsAny(name, ".[") {
		return fmt.Errorf("%q: %w: write the registry's full name", shown(s), ErrUnreachable)
	}
	return nil
}

// isDomain accepts labels of letters, digits and inner hyphens.
func isDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

// IsComponent accepts one component of a repository's path (distribution-spec
// 1.1, "Pulling manifests"): runs of [a-z0-9] joined by one of ".", "_", "__"
// or any number of "-".
func IsComponent(s string) bool {
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if alnum(s[i]) {
			i++
			continue
		}
		j := i
		for !alnum(s[j]) {
			j++
		}
		switch sep := s[i:j]; {
		case sep == "." || sep == "_" || sep == "__" || strings.Trim(sep, "-") == "":
		default:
			return false
		}
		i = j
	}
	return true
}

// CheckDigest accepts SHA-256 alone, in its one canonical spelling: a second
// algorithm or spelling would be a second name for the same bytes.
func CheckDigest(d digest.Digest) error {
	hexDigits, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || len(hexDigits) != 64 || strings.Trim(hexDigits, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: %w: it is not sha256: and 64 lower-case hex digits", shown(string(d)), ErrReference)
	}
	return nil
}

// shown keeps hostile text short in messages.
func shown(s string) string { return terminal.Clip(s, 120) }
