package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/disktest"
	"github.com/resultity/rmodels/snapshot"
)

// On a disk without a free block, or without a free inode, a newer snapshot is
// accepted and stored, everything that it withdraws is withdrawn on the disk,
// a collection frees, and the next pass goes on.
func TestFullDisk(t *testing.T) {
	const models = 30
	w, _ := judging(t)
	reference := w.push("tiny", w.key, "tiny")
	w.list("bad", "v1", w.push("bad", w.key, "bad"))
	for n := range models {
		w.list(fmt.Sprint("tiny-", n), "v1", reference)
	}
	w.publish()
	for name, c := range map[string]struct {
		at   string
		fill func(*testing.T, string)
	}{
		"tmpfs, blocks": {disktest.Tmpfs(t, 128<<20, 0), disktest.FillBlocks},
		"tmpfs, inodes": {disktest.Tmpfs(t, 128<<20, 2000), disktest.FillInodes},
		"ext4, blocks":  {disktest.Ext4(t, 128<<20, 2000), disktest.FillBlocks},
		"ext4, inodes":  {disktest.Ext4(t, 128<<20, 2000), disktest.FillInodes},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				d.Revocations = nil
				for i := range d.Models {
					d.Models[i].Enabled, d.Models[i].Size = true, 6<<20
				}
				return nil
			}))
			w.publish()
			n := w.node(func(o *Options) { o.StateDir = filepath.Join(c.at, "state") })
			n.says(true)
			w.sync(n)
			w.sync(n) // the reserve is kept for what is there now
			bad := w.state(n, "bad@v1", Active).Manifest
			w.must(w.repo.Edit(func(d *snapshot.Snapshot) error {
				d.Revocations = []snapshot.Revocation{{Digest: bad}}
				for i := range d.Models {
					d.Models[i].Enabled = d.Models[i].Name == "tiny-0"
				}
				return nil
			}))
			b := w.publish()
			c.fill(t, c.at)
			if f, err := os.Create(filepath.Join(c.at, "probe")); !errors.Is(err, unix.ENOSPC) {
				_, err = f.Write(make([]byte, 1))
				if !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("the disk is not full: %v", err)
				}
				f.Close()
				w.must(os.Remove(f.Name()))
				c.fill(t, c.at)
			}
			acc, _, err := n.Apply(context.Background(), b, "test")
			if acc == nil {
				t.Fatal(err)
			}
			again, err := Open(n.o)
			w.must(err)
			cur, err := again.Current()
			w.must(err)
			if cur.Digest != acc.Digest {
				t.Errorf("stored is snapshot %d", cur.Document.Sequence)
			}
			for i := range models {
				want := Inactive
				if i == 0 {
					want = Active
				}
				if s := w.onDisk(again, fmt.Sprintf("tiny-%d@v1", i)); s != want {
					t.Errorf("tiny-%d is %s on the disk", i, s)
				}
			}
			if s := w.onDisk(again, "bad@v1"); s != Failed {
				t.Errorf("bad is %s on the disk", s)
			}
			again.says(true)
			r, err := again.GC(context.Background(), full)
			w.must(err)
			if r.Freed == 0 {
				r, err = again.GC(context.Background(), full) // pins that found no room are set right by what the first freed
				w.must(err)
			}
			if r.Freed == 0 {
				t.Errorf("a collection freed nothing: %+v", r.GCPlan)
			}
			if _, err := again.GC(context.Background(), cas.GCOptions{}); err != nil {
				t.Error(err)
			}
			disktest.Empty(t, c.at)
			w.sync(again)
			w.state(again, "tiny-0@v1", Active)
			w.whole(again, "after the disk was full")
		})
	}
}
