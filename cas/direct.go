package cas

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// directAlign is what O_DIRECT asks of offsets, lengths and addresses on every
// disk up to the 4 KiB native sector.
const directAlign = 4096

// diskReader reads a blob from the disk itself. The page cache, which holds
// what the engine works with, is neither used nor disturbed. Where the file
// system has no direct reads (tmpfs before Linux 6.6), it reads through the
// cache.
type diskReader struct {
	direct, cached durable.File
}

func (s *Store) openDisk(path string) (*diskReader, error) {
	cached, err := s.fs.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	direct, err := s.fs.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECT, 0)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		cached.Close()
		return nil, err
	}
	if err != nil {
		direct = nil
	}
	return &diskReader{direct, cached}, nil
}

func (r *diskReader) close() {
	r.cached.Close()
	if r.direct != nil {
		r.direct.Close()
	}
}

// read returns the bytes [off, off+n) as the disk has them, in d, which was
// made for at least n bytes. Less come back at the end of the file.
func (r *diskReader) read(d *directBuffer, off, n int64) ([]byte, error) {
	buf := d.b
	if r.direct == nil {
		return readFull(r.cached, buf[:n], off)
	}
	from := off / directAlign * directAlign
	to := (off + n + directAlign - 1) / directAlign * directAlign
	b, err := readFull(r.direct, buf[:to-from], from)
	if errors.Is(err, unix.EINVAL) { // a disk with larger sectors
		return readFull(r.cached, buf[:n], off)
	}
	if err != nil {
		return nil, err
	}
	b = b[min(int64(len(b)), off-from):]
	return b[:min(int64(len(b)), n)], nil
}

func readFull(f io.ReaderAt, p []byte, off int64) ([]byte, error) {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return p[:n], err
}

// hugePage is what the hardware of amd64 and arm64 maps as one, in bytes.
const hugePage = 2 << 20

// directBuffer is memory for [diskReader.read], outside the Go heap: it has
// room for n bytes at any offset and an address that O_DIRECT takes, and lies
// in huge pages where the kernel has some. A disk takes a request of so many
// pieces of memory at most; in pieces of 4 KiB, a chunk is several requests
// instead of one, at less than half the speed.
type directBuffer struct {
	b      []byte
	mapped []byte
}

func newDirectBuffer(n int64) (*directBuffer, error) {
	room := n + 2*directAlign
	mapped, err := unix.Mmap(-1, 0, int(room+hugePage), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes to read into: %w", room, err)
	}
	skip := -int64(uintptr(unsafe.Pointer(&mapped[0]))) & (hugePage - 1)
	b := mapped[skip : skip+room]
	if whole := n / hugePage * hugePage; whole > 0 {
		_ = unix.Madvise(b[:whole], unix.MADV_HUGEPAGE) // advice only
	}
	return &directBuffer{b, mapped}, nil
}

// free ends the use of the buffer and of what was read into it.
func (d *directBuffer) free() { _ = unix.Munmap(d.mapped) }
