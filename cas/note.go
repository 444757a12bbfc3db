package cas

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// A note names the bytes of an unfinished blob that its writer has handed to
// the kernel. Nothing is synced for it, so it costs next to nothing and may be
// written for every MiB: a process that is killed loses no more than that. It
// is worth nothing after a power loss, and is believed only where the bytes
// still must be (invariant 3): by the system that runs since, for the inode
// that it was written beside. The hash starts behind it, at the checkpoint: a
// note that is wrong after all costs a transfer, never integrity.
//
// A note file is, little endian: length u32 of what follows, the SHA-256 of
// its place, a progress record without hash state. It is overwritten in place:
// what a shorter record leaves behind it has no meaning, and a torn one fails
// its checksum.
const (
	noteBytes    = 1 << 20 // of new bytes cause a note
	noteHeader   = 4 + sha256.Size
	maxNoteBytes = noteHeader + maxProgressBytes
)

func (s *Store) notePath(k key) string { return filepath.Join(s.ingestPath(k), "written") }

// placeOf identifies a file for as long as what was written to it cannot have
// been lost: the running kernel, the device, the inode and its birth.
func placeOf(f durable.File) ([sha256.Size]byte, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	var st unix.Statx_t
	const want = unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, want, &st); err != nil {
		return [sha256.Size]byte{}, &fs.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	if st.Mask&want != want {
		return [sha256.Size]byte{}, &fs.PathError{Op: "statx", Path: f.Name(), Err: errors.ErrUnsupported}
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s %d:%d %d %d.%09d", strings.TrimSpace(string(boot)), st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)), nil
}

// note writes down what is there now.
func (i *Ingest) note() error {
	i.noting.Lock()
	defer i.noting.Unlock()
	i.mu.Lock()
	i.noted = slices.Clone(i.present)
	i.mu.Unlock()
	if i.notes == nil {
		place, err := placeOf(i.f)
		if err != nil {
			return nil // checkpoints remain, as on a file system that keeps no time of birth
		}
		if i.notes, err = i.s.fs.OpenFile(i.s.notePath(i.k), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
			return err
		}
		i.place = place
	}
	_, err := i.notes.WriteAt(encodeNote(i.size, i.noted, i.place), 0)
	return err
}

func encodeNote(size int64, written rangeSet, place [sha256.Size]byte) []byte {
	record := progress{size: size, extents: written}.encode()
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, noteHeader+len(record)), uint32(sha256.Size+len(record)))
	return append(append(b, place[:]...), record...)
}

// readNote returns the bytes that a note of the blob vouches for in the file f;
// none when there is no note, or none that still holds.
func (s *Store) readNote(k key, size int64, f durable.File) rangeSet {
	b, err := s.readFile(s.notePath(k), int64(maxNoteBytes))
	if err != nil {
		return nil
	}
	place, err := placeOf(f)
	if err != nil {
		return nil
	}
	return parseNote(b, size, place)
}

func parseNote(b []byte, size int64, place [sha256.Size]byte) rangeSet {
	if len(b) < noteHeader || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) || [sha256.Size]byte(b[4:]) != place {
		return nil
	}
	b = b[4 : 4+binary.LittleEndian.Uint32(b)]
	if len(b) < sha256.Size {
		return nil
	}
	p, err := parseProgress(b[sha256.Size:])
	if err != nil || p.size != size || p.offset != 0 {
		return nil
	}
	return p.present()
}
