package oci

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/terminal"
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
// Levels up to 20 need no more. A stream whose first frame asks for less than
// commonWindow, which RFC 8878 wants every decoder to take (3.1.1.1.2), may come
// to that in a later frame, and no further.
const (
	maxWindow    = 32 << 20
	commonWindow = 8 << 20
)

// history is the most that a decoder keeps of what it has unfolded, in bytes.
// Head is how the packed bytes begin. Frames that say nothing of those behind
// them, since they hold little or are to be skipped, leave all of maxWindow.
func (c Compression) history(head []byte) int64 {
	if c != Zstd {
		return 32 << 10
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil || h.Skippable || h.SingleSegment {
		return maxWindow
	}
	return int64(min(max(h.WindowSize, commonWindow), maxWindow))
}

// expandFree is what any layer may unfold to before the ratio counts: a tar
// of a few empty files compresses to almost nothing.
const expandFree = 16 << 20

// unfold reads the bytes behind a layer's compression and stops at the limit.
// Closing it closes r, which it does first: the decoder may wait for it.
func unfold(r io.ReadCloser, c Compression, packed int64, l Limits) (io.ReadCloser, error) {
	var out io.ReadCloser
	switch c {
	case Plain:
		return r, nil
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: gzip: %v", ErrFormat, err)
		}
		out = z
	case Zstd:
		head := bufio.NewReaderSize(r, 64<<10)
		first, _ := head.Peek(zstd.HeaderMaxSize) // what is wrong, the decoder says
		z, err := zstd.NewReader(head, zstd.WithDecoderMaxWindow(uint64(c.history(first))), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrFormat, err)
		}
		out = z.IOReadCloser()
	default:
		return nil, fmt.Errorf("%w: compression %q", ErrFormat, terminal.Clip(string(c), 20))
	}
	most := l.unfolded(packed)
	return &bounded{ReadCloser: decoder{out, r}, left: most, most: most}, nil
}

// decoder is a decoder and what it reads.
type decoder struct {
	io.ReadCloser
	from io.Closer
}

func (d decoder) Close() error { return errors.Join(d.from.Close(), d.ReadCloser.Close()) }

// bounded fails when more arrives than may.
type bounded struct {
	io.ReadCloser
	left, most int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooMuch(b.most)
	}
	return n, err
}

// entryKinds are the kinds of entries that are understood.
var entryKinds = map[byte]string{
	tar.TypeReg: cas.EntryFile, '\x00': cas.EntryFile, tar.TypeDir: cas.EntryDir,
	tar.TypeLink: cas.EntryLink, tar.TypeSymlink: cas.EntrySymlink,
}

// maxLink bounds the target of a link in bytes; Linux has no longer path.
const maxLink = 4096

// walkTar calls visit for each entry, in order, with the content of regular
// files. Everything but files, directories and links is refused, as is every
// unsafe name. Entries whose name keep (nil keeps all) declines are passed
// over without a look. It reads the stream to its end, beyond the archive's.
func walkTar(r io.Reader, l Limits, packed int64, keep func(name string) bool, visit func(cas.LayerEntry, io.Reader) error) error {
	tr := tar.NewReader(r)
	sum := tally{Limits: l, most: l.unfolded(packed)}
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
			return l.tooMany()
		}
		name := strings.TrimSuffix(cleanPath(h.Name), "/")
		if keep != nil && !keep(name) {
			continue
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e := cas.LayerEntry{Kind: entryKinds[h.Typeflag], Mode: plainMode(uint32(h.Mode) & 0o777)}
		switch e.Kind {
		case cas.EntryFile:
			e.Size = h.Size
		case cas.EntryDir:
			if name == "" || name == "." {
				continue // the root itself
			}
		case cas.EntryLink, cas.EntrySymlink:
			if e.Target = h.Linkname; len(e.Target) > maxLink || !utf8.ValidString(e.Target) {
				return fmt.Errorf("%w: link %q to %q", ErrPath, terminal.Clip(h.Name, 200), terminal.Clip(e.Target, 200))
			}
		default:
			return fmt.Errorf("%w: entry %q is no file, directory or link (type %q)", ErrFormat, terminal.Clip(h.Name, 200), h.Typeflag)
		}
		if err := CheckPath(name); err != nil {
			return err
		}
		e.Path = path.Clean(name)
		if err := sum.admit(e); err != nil {
			return err
		}
		if err := visit(e, tr); err != nil {
			return formatError(fmt.Sprintf("entry %q", e.Path), err)
		}
	}
}

func (l Limits) tooMany() error {
	return fmt.Errorf("%w: more than %d entries", ErrTooLarge, l.Files)
}

// maxNames bounds the paths and targets of one layer, in bytes: they are held in
// memory, and those of a record several times over.
const maxNames = 4 << 20

// tally adds up what a layer holds and keeps it to its limits. The sizes are
// those that headers say: a sparse file has more bytes than the archive.
type tally struct {
	Limits
	most  int64 // bytes of all files
	bytes int64
	names int64
}

func (t *tally) admit(e cas.LayerEntry) error {
	if e.Size < 0 || e.Size > t.FileBytes {
		return fmt.Errorf("%w: entry %q has %d bytes, at most %d are allowed", ErrTooLarge, e.Path, e.Size, t.FileBytes)
	}
	if t.bytes += e.Size; t.bytes > t.most {
		return tooMuch(t.most)
	}
	if t.names += int64(len(e.Path) + len(e.Target)); t.names > maxNames {
		return fmt.Errorf("%w: the names add up to more than %d bytes", ErrTooLarge, maxNames)
	}
	return nil
}

// admitAll holds a layer that was unpacked under other limits to these.
func (l Limits) admitAll(entries []cas.LayerEntry, packed int64) error {
	if len(entries) > l.Files {
		return l.tooMany()
	}
	sum := tally{Limits: l, most: l.unfolded(packed)}
	for _, e := range entries {
		if err := sum.admit(e); err != nil {
			return err
		}
	}
	return nil
}

// unfolded is what a layer of so many packed bytes may unfold to.
func (l Limits) unfolded(packed int64) int64 {
	if n := packed * int64(l.ExpandRatio); n/int64(l.ExpandRatio) == packed {
		return min(l.TotalBytes, max(n, expandFree))
	}
	return l.TotalBytes
}

func tooMuch(most int64) error {
	return fmt.Errorf("%w: it unfolds to more than %d bytes", ErrTooLarge, most)
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
