package oci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/opencontainers/go-digest"
	"github.com/zeebo/xxh3"
)

// A chunk map tells a node that holds another version of a model which parts
// of a blob it has already. Chunks are cut where the content says (FastCDC:
// Xia et al., USENIX ATC 2016), so that an insertion moves no cut behind it.
// Their XXH3-128 sums only find bytes; the blob's SHA-256 admits them.
const (
	mediaTypeChunkMap  = "application/vnd.rmodels.chunkmap.v1"
	annotationChunkMap = "org.rmodels.chunkmap.blob" // digest of the blob that a layer maps
)

// chunkMap is one blob's. The layout on the wire, little endian: magic, mean
// u32, size u64, count u32, SHA-256 of the blob, then per chunk its length u32
// and its XXH3-128 (high, low u64).
type chunkMap struct {
	blob   digest.Digest
	size   int64
	mean   uint32
	chunks []chunk
}

type chunk struct {
	n   uint32
	sum xxh3.Uint128
}

const (
	chunkMagic  = "rmcdc\x00\x00\x01"
	chunkHeader = len(chunkMagic) + 4 + 8 + 4 + 32
	chunkEntry  = 4 + 16

	minMean = 64 << 10
	maxMean = 1 << 20 // the cutter's buffer is eight means
	// meanChunks keeps maps near 4 MiB: 200 GiB at the largest mean. Larger
	// blobs are not mapped.
	meanChunks = 200_000
	minMapped  = 4 << 20 // smaller blobs are fetched whole
	maxMapped  = meanChunks * maxMean
)

// meanFor is the mean chunk for a blob: a power of two, so that two versions
// of about the same size are cut alike.
func meanFor(size int64) uint32 {
	mean := int64(minMean)
	for size/mean > meanChunks && mean < maxMean {
		mean *= 2
	}
	return uint32(mean)
}

func (m chunkMap) encode() []byte {
	b := make([]byte, 0, chunkHeader+chunkEntry*len(m.chunks))
	b = append(b, chunkMagic...)
	b = binary.LittleEndian.AppendUint32(b, m.mean)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.size))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.chunks)))
	b = append(b, rawDigest(m.blob)...)
	for _, c := range m.chunks {
		b = binary.LittleEndian.AppendUint32(b, c.n)
		b = binary.LittleEndian.AppendUint64(b, c.sum.Hi)
		b = binary.LittleEndian.AppendUint64(b, c.sum.Lo)
	}
	return b
}

func rawDigest(d digest.Digest) []byte {
	var raw [32]byte
	for i := range raw {
		_, _ = fmt.Sscanf(d.Encoded()[2*i:2*i+2], "%02x", &raw[i])
	}
	return raw[:]
}

// parseChunkMap refuses every map that does not cover its blob exactly.
func parseChunkMap(b []byte) (chunkMap, error) {
	bad := func(what string) (chunkMap, error) {
		return chunkMap{}, fmt.Errorf("%w: chunk map: %s", ErrFormat, what)
	}
	if len(b) < chunkHeader || string(b[:len(chunkMagic)]) != chunkMagic {
		return bad("unknown layout")
	}
	at := len(chunkMagic)
	m := chunkMap{mean: binary.LittleEndian.Uint32(b[at:])}
	size := binary.LittleEndian.Uint64(b[at+4:])
	count := uint64(binary.LittleEndian.Uint32(b[at+12:]))
	m.blob = digest.NewDigestFromBytes(digest.SHA256, b[at+16:chunkHeader])
	if m.mean < minMean || m.mean > maxMean || bits.OnesCount32(m.mean) != 1 {
		return bad("impossible mean")
	}
	if size > maxArtifact || count*chunkEntry != uint64(len(b)-chunkHeader) {
		return bad("size and count do not fit its length")
	}
	m.size = int64(size)
	m.chunks = make([]chunk, count)
	var total int64
	for i := range m.chunks {
		e := b[chunkHeader+i*chunkEntry:]
		c := chunk{binary.LittleEndian.Uint32(e), xxh3.Uint128{Hi: binary.LittleEndian.Uint64(e[4:]), Lo: binary.LittleEndian.Uint64(e[12:])}}
		if c.n == 0 || c.n > 4*m.mean {
			return bad("chunk of impossible length")
		}
		m.chunks[i] = c
		total += int64(c.n)
	}
	if total != m.size {
		return bad("the chunks do not add up to the size")
	}
	return m, nil
}

// gear is FastCDC's table: 256 numbers of SplitMix64 from 1 on, the same for
// every publisher and node.
var gear = func() (t [256]uint64) {
	x := uint64(1)
	for i := range t {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		t[i] = z ^ z>>31
	}
	return t
}()

// cut is the length of the first chunk of b, which holds at least 4 × mean
// bytes or the last of the stream. Cuts are rare before the mean and likely
// behind it, which keeps lengths close together.
func cutChunk(b []byte, mean uint32) int {
	least, most := int(mean/4), int(4*mean)
	if len(b) <= least {
		return len(b)
	}
	order := bits.Len32(mean) - 1
	rare := uint64(1)<<(order+1) - 1
	rare <<= 64 - (order + 1)
	likely := uint64(1)<<(order-1) - 1
	likely <<= 64 - (order - 1)
	end := min(len(b), most)
	middle := min(end, int(mean))
	var h uint64
	i := least
	for ; i < middle; i++ {
		if h = h<<1 + gear[b[i]]; h&rare == 0 {
			return i + 1
		}
	}
	for ; i < end; i++ {
		if h = h<<1 + gear[b[i]]; h&likely == 0 {
			return i + 1
		}
	}
	return end
}

// cutAll calls visit for each chunk of a stream. Its buffer is eight means.
func cutAll(r io.Reader, mean uint32, visit func(chunk []byte) error) error {
	buffer := make([]byte, 8*mean)
	from, to := 0, 0
	for ended := false; ; {
		if to-from < 4*int(mean) && !ended {
			to = copy(buffer, buffer[from:to])
			from = 0
			n, err := io.ReadFull(r, buffer[to:])
			to += n
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				ended = true
			} else if err != nil {
				return err
			}
		}
		if from == to {
			return nil
		}
		n := cutChunk(buffer[from:to], mean)
		if err := visit(buffer[from : from+n]); err != nil {
			return err
		}
		from += n
	}
}

// mapChunks makes the map of a blob's bytes.
func mapChunks(r io.Reader, blob digest.Digest, size int64) (chunkMap, error) {
	m := chunkMap{blob: blob, size: size, mean: meanFor(size)}
	var total int64
	err := cutAll(r, m.mean, func(b []byte) error {
		m.chunks = append(m.chunks, chunk{uint32(len(b)), xxh3.Hash128(b)})
		total += int64(len(b))
		return nil
	})
	if err == nil && total != size {
		err = fmt.Errorf("%d bytes, want %d", total, size)
	}
	return m, err
}
