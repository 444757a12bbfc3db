package snapshot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Trust is one node's view of one network: the pinned root, what was accepted
// last, and the floor below which nothing is accepted again.
type Trust struct{ network string }

// Network is the name that was pinned.
func (t *Trust) Network() string { return t.network }

// Pin records root as the network's first root.
func Pin(dir, floorPath, network string, root []byte) error { return fmt.Errorf("%w", ErrInvalid) }

// OpenTrust opens what [Pin] wrote.
func OpenTrust(dir, floorPath string) (*Trust, error) { return nil, ErrNotPinned }

// Current verifies the last accepted snapshot again.
func (t *Trust) Current(now time.Time) (*Accepted, error) { return nil, ErrNone }

// Apply accepts a push bundle.
func (t *Trust) Apply(bundle []byte, now time.Time) (*Accepted, error) { return nil, ErrSignature }

// Pull fetches from src and accepts.
func (t *Trust) Pull(ctx context.Context, src Source, now time.Time) (*Accepted, error) {
	return nil, ErrSignature
}

// Source fetches a named TUF file of at most max bytes. A file that does not
// exist is reported as an error that matches fs.ErrNotExist.
type Source interface {
	Fetch(ctx context.Context, name string, max int64) ([]byte, error)
}

// DirSource reads a published directory.
func DirSource(path string) Source { return nil }

// HTTPSource reads a published directory behind an HTTP server.
func HTTPSource(client *http.Client, baseURL string) Source { return nil }

// ReadBundle reads a push file.
func ReadBundle(path string) ([]byte, error) { return nil, io.ErrUnexpectedEOF }
