package cas

import (
	"crypto/sha256"
	"encoding"
	"fmt"
	"hash"

	"github.com/opencontainers/go-digest"
	"github.com/zeebo/xxh3"
)

// hasher takes a blob's bytes in order and keeps its SHA-256, the sums of its
// chunks, and the SHA-256 state at each chunk boundary, so that it can go back
// when bytes are rewritten.
type hasher struct {
	off    int64 // bytes hashed
	sha    hash.Hash
	states [][]byte // states[n] is the SHA-256 state at n chunks; nil where a resumed ingest does not know it
	chunk  *xxh3.Hasher
	sums   []chunkSum
}

func newHasher() *hasher {
	return &hasher{sha: sha256.New(), chunk: xxh3.New(), states: [][]byte{nil}}
}

// resume sets the hasher to a checkpoint.
func (h *hasher) resume(p progress) error {
	if p.offset == 0 {
		return nil
	}
	if err := restoreState(h.sha, p.state); err != nil {
		return err
	}
	h.off = p.offset
	h.sums = p.sums
	h.states = make([][]byte, len(p.sums)+1)
	h.states[len(p.sums)] = p.state
	return nil
}

// sumBytes and mapBytes both take the same next bytes; they touch different
// fields, so that the two may run at the same time. Then advance is called.
func (h *hasher) sumBytes(p []byte) {
	for off := h.off; len(p) > 0; {
		n := min(int64(len(p)), ChunkSize-off%ChunkSize)
		h.sha.Write(p[:n])
		p, off = p[n:], off+n
		if off%ChunkSize == 0 {
			state, _ := h.sha.(encoding.BinaryAppender).AppendBinary(make([]byte, 0, 108)) // fails only in FIPS builds without it, found by the tests
			h.states = append(h.states, state)
		}
	}
}

func (h *hasher) mapBytes(p []byte) {
	for off := h.off; len(p) > 0; {
		n := min(int64(len(p)), ChunkSize-off%ChunkSize)
		h.chunk.Write(p[:n])
		p, off = p[n:], off+n
		if off%ChunkSize == 0 {
			h.cut()
		}
	}
}

func (h *hasher) cut() {
	h.sums = append(h.sums, h.chunk.Sum128())
	h.chunk.Reset()
}

func (h *hasher) advance(n int) { h.off += int64(n) }

// back returns to the last boundary at or before off whose state is known.
func (h *hasher) back(off int64) error {
	if off >= h.off {
		return nil
	}
	n := int(off / ChunkSize)
	for n > 0 && h.states[n] == nil {
		n--
	}
	h.sha.Reset()
	if n > 0 {
		if err := restoreState(h.sha, h.states[n]); err != nil {
			return err
		}
	}
	h.chunk.Reset()
	h.off = int64(n) * ChunkSize
	h.sums = h.sums[:n:n]
	h.states = h.states[: n+1 : n+1]
	return nil
}

// digest is the SHA-256 of the bytes so far.
func (h *hasher) digest() digest.Digest { return digest.NewDigest(digest.SHA256, h.sha) }

// finish is the map of a whole blob.
func (h *hasher) finish() chunkMap {
	sums := h.sums
	if h.off%ChunkSize != 0 {
		sums = append(sums[:len(sums):len(sums)], h.chunk.Sum128())
	}
	return newChunkMap(h.off, sums)
}

func restoreState(h hash.Hash, state []byte) error {
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return fmt.Errorf("%w: SHA-256 state: %w", ErrCorrupt, err)
	}
	return nil
}
