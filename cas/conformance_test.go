package cas_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/cas/castest"
	"github.com/resultity/rmodels/internal/durable"
)

// subject shows a store to the conformance suite.
type subject struct {
	*cas.Store
	lease *cas.Lease
}

func openSubject(dir string, fsys durable.FS) (castest.Store, error) {
	// Late, so that a collection sees leftovers as old ones.
	s, err := cas.Open(dir, cas.Options{Create: true, FS: fsys, Now: func() time.Time { return time.Now().Add(24 * time.Hour) }})
	if err != nil {
		return nil, err
	}
	return &subject{Store: s}, nil
}

func (s *subject) Protect(ds ...digest.Digest) (err error) {
	if s.lease == nil {
		s.lease, err = s.Lease(context.Background(), "conformance", ds...)
		return err
	}
	return s.lease.Add(context.Background(), ds...)
}

func (s *subject) Unprotect() error {
	l := s.lease
	s.lease = nil
	if l == nil {
		return nil
	}
	return l.Release()
}

func (s *subject) Ingest(d digest.Digest, size int64) (castest.Ingest, error) {
	i, err := s.Store.Ingest(context.Background(), s.lease, d, size, cas.IngestOptions{})
	if err != nil {
		return nil, err
	}
	return writer{i}, nil
}

func (s *subject) Unpack(d digest.Digest, size int64) (castest.Unpacking, error) {
	u, err := s.Store.Unpack(context.Background(), s.lease, d, size, "test", nil)
	if err != nil {
		return nil, err
	}
	return unpacker{u}, nil
}

func (s *subject) HasLayer(d digest.Digest) error {
	_, err := s.Layer(context.Background(), d, "test")
	return err
}

func (s *subject) Layers() ([]digest.Digest, error) {
	names, err := filepath.Glob(filepath.Join(s.Store.Root(), "layers", "sha256", "[0-9a-f]*"))
	out := make([]digest.Digest, len(names))
	for n, name := range names {
		out[n] = digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name))
	}
	return out, err
}

type unpacker struct{ *cas.Unpacking }

func (u unpacker) Spool(limit int64) (castest.Spool, error) {
	return u.Unpacking.Spool(context.Background(), limit)
}

func (u unpacker) Commit(entries []cas.LayerEntry) error {
	return u.Unpacking.Commit(context.Background(), entries)
}

type writer struct{ *cas.Ingest }

func (w writer) Commit() error { return w.Ingest.Commit(context.Background()) }

func (s *subject) Has(d digest.Digest) error {
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	return b.Close()
}

func (s *subject) Read(d digest.Digest) ([]byte, error) {
	b, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func (s *subject) Blobs() ([]digest.Digest, error) { return s.Store.Blobs(context.Background()) }

func (s *subject) Build(name digest.Digest, files map[string]digest.Digest) (string, error) {
	var entries []cas.TreeEntry
	for path, d := range files {
		entries = append(entries, cas.TreeEntry{Path: path, Blob: d})
	}
	t, err := s.BuildTree(context.Background(), s.lease, name, entries)
	return t.Path, err
}

func (s *subject) Check(name digest.Digest) error { return s.CheckTree(context.Background(), name) }

func (s *subject) Root(name string, r castest.Root) error {
	return s.PutRef(context.Background(), cas.Ref{Name: name, Tree: r.Tree, Blobs: r.Blobs, Layers: r.Layers})
}

func (s *subject) Unroot(name string) error { return s.DeleteRef(context.Background(), name) }

func (s *subject) Roots() (map[string]castest.Root, error) {
	refs, err := s.Refs()
	if err != nil {
		return nil, err
	}
	out := map[string]castest.Root{}
	for _, r := range refs {
		out[r.Name] = castest.Root{Tree: r.Tree, Blobs: r.Blobs, Layers: r.Layers}
	}
	return out, nil
}

func (s *subject) Collect(atOnce bool) error {
	o := cas.GCOptions{Proc: "/proc", PartialAge: time.Hour}
	if !atOnce {
		o.Grace = time.Hour
	}
	_, err := s.GC(context.Background(), o)
	return err
}

func (s *subject) Verify(ds ...digest.Digest) ([]digest.Digest, error) {
	findings, err := s.Store.Verify(context.Background(), ds, cas.VerifyOptions{})
	var bad []digest.Digest
	for _, f := range findings {
		bad = append(bad, digest.Digest(f.Name))
	}
	return bad, err
}

func (s *subject) Repair(d digest.Digest, fetch func(ctx context.Context, off, n int64, w io.WriterAt) error) error {
	return s.Store.Repair(context.Background(), d, fetch)
}

func (s *subject) Path(d digest.Digest) string { return blobPath(s.Store, d) }

func (s *subject) Problems() ([]string, error) {
	findings, err := s.Fsck(context.Background(), cas.FsckOptions{})
	var problems []string
	for _, f := range findings {
		problems = append(problems, f.Kind+" "+f.Name+": "+f.Problem)
	}
	return problems, err
}

func (s *subject) Close() error {
	s.Unprotect()
	return s.Store.Close()
}

func TestBehaviour(t *testing.T) { castest.Behaviour(t, openSubject, fastDir(t)) }

func TestCrash(t *testing.T) {
	o := castest.Options{Dir: fastDir(t), FailFast: os.Getenv(soakEnv) == ""}
	if os.Getenv(soakEnv) != "" {
		o.Thorough = 8
	}
	moments, states := castest.Crash(t, openSubject, o)
	t.Logf("%d crash points, %d states", moments, states)
}
