package snapshot

import (
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/ociref"
)

// SplitReference takes "host/repository@sha256:…" apart into the repository
// (with its host) and the digest. Tags are refused: they can be moved. What no
// client can follow is split all the same, so that it can be revoked; see
// [Snapshot.CheckRunnable].
func SplitReference(ref string) (repository string, d digest.Digest, err error) {
	r, err := ociref.Parse(ref)
	if err := formal(err); err != nil {
		return "", "", err
	}
	return r.Name(), r.Digest, nil
}

// formal is what is wrong with the form of a reference. A node takes documents
// whose references cannot be followed and refuses those models one by one.
func formal(err error) error {
	if errors.Is(err, ociref.ErrUnreachable) {
		return nil
	}
	return err
}

func checkRepository(s string) error {
	_, _, err := ociref.SplitName(s)
	return formal(err)
}

func checkRegistry(s string) error { return formal(ociref.CheckRegistry(s)) }

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
