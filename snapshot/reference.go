package snapshot

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
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
		return "", "", fmt.Errorf("reference %q has no digest: write registry/repository@sha256:…", clip(ref))
	}
	if err := checkDigest(digest.Digest(dg)); err != nil {
		return "", "", fmt.Errorf("reference %q: %w", clip(ref), err)
	}
	if err := checkRepository(repository); err != nil {
		return "", "", err
	}
	return repository, digest.Digest(dg), nil
}

// checkDigest accepts SHA-256 alone, in its one canonical spelling: a second
// algorithm or spelling would be a second name for the same bytes.
func checkDigest(d digest.Digest) error {
	hexDigits, ok := strings.CutPrefix(string(d), "sha256:")
	if ok && len(hexDigits) == 64 {
		for i := range len(hexDigits) {
			if c := hexDigits[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				ok = false
				break
			}
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("digest %q is not sha256: and 64 lower-case hex digits", clip(string(d)))
}

func checkRepository(s string) error {
	if len(s) > maxReference {
		return fmt.Errorf("repository of %d bytes, at most %d", len(s), maxReference)
	}
	host, path, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return fmt.Errorf("repository %q has no registry host: write registry/repository", clip(s))
	case !isHost(host):
		return fmt.Errorf("repository %q: %q is not a registry host", clip(s), clip(host))
	case strings.Contains(path, ":"):
		return fmt.Errorf("repository %q carries a tag: only digests are accepted, a tag can be moved", clip(s))
	}
	for part := range strings.SplitSeq(path, "/") {
		if !isRepository(part) {
			return fmt.Errorf("repository %q: %q is not a path component of the distribution specification", clip(s), clip(part))
		}
	}
	return nil
}

// isHost accepts a DNS name, an IPv4 address or a bracketed IPv6 address, with
// an optional port: the distribution specification's domain grammar.
func isHost(s string) bool {
	name, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		name, port = s[:i], s[i+1:]
		if len(port) < 1 || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	if v6, ok := strings.CutPrefix(name, "["); ok {
		v6, ok = strings.CutSuffix(v6, "]")
		return ok && len(v6) > 1 && strings.Trim(v6, "0123456789abcdefABCDEF:.") == ""
	}
	for label := range strings.SplitSeq(name, ".") {
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

// isRepository accepts one path component: runs of [a-z0-9] joined by one of
// ".", "_", "__" or any number of "-".
func isRepository(s string) bool {
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
