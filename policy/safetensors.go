package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	safetensorsHeaderMax = 32 << 20 // bytes; the format's own bound is 100 MB, real headers are below 10 MB
	safetensorsNamesMax  = 1 << 18  // tensors, and entries of __metadata__; the decoder keeps names to find one twice
	safetensorsDimsMax   = 16
)

// safetensorsBits is the width of each dtype's elements in bits
// (safetensors/src/tensor.rs).
var safetensorsBits = map[string]uint64{
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"BOOL": 8, "U8": 8, "I8": 8,
	"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

func safetensorsBreach(expected, found string, args ...any) error {
	return malformed(formatSafetensors, expected, found, args...)
}

// safetensors checks a header against the file's size: each byte of the file
// belongs to the header or to exactly one tensor.
func (g *gate) safetensors(r io.ReaderAt, size int64) error {
	if size < 8 {
		return safetensorsBreach("at least 8 bytes", "%d bytes", size)
	}
	prefix, err := readSpan(r, 0, 8)
	if err != nil {
		return err
	}
	length := binary.LittleEndian.Uint64(prefix)
	if length < 2 || length > safetensorsHeaderMax || length > uint64(size-8) {
		return safetensorsBreach(fmt.Sprintf("a header of 2 to %d bytes inside the file", safetensorsHeaderMax), "a length of %d in a file of %d bytes", length, size)
	}
	first, err := readSpan(r, 8, 1)
	if err != nil {
		return err
	}
	if first[0] != '{' {
		return safetensorsBreach("a header that starts with {", "%q", first)
	}
	spans, err := safetensorsHeader(io.NewSectionReader(r, 8, int64(length)))
	if err != nil {
		return err
	}
	return tile(spans, uint64(size)-8-length)
}

// span is a tensor's place in the data, [from, to).
type span struct{ from, to uint64 }

// tile requires that spans cover size bytes without a hole or an overlap.
func tile(spans []span, size uint64) error {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var at uint64
	for _, s := range spans {
		switch {
		case s.from > at:
			return safetensorsBreach("tensors without a hole between them", "nothing from data offset %d to %d", at, s.from)
		case s.from < at:
			return safetensorsBreach("tensors that do not overlap", "data offset %d in two tensors", s.from)
		}
		at = s.to
	}
	if at != size {
		return safetensorsBreach("tensors that end with the file", "tensors of %d bytes, data of %d", at, size)
	}
	return nil
}

// safetensorsHeader reads the header token by token: duplicate names are
// refused by the decoder, and memory is that of one entry and the spans.
func safetensorsHeader(header io.Reader) ([]span, error) {
	d := jsontext.NewDecoder(header)
	if _, err := d.ReadToken(); err != nil {
		return nil, jsonBreach(formatSafetensors, err)
	}
	var spans []span
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return nil, jsonBreach(formatSafetensors, err)
		}
		name := token.String()
		if name == "__metadata__" {
			if err := stringMap(d); err != nil {
				return nil, err
			}
			continue
		}
		s, err := safetensorsEntry(d, name)
		if err != nil {
			return nil, err
		}
		if spans = append(spans, s); len(spans) > safetensorsNamesMax {
			return nil, safetensorsBreach(fmt.Sprintf("at most %d tensors", safetensorsNamesMax), "more")
		}
	}
	if _, err := d.ReadToken(); err != nil { // the closing brace
		return nil, jsonBreach(formatSafetensors, err)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, safetensorsBreach("one JSON object padded with blanks", "more after it")
	}
	return spans, nil
}

// stringMap reads __metadata__, whose values are strings.
func stringMap(d *jsontext.Decoder) error {
	if kind := d.PeekKind(); kind != '{' {
		return safetensorsBreach("__metadata__ that is an object", "%v", kind)
	}
	depth := d.StackDepth()
	for texts := 0; ; texts++ {
		if texts > 2*safetensorsNamesMax+1 {
			return safetensorsBreach(fmt.Sprintf("at most %d entries in __metadata__", safetensorsNamesMax), "more")
		}
		token, err := d.ReadToken()
		if err != nil {
			return jsonBreach(formatSafetensors, err)
		}
		switch token.Kind() {
		case '{':
			if d.StackDepth() > depth+1 {
				return safetensorsBreach("__metadata__ of strings", "an object in it")
			}
		case '}':
			return nil
		case '"':
		default:
			return safetensorsBreach("__metadata__ of strings", "%v", token.Kind())
		}
	}
}

// safetensorsEntry reads one tensor's entry: exactly dtype, shape and
// data_offsets, which must agree.
func safetensorsEntry(d *jsontext.Decoder, name string) (span, error) {
	wrong := func(expected, found string, args ...any) (span, error) {
		return span{}, safetensorsBreach(expected, "%s in tensor %s", fmt.Sprintf(found, args...), quoted(name))
	}
	if token, err := d.ReadToken(); err != nil {
		return span{}, jsonBreach(formatSafetensors, err)
	} else if token.Kind() != '{' {
		return wrong("an object for each tensor", "%v", token.Kind())
	}
	var width uint64
	var shape, offsets []uint64
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return span{}, jsonBreach(formatSafetensors, err)
		}
		switch key := token.String(); key {
		case "dtype":
			token, err := d.ReadToken()
			if err != nil {
				return span{}, jsonBreach(formatSafetensors, err)
			}
			if width = safetensorsBits[token.String()]; token.Kind() != '"' || width == 0 {
				return wrong("a known dtype", "%s", quoted(token.String()))
			}
		case "shape":
			if shape, err = naturals(d, safetensorsDimsMax); err != nil {
				return span{}, err
			}
		case "data_offsets":
			if offsets, err = naturals(d, 2); err != nil {
				return span{}, err
			}
		default:
			return wrong("dtype, shape and data_offsets alone", "%s", quoted(key))
		}
	}
	if _, err := d.ReadToken(); err != nil { // the closing brace
		return span{}, jsonBreach(formatSafetensors, err)
	}
	if width == 0 || shape == nil || len(offsets) != 2 {
		return wrong("dtype, shape and two data_offsets", "less")
	}
	size := width
	for _, n := range shape {
		high, low := bits.Mul64(size, n)
		if high != 0 {
			return wrong("a shape of less than 2^64 bits", "%d", shape)
		}
		size = low
	}
	s := span{offsets[0], offsets[1]}
	if s.to < s.from {
		return wrong("data_offsets in ascending order", "%d", offsets)
	}
	if size%8 != 0 || s.to-s.from != size/8 {
		return wrong(fmt.Sprintf("data_offsets that span the %d bits of dtype and shape", size), "%d", offsets)
	}
	return s, nil
}

// naturals reads an array of at most most plain decimal integers. It is never
// nil without an error.
func naturals(d *jsontext.Decoder, most int) ([]uint64, error) {
	token, err := d.ReadToken()
	if err != nil {
		return nil, jsonBreach(formatSafetensors, err)
	}
	if token.Kind() != '[' {
		return nil, safetensorsBreach("an array of integers", "%v", token.Kind())
	}
	out := make([]uint64, 0, 4)
	for d.PeekKind() != ']' {
		value, err := d.ReadValue()
		if err != nil {
			return nil, jsonBreach(formatSafetensors, err)
		}
		n, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return nil, safetensorsBreach("integers of 0 to 2^64-1", "%s", quoted(string(value)))
		}
		if len(out) == most {
			return nil, safetensorsBreach(fmt.Sprintf("at most %d integers in an array", most), "more")
		}
		out = append(out, n)
	}
	_, err = d.ReadToken()
	if err != nil {
		return nil, jsonBreach(formatSafetensors, err)
	}
	return out, nil
}
