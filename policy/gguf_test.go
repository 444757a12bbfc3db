package policy_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// le appends GGUF's little-endian primitives.
type le []byte

func (b le) u8(v uint8) le       { return append(b, v) }
func (b le) u32(v uint32) le     { return binary.LittleEndian.AppendUint32(b, v) }
func (b le) u64(v uint64) le     { return binary.LittleEndian.AppendUint64(b, v) }
func (b le) text(s string) le    { return append(b.u64(uint64(len(s))), s...) }
func (b le) zeros(n int) le      { return append(b, make([]byte, n)...) }
func (b le) pad(align int) le    { return b.zeros((align - len(b)%align) % align) }
func (b le) key(k string) le     { return b.text(k) }
func (b le) pair(k, v string) le { return b.key(k).u32(8).text(v) }
func (b le) align(n uint32) le   { return b.key("general.alignment").u32(4).u32(n) }

func (b le) array(k string, kind uint32, n uint64) le {
	return b.key(k).u32(9).u32(kind).u64(n)
}

func (b le) tensor(name string, kind uint32, offset uint64, dims ...uint64) le {
	b = b.text(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b = b.u64(d)
	}
	return b.u32(kind).u64(offset)
}

func ggufStart(version uint32, tensors, pairs uint64) le {
	return le("GGUF").u32(version).u64(tensors).u64(pairs)
}

// oneTensor is the smallest model: one pair, one tensor of 32 floats.
func oneTensor() le {
	return ggufStart(3, 1, 1).pair("general.architecture", "llama").tensor("a", 0, 0, 32).pad(32).zeros(128)
}

func TestGGUF(t *testing.T) {
	all := ggufStart(3, 0, 14)
	for kind, width := range []int{1, 1, 2, 2, 4, 4, 4, 1, -1, -1, 8, 8, 8} {
		if width > 0 {
			all = all.key(fmt.Sprintf("kind.%d", kind)).u32(uint32(kind)).zeros(width)
		}
	}
	all = all.array("a.texts", 8, 2).text("x").text("").array("a.floats", 6, 3).zeros(12).array("a.none", 8, 0)
	for _, c := range []struct {
		name string
		b    le
	}{
		{"one tensor", oneTensor()},
		{"version 2", ggufStart(2, 1, 0).tensor("a", 0, 0, 32).pad(32).zeros(128)},
		{"every value type", all},
		{"metadata alone", ggufStart(3, 0, 1).pair("general.architecture", "llama")},
		{"metadata alone, padded", ggufStart(3, 0, 1).pair("general.architecture", "llama").pad(32)},
		{"last tensor not padded", ggufStart(3, 2, 0).tensor("a", 0, 0, 1).tensor("b", 0, 32, 1).pad(32).zeros(36)},
		{"last tensor padded", ggufStart(3, 2, 0).tensor("a", 0, 0, 1).tensor("b", 0, 32, 1).pad(32).zeros(64)},
		{"alignment 8", ggufStart(3, 2, 1).align(8).tensor("a", 0, 0, 1).tensor("b", 0, 8, 1).pad(8).zeros(16)},
		{"alignment 64 KiB", ggufStart(3, 1, 1).align(64<<10).tensor("a", 0, 0, 1).pad(64 << 10).zeros(4)},
		{"scalar", ggufStart(3, 1, 0).tensor("a", 0, 0).pad(32).zeros(4)},
		{"four dimensions", ggufStart(3, 1, 0).tensor("a", 0, 0, 2, 2, 2, 2).pad(32).zeros(64)},
		{"Q4_0", ggufStart(3, 1, 0).tensor("a", 2, 0, 32, 3).pad(32).zeros(54)},
		{"Q6_K", ggufStart(3, 1, 0).tensor("a", 14, 0, 256).pad(32).zeros(210)},
		{"MXFP4", ggufStart(3, 1, 0).tensor("a", 39, 0, 32).pad(32).zeros(17)},
		{"NVFP4", ggufStart(3, 1, 0).tensor("a", 40, 0, 64).pad(32).zeros(36)},
		{"Q1_0", ggufStart(3, 1, 0).tensor("a", 41, 0, 128).pad(32).zeros(18)},
		{"names of templates", ggufStart(3, 0, 1).array("tokenizer.chat_templates", 8, 1).text("tool_use")},
		{"name of 63 bytes", ggufStart(3, 1, 0).tensor(strings.Repeat("n", 63), 0, 0, 8).pad(32).zeros(32)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.gguf", c.b)})
			if !d.Allowed {
				t.Errorf("%+v", d)
			}
		})
	}
}

// manyArrays claims more strings than one array may, in several.
func manyArrays() le {
	b := make(le, 0, 41<<20)
	b = append(b, ggufStart(3, 0, 5)...)
	for i := range 5 {
		b = b.array(fmt.Sprintf("a.%d", i), 8, 1<<20).zeros(8 << 20)
	}
	return b
}

// hostileGGUF are files that a reader which trusts its input computes with.
func hostileGGUF() []hostile {
	const rule = "content.formats.gguf"
	tensors := func(t ...le) le {
		b := ggufStart(3, uint64(len(t)), 0)
		for _, x := range t {
			b = append(b, x...)
		}
		return b.pad(32)
	}
	none := le(nil)
	long := strings.Repeat("k", 257)
	cases := []hostile{
		{name: "empty", content: le{}, says: "inside the file"},
		{name: "magic alone", content: le("GGUF"), says: "inside the file"},
		{name: "other magic", content: le("GGUX").u32(3).zeros(16), says: "starts with GGUF"},
		{name: "version 1", content: ggufStart(1, 0, 0), says: "version 1"},
		{name: "version 4", content: ggufStart(4, 0, 0), says: "version 4"},
		{name: "big-endian", content: ggufStart(0x03000000, 0, 0), says: "big-endian"},
		{name: "more tensors than bytes", content: ggufStart(3, 1000, 0), says: "tensors that fit"},
		{name: "2^63 tensors", content: ggufStart(3, 1<<63, 0), says: "at most"},
		{name: "2^64-1 tensors", content: ggufStart(3, math.MaxUint64, 0), says: "at most"}, // CVE-2026-27940: (tensors+1)*overhead
		{name: "more pairs than bytes", content: ggufStart(3, 0, 1000).zeros(100), says: "pairs that fit"},
		{name: "2^64-1 pairs", content: ggufStart(3, 0, math.MaxUint64), says: "at most"},
		{name: "pair missing", content: ggufStart(3, 0, 2).pair("a", strings.Repeat("x", 40)), says: "inside the file"},
		{name: "tensor missing", content: ggufStart(3, 2, 0).tensor("a", 0, 0, 1).pad(32).zeros(32), says: "found"},
		{name: "key past the end", content: ggufStart(3, 0, 1).u64(1 << 20).zeros(40), says: "inside the file"},
		{name: "key of 2^63", content: ggufStart(3, 0, 1).u64(1 << 63).zeros(40), says: "inside the file"},
		{name: "key of 2^64-1", content: ggufStart(3, 0, 1).u64(math.MaxUint64).zeros(40), says: "inside the file"},
		{name: "key of 257 bytes", content: ggufStart(3, 0, 1).pair(long, "v"), says: "key of at most 256 bytes"},
		{name: "empty key", content: ggufStart(3, 0, 1).pair("", "v"), says: "key of printable text"},
		{name: "key with NUL", content: ggufStart(3, 0, 1).pair("general.name\x00x", "v"), says: "key of printable text"},
		{name: "key that is not UTF-8", content: ggufStart(3, 0, 1).pair("a\xff", "v"), says: "key of printable text"},
		{name: "duplicate key", content: ggufStart(3, 0, 2).pair("a", "1").pair("a", "2"), says: `key "a" twice`},
		{name: "duplicate alignment", content: ggufStart(3, 0, 2).align(32).align(64), says: "twice"},
		{name: "text past the end", content: ggufStart(3, 0, 1).key("a").u32(8).u64(100).zeros(50), says: "inside the file"},
		{name: "text of 2^63", content: ggufStart(3, 0, 1).key("a").u32(8).u64(1 << 63).zeros(50), says: "inside the file"},
		{name: "text of 2^64-8", content: ggufStart(3, 0, 1).key("a").u32(8).u64(math.MaxUint64 - 7).zeros(50), says: "inside the file"},
		{name: "value type 13", content: ggufStart(3, 0, 1).key("a").u32(13).zeros(50), says: "known value type"},
		{name: "value type 2^32-1", content: ggufStart(3, 0, 1).key("a").u32(math.MaxUint32).zeros(50), says: "known value type"},
		{name: "bool of 2", content: ggufStart(3, 0, 1).key("a").u32(7).u8(2), says: "bool of 0 or 1"},
		{name: "array of arrays", content: ggufStart(3, 0, 1).array("a", 9, 1).u32(4).u64(1).zeros(8), says: "arrays of strings"},
		{name: "array of type 13", content: ggufStart(3, 0, 1).array("a", 13, 1).zeros(8), says: "arrays of strings"},
		{name: "array past the end", content: ggufStart(3, 0, 1).array("a", 4, 100).zeros(50), says: "elements of"},
		{name: "array of 2^62 uint32", content: ggufStart(3, 0, 1).array("a", 4, 1<<62).zeros(50), says: "elements of"}, // 2^62*4 wraps to 0
		{name: "array of 2^61 uint64", content: ggufStart(3, 0, 1).array("a", 10, 1<<61).zeros(50), says: "elements of"},
		{name: "array of 2^64-1 bytes", content: ggufStart(3, 0, 1).array("a", 0, math.MaxUint64).zeros(50), says: "elements of"},
		{name: "array of 2^61 texts", content: ggufStart(3, 0, 1).array("a", 8, 1<<61).zeros(50), says: "elements of"},
		{name: "array of texts past the end", content: ggufStart(3, 0, 1).array("a", 8, 2).text("x").u64(50).zeros(9), says: "inside the file"},
		{name: "template of another type", content: ggufStart(3, 0, 1).key("tokenizer.chat_template").u32(4).u32(0), says: "template that is a string"},
		{name: "template in an array", content: ggufStart(3, 0, 1).array("tokenizer.chat_template.tool_use", 8, 1).text("{{ x }}"), says: "template that is a string"},
		{name: "template that is not UTF-8", content: ggufStart(3, 0, 1).pair("tokenizer.chat_template", "\xff"), says: "template in UTF-8"},
		{name: "template of 2 MiB", content: ggufStart(3, 0, 1).pair("tokenizer.chat_template", strings.Repeat("x", 2<<20)), says: "template of at most"},
		{name: "alignment 0", content: ggufStart(3, 0, 1).align(0), says: "power of 2"},
		{name: "alignment 1", content: ggufStart(3, 0, 1).align(1), says: "power of 2"},
		{name: "alignment 24", content: ggufStart(3, 0, 1).align(24), says: "power of 2"},
		{name: "alignment 2^31", content: ggufStart(3, 0, 1).align(1 << 31), says: "power of 2"},
		{name: "alignment as text", content: ggufStart(3, 0, 1).pair("general.alignment", "32"), says: "uint32"},
		{name: "alignment as uint64", content: ggufStart(3, 0, 1).key("general.alignment").u32(10).u64(32), says: "uint32"},
		{name: "tensor name of 64 bytes", content: tensors(none.tensor(strings.Repeat("n", 64), 0, 0, 8)).zeros(32), says: "name of at most 63"},
		{name: "tensor name with NUL", content: tensors(none.tensor("a\x00b", 0, 0, 8)).zeros(32), says: "printable"},
		{name: "duplicate tensor", content: tensors(none.tensor("a", 0, 0, 8), none.tensor("a", 0, 32, 8)).zeros(64), says: `tensor "a" twice`},
		{name: "five dimensions", content: tensors(none.tensor("a", 0, 0, 1, 1, 1, 1, 1)).zeros(4), says: "dimensions"},
		{name: "2^32-1 dimensions", content: tensors(none.text("a").u32(math.MaxUint32).zeros(64)), says: "dimensions"},
		{name: "dimension 0", content: tensors(none.tensor("a", 0, 0, 0)), says: "dimensions whose product"},
		{name: "dimension 0 beside others", content: tensors(none.tensor("a", 0, 0, 8, 0, 8)), says: "dimensions whose product"},
		{name: "dimension 2^64-1", content: tensors(none.tensor("a", 0, 0, math.MaxUint64)), says: "dimensions whose product"},
		{name: "product of 2^64", content: tensors(none.tensor("a", 0, 0, 1<<32, 1<<32)), says: "dimensions whose product"},                  // wraps to 0
		{name: "product of 2^64+2^33", content: tensors(none.tensor("a", 0, 0, 1<<32+2, 1<<32)).zeros(64), says: "dimensions whose product"}, // wraps to a small number
		{name: "product of 2^63", content: tensors(none.tensor("a", 0, 0, 1<<32, 1<<31)), says: "dimensions whose product"},
		{name: "bytes of 2^64", content: tensors(none.tensor("a", 0, 0, 1<<62)), says: "less than 2^63 bytes"}, // CVE-2026-33298: elements*4 wraps to 0
		{name: "bytes of 2^64+32", content: tensors(none.tensor("a", 28, 0, 1<<61+4)).zeros(32), says: "less than 2^63 bytes"},
		{name: "bytes of nearly 2^63", content: tensors(none.tensor("a", 0, 0, 1<<61-1)), says: "less than 2^63 bytes"},
		{name: "removed tensor type", content: tensors(none.tensor("a", 4, 0, 32)).zeros(128), says: "type 4"},
		{name: "unknown tensor type", content: tensors(none.tensor("a", 200, 0, 32)).zeros(128), says: "type 200"},
		{name: "tensor type 2^32-1", content: tensors(none.tensor("a", math.MaxUint32, 0, 32)).zeros(128), says: "tensor type"},
		{name: "row of half a block", content: tensors(none.tensor("a", 2, 0, 16, 2)).zeros(32), says: "whole blocks"},
		{name: "tensor past the end", content: tensors(none.tensor("a", 0, 0, 1000)).zeros(32), says: "inside the file"},
		{name: "tensor cut short", content: tensors(none.tensor("a", 0, 0, 32)).zeros(127), says: "ends with its last tensor"},
		{name: "offset 2^63", content: tensors(none.tensor("a", 0, 1<<63, 8)).zeros(32), says: "next aligned offset"},
		{name: "offset 2^64-32", content: tensors(none.tensor("a", 0, math.MaxUint64-31, 8)).zeros(32), says: "next aligned offset"},
		{name: "offset not aligned", content: tensors(none.tensor("a", 0, 0, 1), none.tensor("b", 0, 4, 1)).zeros(64), says: "next aligned offset"},
		{name: "hole", content: tensors(none.tensor("a", 0, 0, 8), none.tensor("b", 0, 64, 8)).zeros(96), says: "next aligned offset"},
		{name: "hole in front", content: tensors(none.tensor("a", 0, 32, 8)).zeros(64), says: "next aligned offset"},
		{name: "overlap", content: tensors(none.tensor("a", 0, 0, 16), none.tensor("b", 0, 32, 8)).zeros(96), says: "next aligned offset"},
		{name: "same place", content: tensors(none.tensor("a", 0, 0, 8), none.tensor("b", 0, 0, 8)).zeros(32), says: "next aligned offset"},
		{name: "trailing bytes", content: oneTensor().zeros(32), says: "ends with its last tensor"},
		{name: "one trailing byte", content: oneTensor().zeros(1), says: "ends with its last tensor"},
		{name: "bytes behind metadata", content: ggufStart(3, 0, 0).zeros(40), says: "ends with its last tensor"},
		{name: "data missing", content: ggufStart(3, 1, 0).tensor("a", 0, 0, 1), says: "ends with its last tensor"},
		// Counts that fit into a large file and would take minutes or gigabytes.
		{name: "2^29 texts in 8 GiB", size: 8 << 30, content: ggufStart(3, 0, 1).array("a", 8, 1<<29), says: "strings in arrays"},
		{name: "many arrays of 2^20 texts in 8 GiB", size: 8 << 30, content: manyArrays(), says: "strings in arrays"},
		{name: "7 GiB of numbers", size: 8 << 30, content: ggufStart(3, 0, 1).array("a", 0, 7<<30), says: "header of at most"},
		{name: "one text of 7 GiB", size: 8 << 30, content: ggufStart(3, 0, 1).key("a").u32(8).u64(7 << 30), says: "header of at most"},
		{name: "2^27 tensors in 8 GiB", size: 8 << 30, content: ggufStart(3, 1<<27, 0), says: "tensors"},
		{name: "2^27 pairs in 8 GiB", size: 8 << 30, content: ggufStart(3, 0, 1<<27), says: "pairs"},
	}
	for i := range cases {
		cases[i].path, cases[i].rule = "model.gguf", rule
	}
	for n := 1; n < 4; n++ {
		whole := tinyRandom()
		cases = append(cases, hostile{
			name: fmt.Sprintf("cut at quarter %d", n), path: "model.gguf", rule: rule, content: whole[:len(whole)*n/4],
			model: pins(tinygguf.ChatTemplate), says: "found",
		})
	}
	return cases
}

// Every prefix of a file is refused, and no change of one bit is taken badly.
func TestGGUFPrefixes(t *testing.T) {
	whole := oneTensor()
	for n := range whole {
		if d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.gguf", whole[:n])}); d.Allowed {
			t.Fatalf("admitted the first %d of %d bytes", n, len(whole))
		}
	}
}
