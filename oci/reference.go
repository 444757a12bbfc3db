package oci

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
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

// maxReference is the longest reference that is parsed; docker limits the
// name alone to 255 bytes.
const maxReference = 512

// component is a path component of a repository name (distribution-spec 1.1,
// "Pulling manifests").
var component = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

// ParseReference reads registry/repository@sha256:<hex>. A reference with a
// tag, alone or beside a digest, is an [ErrTag]; everything else that is not
// in this form is an [ErrReference]. There are no defaults: docker.io must be
// written out.
func ParseReference(s string) (Reference, error) {
	if len(s) > maxReference {
		return Reference{}, fmt.Errorf("reference of %d bytes: %w: at most %d are allowed", len(s), ErrReference, maxReference)
	}
	name, pin, pinned := strings.Cut(s, "@")
	if host, repository, ok := strings.Cut(name, "/"); ok {
		if repo, tag, tagged := strings.Cut(repository, ":"); tagged {
			return Reference{}, fmt.Errorf("reference %q: %w: replace %q by the manifest's digest, %s/%s@sha256:…", s, ErrTag, ":"+tag, host, repo)
		}
	}
	registry, repository, err := splitName(name)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %q: %w", s, err)
	}
	if !pinned {
		return Reference{}, fmt.Errorf("reference %q: %w: it has no digest; append @sha256:… of the manifest", s, ErrTag)
	}
	d, err := parseDigest(pin)
	if err != nil {
		return Reference{}, fmt.Errorf("reference %q: %w: %v", s, ErrReference, err)
	}
	return Reference{Registry: registry, Repository: repository, Digest: d}, nil
}

// splitName checks registry/repository and cuts it in two.
func splitName(name string) (registry, repository string, err error) {
	registry, repository, ok := strings.Cut(name, "/")
	if !ok {
		return "", "", fmt.Errorf("%w: want registry/repository", ErrReference)
	}
	if err := checkRegistry(registry); err != nil {
		return "", "", err
	}
	if len(repository) > 255 {
		return "", "", fmt.Errorf("%w: repository of %d bytes, at most 255 are allowed", ErrReference, len(repository))
	}
	for part := range strings.SplitSeq(repository, "/") {
		if !component.MatchString(part) {
			return "", "", fmt.Errorf("%w: %q cannot be part of a repository name", ErrReference, part)
		}
	}
	return registry, repository, nil
}

var hostname = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*$`)

// checkRegistry accepts host, host:port, [ipv6] and [ipv6]:port. A single
// label without a port ("library") is refused, except localhost: it is more
// likely a forgotten registry.
func checkRegistry(s string) error {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || net.ParseIP(s[1:end]) == nil {
			return fmt.Errorf("%w: %q is no registry address", ErrReference, s)
		}
		rest := s[end+1:]
		if rest == "" {
			return nil
		}
		if rest[0] != ':' {
			return fmt.Errorf("%w: %q is no registry address", ErrReference, s)
		}
		host, port = "", rest[1:]
	} else if h, p, ok := strings.Cut(s, ":"); ok {
		host, port = h, p
	} else if !strings.Contains(s, ".") && s != "localhost" {
		return fmt.Errorf("%w: %q is no registry; write its full name", ErrReference, s)
	} else {
		port = "443"
	}
	if host != "" && !hostname.MatchString(host) || host == "" && !strings.HasPrefix(s, "[") {
		return fmt.Errorf("%w: %q is no registry address", ErrReference, s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%w: %q is no registry address", ErrReference, s)
	}
	return nil
}

// parseDigest accepts sha256 alone: the store's names are SHA-256.
func parseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := checkDigest(d); err != nil {
		return "", err
	}
	return d, nil
}

func checkDigest(d digest.Digest) error {
	if len(d) > 256 {
		return fmt.Errorf("digest of %d bytes", len(d))
	}
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %v", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: only sha256 is supported", string(d))
	}
	return nil
}
