package cas_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// Roots are compared with what is there: what each lacks, those that cannot be
// read, and the trees that none names.
func TestCheckRoots(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	whole, lacking, treeless, loose := install(t, s, l, 1), install(t, s, l, 2), install(t, s, l, 3), install(t, s, l, 4)
	for name, m := range map[string]model{"whole": whole, "lacking": lacking, "treeless": treeless, "broken": whole} {
		must(t, s.PutRef(t.Context(), m.ref(name)))
	}
	must(t, os.Remove(blobPath(s, lacking.manifest)))
	must(t, os.Remove(blobPath(s, lacking.big)))
	must(t, os.RemoveAll(filepath.Dir(treeless.tree.Path)))
	damage(t, filepath.Join(s.Root(), "refs", "broken"), 66)
	got, err := s.CheckRoots(t.Context())
	must(t, err)
	if !slices.Equal(got.Loose, []digest.Digest{loose.manifest}) {
		t.Errorf("loose %v, want %v", got.Loose, loose.manifest)
	}
	if len(got.Broken) != 1 || got.Broken[0].Name != "broken" {
		t.Errorf("broken %+v", got.Broken)
	}
	want := map[string][]digest.Digest{"whole": nil, "lacking": {lacking.manifest, lacking.big}, "treeless": {treeless.manifest}}
	for _, r := range got.Roots {
		ds, known := want[r.Name]
		if !known || len(r.Lacks) != len(ds) {
			t.Errorf("%s: %+v", r.Name, r.Lacks)
			continue
		}
		for n, d := range ds {
			if !strings.Contains(r.Lacks[n].Problem, string(d)) || r.Lacks[n].Remedy == "" {
				t.Errorf("%s: %+v, want %s", r.Name, r.Lacks[n], d)
			}
		}
		delete(want, r.Name)
	}
	if len(want) > 0 {
		t.Errorf("not told: %v", want)
	}
	found, err := s.Fsck(t.Context(), cas.FsckOptions{})
	must(t, err)
	refs := 0
	for _, f := range found {
		if f.Kind == "ref" {
			refs++
		}
	}
	if refs != 4 {
		t.Errorf("%d findings about refs: %+v", refs, found)
	}
}
