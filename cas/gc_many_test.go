package cas_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// Of many models, those that are referenced, or open without a lease, are kept
// and the others go, on all processors at once; what is open is put back with
// its chunk map. A store of a few files is planned and emptied in one order
// and would not show a mistake in that.
func TestGCOfMany(t *testing.T) {
	const models = 150
	s := open(t, filepath.Join(fastDir(t), "store"), cas.Options{})
	l := lease(t, s)
	blobs := make([]digest.Digest, models)
	for n := range blobs {
		b, d := content(uint64(900+n), 66<<10) // mapped
		blobs[n] = d
		must(t, s.Put(t.Context(), l, d, b))
		tree := digest.FromString(fmt.Sprint("model ", n))
		_, err := s.BuildTree(t.Context(), l, tree, []cas.TreeEntry{{Path: "weights", Blob: d}})
		must(t, err)
		must(t, s.PutRef(t.Context(), cas.Ref{Name: fmt.Sprint("model-", n), Tree: tree, Blobs: []digest.Digest{d}}))
	}
	must(t, l.Release())
	for n := range models {
		if n%3 != 0 {
			must(t, s.DeleteRef(t.Context(), fmt.Sprint("model-", n)))
		}
	}
	var readers []*cas.Blob
	for n := 1; n < models; n += 15 { // of those without a ref
		r, err := s.Open(blobs[n])
		must(t, err)
		readers = append(readers, r)
	}
	sizes := func(items []cas.GCItem) (kept, dropped int) {
		for _, i := range items {
			if i.Kind == "blob" && i.Bytes > 0 && i.Action == cas.Keep {
				kept++
			} else if i.Kind == "blob" && i.Bytes > 0 {
				dropped++
			}
		}
		return kept, dropped
	}
	plan, err := s.PlanGC(t.Context(), cas.GCOptions{Proc: "/proc"})
	must(t, err)
	if kept, dropped := sizes(plan.Items); kept != models/3+len(readers) || dropped != models-models/3-len(readers) {
		t.Errorf("a plan knows the sizes of %d kept and %d dropped blobs", kept, dropped)
	}
	r := gc(t, s, cas.GCOptions{})
	for n, d := range blobs {
		kept := n%3 == 0 || n%15 == 1
		if has(t, s, d) != kept {
			t.Errorf("blob %d: kept %v", n, !kept)
		}
		if _, err := os.Lstat(filepath.Join(s.Root(), "maps/sha256", d.Encoded()[:2], d.Encoded())); (err == nil) != kept {
			t.Errorf("map of blob %d: kept %v", n, !kept)
		}
		if action := item(t, r, "blob", string(d)).Action; (action == cas.Keep) != kept {
			t.Errorf("blob %d: %s", n, action)
		}
	}
	if want := len(readers); r.PutBack != 2*want { // each with the tree that links it
		t.Errorf("%d put back, want the blobs and trees of %d readers", r.PutBack, want)
	}
	if refs, err := s.Refs(); err != nil || len(refs) != models/3 {
		t.Errorf("%d refs, %v", len(refs), err)
	}
	scrubbed, err := s.Scrub(t.Context(), cas.ScrubOptions{})
	if err != nil || len(scrubbed.Findings) > 0 || scrubbed.Blobs != models/3+len(readers) {
		t.Errorf("%+v, %v", scrubbed, err)
	}
	if found, err := s.Fsck(t.Context(), cas.FsckOptions{}); err != nil || len(found) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
	for _, r := range readers {
		must(t, r.Close())
	}
	gc(t, s, cas.GCOptions{})
	left, err := s.Blobs(t.Context())
	if err != nil || len(left) != models/3 {
		t.Errorf("%d blobs left, %v", len(left), err)
	}
}
