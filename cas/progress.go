package cas

import (
	"encoding/binary"
	"fmt"
)

// progress is the checkpoint of an unfinished blob (invariant 3). The bytes
// before offset were hashed into state and sums, and they and the extents
// were on disk before the record was written.
type progress struct {
	size    int64
	offset  int64      // a multiple of ChunkSize
	state   []byte     // SHA-256 state at offset, as encoding.BinaryMarshaler gives it; empty at 0
	sums    []chunkSum // of the chunks before offset
	extents rangeSet   // bytes at or after offset that are on disk, not yet hashed
}

// A progress file is, little endian: magic, size u64, offset u64, state
// length u16, extent count u32, the state, the sums (high, low u64), the
// extents (offset, length u64), then XXH3-64 of all that.
const (
	progressMagic    = "rmpr\x01\x00\x00\x00"
	progressHeader   = len(progressMagic) + 8 + 8 + 2 + 4
	maxState         = 256 // Go's SHA-256 state has 108 bytes
	maxExtents       = 4096
	maxProgressBytes = progressHeader + maxState + 16*(MaxSize/ChunkSize) + 16*maxExtents + sumTrailer
)

func (p progress) encode() []byte {
	// Bytes that are left out of the record are fetched again, no more.
	extents := p.extents[:min(len(p.extents), maxExtents)]
	b := make([]byte, 0, progressHeader+len(p.state)+16*len(p.sums)+16*len(extents)+sumTrailer)
	b = append(b, progressMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(p.offset))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.state)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(extents)))
	b = append(b, p.state...)
	for _, s := range p.sums {
		b = binary.LittleEndian.AppendUint64(b, s.Hi)
		b = binary.LittleEndian.AppendUint64(b, s.Lo)
	}
	for _, r := range extents {
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Off))
		b = binary.LittleEndian.AppendUint64(b, uint64(r.Len))
	}
	return appendTrailer(b)
}

func parseProgress(b []byte) (progress, error) {
	bad := func(what string) (progress, error) {
		return progress{}, fmt.Errorf("%w: progress record: %s", ErrCorrupt, what)
	}
	body, ok := cutTrailer(b)
	if !ok {
		return bad("wrong checksum")
	}
	if len(body) < progressHeader || string(body[:len(progressMagic)]) != progressMagic {
		return bad("unknown format")
	}
	f := body[len(progressMagic):]
	size, offset := binary.LittleEndian.Uint64(f), binary.LittleEndian.Uint64(f[8:])
	stateLen, extents := uint64(binary.LittleEndian.Uint16(f[16:])), uint64(binary.LittleEndian.Uint32(f[18:]))
	body = body[progressHeader:]
	if size > MaxSize || offset > size || offset%ChunkSize != 0 {
		return bad("impossible size or offset")
	}
	if stateLen > maxState || extents > maxExtents || (stateLen == 0) != (offset == 0) {
		return bad("impossible counts")
	}
	sums := offset / ChunkSize
	if uint64(len(body)) != stateLen+16*sums+16*extents {
		return bad("counts do not fit the file")
	}
	p := progress{size: int64(size), offset: int64(offset), state: body[:stateLen:stateLen]}
	body = body[stateLen:]
	p.sums = make([]chunkSum, sums)
	for n := range p.sums {
		p.sums[n] = chunkSum{Hi: binary.LittleEndian.Uint64(body), Lo: binary.LittleEndian.Uint64(body[8:])}
		body = body[16:]
	}
	at := offset
	for range extents {
		off, n := binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])
		body = body[16:]
		if off < at || off > size || n == 0 || n > size-off {
			return bad("extents overlap or leave the blob")
		}
		p.extents = append(p.extents, Range{int64(off), int64(n)})
		at = off + n
	}
	return p, nil
}

// present is every byte that the record says is on disk.
func (p progress) present() rangeSet {
	set := rangeSet(nil).add(Range{0, p.offset})
	for _, r := range p.extents {
		set = set.add(r)
	}
	return set
}
