package policy_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// tensors is a safetensors file with that header and n bytes of data.
func tensors(header string, n int) []byte {
	return rawTensors(uint64(len(header)), header, n)
}

func rawTensors(length uint64, header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, length)
	return append(append(b, header...), make([]byte, n)...)
}

func TestSafetensors(t *testing.T) {
	for _, c := range []struct {
		name, header string
		data         int
	}{
		{"nothing", `{}`, 0},
		{"one tensor", `{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24},
		{"metadata", `{"__metadata__":{"format":"pt"},"a":{"dtype":"I8","shape":[3],"data_offsets":[0,3]}}`, 3},
		{"empty metadata", `{"__metadata__":{},"a":{"dtype":"I8","shape":[3],"data_offsets":[0,3]}}`, 3},
		{"padded with blanks", `{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}     `, 2},
		{"scalar", `{"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}`, 8},
		{"empty tensor", `{"a":{"dtype":"F16","shape":[0,7],"data_offsets":[0,0]}}`, 0},
		{"empty tensor between others", `{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"c":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2},
		{"any order", `{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"shape":[1],"data_offsets":[0,1],"dtype":"F8_E4M3"}}`, 2},
		{"four bits", `{"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}}`, 3},
		{"six bits", `{"a":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]}}`, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.safetensors", tensors(c.header, c.data))})
			if !d.Allowed {
				t.Errorf("%+v", d)
			}
		})
	}
}

// crowd repeats an entry n times, numbered.
func crowd(n int, entry, open, end string) string {
	var b strings.Builder
	b.WriteString(open)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, entry, i)
	}
	return b.String() + end
}

func hostileSafetensors() []hostile {
	entry := func(dtype, shape, offsets string) string {
		return fmt.Sprintf(`{"a":{"dtype":%s,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
	}
	many := "{"
	for i := range 1000 {
		many += fmt.Sprintf(`"t%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]},`, i, i, i+1)
	}
	many += `"t0":{"dtype":"U8","shape":[1],"data_offsets":[1000,1001]}}`
	cases := []hostile{
		{name: "empty", content: []byte{}, says: "at least 8 bytes"},
		{name: "7 bytes", content: make([]byte, 7), says: "at least 8 bytes"},
		{name: "length 0", content: make([]byte, 64), says: "header of 2"},
		{name: "length 1", content: rawTensors(1, "{}", 0), says: "header of 2"},
		{name: "length past the end", content: rawTensors(100, "{}", 0), says: "header of 2"},
		{name: "length 2^63", content: rawTensors(1<<63, "{}", 0), says: "header of 2"},
		{name: "length 2^64-1", content: rawTensors(math.MaxUint64, "{}", 0), says: "header of 2"},
		{name: "length 2^64-8", content: rawTensors(math.MaxUint64-7, "{}", 0), says: "header of 2"},
		{name: "header of 33 MiB", size: 8 << 30, content: rawTensors(33<<20, "{", 0), says: "header of 2"},
		{name: "array", content: tensors(`["a"]`, 0), says: "starts with {"},
		{name: "blank in front", content: tensors(` {}`, 0), says: "starts with {"},
		{name: "byte order mark", content: tensors("\ufeff{}", 0), says: "starts with {"},
		{name: "not JSON", content: tensors(`{"a":`, 0), says: "strict JSON"},
		{name: "not UTF-8", content: tensors("{\"a\xff\":{}}", 0), says: "strict JSON"},
		{name: "comment", content: tensors(`{/**/}`, 0), says: "strict JSON"},
		{name: "second document", content: tensors(`{}{}`, 0), says: "one JSON object"},
		{name: "NUL behind", content: tensors("{}\x00", 0), says: "one JSON object"},
		{name: "trailing data", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 2), says: "end with the file"},
		{name: "data without tensors", content: tensors(`{}`, 1), says: "end with the file"},
		{name: "data cut short", content: tensors(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 1), says: "end with the file"},
		{name: "hole in front", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), says: "hole"},
		{name: "hole", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), says: "hole"},
		{name: "overlap", content: tensors(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), says: "overlap"},
		{name: "same place", content: tensors(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), says: "overlap"},
		{name: "duplicate tensor", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), says: "duplicate"},
		{name: "duplicate tensor, escaped", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), says: "duplicate"},
		{name: "duplicate among many", content: tensors(many, 1001), says: "duplicate"},
		{name: "duplicate metadata", content: tensors(`{"__metadata__":{},"__metadata__":{}}`, 0), says: "duplicate"},
		{name: "duplicate member", content: tensors(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), says: "duplicate"},
		{name: "unknown member", content: tensors(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}`, 1), says: "alone"},
		{name: "unknown dtype", content: tensors(entry(`"F3"`, `[1]`, `[0,1]`), 1), says: "known dtype"},
		{name: "dtype of object", content: tensors(entry(`"O"`, `[1]`, `[0,1]`), 1), says: "known dtype"},
		{name: "dtype in lower case", content: tensors(entry(`"f32"`, `[1]`, `[0,4]`), 4), says: "known dtype"},
		{name: "dtype as number", content: tensors(entry(`1`, `[1]`, `[0,1]`), 1), says: "known dtype"},
		{name: "no dtype", content: tensors(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1), says: "dtype, shape and two"},
		{name: "no shape", content: tensors(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1), says: "dtype, shape and two"},
		{name: "no offsets", content: tensors(`{"a":{"dtype":"U8","shape":[1]}}`, 1), says: "dtype, shape and two"},
		{name: "one offset", content: tensors(entry(`"U8"`, `[1]`, `[1]`), 1), says: "two data_offsets"},
		{name: "three offsets", content: tensors(entry(`"U8"`, `[1]`, `[0,1,2]`), 1), says: "at most 2"},
		{name: "negative offset", content: tensors(entry(`"U8"`, `[1]`, `[-1,0]`), 1), says: "integers of 0"},
		{name: "fraction", content: tensors(entry(`"U8"`, `[1.0]`, `[0,1]`), 1), says: "integers of 0"},
		{name: "exponent", content: tensors(entry(`"U8"`, `[1e0]`, `[0,1]`), 1), says: "integers of 0"},
		{name: "integer over 2^64", content: tensors(entry(`"U8"`, `[18446744073709551617]`, `[0,1]`), 1), says: "integers of 0"},
		{name: "shape as text", content: tensors(entry(`"U8"`, `["1"]`, `[0,1]`), 1), says: "integers of 0"},
		{name: "shape as number", content: tensors(entry(`"U8"`, `1`, `[0,1]`), 1), says: "array of integers"},
		{name: "shape as null", content: tensors(entry(`"U8"`, `null`, `[0,1]`), 1), says: "array of integers"},
		{name: "17 dimensions", content: tensors(entry(`"U8"`, `[1`+strings.Repeat(",1", 16)+`]`, `[0,1]`), 1), says: "at most 16"},
		{name: "offsets reversed", content: tensors(entry(`"U8"`, `[1]`, `[1,0]`), 1), says: "ascending"},
		{name: "shape larger than span", content: tensors(entry(`"F32"`, `[2]`, `[0,4]`), 4), says: "data_offsets that span"},
		{name: "shape smaller than span", content: tensors(entry(`"F32"`, `[1]`, `[0,8]`), 8), says: "data_offsets that span"},
		{name: "shape of 2^64 elements", content: tensors(entry(`"U8"`, `[4294967296,4294967296]`, `[0,0]`), 0), says: "less than 2^64"},
		{name: "shape that wraps to 8", content: tensors(entry(`"U8"`, `[2305843009213693953]`, `[0,1]`), 1), says: "less than 2^64"},
		{name: "zero that hides an overflow", content: tensors(entry(`"U8"`, `[4294967296,4294967296,0]`, `[0,0]`), 0), says: "less than 2^64"},
		{name: "half a byte", content: tensors(entry(`"F4"`, `[3]`, `[0,1]`), 1), says: "data_offsets that span"},
		{name: "tensor as array", content: tensors(`{"a":[]}`, 0), says: "object for each tensor"},
		{name: "tensor as null", content: tensors(`{"a":null}`, 0), says: "object for each tensor"},
		{name: "metadata of numbers", content: tensors(`{"__metadata__":{"a":1}}`, 0), says: "__metadata__ of strings"},
		{name: "metadata of objects", content: tensors(`{"__metadata__":{"a":{}}}`, 0), says: "__metadata__ of strings"},
		{name: "metadata of arrays", content: tensors(`{"__metadata__":{"a":["b"]}}`, 0), says: "__metadata__ of strings"},
		{name: "metadata as text", content: tensors(`{"__metadata__":"a"}`, 0), says: "__metadata__ that is an object"},
		{name: "nesting", content: tensors(`{"a":{"dtype":"U8","shape":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}}`, 0), says: "integers"},
		{name: "header of blanks", size: 33 << 20, content: rawTensors(32<<20, "{", 0), says: "strict JSON"},
		{name: "a crowd of tensors", content: tensors(crowd(1<<18+1, `"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, "{", "}"), 0), says: "at most 262144 tensors", memory: 256 << 20, crowd: true},
		{name: "a crowd in the metadata", content: tensors(crowd(1<<18+1, `"%d":""`, `{"__metadata__":{`, "}}"), 0), says: "at most 262144 entries", memory: 256 << 20, crowd: true},
		{name: "pickle behind the header", content: append(tensors(`{}`, 0), "\x80\x04}."...), says: "end with the file"},
	}
	for i := range cases {
		cases[i].path, cases[i].rule = "model.safetensors", "content.formats.safetensors"
	}
	return cases
}

func TestSafetensorsPrefixes(t *testing.T) {
	whole := tensors(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24)
	for n := range whole {
		if d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.safetensors", whole[:n])}); d.Allowed {
			t.Fatalf("admitted the first %d of %d bytes", n, len(whole))
		}
	}
}
