// Package castest is the conformance suite of the content store: what any
// implementation has to do ([Behaviour]), and what has to be true after a
// crash at every durable operation of a store's life ([Crash]).
//
// The crash suite records one run of a scenario that uses every part of a
// store, and for each moment of it rebuilds what a power loss may have left,
// in several ways. In each such state a store is opened and asked:
//
//   - No blob has bytes that differ from its name, unless it is suspect.
//   - Nothing that was published and rooted is lost.
//   - The interrupted work completes, without fetching a byte that was
//     checkpointed.
//   - A collection afterwards takes nothing that is rooted and leaves nothing
//     behind.
package castest

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// Open opens or makes the store in dir, on fsys.
type Open func(dir string, fsys durable.FS) (Store, error)

// Store is a content store as the suite uses it. Errors are of the classes of
// package cas.
type Store interface {
	// Protect announces digests; without it a collection may take them.
	Protect(ds ...digest.Digest) error
	Unprotect() error
	Ingest(d digest.Digest, size int64) (Ingest, error) // cas.ErrExists
	// Unpack opens the writer of a packed layer; cas.ErrExists.
	Unpack(d digest.Digest, size int64) (Unpacking, error)
	HasLayer(d digest.Digest) error   // with all its files; cas.ErrNotFound
	Layers() ([]digest.Digest, error) // of which there is a record
	Has(d digest.Digest) error        // cas.ErrNotFound, cas.ErrSuspect
	Read(d digest.Digest) ([]byte, error)
	Blobs() ([]digest.Digest, error)
	// Build makes a tree of files, by path, and returns its directory.
	Build(name digest.Digest, files map[string]digest.Digest) (string, error)
	// Check checks a tree.
	Check(name digest.Digest) error
	Root(name string, r Root) error
	Unroot(name string) error
	Roots() (map[string]Root, error)
	// Collect frees what is not rooted: at once, or into a trash from which
	// a look brings it back.
	Collect(atOnce bool) error
	// Verify makes bad blobs suspect and returns them.
	Verify(ds ...digest.Digest) ([]digest.Digest, error)
	Repair(d digest.Digest, fetch func(ctx context.Context, off, n int64, w io.WriterAt) error) error
	// Path is the file of a blob, for the suite to damage.
	Path(d digest.Digest) string
	// Problems are violations of the store's own invariants that it finds in
	// itself.
	Problems() ([]string, error)
	Close() error
}

// Root is what a root keeps.
type Root struct {
	Tree   digest.Digest
	Blobs  []digest.Digest
	Layers []digest.Digest
}

// Unpacking is the writer of a packed layer: of its bytes, and of its files.
type Unpacking interface {
	io.Writer
	Spool(limit int64) (Spool, error)
	Commit(entries []cas.LayerEntry) error
	Close() error
}

// Spool is the writer of one of these files.
type Spool interface {
	io.WriteCloser
	Seal() (d digest.Digest, size int64, err error)
}

// Ingest is the writer of a blob.
type Ingest interface {
	io.WriterAt
	Missing() []cas.Range
	Checkpoint() error
	Commit() error
	Close() error
}
