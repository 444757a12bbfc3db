package policy

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on GGUF headers (ggml's docs/gguf.md). Real headers are far below.
const (
	ggufHeaderMax   = 128 << 20 // bytes; vocabularies of 256k tokens take some 15 MB
	ggufPairsMax    = 1 << 16
	ggufTensorsMax  = 1 << 18
	ggufTextsMax    = 1 << 22 // strings in all arrays together; tokens and merges of one model are below 2^20
	ggufKeyMax      = 256     // bytes; the specification's 65535 would let keys fill memory
	ggufNameMax     = 63      // bytes; ggml's GGML_MAX_NAME of 64 counts the final NUL
	ggufDimsMax     = 4       // GGML_MAX_DIMS
	ggufAlignDef    = 32
	ggufAlignMin    = 8
	ggufAlignMax    = 64 << 10
	chatTemplateMax = 1 << 20 // bytes of one template; the largest known have some 50 KB
)

// The least that one entry takes in the file, in bytes: a count is compared
// with what is left before anything is done for it.
const (
	ggufPairLeast   = 8 + 4 + 1
	ggufTensorLeast = 8 + 4 + 4 + 8
	ggufTextLeast   = 8
)

// Value types of metadata.
const (
	ggufUint32 = 4
	ggufBool   = 7
	ggufString = 8
	ggufArray  = 9
)

// ggufWidth is the size of a value in bytes; 0 for strings and arrays.
var ggufWidth = [13]int64{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

// ggmlBlock is a tensor type's block: elements and bytes.
type ggmlBlock struct{ elements, bytes uint64 }

// ggmlTypes are the types that ggml reads today (ggml.h, ggml-common.h); gaps
// are types that it has removed. Unknown types are refused: their sizes
// cannot be checked.
var ggmlTypes = map[uint32]ggmlBlock{
	0: {1, 4}, 1: {1, 2}, 30: {1, 2}, 28: {1, 8}, // F32, F16, BF16, F64
	24: {1, 1}, 25: {1, 2}, 26: {1, 4}, 27: {1, 8}, // I8, I16, I32, I64
	2: {32, 18}, 3: {32, 20}, 6: {32, 22}, 7: {32, 24}, 8: {32, 34}, 9: {32, 36}, // Q4_0 … Q8_1
	10: {256, 84}, 11: {256, 110}, 12: {256, 144}, 13: {256, 176}, 14: {256, 210}, 15: {256, 292}, // Q2_K … Q8_K
	16: {256, 66}, 17: {256, 74}, 18: {256, 98}, 19: {256, 50}, 20: {32, 18}, // IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL
	21: {256, 110}, 22: {256, 82}, 23: {256, 136}, 29: {256, 56}, // IQ3_S, IQ2_S, IQ4_XS, IQ1_M
	34: {256, 54}, 35: {256, 66}, // TQ1_0, TQ2_0
	39: {32, 17}, 40: {64, 36}, 41: {128, 18}, 42: {64, 18}, // MXFP4, NVFP4, Q1_0, Q2_0
}

// Keys that the gate reads.
const (
	ggufAlignKey    = "general.alignment"
	ggufTemplateKey = "tokenizer.chat_template"
)

// gguf checks a GGUF file's header against the file's size. What it accepts,
// no reader can compute a wrong length from: CVE-2026-27940 and
// CVE-2026-33298 were overflows of the numbers that are bounded here.
func (g *gate) gguf(r io.ReaderAt, size int64) error {
	x := &ggufHeader{window: window{src: r, size: size}, align: ggufAlignDef}
	tensors, err := x.preamble()
	if err != nil {
		return err
	}
	pairs, err := x.counted("metadata pairs", ggufPairsMax, ggufPairLeast)
	if err != nil {
		return err
	}
	keys := make(map[string]struct{}, min(pairs, 1024))
	for range pairs {
		key, err := x.name("key", ggufKeyMax)
		if err != nil {
			return err
		}
		if _, twice := keys[key]; twice {
			return ggufBreach("each key once", "key %q twice", key)
		}
		keys[key] = struct{}{}
		if err := g.ggufValue(x, key); err != nil {
			return err
		}
	}
	return x.tensors(tensors)
}

// ggufValue checks one metadata value, and the templates among them.
func (g *gate) ggufValue(x *ggufHeader, key string) error {
	kind, err := x.uint32()
	if err != nil {
		return err
	}
	if key == ggufTemplateKey || strings.HasPrefix(key, ggufTemplateKey+".") {
		if kind != ggufString {
			return ggufBreach("a chat template that is a string", "%q of type %d", key, kind)
		}
		text, err := x.text("chat template", chatTemplateMax)
		if err != nil {
			return err
		}
		if !utf8.Valid(text) {
			return ggufBreach("a chat template in UTF-8", "%q with other bytes", key)
		}
		return g.template(key, text)
	}
	if key == ggufAlignKey {
		return x.alignment(kind)
	}
	switch kind {
	case ggufString:
		return x.skipText()
	case ggufArray:
		return x.skipArray(key)
	}
	if kind >= uint32(len(ggufWidth)) {
		return ggufBreach("a known value type", "type %d of key %q", kind, key)
	}
	b, err := x.take(ggufWidth[kind])
	if err != nil {
		return err
	}
	if kind == ggufBool && b[0] > 1 {
		return ggufBreach("a bool of 0 or 1", "%d of key %q", b[0], key)
	}
	return nil
}

func ggufBreach(expected, found string, args ...any) error {
	return malformed(formatGGUF, expected, found, args...)
}

// ggufHeader reads a header; memory does not grow with counts or lengths that
// the file claims.
type ggufHeader struct {
	window
	align uint64
	texts uint64 // strings in arrays so far
}

// take gives the next n bytes, valid until the next call.
func (x *ggufHeader) take(n int64) ([]byte, error) {
	if err := x.fits(n); err != nil {
		return nil, err
	}
	return x.window.take(n)
}

// fits tells whether n more bytes are in the file and in a header's bound.
func (x *ggufHeader) fits(n int64) error {
	if n < 0 || n > x.left() {
		return ggufBreach("lengths that end inside the file", "%d bytes at offset %d of %d", uint64(n), x.at, x.size)
	}
	if n > ggufHeaderMax-x.at {
		return ggufBreach(fmt.Sprintf("a header of at most %d bytes", ggufHeaderMax), "%d bytes at offset %d", n, x.at)
	}
	return nil
}

func (x *ggufHeader) skip(n int64) error {
	if err := x.fits(n); err != nil {
		return err
	}
	x.at += n
	return nil
}

func (x *ggufHeader) uint32() (uint32, error) {
	b, err := x.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (x *ggufHeader) uint64() (uint64, error) {
	b, err := x.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// length reads a length in bytes, bounded by what is left of the file. One of
// 2^63 and more is a negative number here, which never fits.
func (x *ggufHeader) length() (int64, error) {
	n, err := x.uint64()
	if err != nil {
		return 0, err
	}
	return int64(n), x.fits(int64(n))
}

// alignment reads what tensors are aligned to: it divides offsets, so that
// ggml itself wants a power of 2.
func (x *ggufHeader) alignment(kind uint32) error {
	if kind != ggufUint32 {
		return ggufBreach("an alignment of type uint32", "type %d", kind)
	}
	n, err := x.uint32()
	if err != nil {
		return err
	}
	if n < ggufAlignMin || n > ggufAlignMax || n&(n-1) != 0 {
		return ggufBreach(fmt.Sprintf("an alignment that is a power of 2 from %d to %d", ggufAlignMin, ggufAlignMax), "%d", n)
	}
	x.align = uint64(n)
	return nil
}

// counted reads a count of things that take at least least bytes each.
func (x *ggufHeader) counted(what string, most uint64, least int64) (uint64, error) {
	n, err := x.uint64()
	if err != nil {
		return 0, err
	}
	return n, x.countFits(what, n, most, least)
}

func (x *ggufHeader) countFits(what string, n, most uint64, least int64) error {
	if n > most {
		return ggufBreach(fmt.Sprintf("at most %d %s", most, what), "%d", n)
	}
	if n > uint64(x.left()/least) {
		return ggufBreach(what+" that fit into the file", "%d in the %d bytes that are left", n, x.left())
	}
	return nil
}

// text reads a string of at most most bytes.
func (x *ggufHeader) text(what string, most int64) ([]byte, error) {
	n, err := x.length()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, ggufBreach(fmt.Sprintf("a %s of at most %d bytes", what, most), "%d bytes", n)
	}
	return x.take(n)
}

// name reads a key or a tensor's name: readers treat them as C strings and as
// identifiers, so that an embedded NUL would make one into another.
func (x *ggufHeader) name(what string, most int64) (string, error) {
	b, err := x.text(what, most)
	if err != nil {
		return "", err
	}
	s := string(b)
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", ggufBreach("a "+what+" of printable text", "%s", quoted(s))
	}
	return s, nil
}

func (x *ggufHeader) skipText() error {
	n, err := x.length()
	if err != nil {
		return err
	}
	return x.skip(n)
}

func (x *ggufHeader) skipArray(key string) error {
	kind, err := x.uint32()
	if err != nil {
		return err
	}
	n, err := x.uint64()
	if err != nil {
		return err
	}
	if kind == ggufArray || kind >= uint32(len(ggufWidth)) {
		return ggufBreach("arrays of strings, numbers or bools", "elements of type %d in %q", kind, key)
	}
	least := ggufWidth[kind]
	if kind == ggufString {
		least = ggufTextLeast
	}
	if err := x.countFits("elements of "+quoted(key), n, math.MaxInt64, least); err != nil {
		return err
	}
	if kind != ggufString {
		return x.skip(int64(n) * least)
	}
	if x.texts += n; x.texts > ggufTextsMax {
		return ggufBreach(fmt.Sprintf("at most %d strings in arrays", ggufTextsMax), "%d up to %q", x.texts, key)
	}
	return x.skipTexts(n)
}

// skipTexts skips n strings. A vocabulary has hundreds of thousands: those
// that lie in the window cost no call.
func (x *ggufHeader) skipTexts(n uint64) error {
	for range n {
		if b := x.ahead(); len(b) >= 8 {
			if length := binary.LittleEndian.Uint64(b); length <= uint64(len(b)-8) {
				x.at += 8 + int64(length)
				continue
			}
		}
		if err := x.skipText(); err != nil {
			return err
		}
	}
	return nil
}

// preamble reads magic and version, and gives the number of tensors.
func (x *ggufHeader) preamble() (tensors uint64, err error) {
	b, err := x.take(4)
	if err != nil {
		return 0, err
	}
	if string(b) != "GGUF" {
		return 0, ggufBreach("a file that starts with GGUF", "%q", b)
	}
	version, err := x.uint32()
	if err != nil {
		return 0, err
	}
	switch version {
	case 2, 3:
	case bits.ReverseBytes32(2), bits.ReverseBytes32(3):
		return 0, ggufBreach("little-endian numbers", "a big-endian file")
	default:
		return 0, ggufBreach("version 2 or 3", "version %d", version)
	}
	return x.counted("tensors", ggufTensorsMax, ggufTensorLeast)
}

// tensors checks the tensor table: the data of n tensors stand in the table's
// order, each at the next aligned offset, and end with the file. ggml itself
// reads no other order, and no other leaves room for hidden bytes.
func (x *ggufHeader) tensors(n uint64) error {
	names := make(map[string]struct{}, min(n, 4096))
	var end, next uint64 // of the last tensor, and where the next must start
	for range n {
		name, err := x.name("tensor name", ggufNameMax)
		if err != nil {
			return err
		}
		if _, twice := names[name]; twice {
			return ggufBreach("each tensor once", "tensor %q twice", name)
		}
		names[name] = struct{}{}
		length, err := x.tensorBytes(name)
		if err != nil {
			return err
		}
		offset, err := x.uint64()
		if err != nil {
			return err
		}
		if offset != next {
			return ggufBreach(fmt.Sprintf("tensor %q at the next aligned offset, %d", name, next), "offset %d", offset)
		}
		if length > uint64(x.size)-min(next, uint64(x.size)) {
			return ggufBreach("tensors inside the file", "%d bytes of tensor %q at data offset %d, file of %d bytes", length, name, offset, x.size)
		}
		end = offset + length
		next = padded(end, x.align)
	}
	start := padded(uint64(x.at), x.align)
	if n == 0 {
		// Nothing but metadata: a vocabulary, an imatrix.
		start = uint64(x.at)
		next = padded(start, x.align) - start
	}
	if have := uint64(x.size); have < start+end || have > start+next {
		return ggufBreach(fmt.Sprintf("a file that ends with its last tensor, at %d to %d", start+end, start+next), "%d bytes", have)
	}
	return nil
}

// tensorBytes reads dimensions and type and computes the length in bytes,
// refusing every step that would overflow int64, the type that ggml uses.
func (x *ggufHeader) tensorBytes(name string) (uint64, error) {
	dims, err := x.uint32()
	if err != nil {
		return 0, err
	}
	if dims > ggufDimsMax {
		return 0, ggufBreach(fmt.Sprintf("at most %d dimensions", ggufDimsMax), "%d in tensor %q", dims, name)
	}
	elements, row := uint64(1), uint64(1)
	for i := range dims {
		d, err := x.uint64()
		if err != nil {
			return 0, err
		}
		if i == 0 {
			row = d
		}
		high, low := bits.Mul64(elements, d)
		// ggml divides by dimensions: a zero would end the engine.
		if d == 0 || high != 0 || low > math.MaxInt64 {
			return 0, ggufBreach("dimensions whose product is 1 to 2^63-1", "%d as dimension %d of tensor %q", d, i+1, name)
		}
		elements = low
	}
	kind, err := x.uint32()
	if err != nil {
		return 0, err
	}
	block, ok := ggmlTypes[kind]
	if !ok {
		return 0, ggufBreach("a tensor type that ggml reads", "type %d of tensor %q", kind, name)
	}
	if row%block.elements != 0 {
		return 0, ggufBreach(fmt.Sprintf("rows of whole blocks of %d elements", block.elements), "rows of %d in tensor %q", row, name)
	}
	high, length := bits.Mul64(elements/block.elements, block.bytes)
	if high != 0 || length > math.MaxInt64-ggufAlignMax {
		return 0, ggufBreach("tensors of less than 2^63 bytes", "tensor %q of %d blocks of %d bytes", name, elements/block.elements, block.bytes)
	}
	return length, nil
}

func padded(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }
