package runner

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/resultity/rmodels/internal/durable"

	"github.com/opencontainers/go-digest"
)

// seccompProfile is an allow-list in the form that nerdctl, docker and podman
// read. Against their defaults it takes away AF_VSOCK and every other socket
// family but unix, IPv4, IPv6 and route netlink (a network namespace does not
// confine vsock), io_uring, ptrace, bpf, keyrings, mounts and namespaces.
//
//go:embed seccomp.json
var seccompProfile []byte

// seccompDigest names the profile in a verdict's key, where its path on the
// host has no place.
var seccompDigest = digest.FromBytes(seccompProfile)

// writeSeccomp puts the profile into dir and returns its path. The name holds
// the digest, and what lies there is compared: an edited profile is replaced.
func writeSeccomp(dir string) (string, error) {
	path := filepath.Join(dir, "seccomp-"+seccompDigest.Encoded()[:16]+".json")
	have, err := durable.ReadFile(path, int64(len(seccompProfile)))
	if err == nil && bytes.Equal(have, seccompProfile) {
		return path, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, durable.ErrTooLong) {
		return "", fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	if err := durable.WriteFile(path, seccompProfile, 0o600); err != nil {
		return "", fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	return path, nil
}
