package oci

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/ociref"
)

// Classes of failure, for errors.Is.
var (
	ErrTag          = ociref.ErrTag
	ErrReference    = ociref.ErrReference
	ErrUnavailable  = errors.New("source unavailable")
	ErrUnauthorized = errors.New("access denied")
	ErrTLS          = errors.New("tls verification failed")
	ErrNotFound     = errors.New("not found")
	ErrDigest       = errors.New("content does not match its digest")
	ErrFormat       = errors.New("not a model artifact that can be read")
	ErrTooLarge     = errors.New("too large")
	ErrPath         = errors.New("unsafe path in artifact")
	ErrRedirect     = errors.New("redirect refused")
	ErrOffline      = errors.New("not asked: offline")
)

// DigestError says that a source answered with other bytes than the digest
// names. It is an [ErrDigest].
type DigestError struct {
	What     string // "manifest", "config", "layer", "index", "signature"
	Expected digest.Digest
	Found    digest.Digest // "" when the source was not read to its end
	Source   string
}

func (e *DigestError) Error() string {
	found := "other bytes"
	if e.Found != "" {
		found = e.Found.String()
	}
	return fmt.Sprintf("%s %s: %s sent %s; take another source or ask its operator to repair it", e.What, e.Expected, e.Source, found)
}

// Unwrap makes the error an [ErrDigest].
func (e *DigestError) Unwrap() error { return ErrDigest }

// SourceError is what one source answered when it could not serve a request.
type SourceError struct {
	Source string
	What   string // what was asked for
	Err    error  // wraps one of the classes
}

func (e *SourceError) Error() string { return fmt.Sprintf("%s from %s: %v", e.What, e.Source, e.Err) }

func (e *SourceError) Unwrap() error { return e.Err }
