package oci

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/terminal"
)

// Whiteouts of image layers (image-spec 1.1, "Representing Changes").
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// maxLinkHops bounds chains of symbolic links, as the kernel does.
const maxLinkHops = 40

// imageEntries lays the layers of an image over each other and takes the
// files under /models/. Links to files inside of it become files that share
// the blob; links that lead out, or to directories, are refused.
func imageEntries(layers [][]cas.LayerEntry) ([]cas.TreeEntry, error) {
	tree := map[string]cas.LayerEntry{} // what lies under the prefix, by full path
	remove := func(dir string) {
		for p := range tree {
			if p == dir || strings.HasPrefix(p, dir+"/") {
				delete(tree, p)
			}
		}
	}
	prefix := strings.TrimSuffix(imagePrefix, "/")
	for _, layer := range layers {
		// A layer's whiteouts apply to the layers below, whatever their order.
		for _, u := range layer {
			dir, base := path.Split(u.Path)
			switch {
			case base == opaque:
				for p := range tree {
					if strings.HasPrefix(p, dir) {
						delete(tree, p)
					}
				}
			case strings.HasPrefix(base, whiteout):
				remove(path.Join(dir, strings.TrimPrefix(base, whiteout)))
			}
		}
		for _, u := range layer {
			if strings.HasPrefix(path.Base(u.Path), whiteout) {
				continue
			}
			if u.Path == prefix && u.Kind != cas.EntryDir {
				return nil, fmt.Errorf("%w: /%s is no directory", ErrFormat, prefix)
			}
			if !strings.HasPrefix(u.Path, imagePrefix) {
				continue
			}
			if u.Kind == cas.EntryDir {
				if old, ok := tree[u.Path]; ok && old.Kind != cas.EntryDir {
					delete(tree, u.Path)
				}
				continue
			}
			if u.Kind == cas.EntryLink {
				target, ok := tree[strings.TrimPrefix(path.Clean("/"+u.Target), "/")]
				if !ok {
					return nil, fmt.Errorf("%w: %q is a hard link to %q, which is not under /%s", ErrFormat, u.Path, terminal.Clip(u.Target, 200), prefix)
				}
				u.Kind, u.Blob, u.Size, u.Target = target.Kind, target.Blob, target.Size, target.Target
			}
			remove(u.Path)
			tree[u.Path] = u
		}
	}
	var entries []cas.TreeEntry
	for name, u := range tree {
		from := name
		for hops := 0; u.Kind == cas.EntrySymlink; hops++ {
			target := u.Target
			if !strings.HasPrefix(target, "/") {
				target = path.Join("/", path.Dir(from), target)
			}
			from = strings.TrimPrefix(path.Clean(target), "/")
			next, ok := tree[from]
			if !ok || hops > maxLinkHops {
				return nil, fmt.Errorf("%w: %q links to %q, which is no file under /%s", ErrFormat, name, terminal.Clip(u.Target, 200), prefix)
			}
			u = next
		}
		rel := strings.TrimPrefix(name, imagePrefix)
		if err := CheckPath(rel); err != nil {
			return nil, err
		}
		entries = append(entries, cas.TreeEntry{Path: rel, Blob: u.Blob, Executable: u.Mode&0o111 != 0})
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: the image holds no file under /%s", ErrFormat, prefix)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Path < entries[j].Path })
	return entries, nil
}
