package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/resultity/rmodels/cas"
)

// What a collection calls damaged, the command that it names makes whole.
func TestDamagedIndexesAreRebuilt(t *testing.T) {
	for label, path := range map[string]func(st *cas.Store, r *Record, ref cas.Ref) string{
		"index of the tree": func(_ *cas.Store, r *Record, _ cas.Ref) string { return filepath.Join(filepath.Dir(r.Tree), "index") },
		"record of the layer": func(st *cas.Store, _ *Record, ref cas.Ref) string {
			return filepath.Join(st.Root(), "layers", "sha256", ref.Layers[0].Encoded())
		},
	} {
		for _, harm := range []string{"other bytes", "gone"} {
			t.Run(label+" "+harm, func(t *testing.T) {
				w := newNetwork(t)
				ref, files := w.pushPacked("tiny")
				w.list("tiny", "v1", ref)
				w.publish()
				n := w.node()
				w.sync(n)
				r := w.state(n, "tiny@v1", Pending)
				st, err := n.Store()
				w.must(err)
				root, err := st.Ref(n.modelRef("tiny@v1"))
				w.must(err)
				file := path(st, r, root)
				w.must(os.Remove(file))
				if harm != "gone" {
					w.must(os.WriteFile(file, []byte("{}"), 0o444))
				}
				res, err := n.GC(context.Background(), cas.GCOptions{})
				w.must(err)
				if len(res.Damaged) != 1 {
					t.Fatalf("damaged: %+v", res.Damaged)
				}
				vs, err := n.Verify(context.Background(), VerifyOptions{Repair: true})
				if err != nil || len(vs) != 1 {
					t.Fatalf("%+v, %v", vs, err)
				}
				w.shows(w.state(n, "tiny@v1", Pending), files)
				if res, err := n.GC(context.Background(), cas.GCOptions{}); err != nil || len(res.Damaged) > 0 {
					t.Errorf("afterwards: %+v, %v", res.Damaged, err)
				}
				if found, err := n.Fsck(context.Background(), cas.FsckOptions{}); err != nil || len(found) > 0 {
					t.Errorf("fsck: %+v, %v", found, err)
				}
			})
		}
	}
}
