package cas

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// generation is how a collector learns, with one read inside its exclusive
// section, whether roots changed since its last one. Writers hold the store
// lock shared, add one, and only then change a root: a writer that is killed
// in between has announced a change too many, never one too few. Two writers
// may store the same number, but never one that the collector has seen, as it
// reads while nobody writes. The file needs no fsync: a collection does not
// outlive a power loss.
type generation struct{ f *os.File }

type counters struct{ roots, leases uint64 }

func openGeneration(path string) (*generation, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return &generation{f}, nil
}

func (g *generation) close() error { return g.f.Close() }

func (g *generation) read() (counters, error) {
	var b [16]byte
	if n, err := g.f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return counters{}, fmt.Errorf("read generation: %w", err)
	} else if n%8 != 0 {
		return counters{}, fmt.Errorf("%w: generation has %d bytes", ErrCorrupt, n)
	}
	return counters{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}, nil
}

func (g *generation) rootsChanged() error  { return g.add(0) }
func (g *generation) leasesChanged() error { return g.add(8) }

func (g *generation) add(off int64) error {
	var b [8]byte
	if _, err := g.f.ReadAt(b[:], off); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read generation: %w", err)
	}
	binary.LittleEndian.PutUint64(b[:], binary.LittleEndian.Uint64(b[:])+1)
	if _, err := g.f.WriteAt(b[:], off); err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	return nil
}
