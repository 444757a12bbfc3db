package policy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxSafetensorsHeader is below the format's own limit of 100 MB: the largest
// public checkpoints have headers of about 1 MB per shard.
const maxSafetensorsHeader = 32 << 20

// safetensorsBits are the bits per element of each dtype (safetensors 0.7).
var safetensorsBits = map[string]uint64{
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"F64": 64, "I64": 64, "U64": 64, "C64": 64,
}

type safetensorsTensor struct {
	DType   string   `json:"dtype"`
	Shape   []uint64 `json:"shape"`
	Offsets []uint64 `json:"data_offsets"`
}

type span struct{ begin, end uint64 }

// checkSafetensors reads the header strictly: a JSON object with unique names,
// known dtypes, shapes that fit their spans, and spans that cover the rest of
// the file without hole or overlap, so that nothing hides between or behind.
func checkSafetensors(r io.ReaderAt, size int64) error {
	if size < 10 {
		return fmt.Errorf("%d bytes are too short", size)
	}
	var b [8]byte
	if err := readFull(r, b[:], 0); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(b[:])
	if n < 2 || n > maxSafetensorsHeader || n > uint64(size-8) {
		return fmt.Errorf("header length %d, must be 2 to %d and inside the file", n, maxSafetensorsHeader)
	}
	header := make([]byte, n)
	if err := readFull(r, header, 8); err != nil {
		return err
	}
	if header[0] != '{' {
		return errors.New("header does not begin with {")
	}
	spans, err := safetensorsSpans(header, uint64(size)-8-n)
	if err != nil {
		return err
	}
	slices.SortFunc(spans, compareSpans)
	var at uint64
	for _, s := range spans {
		if s.begin != at {
			return fmt.Errorf("tensor data at %d, expected at %d: hole or overlap", s.begin, at)
		}
		at = s.end
	}
	if body := uint64(size) - 8 - n; at != body {
		return fmt.Errorf("%d bytes of tensor data, %d in the file: bytes that no tensor owns", at, body)
	}
	return nil
}

func compareSpans(a, b span) int {
	switch {
	case a.begin != b.begin:
		if a.begin < b.begin {
			return -1
		}
		return 1
	case a.end < b.end:
		return -1
	case a.end > b.end:
		return 1
	}
	return 0
}

// safetensorsSpans streams over the header, tensor by tensor.
func safetensorsSpans(header []byte, body uint64) ([]span, error) {
	d := jsontext.NewDecoder(bytes.NewReader(header)) // refuses duplicate names and bytes that are not UTF-8
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	var spans []span
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if key == "__metadata__" {
			var m map[string]string
			if err := json.UnmarshalDecode(d, &m); err != nil {
				return nil, fmt.Errorf("metadata is not text by name: %w", err)
			}
			continue
		}
		var t safetensorsTensor
		if err := json.UnmarshalDecode(d, &t, json.RejectUnknownMembers(true)); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", clip(key), err)
		}
		s, err := t.span(body)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", clip(key), err)
		}
		spans = append(spans, s)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("header goes on after its object")
	}
	return spans, nil
}

func (t safetensorsTensor) span(body uint64) (span, error) {
	width, ok := safetensorsBits[t.DType]
	if !ok {
		return span{}, fmt.Errorf("unknown dtype %q", clip(t.DType))
	}
	if len(t.Shape) > 32 {
		return span{}, fmt.Errorf("%d dimensions", len(t.Shape))
	}
	n := width
	for _, dim := range t.Shape {
		hi, lo := bits.Mul64(n, dim)
		if hi != 0 {
			return span{}, errors.New("shape overflows")
		}
		n = lo
	}
	if n%8 != 0 {
		return span{}, errors.New("does not end on a byte")
	}
	if len(t.Offsets) != 2 {
		return span{}, fmt.Errorf("%d data offsets, must be 2", len(t.Offsets))
	}
	s := span{t.Offsets[0], t.Offsets[1]}
	if s.begin > s.end || s.end > body || s.end-s.begin != n/8 {
		return span{}, fmt.Errorf("data offsets %d to %d do not fit shape and dtype (%d bytes) inside %d", s.begin, s.end, n/8, body)
	}
	return s, nil
}

// readFull reads len(b) bytes at off; a file that ends early is an error.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
