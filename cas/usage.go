package cas

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Usage is what a store takes up on disk, each inode counted once: a file in a
// tree that is a link to a blob costs nothing.
type Usage struct {
	Blobs        int   `json:"blobs"`
	BlobBytes    int64 `json:"blobBytes"`
	Trees        int   `json:"trees"`
	TreeBytes    int64 `json:"treeBytes"`   // directories, indexes, and files that are copies
	SharedBytes  int64 `json:"sharedBytes"` // what trees show of blobs, at no cost
	Partials     int   `json:"partials"`
	PartialBytes int64 `json:"partialBytes"`
	TrashBytes   int64 `json:"trashBytes"` // of the trash alone
	OtherBytes   int64 `json:"otherBytes"` // maps, layers, refs, leases, directories
	Total        int64 `json:"total"`
	DiskFree     int64 `json:"diskFree"`
	DiskTotal    int64 `json:"diskTotal"`
}

// Usage measures the store.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	seen := map[uint64]bool{} // inodes with several names; the store is on one file system
	measure := func(dir string, visit func(bytes, shared int64, d fs.DirEntry)) error {
		return filepath.WalkDir(s.path(dir), func(p string, d fs.DirEntry, err error) error {
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return gone(err)
			}
			info, err := d.Info()
			if err != nil {
				return gone(err)
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return nil
			}
			bytes, shared := st.Blocks*512, int64(0)
			if !d.IsDir() && st.Nlink > 1 {
				if seen[st.Ino] {
					bytes, shared = 0, bytes
				}
				seen[st.Ino] = true
			}
			u.Total += bytes
			visit(bytes, shared, d)
			return nil
		})
	}
	other := func(bytes, _ int64, _ fs.DirEntry) { u.OtherBytes += bytes }
	err := errors.Join(
		measure("blobs", func(bytes, _ int64, d fs.DirEntry) {
			if d.IsDir() {
				u.OtherBytes += bytes
				return
			}
			u.Blobs++
			u.BlobBytes += bytes
		}),
		measure("trees", func(bytes, shared int64, d fs.DirEntry) {
			if _, ok := keyOfHex(d.Name()); ok && d.IsDir() {
				u.Trees++
			}
			u.TreeBytes += bytes
			u.SharedBytes += shared
		}),
		measure("ingest", func(bytes, _ int64, d fs.DirEntry) {
			if d.Name() == "data" {
				u.Partials++
			}
			u.PartialBytes += bytes
		}),
		measure("trash", func(bytes, _ int64, _ fs.DirEntry) { u.TrashBytes += bytes }),
		measure("maps", other), measure("layers", other), measure("refs", other), measure("leases", other), measure("suspect", other),
	)
	if err != nil {
		return Usage{}, err
	}
	u.DiskFree, u.DiskTotal, err = s.free()
	return u, err
}

// gone forgives what disappears while it is looked at.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
