package cas_test

import (
	"testing"

	"github.com/resultity/rmodels/cas"
)

func TestUsage(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, _ := content(1, 1<<20)
	d := put(t, s, l, b)
	before, err := s.Usage(t.Context())
	if err != nil || before.Blobs != 1 || before.BlobBytes != 1<<20 {
		t.Fatalf("%+v, %v", before, err)
	}
	if _, err := s.BuildTree(t.Context(), l, name(1), []cas.TreeEntry{{Path: "a", Blob: d}, {Path: "b", Blob: d}}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Usage(t.Context())
	if err != nil || after.Trees != 1 || after.SharedBytes != 2<<20 || after.Total-before.Total > 64<<10 {
		t.Fatalf("before %+v, after %+v, %v", before, after, err)
	}
}
