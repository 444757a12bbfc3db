package snapshot

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A reference is host[:port]/repository@sha256:…; the grammar of the
// distribution specification without tags.
var (
	hostPattern       = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	digestPattern     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

const maxReference = 512 // bytes; registries cap names at 255

// SplitReference takes "host/repository@sha256:…" apart into the repository
// (with its host) and the digest. Tags are refused: they can be moved.
func SplitReference(ref string) (repository string, d digest.Digest, err error) {
	if len(ref) > maxReference {
		return "", "", fmt.Errorf("reference of %d bytes, at most %d", len(ref), maxReference)
	}
	repository, dg, ok := strings.Cut(ref, "@")
	if !ok {
		return "", "", fmt.Errorf("reference %q has no digest: write registry/repository@sha256:…", ref)
	}
	if !digestPattern.MatchString(dg) {
		return "", "", fmt.Errorf("reference %q: digest %q is not sha256 and 64 lower-case hex digits", ref, dg)
	}
	if err := checkRepository(repository); err != nil {
		return "", "", err
	}
	return repository, digest.Digest(dg), nil
}

func checkRepository(s string) error {
	if len(s) > maxReference {
		return fmt.Errorf("repository of %d bytes, at most %d", len(s), maxReference)
	}
	host, path, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return fmt.Errorf("repository %q has no registry host: write registry/repository", s)
	case !hostPattern.MatchString(host):
		return fmt.Errorf("repository %q: %q is not a registry host", s, host)
	case strings.Contains(path, ":"):
		return fmt.Errorf("repository %q carries a tag: only digests are accepted, a tag can be moved", s)
	case !repositoryPattern.MatchString(path):
		return fmt.Errorf("repository %q: %q is not a repository name", s, path)
	}
	return nil
}

// Digest is the pinned manifest digest of a model that [Parse] accepted.
func (m Model) Digest() digest.Digest { return pinned(m.Reference) }

// ID is name@version, the model's identity on a node.
func (m Model) ID() string { return m.Name + "@" + m.Version }

// Digest is the pinned manifest digest of a runtime that [Parse] accepted.
func (r Runtime) Digest() digest.Digest { return pinned(r.Reference) }

func pinned(ref string) digest.Digest {
	_, d, err := SplitReference(ref)
	if err != nil {
		return ""
	}
	return d
}
