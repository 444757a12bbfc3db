package policy

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// FileClaim is what a manifest says about one layer before it is fetched.
type FileClaim struct {
	Path      string // "" or "." for an archive whose names are known only after unpacking; else, of an archive, the directory it unpacks into
	Size      int64  // bytes of the layer as stored
	MediaType string
	Digest    digest.Digest // of the layer; files of one digest are stored and counted once. "": counted on its own
	Archive   bool          // the layer is a tar (compressed or not)
}

// Defaults for a policy's limits that are zero. They are wide: the size that
// the snapshot states for a model is the tight bound.
const (
	DefaultFiles       = 4096
	DefaultFileBytes   = 1 << 40 // 1 TiB; the largest single weight files are some 700 GB
	DefaultTotalBytes  = 4 << 40 // 4 TiB
	DefaultExpandRatio = 16      // unpacked bytes for each byte of the layers; JSON shrinks by 4 to 10, weights hardly
)

// mediaTypeMax bounds a media type in bytes (RFC 6838, 4.2: 127 for each half).
const mediaTypeMax = 255

// withDefaults fills in what a policy leaves at zero.
func withDefaults(l snapshot.Limits) snapshot.Limits {
	if l.Files == 0 {
		l.Files = DefaultFiles
	}
	if l.FileBytes == 0 {
		l.FileBytes = DefaultFileBytes
	}
	if l.TotalBytes == 0 {
		l.TotalBytes = DefaultTotalBytes
	}
	if l.ExpandRatio == 0 {
		l.ExpandRatio = DefaultExpandRatio
	}
	return l
}

// AdmitLayout decides from the manifest alone, before the first layer byte:
// counts, sizes, media types and paths. A file whose name no admitted format
// has is refused here too, so that its bytes are never fetched.
func AdmitLayout(p snapshot.Policy, m snapshot.Model, format string, files []FileClaim) Decision {
	g, err := newGate(p, m)
	if err != nil {
		return refused(ClassLayout, err)
	}
	stored, err := g.layout(files)
	if err != nil {
		return refused(ClassLayout, err)
	}
	return Decision{
		Allowed: true, Rule: "content.limits",
		Reason: fmt.Sprintf("what the manifest claims is within limits: format %s, %s, %d bytes", format, count(len(files), "file"), stored),
	}
}

// layout gives the bytes that the layers claim, each digest once.
func (g *gate) layout(files []FileClaim) (stored int64, err error) {
	if err := g.count(len(files)); err != nil {
		return 0, err
	}
	var total int64
	var paths []string
	sizes := make(map[digest.Digest]int64, len(files))
	for _, f := range files {
		name := f.Path
		if f.Archive && (name == "" || name == ".") {
			name = "an archive"
		} else if err := SafePath(f.Path); err != nil {
			return 0, pathBreach(err)
		}
		if !f.Archive {
			paths = append(paths, f.Path)
			if _, err := g.format(f.Path); err != nil {
				return 0, about(name, err)
			}
		}
		if err := g.mediaType(f.MediaType); err != nil {
			return 0, about(name, err)
		}
		if total, err = g.add(f.Size, total); err != nil {
			return 0, about(name, err)
		}
		size, again := sizes[f.Digest]
		switch {
		case f.Digest == "" || !again:
			stored += f.Size // at most total, which cannot overflow
			sizes[f.Digest] = f.Size
		case size != f.Size:
			return 0, &breach{
				file: name, rule: "content.limits.fileBytes", reason: "claims another size than a file of the same digest",
				expected: fmt.Sprintf("%d bytes", size), found: fmt.Sprintf("%d bytes", f.Size),
			}
		}
	}
	if stored > g.model.Size {
		return 0, &breach{
			rule: "size", reason: "the artifact claims more bytes than the snapshot lists for the model",
			expected: fmt.Sprintf("at most %d bytes", g.model.Size), found: fmt.Sprintf("%d bytes", stored),
		}
	}
	if err := SafePaths(paths); err != nil {
		return 0, pathBreach(err)
	}
	return stored, nil
}

// count checks the number of files against the policy's limit.
func (g *gate) count(n int) error {
	switch {
	case n == 0:
		return &breach{rule: "content.limits.files", reason: "the artifact has no files", expected: "at least 1 file", found: "0 files"}
	case n > g.limits.Files:
		return &breach{
			rule: "content.limits.files", reason: "the artifact has too many files",
			expected: fmt.Sprintf("at most %d files", g.limits.Files), found: fmt.Sprintf("%d files", n),
		}
	}
	return nil
}

// add checks one file's size and gives the total with it. Sizes come from
// outside: the sum is compared before it can overflow.
func (g *gate) add(size, total int64) (int64, error) {
	switch {
	case size < 0:
		return 0, &breach{
			rule: "content.limits.fileBytes", reason: "claims a negative size",
			expected: "0 bytes or more", found: fmt.Sprintf("%d bytes", size),
		}
	case size > g.limits.FileBytes:
		return 0, &breach{
			rule: "content.limits.fileBytes", reason: "is too large",
			expected: fmt.Sprintf("at most %d bytes", g.limits.FileBytes), found: fmt.Sprintf("%d bytes", size),
		}
	case size > g.limits.TotalBytes-total:
		return 0, &breach{
			rule: "content.limits.totalBytes", reason: "makes the artifact too large",
			expected: fmt.Sprintf("at most %d bytes in all", g.limits.TotalBytes),
			found:    fmt.Sprintf("%d bytes after %d of other files", size, total),
		}
	}
	return total + size, nil
}

func (g *gate) mediaType(mediaType string) error {
	allowed := g.content.MediaTypes
	switch {
	case mediaType == "" || len(mediaType) > mediaTypeMax:
		return &breach{
			rule: "content.mediaTypes", reason: "has no usable media type",
			expected: fmt.Sprintf("1 to %d bytes", mediaTypeMax), found: quoted(mediaType),
		}
	case len(allowed) > 0 && !slices.Contains(allowed, mediaType):
		return &breach{
			rule: "content.mediaTypes", reason: "has a media type that the policy does not admit",
			expected: list(allowed), found: quoted(mediaType),
		}
	}
	return nil
}

func pathBreach(err error) error {
	return &breach{rule: "paths", reason: err.Error(), expected: "distinct relative paths that stay inside the model", found: err.Error()}
}
