package cas

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/resultity/rmodels/internal/durable"
)

const (
	// ChunkSize is the longest chunk of a chunk map, in bytes: the unit in
	// which rot is located and repaired.
	ChunkSize = 4 << 20
	// MapThreshold is the size up to which a blob has no chunk map: a map of
	// one short chunk locates nothing that the digest does not.
	MapThreshold = 64 << 10
)

// chunkSum is a checksum against rot. It is no evidence of authenticity: a
// chunk with a chosen XXH3-128 is forged in well under a second.
type chunkSum = xxh3.Uint128

// chunkMap holds a checksum for each chunk of a blob. Chunks follow each
// other without gaps.
type chunkMap struct {
	size   int64
	chunks []chunk
}

type chunk struct {
	off int64
	len int64
	sum chunkSum
}

// A chunk map file is, little endian: magic, size u64, count u32, then for
// each chunk length u32 and XXH3-128 (high, low u64), then XXH3-64 of all that.
const (
	mapMagic    = "rmcm\x01\x00\x00\x00"
	mapHeader   = len(mapMagic) + 8 + 4
	mapEntry    = 4 + 16
	sumTrailer  = 8
	maxMapBytes = mapHeader + mapEntry*(MaxSize/ChunkSize)*4 + sumTrailer
)

// newChunkMap cuts size bytes into chunks of [ChunkSize] with the given sums.
func newChunkMap(size int64, sums []chunkSum) chunkMap {
	m := chunkMap{size: size, chunks: make([]chunk, len(sums))}
	for n, sum := range sums {
		off := int64(n) * ChunkSize
		m.chunks[n] = chunk{off, min(ChunkSize, size-off), sum}
	}
	return m
}

func (m chunkMap) encode() []byte {
	b := make([]byte, 0, mapHeader+mapEntry*len(m.chunks)+sumTrailer)
	b = append(b, mapMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.chunks)))
	for _, c := range m.chunks {
		b = binary.LittleEndian.AppendUint32(b, uint32(c.len))
		b = binary.LittleEndian.AppendUint64(b, c.sum.Hi)
		b = binary.LittleEndian.AppendUint64(b, c.sum.Lo)
	}
	return appendTrailer(b)
}

func parseChunkMap(b []byte) (chunkMap, error) {
	bad := func(what string) (chunkMap, error) {
		return chunkMap{}, fmt.Errorf("%w: chunk map: %s", ErrCorrupt, what)
	}
	body, ok := cutTrailer(b)
	if !ok {
		return bad("wrong checksum")
	}
	if len(body) < mapHeader || string(body[:len(mapMagic)]) != mapMagic {
		return bad("unknown format")
	}
	size := binary.LittleEndian.Uint64(body[len(mapMagic):])
	count := uint64(binary.LittleEndian.Uint32(body[len(mapMagic)+8:]))
	body = body[mapHeader:]
	if size > MaxSize || count*uint64(mapEntry) != uint64(len(body)) {
		return bad("size and count do not fit the file")
	}
	m := chunkMap{size: int64(size), chunks: make([]chunk, count)}
	at := int64(0)
	for n := range m.chunks {
		e := body[n*mapEntry:]
		length := int64(binary.LittleEndian.Uint32(e))
		if length == 0 || length > ChunkSize {
			return bad("chunk of impossible length")
		}
		m.chunks[n] = chunk{at, length, chunkSum{
			Hi: binary.LittleEndian.Uint64(e[4:]),
			Lo: binary.LittleEndian.Uint64(e[12:]),
		}}
		at += length
	}
	if at != m.size {
		return bad("chunks do not add up to the size")
	}
	return m, nil
}

func appendTrailer(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(b, xxh3.Hash(b))
}

func cutTrailer(b []byte) ([]byte, bool) {
	if len(b) < sumTrailer {
		return nil, false
	}
	body, trailer := b[:len(b)-sumTrailer], b[len(b)-sumTrailer:]
	return body, xxh3.Hash(body) == binary.LittleEndian.Uint64(trailer)
}

// writeMap makes the chunk map of a blob durable.
func (s *Store) writeMap(k key, m chunkMap) error {
	path := s.mapPath(k)
	if err := s.makeFan(path); err != nil {
		return err
	}
	return noSpace(durable.WriteFileFS(s.fs, path, m.encode(), 0o444))
}
