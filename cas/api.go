package cas

import (
	"context"
	"errors"
	"fmt"
	"github.com/opencontainers/go-digest"
	"github.com/resultity/rmodels/internal/durable"
	"io"
	"time"
)

var errPending = errors.New("cas: being built")

type Options struct {
	Create  bool
	FS      durable.FS
	Now     func() time.Time
	MinFree int64
}
type Store struct{ root string }

func Open(root string, o Options) (*Store, error) { return nil, errPending }
func (s *Store) Root() string                     { return s.root }
func (s *Store) Close() error                     { return nil }

var (
	ErrNoStore        = errors.New("no store here")
	ErrVersion        = errors.New("unknown store version")
	ErrFileSystem     = errors.New("file system is not usable for a store")
	ErrNotOwner       = errors.New("store belongs to another user")
	ErrReadOnly       = errors.New("store is read-only")
	ErrNotFound       = errors.New("not in the store")
	ErrExists         = errors.New("already in the store")
	ErrSuspect        = errors.New("blob failed a check and is not trusted")
	ErrNoSpace        = errors.New("no space")
	ErrBusy           = errors.New("store is busy")
	ErrDigestMismatch = errors.New("bytes do not match their digest")
	ErrInUse          = errors.New("in use")
	ErrCorrupt        = errors.New("store is corrupt")
	ErrInvalid        = errors.New("invalid request")
	ErrReleased       = errors.New("lease is released")
)

type NoSpaceError struct {
	Need, Free int64
	Path       string
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("%s: need %d, have %d", e.Path, e.Need, e.Free)
}
func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

type MismatchError struct {
	Digest, Found digest.Digest
	Size          int64
}

func (e *MismatchError) Error() string { return fmt.Sprintf("%s: found %s", e.Digest, e.Found) }
func (e *MismatchError) Unwrap() error { return ErrDigestMismatch }

type Lease struct{}

func (s *Store) Lease(ctx context.Context, purpose string, roots ...digest.Digest) (*Lease, error) {
	return nil, errPending
}
func (l *Lease) Add(ctx context.Context, ds ...digest.Digest) error { return errPending }
func (l *Lease) Release() error                                     { return errPending }

type Token string

func (s *Store) TokenLease(ctx context.Context, purpose string, ttl time.Duration, roots ...digest.Digest) (Token, error) {
	return "", errPending
}
func (s *Store) Renew(ctx context.Context, t Token, ttl time.Duration) error { return errPending }
func (s *Store) ReleaseToken(ctx context.Context, t Token) error             { return errPending }

type BlobStat struct {
	Size    int64
	Suspect bool
}

func (s *Store) Stat(d digest.Digest) (BlobStat, error) { return BlobStat{}, errPending }

type Blob struct {
	io.Reader
	io.ReaderAt
	io.Seeker
	io.Closer
}

func (b *Blob) Size() int64                                           { return 0 }
func (s *Store) Open(d digest.Digest) (*Blob, error)                  { return nil, errPending }
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) { return nil, errPending }
func (s *Store) Put(ctx context.Context, l *Lease, d digest.Digest, b []byte) error {
	return errPending
}

type IngestOptions struct{ OnWait func(done, total int64) }
type Range struct{ Off, Len int64 }
type Ingest struct{}

func (s *Store) Ingest(ctx context.Context, l *Lease, d digest.Digest, size int64, o IngestOptions) (*Ingest, error) {
	return nil, errPending
}
func (i *Ingest) Size() int64                                                      { return 0 }
func (i *Ingest) Done() int64                                                      { return 0 }
func (i *Ingest) Missing() []Range                                                 { return nil }
func (i *Ingest) WriteAt(p []byte, off int64) (int, error)                         { return 0, errPending }
func (i *Ingest) Checkpoint() error                                                { return errPending }
func (i *Ingest) Commit(ctx context.Context) error                                 { return errPending }
func (i *Ingest) Close() error                                                     { return errPending }
func (i *Ingest) Discard() error                                                   { return errPending }
func (s *Store) Discard(ctx context.Context, d digest.Digest, reason string) error { return errPending }

type TreeEntry struct {
	Path       string
	Blob       digest.Digest
	Executable bool
}
type Tree struct {
	Name    digest.Digest
	Path    string
	Entries []TreeEntry
	Size    int64
}

func (s *Store) BuildTree(ctx context.Context, l *Lease, name digest.Digest, entries []TreeEntry) (Tree, error) {
	return Tree{}, errPending
}
func (s *Store) Tree(name digest.Digest) (Tree, error)                   { return Tree{}, errPending }
func (s *Store) CheckTree(ctx context.Context, name digest.Digest) error { return errPending }

type Ref struct {
	Name     string          `json:"name"`
	Tree     digest.Digest   `json:"tree,omitempty"`
	Blobs    []digest.Digest `json:"blobs"`
	Pinned   bool            `json:"pinned"`
	LastUsed time.Time       `json:"lastUsed"`
}

func (s *Store) PutRef(ctx context.Context, r Ref) error                   { return errPending }
func (s *Store) DeleteRef(ctx context.Context, name string) error          { return errPending }
func (s *Store) Ref(name string) (Ref, error)                              { return Ref{}, errPending }
func (s *Store) Refs() ([]Ref, error)                                      { return nil, errPending }
func (s *Store) Touch(ctx context.Context, name string, t time.Time) error { return errPending }

// GCOptions: zero watermarks = no ref is evicted for space; unpinned refs may be evicted (least recently used first) above HighPercent or below MinFree.
type GCOptions struct {
	HighPercent, LowPercent int
	MinFree                 int64
	Grace, PartialAge       time.Duration
	Proc                    string
}
type GCItem struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	Action string `json:"action"`
	Reason string `json:"reason"`
}
type GCPlan struct {
	Items     []GCItem `json:"items"`
	FreeBytes int64    `json:"freeBytes"` // what executing the plan frees
}
type GCResult struct {
	GCPlan
	Deleted     int           `json:"deleted"`
	Freed       int64         `json:"freed"`
	PutBack     int           `json:"putBack"`
	LongestLock time.Duration `json:"-"`
}

func (s *Store) PlanGC(ctx context.Context, o GCOptions) (*GCPlan, error) { return nil, errPending }
func (s *Store) GC(ctx context.Context, o GCOptions) (*GCResult, error)   { return nil, errPending }

type VerifyOptions struct {
	OnProgress func(d digest.Digest, done, total int64)
	Parallel   int
}
type Finding struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Problem  string `json:"problem"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

func (s *Store) Verify(ctx context.Context, ds []digest.Digest, o VerifyOptions) ([]Finding, error) {
	return nil, errPending
}

type ScrubOptions struct {
	Budget     int64
	Parallel   int
	OnProgress func(done, total int64)
}
type ScrubResult struct {
	Blobs    int       `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Findings []Finding `json:"findings"`
}

func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (ScrubResult, error) {
	return ScrubResult{}, errPending
}
func (s *Store) Repair(ctx context.Context, d digest.Digest, fetch func(ctx context.Context, off, n int64, w io.WriterAt) error) error {
	return errPending
}

type Usage struct {
	Blobs        int   `json:"blobs"`
	BlobBytes    int64 `json:"blobBytes"`
	Trees        int   `json:"trees"`
	TreeBytes    int64 `json:"treeBytes"` // copies and directories only
	Partials     int   `json:"partials"`
	PartialBytes int64 `json:"partialBytes"`
	TrashBytes   int64 `json:"trashBytes"`
	Total        int64 `json:"total"` // every inode once
	Free         int64 `json:"free"`
}

func (s *Store) Usage(ctx context.Context) (Usage, error) { return Usage{}, errPending }
