package oci

import (
	"bytes"
	"testing"

	"github.com/opencontainers/go-digest"
)

// EncodeChunkMap makes the map of some bytes and says that it is of blob.
func EncodeChunkMap(t testing.TB, b []byte, blob digest.Digest) []byte {
	t.Helper()
	m, err := mapChunks(bytes.NewReader(b), blob, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return m.encode()
}

// ReencodeChunkMap parses a map and writes it again.
func ReencodeChunkMap(b []byte) ([]byte, bool) {
	m, err := parseChunkMap(b)
	if err != nil {
		return nil, false
	}
	return m.encode(), true
}
