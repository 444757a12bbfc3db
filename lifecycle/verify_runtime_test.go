package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/cas"
)

// What fsck says of a damaged runtime image helps: verify names the image, and
// verify --repair fetches it again. The model stays in use.
func TestVerifyRepairsRuntimeImages(t *testing.T) {
	ctx := context.Background()
	for _, harm := range []string{"rot", "gone"} {
		t.Run(harm, func(t *testing.T) {
			w, n := judging(t, "tiny")
			w.sync(n)
			w.state(n, "tiny@v1", Active)
			if vs, err := n.Verify(ctx, VerifyOptions{}); err != nil || len(vs) != 1 {
				t.Fatalf("before: %+v, %v", vs, err)
			}
			acc, err := n.Current()
			w.must(err)
			rt := acc.Document.Runtimes[0]
			var rec RuntimeRecord
			w.must(n.runtimes.read(modelID(rt.Name, rt.Version), &rec))
			for _, d := range rec.Blobs { // the manifest, the config, the layers and the signatures
				var now RuntimeRecord
				w.must(n.runtimes.read(modelID(rt.Name, rt.Version), &now))
				if d := n.readmit(acc, rt.Policy, rt.Reference, now.Receipt, n.runtimeRef(modelID(rt.Name, rt.Version))); !d.Allowed { // and remembered
					t.Fatalf("not admitted: %+v", d)
				}
				hex := d.Encoded()
				path := filepath.Join(n.o.StoreDir, "blobs", "sha256", hex[:2], hex)
				fi, err := os.Stat(path)
				w.must(err)
				if harm == "gone" {
					w.must(os.Remove(path))
				} else {
					w.must(os.Chmod(path, 0o644))
					f, err := os.OpenFile(path, os.O_WRONLY, 0)
					w.must(err)
					_, err = f.WriteAt([]byte("rot"), fi.Size()/2)
					w.must(err)
					w.must(f.Close())
					w.must(os.Chmod(path, 0o444))
					w.must(os.Chtimes(path, fi.ModTime(), fi.ModTime()))
				}

				fs, err := n.Fsck(ctx, cas.FsckOptions{Hash: true})
				if err != nil || len(fs) == 0 {
					t.Fatalf("%s: fsck: %+v, %v", d, fs, err)
				}
				vs, err := n.Verify(ctx, VerifyOptions{})
				if err != nil || len(vs) != 2 || !vs[0].OK || vs[1].OK || !vs[1].Runtime || vs[1].Name != rt.Name || len(vs[1].Findings) != 1 {
					t.Fatalf("%s: verify: %+v, %v", d, vs, err)
				}
				if f := vs[1].Failure; f.Cause != CauseHash || !strings.Contains(f.Reason, d.String()) || !strings.Contains(f.Hint, "verify --repair") {
					t.Errorf("%s: %+v", d, f)
				}
				if vs, err = n.Verify(ctx, VerifyOptions{Only: []string{"tiny"}}); err != nil || len(vs) != 1 {
					t.Errorf("%s: verify tiny: %+v, %v", d, vs, err)
				}
				vs, err = n.Verify(ctx, VerifyOptions{Repair: true})
				if err != nil || len(vs) != 2 || !vs[1].OK || !vs[1].Repaired {
					t.Fatalf("%s: repair: %+v, %v, %+v", d, vs, err, vs[len(vs)-1].Failure)
				}
				if fs, err := n.Fsck(ctx, cas.FsckOptions{Hash: true}); err != nil || len(fs) > 0 {
					t.Fatalf("%s: fsck afterwards: %+v, %v", d, fs, err)
				}
				w.state(n, "tiny@v1", Active)
			}
		})
	}
}
