package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Limits bound what a packed layer may unfold to. Zero fields are the
// defaults.
type Limits struct {
	Files       int   // entries of one layer; 100,000
	FileBytes   int64 // of one file; 2 TiB
	TotalBytes  int64 // of all files of one layer; 4 TiB
	ExpandRatio int   // unfolded bytes per packed byte; 200
}

func (l Limits) withDefaults() Limits {
	if l.Files <= 0 {
		l.Files = 100_000
	}
	if l.FileBytes <= 0 {
		l.FileBytes = 2 << 40
	}
	if l.TotalBytes <= 0 {
		l.TotalBytes = 4 << 40
	}
	if l.ExpandRatio <= 0 {
		l.ExpandRatio = 200
	}
	return l
}

// maxWindow is the largest zstd window that is decoded: it is held in memory.
// Levels up to 20 need no more.
const maxWindow = 32 << 20

// expandFree is what any layer may unfold to before the ratio counts: a tar
// of a few empty files compresses to almost nothing.
const expandFree = 16 << 20

// unfold reads the bytes behind a layer's compression and stops at the limit.
func unfold(r io.Reader, c Compression, packed int64, l Limits) (io.ReadCloser, error) {
	var out io.ReadCloser
	switch c {
	case Plain:
		return io.NopCloser(r), nil
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %v", ErrFormat, err)
		}
		out = z
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrFormat, err)
		}
		out = z.IOReadCloser()
	default:
		return nil, fmt.Errorf("%w: compression %q", ErrFormat, truncate(string(c), 20))
	}
	most := l.TotalBytes
	if n := packed * int64(l.ExpandRatio); n/int64(l.ExpandRatio) == packed {
		most = min(most, max(n, expandFree))
	}
	return &bounded{ReadCloser: out, left: most, most: most}, nil
}

// bounded fails when more arrives than may.
type bounded struct {
	io.ReadCloser
	left, most int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: it unfolds to more than %d bytes", ErrTooLarge, b.most)
	}
	return n, err
}

// tarEntry is one name in a packed layer.
type tarEntry struct {
	path   string // safe, from the archive's root
	kind   byte   // tar.TypeReg, TypeDir, TypeLink, TypeSymlink
	size   int64
	mode   uint32
	target string // of links, as written
}

// walkTar calls visit for each entry, in order, with the content of regular
// files. Everything but files, directories and links is refused, as is every
// unsafe name. Entries whose name keep (nil keeps all) declines are passed
// over without a look. It reads the stream to its end, beyond the archive's.
func walkTar(r io.Reader, l Limits, keep func(name string) bool, visit func(tarEntry, io.Reader) error) error {
	tr := tar.NewReader(r)
	total := int64(0)
	for n := 1; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return formatError("tar", err)
		}
		if err != nil {
			return formatError("tar", err)
		}
		if n > l.Files {
			return fmt.Errorf("%w: more than %d entries", ErrTooLarge, l.Files)
		}
		name := strings.TrimSuffix(cleanPath(h.Name), "/")
		if keep != nil && !keep(name) {
			continue
		}
		e := tarEntry{size: h.Size, mode: plainMode(uint32(h.Mode) & 0o777), target: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg, '\x00':
			e.kind = tar.TypeReg
		case tar.TypeDir, tar.TypeLink, tar.TypeSymlink:
			e.kind = h.Typeflag
		case tar.TypeXGlobalHeader:
			continue
		default:
			return fmt.Errorf("%w: entry %q is no file, directory or link (type %q)", ErrFormat, truncate(h.Name, 200), h.Typeflag)
		}
		if e.kind == tar.TypeDir && (name == "" || name == ".") {
			continue // the root itself
		}
		if err := CheckPath(name); err != nil {
			return err
		}
		e.path = path.Clean(name)
		if e.kind == tar.TypeReg {
			if e.size < 0 || e.size > l.FileBytes {
				return fmt.Errorf("%w: entry %q has %d bytes, at most %d are allowed", ErrTooLarge, e.path, e.size, l.FileBytes)
			}
			if total += e.size; total > l.TotalBytes {
				return fmt.Errorf("%w: the files add up to more than %d bytes", ErrTooLarge, l.TotalBytes)
			}
		} else {
			e.size = 0
		}
		if err := visit(e, tr); err != nil {
			return formatError(fmt.Sprintf("entry %q", e.path), err)
		}
	}
}

// formatError gives errors of decoders their class; what has one keeps it.
func formatError(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, class := range []error{ErrTooLarge, ErrFormat, ErrPath} {
		if errors.Is(err, class) {
			return err
		}
	}
	var store *storeError
	if errors.As(err, &store) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrFormat, what, err)
}
