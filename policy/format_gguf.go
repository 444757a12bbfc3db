package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of a GGUF header. Real files have up to a few thousand tensors and
// vocabularies of about 300,000 entries.
const (
	maxGGUFTensors = 1 << 17
	maxGGUFKeys    = 1 << 14
	maxGGUFArray   = 1 << 24
	maxGGUFKey     = 1 << 10
	maxGGUFString  = 16 << 20
	maxGGUFHeader  = 1 << 30 // metadata and tensor list together
	maxGGUFName    = 127     // ggml allows 63, some builds of it 127
)

// ggufScalar are the bytes of each value type; 0 for strings and arrays.
var ggufScalar = [...]uint64{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

const (
	ggufBool   = 7
	ggufString = 8
	ggufArray  = 9
	ggufUint32 = 4
)

// ggmlBlock is elements and bytes per block of each tensor type (ggml.h).
var ggmlBlock = map[uint32][2]uint64{
	0: {1, 4}, 1: {1, 2}, 2: {32, 18}, 3: {32, 20}, 6: {32, 22}, 7: {32, 24}, 8: {32, 34}, 9: {32, 36},
	10: {256, 84}, 11: {256, 110}, 12: {256, 144}, 13: {256, 176}, 14: {256, 210}, 15: {256, 292},
	16: {256, 66}, 17: {256, 74}, 18: {256, 98}, 19: {256, 50}, 20: {32, 18}, 21: {256, 110}, 22: {256, 82}, 23: {256, 136},
	24: {1, 1}, 25: {1, 2}, 26: {1, 4}, 27: {1, 8}, 28: {1, 8}, 29: {256, 56}, 30: {1, 2}, 34: {256, 54}, 35: {256, 66}, 39: {32, 17},
}

// checkGGUF reads metadata and tensor list strictly: every count and length is
// held against the bytes that are left, names are unique, sizes cannot
// overflow, and tensors lie aligned, in the file, without overlap or room in
// between (CVE-2026-27940, CVE-2026-33298 came from the lack of this).
func checkGGUF(r io.ReaderAt, size int64, template func(key, text string) error) error {
	x := &ggufReader{r: r, size: size}
	magic, err := x.take(4)
	if err != nil {
		return err
	}
	if string(magic) != "GGUF" {
		return fmt.Errorf("begins with %q", magic)
	}
	version, err := x.u32()
	if err != nil {
		return err
	}
	if version != 2 && version != 3 {
		return fmt.Errorf("version %d, must be 2 or 3 in little endian", version)
	}
	tensors, err := x.u64()
	if err != nil {
		return err
	}
	keys, err := x.u64()
	if err != nil {
		return err
	}
	if tensors > maxGGUFTensors || keys > maxGGUFKeys {
		return fmt.Errorf("%d tensors and %d keys, at most %d and %d", tensors, keys, maxGGUFTensors, maxGGUFKeys)
	}
	align, err := x.metadata(keys, template)
	if err != nil {
		return err
	}
	spans, err := x.tensors(tensors, align)
	if err != nil {
		return err
	}
	return checkGGUFSpans(spans, uint64(x.at), uint64(size), align)
}

func checkGGUFSpans(spans []span, headerEnd, size, align uint64) error {
	start := (headerEnd + align - 1) / align * align
	slices.SortFunc(spans, compareSpans)
	var at uint64
	for _, s := range spans {
		if s.begin < at {
			return fmt.Errorf("tensor at %d overlaps one that ends at %d", s.begin, at)
		}
		if s.begin-at >= align {
			return fmt.Errorf("%d bytes before the tensor at %d belong to none", s.begin-at, s.begin)
		}
		at = s.end
	}
	if len(spans) == 0 && headerEnd == size {
		return nil // a vocabulary alone may end unpadded
	}
	if start > size || at > size-start {
		return fmt.Errorf("tensors end at %d, the file at %d", start+at, size)
	}
	if rest := size - start - at; rest >= align {
		return fmt.Errorf("%d bytes behind the last tensor belong to none", rest)
	}
	return nil
}

// ggufReader reads a header through a window that is filled in steps, so that
// a claim of any length costs no more than a step.
type ggufReader struct {
	r        io.ReaderAt
	at, size int64
	window   []byte
	base     int64
}

const ggufWindow = 1 << 20

func (x *ggufReader) left() uint64 { return uint64(min(x.size, maxGGUFHeader) - x.at) }

func (x *ggufReader) take(n uint64) ([]byte, error) {
	if x.at > maxGGUFHeader || n > x.left() {
		return nil, fmt.Errorf("length %d at %d runs past the end", n, x.at)
	}
	if x.at < x.base || x.at+int64(n) > x.base+int64(len(x.window)) {
		want := min(max(int64(n), ggufWindow), x.size-x.at)
		if int64(cap(x.window)) < want {
			x.window = make([]byte, want)
		}
		x.window = x.window[:want]
		if err := readFull(x.r, x.window, x.at); err != nil {
			return nil, err
		}
		x.base = x.at
	}
	o := x.at - x.base
	x.at += int64(n)
	return x.window[o : o+int64(n)], nil
}

func (x *ggufReader) skip(n uint64) error {
	if x.at > maxGGUFHeader || n > x.left() {
		return fmt.Errorf("length %d at %d runs past the end", n, x.at)
	}
	x.at += int64(n)
	return nil
}

func (x *ggufReader) u32() (uint32, error) {
	b, err := x.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (x *ggufReader) u64() (uint64, error) {
	b, err := x.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (x *ggufReader) text(max uint64) ([]byte, error) {
	n, err := x.u64()
	if err != nil {
		return nil, err
	}
	if n > max {
		return nil, fmt.Errorf("text of %d bytes, at most %d", n, max)
	}
	return x.take(n)
}

func (x *ggufReader) name(max uint64) (string, error) {
	b, err := x.text(max)
	if err != nil {
		return "", err
	}
	if len(b) == 0 || !utf8.Valid(b) || slices.Contains(b, 0) {
		return "", fmt.Errorf("name %q is empty or not plain text", clip(string(b)))
	}
	return string(b), nil
}

func (x *ggufReader) metadata(n uint64, template func(key, text string) error) (align uint64, err error) {
	align = 32
	seen := map[string]bool{}
	for range n {
		key, err := x.name(maxGGUFKey)
		if err != nil {
			return 0, err
		}
		if seen[key] {
			return 0, fmt.Errorf("key %q stands twice", clip(key))
		}
		seen[key] = true
		if align, err = x.value(key, align, template); err != nil {
			return 0, fmt.Errorf("key %q: %w", clip(key), err)
		}
	}
	return align, nil
}

func (x *ggufReader) value(key string, align uint64, template func(key, text string) error) (uint64, error) {
	kind, err := x.u32()
	if err != nil {
		return 0, err
	}
	isTemplate := key == "tokenizer.chat_template" || strings.HasPrefix(key, "tokenizer.chat_template.")
	switch {
	case kind == ggufString:
		b, err := x.text(maxGGUFString)
		if err != nil {
			return 0, err
		}
		if isTemplate {
			return align, template(key, string(b))
		}
		return align, nil
	case isTemplate:
		return 0, fmt.Errorf("a chat template of value type %d", kind)
	case kind == ggufArray:
		return align, x.array()
	case kind < uint32(len(ggufScalar)):
		b, err := x.take(ggufScalar[kind])
		if err != nil {
			return 0, err
		}
		if kind == ggufBool && b[0] > 1 {
			return 0, fmt.Errorf("bool of value %d", b[0])
		}
		if key == "general.alignment" {
			if kind != ggufUint32 {
				return 0, fmt.Errorf("value type %d, must be uint32", kind)
			}
			a := uint64(binary.LittleEndian.Uint32(b))
			if a < 8 || a > 1<<16 || bits.OnesCount64(a) != 1 {
				return 0, fmt.Errorf("alignment %d, must be a power of two from 8 to 65536", a)
			}
			return a, nil
		}
		return align, nil
	}
	return 0, fmt.Errorf("unknown value type %d", kind)
}

func (x *ggufReader) array() error {
	kind, err := x.u32()
	if err != nil {
		return err
	}
	n, err := x.u64()
	if err != nil {
		return err
	}
	if n > maxGGUFArray || kind >= uint32(len(ggufScalar)) || kind == ggufArray {
		return fmt.Errorf("array of %d values of type %d", n, kind)
	}
	if kind != ggufString {
		return x.skip(n * ggufScalar[kind])
	}
	if n > x.left()/8 {
		return fmt.Errorf("array of %d texts in %d bytes", n, x.left())
	}
	for range n {
		if _, err := x.text(maxGGUFString); err != nil {
			return err
		}
	}
	return nil
}

func (x *ggufReader) tensors(n, align uint64) ([]span, error) {
	const least = 8 + 1 + 4 + 4 + 8 // bytes of the shortest entry
	if n > x.left()/least {
		return nil, fmt.Errorf("%d tensors in %d bytes", n, x.left())
	}
	spans := make([]span, 0, n)
	names := make(map[string]bool, n)
	for range n {
		name, err := x.name(maxGGUFName)
		if err != nil {
			return nil, err
		}
		if names[name] {
			return nil, fmt.Errorf("tensor %q stands twice", clip(name))
		}
		names[name] = true
		s, err := x.tensor(align)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", clip(name), err)
		}
		spans = append(spans, s)
	}
	return spans, nil
}

func (x *ggufReader) tensor(align uint64) (span, error) {
	dims, err := x.u32()
	if err != nil {
		return span{}, err
	}
	if dims > 4 {
		return span{}, fmt.Errorf("%d dimensions, at most 4", dims)
	}
	elements, row := uint64(1), uint64(1)
	for i := range dims {
		d, err := x.u64()
		if err != nil {
			return span{}, err
		}
		if i == 0 {
			row = d
		}
		hi, lo := bits.Mul64(elements, d)
		if d == 0 || hi != 0 || lo > math.MaxInt64/16 {
			return span{}, fmt.Errorf("dimension %d is %d: empty or overflowing", i, d)
		}
		elements = lo
	}
	kind, err := x.u32()
	if err != nil {
		return span{}, err
	}
	block, ok := ggmlBlock[kind]
	if !ok {
		return span{}, fmt.Errorf("unknown type %d", kind)
	}
	if row%block[0] != 0 {
		return span{}, fmt.Errorf("rows of %d elements in blocks of %d", row, block[0])
	}
	hi, length := bits.Mul64(elements/block[0], block[1])
	if hi != 0 || length > math.MaxInt64 {
		return span{}, errors.New("size overflows")
	}
	off, err := x.u64()
	if err != nil {
		return span{}, err
	}
	if off%align != 0 {
		return span{}, fmt.Errorf("offset %d is not a multiple of %d", off, align)
	}
	if off > uint64(x.size) || length > uint64(x.size)-off {
		return span{}, fmt.Errorf("%d bytes at %d run past the file's %d", length, off, x.size)
	}
	return span{off, off + length}, nil
}
