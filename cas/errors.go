package cas

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Error classes. Every error of the package wraps one of them, or a context's,
// or the operating system's.
var (
	ErrNoStore        = errors.New("no store here")
	ErrVersion        = errors.New("unknown store version")
	ErrFileSystem     = errors.New("file system cannot hold a store")
	ErrNotOwner       = errors.New("store belongs to another user")
	ErrWritable       = errors.New("store can be written to by others")
	ErrReadOnly       = errors.New("store is read-only")
	ErrNotFound       = errors.New("not in the store")
	ErrExists         = errors.New("already in the store")
	ErrSuspect        = errors.New("blob failed a check and is not trusted")
	ErrNoSpace        = errors.New("not enough disk space")
	ErrBusy           = errors.New("store is busy")
	ErrDigestMismatch = errors.New("bytes do not match their digest")
	ErrIncomplete     = errors.New("bytes are missing")
	ErrInUse          = errors.New("in use")
	ErrCorrupt        = errors.New("store is corrupt")
	ErrInvalid        = errors.New("invalid request")
	ErrReleased       = errors.New("lease was released")
	ErrClosed         = errors.New("ingest is closed")
)

// NoSpaceError says how much a blob needs and what the file system has left
// after the bytes that it has to keep free.
type NoSpaceError struct {
	Need, Free int64 // bytes
	Path       string
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("not enough disk space below %s: %d bytes are needed, %d are free; free some or run a garbage collection", e.Path, e.Need, e.Free)
}

func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

// MismatchError says what the bytes of a blob hash to instead of its name.
type MismatchError struct {
	Digest digest.Digest // the name
	Found  digest.Digest // the bytes
	Size   int64         // bytes hashed
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%d bytes hash to %s, not to %s", e.Size, e.Found, e.Digest)
}

func (e *MismatchError) Unwrap() error { return ErrDigestMismatch }
