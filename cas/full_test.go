package cas_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// fillUp leaves a file system without a free inode, or without a free block.
func fillUp(t *testing.T, at string, blocks bool) {
	t.Helper()
	dir := filepath.Join(at, "fill")
	must(t, os.MkdirAll(dir, 0o755))
	var err error
	for n := 0; !blocks && err == nil; n++ {
		var f *os.File
		if f, err = os.Create(filepath.Join(dir, fmt.Sprint("inode-", n))); err == nil {
			must(t, f.Close())
		}
	}
	for n, step := range []int{1 << 20, 4096, 1} {
		if !blocks {
			break
		}
		f, createErr := os.Create(filepath.Join(dir, fmt.Sprint("block-", n)))
		if err = createErr; err != nil {
			break
		}
		for err == nil {
			_, err = f.Write(make([]byte, step))
		}
		must(t, f.Close())
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// A store on a disk without a free inode, or without a free block, can be
// opened and collected: by evictions too, and without the spare directory.
func TestGCWhereNothingIsFree(t *testing.T) {
	for _, fstype := range []string{"tmpfs", "ext4"} {
		for _, blocks := range []bool{false, true} {
			for _, spare := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, blocks %v, spare %v", fstype, blocks, spare), func(t *testing.T) {
					at := t.TempDir()
					if fstype == "tmpfs" {
						mount(t, "tmpfs", at, "size=16m,nr_inodes=400")
					} else {
						_, at = disk(t, 16<<20, "loop")
					}
					root := filepath.Join(at, "store")
					s := open(t, root, cas.Options{})
					l := lease(t, s)
					kept, evicted, trees := install(t, s, l, 1), install(t, s, l, 2), install(t, s, l, 3)
					b, _ := content(4, 100<<10)
					loose := put(t, s, l, b)
					r := kept.ref("kept")
					r.Pinned = true
					must(t, s.PutRef(t.Context(), r))
					must(t, s.PutRef(t.Context(), evicted.ref("evicted")))
					_, d := content(5, 1<<20)
					i := ingest(t, s, l, d, 1<<20)
					_, err := i.WriteAt(make([]byte, 64<<10), 0)
					must(t, err)
					must(t, i.Close())
					must(t, os.Remove(filepath.Join(root, "ingest", "sha256-"+d.Encoded(), "lock"))) // as a crash may leave it
					must(t, l.Release())
					if !spare {
						must(t, os.Remove(filepath.Join(root, "trash", ".spare")))
					}
					fillUp(t, at, blocks)
					s = open(t, root, cas.Options{})
					gc(t, s, cas.GCOptions{Grace: time.Hour, MinFree: everything})
					for range 2 {
						gc(t, s, cas.GCOptions{MinFree: everything})
					}
					for _, d := range []digest.Digest{evicted.big, trees.big, loose} {
						if has(t, s, d) {
							t.Errorf("%s is left", d)
						}
					}
					if !kept.present(t, s) {
						t.Error("a pinned model went")
					}
					if left := list(t, s, "ingest"); len(left) > 0 {
						t.Errorf("left: %v", left)
					}
				})
			}
		}
	}
}

// Where a run finds no room for its own directory, and no spare one, one thing
// that nobody has open makes room for it.
func TestGCMakesRoomForItsRun(t *testing.T) {
	for _, trees := range []bool{false, true} {
		t.Run(fmt.Sprint("trees ", trees), func(t *testing.T) {
			at := t.TempDir()
			mount(t, "tmpfs", at, "size=16m,nr_inodes=400")
			root := filepath.Join(at, "store")
			s := open(t, root, cas.Options{})
			l := lease(t, s)
			var blobs []digest.Digest
			for n := range 4 {
				if trees {
					blobs = append(blobs, install(t, s, l, uint64(n+1)).big)
					continue
				}
				b, _ := content(uint64(n+1), 5000)
				blobs = append(blobs, put(t, s, l, b))
			}
			must(t, l.Release())
			slices.Sort(blobs) // as a collection meets them
			reader, err := s.Open(blobs[0])
			must(t, err)
			must(t, os.Remove(filepath.Join(root, "trash", ".spare")))
			fillUp(t, at, false)
			r := gc(t, s, cas.GCOptions{})
			for n, d := range blobs {
				if has(t, s, d) != (n == 0) {
					t.Errorf("blob %d: kept %v", n, n != 0)
				}
			}
			if r.Freed == 0 {
				t.Error("nothing was freed")
			}
			must(t, reader.Close())
			gc(t, s, cas.GCOptions{})
			assertEmpty(t, s)
		})
	}
}
