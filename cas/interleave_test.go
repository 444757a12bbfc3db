package cas_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// hookFS calls before ahead of each operation on names, and ahead of each look
// at a directory or file.
type hookFS struct {
	durable.FS
	before func()
}

func (h hookFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	h.before()
	return h.FS.OpenFile(name, flag, perm)
}
func (h hookFS) ReadNames(dir string) ([]string, error) { h.before(); return h.FS.ReadNames(dir) }
func (h hookFS) Link(a, b string) error                 { h.before(); return h.FS.Link(a, b) }
func (h hookFS) Exchange(a, b string) error             { h.before(); return h.FS.Exchange(a, b) }

func (h hookFS) Mkdir(name string, perm fs.FileMode) error {
	h.before()
	return h.FS.Mkdir(name, perm)
}
func (h hookFS) Rename(a, b string) error    { h.before(); return h.FS.Rename(a, b) }
func (h hookFS) RenameNew(a, b string) error { h.before(); return h.FS.RenameNew(a, b) }
func (h hookFS) Unlink(name string) error    { h.before(); return h.FS.Unlink(name) }
func (h hookFS) Rmdir(name string) error     { h.before(); return h.FS.Rmdir(name) }
func (h hookFS) SyncDir(name string) error   { h.before(); return h.FS.SyncDir(name) }

// A pull that begins at any moment of a collection, of exactly what is being
// collected, ends with everything in place, whether its lease, its ref or both
// are what the collector has to see.
func TestPullDuringCollection(t *testing.T) {
	for _, how := range []string{"leased", "rooted"} {
		t.Run(how, func(t *testing.T) {
			moments := 0
			for at := 1; at > 0; at++ {
				if !pullAt(t, at, how) {
					moments = at - 1
					break
				}
			}
			if moments < 10 {
				t.Errorf("only %d moments", moments)
			}
		})
	}
}

// pullAt runs a collection and, at its n-th operation, a pull; false when the
// collection has fewer operations.
func pullAt(t *testing.T, at int, how string) bool {
	t.Helper()
	root := filepath.Join(fastDir(t), "store")
	s := open(t, root, cas.Options{})
	l := lease(t, s)
	m := install(t, s, l, 1)
	install(t, s, l, 2)
	must(t, l.Release())
	gc(t, s, cas.GCOptions{Grace: time.Hour}) // one of the two waits in the trash already
	l = lease(t, s)
	install(t, s, l, 1)
	must(t, l.Release())

	var held *cas.Lease
	var wg sync.WaitGroup
	var n atomic.Int64
	collector := open(t, root, cas.Options{FS: hookFS{durable.OS, func() {
		if n.Add(1) != int64(at) {
			return
		}
		pulled := make(chan struct{})
		wg.Go(func() {
			defer close(pulled)
			var err error
			if held, err = pullAgain(s, m, how); err != nil {
				t.Errorf("pull at moment %d: %v", at, err)
			}
		})
		select {
		case <-pulled:
		case <-time.After(50 * time.Millisecond): // it waits for the collector's lock
		}
	}}})
	if _, err := collector.GC(t.Context(), cas.GCOptions{Proc: "/proc"}); err != nil {
		t.Fatalf("gc at moment %d: %v", at, err)
	}
	wg.Wait()
	if n.Load() < int64(at) {
		return false
	}
	if !m.present(t, s) {
		t.Errorf("the model pulled at moment %d is gone", at)
	} else if err := s.CheckTree(t.Context(), m.manifest); err != nil {
		t.Errorf("moment %d: %v", at, err)
	}
	if held != nil {
		must(t, held.Release())
	}
	return true
}

func pullAgain(s *cas.Store, m model, how string) (*cas.Lease, error) {
	ctx := context.Background()
	l, err := s.Lease(ctx, "again", m.manifest)
	if err != nil {
		return nil, err
	}
	big, _ := content(1, 200<<10)
	manifest, _ := content(1001, 700)
	small, _ := content(2001, 300)
	for _, b := range [][]byte{manifest, big, small} {
		if err := s.Put(ctx, l, digest.FromBytes(b), b); err != nil {
			return l, err
		}
	}
	if _, err := s.BuildTree(ctx, l, m.manifest, []cas.TreeEntry{{Path: "big", Blob: m.big}, {Path: "small", Blob: m.small}}); err != nil {
		return l, err
	}
	if how == "leased" {
		return l, nil
	}
	err = s.PutRef(ctx, m.ref(fmt.Sprintf("again-%d", rand.Uint32())))
	return nil, errors.Join(err, l.Release())
}

// What a lease announces through Ingest is protected also when it was there.
func TestIngestAnnounces(t *testing.T) {
	s := newStore(t)
	first := lease(t, s)
	b, _ := content(1, 1000)
	d := put(t, s, first, b)
	second := lease(t, s)
	_, err := s.Ingest(t.Context(), second, d, 1000, cas.IngestOptions{})
	wantError(t, err, cas.ErrExists)
	must(t, first.Release())
	gc(t, s, cas.GCOptions{})
	if !has(t, s, d) {
		t.Error("a blob found by Ingest was collected under its lease")
	}
}
