package castest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/durable/crashfs"
)

// Options tune [Crash].
type Options struct {
	Dir string // for the stores; a directory in memory is much faster than a disk
	// Thorough tries every kind of loss at each moment, the random ones this
	// many times. Zero tries two kinds at each moment: a random one, and the
	// others in turn.
	Thorough int
	// FailFast ends the suite at the first violation.
	FailFast bool
}

// Crash runs the scenario on a recorder, and the checks in each state that a
// crash may leave. It reports how many moments and states it went through.
func Crash(t *testing.T, open Open, o Options) (moments, states int) {
	t.Helper()
	live := filepath.Join(o.Dir, "live")
	if err := os.MkdirAll(live, 0o755); err != nil {
		t.Fatal(err)
	}
	rec, err := crashfs.Record(live)
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario(open, filepath.Join(live, "store"), rec, func(m mark) { rec.Mark(m) }); err != nil {
		t.Fatalf("the scenario fails without any crash: %v", err)
	}
	if err := os.RemoveAll(live); err != nil {
		t.Fatal(err)
	}
	var (
		known    = newTruth()
		replay   = rec.Replay()
		wg       sync.WaitGroup
		slots    = make(chan struct{}, 3)
		failures atomic.Int64
	)
	for moments = 0; ; moments++ {
		label, note, ok := replay.Next()
		if !ok {
			break
		}
		if m, ok := note.(mark); ok {
			known.learn(m) // and look whether it is so at once
		}
		for _, loss := range o.losses(moments) {
			seeds := 1
			if loss == crashfs.Random || loss == crashfs.Journal {
				seeds = max(1, o.Thorough)
			}
			for seed := range uint64(seeds) {
				if o.FailFast && failures.Load() > 0 {
					wg.Wait()
					return moments, states
				}
				states++
				dir := filepath.Join(o.Dir, fmt.Sprintf("state-%d", states))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := replay.Rebuild(dir, loss, seed); err != nil {
					t.Fatal(err)
				}
				now := known.clone()
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					if err := now.check(open, filepath.Join(dir, "store")); err != nil {
						if failures.Add(1) < 10 {
							t.Errorf("crash after %s, %v lost (seed %d): %v", label, loss, seed, err)
						}
					}
					os.RemoveAll(dir)
				})
			}
		}
	}
	wg.Wait()
	return moments, states
}

func (o Options) losses(moment int) []crashfs.Loss {
	all := crashfs.Losses()
	if o.Thorough > 0 {
		return all
	}
	return []crashfs.Loss{crashfs.Random, all[moment%int(crashfs.Random)]}
}

// truth is what has to be so.
type truth struct {
	checkpointed map[digest.Digest]int64
	published    map[digest.Digest]bool
	unpacked     map[digest.Digest]bool
	built        map[digest.Digest]bool
	roots        map[string]Root
	unrooting    map[string]bool
	collecting   bool                   // a collection has begun
	damaged      map[digest.Digest]bool // and not repaired; nobody may have noticed
	suspected    map[digest.Digest]bool // and not repaired
}

func newTruth() *truth {
	return &truth{
		checkpointed: map[digest.Digest]int64{},
		published:    map[digest.Digest]bool{},
		unpacked:     map[digest.Digest]bool{},
		built:        map[digest.Digest]bool{},
		roots:        map[string]Root{},
		unrooting:    map[string]bool{},
		damaged:      map[digest.Digest]bool{},
		suspected:    map[digest.Digest]bool{},
	}
}

func (k *truth) clone() *truth {
	c := newTruth()
	c.collecting = k.collecting
	for d, n := range k.checkpointed {
		c.checkpointed[d] = n
	}
	for d := range k.published {
		c.published[d] = true
	}
	for d := range k.unpacked {
		c.unpacked[d] = true
	}
	for d := range k.built {
		c.built[d] = true
	}
	for n, r := range k.roots {
		c.roots[n] = r
	}
	for n := range k.unrooting {
		c.unrooting[n] = true
	}
	for d := range k.damaged {
		c.damaged[d] = true
	}
	for d := range k.suspected {
		c.suspected[d] = true
	}
	return c
}

func (k *truth) learn(m mark) {
	switch m.is {
	case checkpointed:
		k.checkpointed[m.d] = m.bytes
	case published:
		k.published[m.d] = true
	case unpacked:
		k.unpacked[m.d] = true
	case built:
		k.built[m.d] = true
	case rooted:
		k.roots[m.name] = m.root
		delete(k.unrooting, m.name)
	case unrooting:
		delete(k.roots, m.name)
		k.unrooting[m.name] = true
	case collecting:
		k.collecting = true
		k.published, k.built, k.unpacked = map[digest.Digest]bool{}, map[digest.Digest]bool{}, map[digest.Digest]bool{}
		for _, r := range k.roots {
			for _, d := range r.Blobs {
				k.published[d] = true
			}
			for _, d := range r.Layers {
				k.unpacked[d] = true
			}
		}
	case damaged:
		k.damaged[m.d] = true
	case suspected:
		k.suspected[m.d] = true
	case repaired:
		delete(k.damaged, m.d)
		delete(k.suspected, m.d)
	}
}

// check opens a store in the state after a crash and holds it to what is known.
func (k *truth) check(open Open, dir string) error {
	st, err := open(dir, durable.OS)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer st.Close()
	steps := []struct {
		name string
		do   func(Store) error
	}{
		{"roots", k.checkRoots},
		{"bytes", k.checkBytes},
		{"published", k.checkPublished},
		{"layers", k.checkLayers},
		{"repair", k.repair},
		{"trees", k.checkTrees},
		{"completion", k.complete},
		{"collection", k.collect},
	}
	for _, s := range steps {
		if err := s.do(st); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (k *truth) checkRoots(st Store) error {
	roots, err := st.Roots()
	if err != nil {
		return err
	}
	for name, want := range k.roots {
		got, ok := roots[name]
		if !ok || got.Tree != want.Tree || !slices.Equal(got.Blobs, want.Blobs) || !slices.Equal(got.Layers, want.Layers) {
			return fmt.Errorf("root %s is %v, want %v", name, got, want)
		}
	}
	// What a root names is there, also when nobody was told yet.
	for name, r := range roots {
		for _, d := range r.Blobs {
			if err := st.Has(d); err != nil && !errors.Is(err, cas.ErrSuspect) {
				return fmt.Errorf("root %s: %w", name, err)
			}
		}
		for _, d := range r.Layers {
			if err := st.HasLayer(d); err != nil && !errors.Is(err, cas.ErrSuspect) {
				return fmt.Errorf("root %s: %w", name, err)
			}
		}
	}
	return nil
}

// checkLayers: where there is a record of a layer, there are its files. A
// record that was collected may come back without them: nobody synced that it
// was gone.
func (k *truth) checkLayers(st Store) error {
	layers, err := st.Layers()
	if err != nil {
		return err
	}
	if k.collecting {
		layers = nil
	}
	for d := range k.unpacked {
		layers = append(layers, d)
	}
	for _, d := range layers {
		if err := st.HasLayer(d); err != nil && !(errors.Is(err, cas.ErrSuspect) && len(k.damaged) > 0) {
			return err
		}
	}
	return nil
}

// checkBytes keeps the first promise: a name is the hash of its bytes.
func (k *truth) checkBytes(st Store) error {
	blobs, err := st.Blobs()
	if err != nil {
		return err
	}
	for _, d := range blobs {
		b, err := st.Read(d)
		if errors.Is(err, cas.ErrSuspect) && k.damaged[d] {
			continue
		}
		if err != nil {
			return err
		}
		found := digest.FromBytes(b)
		if found == d || k.damaged[d] && !k.suspected[d] {
			continue
		}
		return fmt.Errorf("%s holds the %d bytes of %s", d, len(b), found)
	}
	return nil
}

func (k *truth) checkPublished(st Store) error {
	for d := range k.built {
		if err := st.Check(d); err != nil && len(k.damaged) == 0 {
			return fmt.Errorf("built, and now: %w", err)
		}
	}
	for d := range k.published {
		if err := st.Has(d); err != nil && !(errors.Is(err, cas.ErrSuspect) && k.damaged[d]) {
			return fmt.Errorf("published, and now: %w", err)
		}
	}
	return nil
}

// repair finishes what the crash interrupted.
func (k *truth) repair(st Store) error {
	if len(k.damaged) == 0 {
		return nil
	}
	for _, m := range models() {
		for _, x := range m.blobs() {
			d, b := x.d, x.b
			if !k.damaged[d] {
				continue
			}
			if _, err := st.Verify(d); err != nil {
				return err
			}
			good := func(_ context.Context, off, n int64, w io.WriterAt) error {
				_, err := w.WriteAt(b[off:off+n], off)
				return err
			}
			if err := st.Repair(d, good); err != nil {
				return err
			}
			if got, err := st.Read(d); err != nil || !bytes.Equal(got, b) {
				return fmt.Errorf("%s after its repair: %w", d, err)
			}
		}
	}
	return nil
}

func (k *truth) checkTrees(st Store) error {
	for _, m := range models() {
		if _, ok := k.roots[m.name]; !ok {
			continue
		}
		if len(k.damaged) > 0 {
			// Its repair may have replaced a file; building heals that.
			if err := protect(st, m); err != nil {
				return err
			}
			if _, err := st.Build(m.digest(), m.entries()); err != nil {
				return err
			}
		}
		if err := st.Check(m.digest()); err != nil {
			return err
		}
	}
	return nil
}

// complete pulls both models to the end.
func (k *truth) complete(st Store) error {
	for _, m := range models() {
		if err := protect(st, m); err != nil {
			return err
		}
		for _, x := range m.blobs() {
			d, b := x.d, x.b
			fetched, err := fetch(st, d, b)
			if err != nil {
				return err
			}
			most := int64(len(b)) - k.checkpointed[d]
			if k.published[d] {
				most = 0
			}
			if k.checkpointed[d] > 0 && fetched > most {
				return fmt.Errorf("%s: fetched %d bytes, %d were checkpointed of %d", d, fetched, k.checkpointed[d], len(b))
			}
			if k.published[d] && fetched > 0 {
				return fmt.Errorf("%s was published and %d bytes were fetched", d, fetched)
			}
		}
		dir, err := st.Build(m.digest(), m.entries())
		if err != nil {
			return err
		}
		for path, want := range m.files {
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want.b) {
				return fmt.Errorf("%s in the tree has %d bytes: %w", path, len(got), err)
			}
		}
		if err := haveLayer(st, m, func(mark) {}); err != nil {
			return err
		}
		if err := st.Root(m.name, m.root()); err != nil {
			return err
		}
	}
	return st.Unprotect()
}

// collect frees everything else, and then everything.
func (k *truth) collect(st Store) error {
	if err := st.Collect(true); err != nil {
		return err
	}
	for _, m := range models() {
		for _, b := range m.blobs() {
			if err := st.Has(b.d); err != nil {
				return fmt.Errorf("after a collection: %w", err)
			}
		}
		if err := st.Check(m.digest()); err != nil {
			return err
		}
		if m.packed.d == "" {
			continue
		}
		if err := st.HasLayer(m.packed.d); err != nil {
			return fmt.Errorf("after a collection: %w", err)
		}
	}
	problems, err := st.Problems()
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("the store finds %q in itself", problems)
	}
	return nil
}
