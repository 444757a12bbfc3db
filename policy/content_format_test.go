package policy_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// zipFile is an archive as torch.save and keras write them, to stand at
// offset from of a file.
func zipFile(from int64, comment string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	z.SetOffset(from)
	w, err := z.Create("archive/data.pkl")
	if err == nil {
		_, err = w.Write([]byte("\x80\x02cos\nsystem\n."))
	}
	if err == nil {
		err = z.SetComment(comment)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

func tarFile() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "x", Mode: 0o755, Size: 1}); err != nil {
		panic(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// carrier is a well-formed GGUF whose one tensor holds data.
func carrier(data []byte) []byte {
	n := (len(data) + 31) / 32 * 32
	b := ggufStart(3, 1, 0).tensor("a", 24, 0, uint64(n)).pad(32).zeros(n)
	copy(b[len(b)-len(data):], data)
	return b
}

func hostilePolyglots() []hostile {
	const rule = "content.formats"
	inTensor := func(data []byte) []byte { return carrier(append(make([]byte, 70<<10), data...)) }
	zipAt := func(from int64) []byte { return zipFile(from, "") }
	tensorData := append(tensors(`{"a":{"dtype":"U8","shape":[`+"512"+`],"data_offsets":[0,512]}}`, 0), make([]byte, 512)...)
	copy(tensorData[512-20:], "\x89HDF\r\n\x1a\n")
	hdf := tensors(`{"a":{"dtype":"U8","shape":[2000],"data_offsets":[0,2000]}}`, 2000)
	copy(hdf[512:], "\x89HDF\r\n\x1a\n")
	far := tensors(`{"a":{"dtype":"U8","shape":[70000],"data_offsets":[0,70000]}}`, 70000)
	copy(far[65536:], "\x89HDF\r\n\x1a\n")
	tarHeader := tensors(`{"`+strings.Repeat("a", 257-8-2)+`ustar":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1)
	behind := inTensor(zipAt(0))
	// The offset counts from the file's start, and the length is wrong: miniz' way.
	absolute := inTensor(nil)
	archive := zipAt(int64(len(absolute)) - 4000)
	copy(absolute[len(absolute)-4000:], archive)
	record := len(absolute) - 4000 + len(archive) - 22
	binary.LittleEndian.PutUint32(absolute[record+12:], 1)
	zip64 := inTensor([]byte("PK\x06\x07" + strings.Repeat("\x00", 16) + "PK\x05\x06" + strings.Repeat("\xff", 18)))
	safetensorsZip := func() []byte {
		z := zipAt(0)
		head := `{"a":{"dtype":"U8","shape":[4096],"data_offsets":[0,4096]}}`
		b := tensors(head, 4096)
		copy(b[len(b)-len(z):], z)
		return b
	}()
	return []hostile{
		{name: "zip as GGUF", path: "model.gguf", content: zipAt(0), rule: rule, says: "zip"},
		{name: "zip as safetensors", path: "model.safetensors", content: zipAt(0), rule: rule, says: "zip"},
		{name: "zip as JSON", path: "config.json", content: zipAt(0), rule: rule, says: "zip"},
		{name: "zip behind GGUF tensors", path: "model.gguf", content: behind, rule: rule, says: "directory is at the end"},
		{name: "zip with a comment", path: "model.gguf", content: inTensor(zipFile(0, strings.Repeat("c", 60000))), rule: rule, says: "directory is at the end"},
		{name: "zip that ends before the file does", path: "model.gguf", content: inTensor(append(zipAt(0), make([]byte, 3000)...)), rule: rule, says: "directory is at the end"},
		{name: "zip with offsets from the start", path: "model.gguf", content: absolute, rule: rule, says: "directory is at the end"},
		{name: "zip64", path: "model.gguf", content: zip64, rule: rule, says: "directory is at the end"},
		{name: "zip in safetensors data", path: "model.safetensors", content: safetensorsZip, rule: rule, says: "directory is at the end"},
		{name: "zip behind another's false record", path: "model.gguf", content: inTensor(append(zipAt(0), "PK\x05\x06"+strings.Repeat("\x00", 30)...)), rule: rule, says: "directory is at the end"},
		{name: "HDF5 as GGUF", path: "model.gguf", content: []byte("\x89HDF\r\n\x1a\n0000"), rule: rule, says: "HDF5"},
		{name: "HDF5 at 512 of safetensors", path: "model.safetensors", content: hdf, rule: rule, says: "HDF5"},
		{name: "HDF5 at 65536 of safetensors", path: "model.safetensors", content: far, rule: rule, says: "HDF5"},
		{name: "tar as GGUF", path: "model.gguf", content: tarFile(), rule: rule, says: "tar"},
		{name: "tar in a GGUF key", path: "model.gguf", content: ggufStart(3, 0, 1).pair("a", strings.Repeat("x", 257-24-9-4-8)+"ustar\x0000"), rule: rule, says: "tar"},
		{name: "tar in a safetensors name", path: "model.safetensors", content: tarHeader, rule: rule, says: "tar"},
		{name: "pickle 2", path: "model.gguf", content: []byte("\x80\x02}q\x00."), rule: rule, says: "pickle"},
		{name: "pickle 5", path: "README.md", content: []byte("\x80\x05}."), rule: rule, says: "pickle"},
		{name: "ELF", path: "model.gguf", content: []byte("\x7fELF\x02\x01\x01"), rule: rule, says: "ELF"},
		{name: "Windows executable (llamafile)", path: "model.gguf", content: []byte("MZqFpD='\n"), rule: rule, says: "Windows"},
		{name: "script as text", path: "README.md", content: []byte("#!/bin/sh\nid\n"), rule: rule, says: "script"},
		{name: "script as JSON", path: "config.json", content: []byte("#!/bin/sh\n"), rule: rule, says: "script"},
		{name: "gzip as text", path: "vocab.txt", content: []byte("\x1f\x8b\x08\x00"), rule: rule, says: "gzip"},
		{name: "zstd as GGUF", path: "model.gguf", content: []byte("\x28\xb5\x2f\xfd0000"), rule: rule, says: "zstd"},
		{name: "NumPy", path: "model.gguf", content: []byte("\x93NUMPY\x01\x00"), rule: rule, says: "NumPy"},
		{name: "TensorFlow Lite", path: "model.gguf", content: []byte("\x1c\x00\x00\x00TFL3"), rule: rule, says: "TensorFlow Lite"},
		{name: "legacy ggml", path: "model.gguf", content: []byte("ggjt\x03\x00\x00\x00"), rule: rule, says: "legacy"},
		{name: "PDF as text", path: "README.md", content: []byte("%PDF-1.7\n"), rule: rule, says: "PDF"},
	}
}

// Tensor data may spell the four bytes of a zip's record by chance.
func TestBytesLikeAZipRecord(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		data := make([]byte, 4096)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		at := random.IntN(len(data) - 4)
		copy(data[at:], "PK\x05\x06")
		if d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.gguf", carrier(data))}); !d.Allowed {
			t.Fatalf("%+v", d)
		}
	}
}

// A safetensors header's length may spell what other formats start with.
func TestLengthLikeAMagic(t *testing.T) {
	for _, n := range []int{0x8b1f, 0x5a4d, 0x2123} { // gzip, MZ, #!
		head := `{}` + strings.Repeat(" ", n-2)
		if d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{file("m.safetensors", tensors(head, 0))}); !d.Allowed {
			t.Errorf("length %#x: %+v", n, d)
		}
	}
}

func hostileNames() []hostile {
	const rule = "content.formats"
	var cases []hostile
	for _, name := range []string{
		"pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "a.pkl", "a.pickle", "a.joblib", "a.npy", "a.npz", "a.dill",
		"modeling.py", "setup.PY", "a.pyc", "lib.so", "a.dll", "a.exe", "run.sh", "a.bat", "a.js", "a.wasm", "a.jar",
		"model.h5", "model.hdf5", "model.keras", "saved_model.pb", "a.tflite", "a.pte", "a.nemo", "a.mar", "model.dduf", "a.llamafile",
		"a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z", "a.gz", "a.zst",
		"a.yaml", "a.yml", "a.html", "a.svg", "a.ipynb", "Makefile", "a", "model.gguf.py", "LICENSE.py", "license-1.py", ".safetensors.bin", "requirements",
		"model.onnx", "tokenizer.model", "chat_template.jinja", // formats that a policy must name
	} {
		cases = append(cases, hostile{name: name, path: name, content: oneTensor(), rule: rule, says: "format"})
	}
	return append(cases,
		hostile{name: "GGUF where the policy wants safetensors", path: "m.gguf", content: oneTensor(), policy: snapshot.Content{Formats: []string{"safetensors"}}, rule: rule, says: "gguf"},
		hostile{name: "JSON where the policy wants GGUF", path: "a.json", content: []byte("{}"), policy: snapshot.Content{Formats: []string{"gguf"}}, rule: rule, says: "json"},
		hostile{name: "Ollama template where the policy has no text", path: "template", content: []byte("x"), policy: snapshot.Content{Formats: []string{"gguf"}}, rule: rule, says: "text"},
		hostile{name: "nameless format in the policy", path: "a.bin", content: oneTensor(), policy: snapshot.Content{Formats: []string{"", "gguf"}}, rule: rule, says: "name of no format"},
		hostile{name: "unknown template setting", path: "m.gguf", content: oneTensor(), policy: snapshot.Content{ChatTemplates: "all"}, rule: "content.chatTemplates", says: "does not know"},
		hostile{name: "unknown remote code setting", path: "m.gguf", content: oneTensor(), policy: snapshot.Content{RemoteCode: "allow"}, rule: "content.remoteCode", says: "does not know"},
		hostile{name: "negative limit", path: "m.gguf", content: oneTensor(), policy: snapshot.Content{Limits: snapshot.Limits{Files: -1}}, rule: "content.limits", says: "does not know"},
		hostile{name: "path that leaves the model", path: "../m.gguf", content: oneTensor(), rule: "paths", says: "unsafe path"},
	)
}

func varintField(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func bytesField(n protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(parts, nil))
}

func fixed32Field(n protowire.Number, v uint32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(nil, n, protowire.Fixed32Type), v)
}

func onnxModel(graph ...[]byte) []byte {
	return bytes.Join([][]byte{varintField(1, 8), bytesField(2, []byte("pytorch")), bytesField(7, graph...), bytesField(8, varintField(2, 17))}, nil)
}

func onnxTensor(parts ...[]byte) []byte {
	return bytesField(5, append([][]byte{varintField(1, 4), varintField(2, 1), bytesField(9, make([]byte, 16))}, parts...)...)
}

func pieces(n int) []byte {
	var b []byte
	for range n {
		b = append(b, bytesField(1, bytesField(1, []byte("▁the")), fixed32Field(2, 0), varintField(3, 1))...)
	}
	return b
}

var protobufFormats = snapshot.Content{Formats: []string{"onnx", "sentencepiece"}}

func TestProtobufFormats(t *testing.T) {
	node := func(parts ...[]byte) []byte {
		return bytesField(1, bytesField(4, []byte("If")), bytesField(5, parts...))
	}
	for _, c := range []struct {
		name, path string
		b          []byte
	}{
		{"graph", "m.onnx", onnxModel(onnxTensor())},
		{"graph in a node", "m.onnx", onnxModel(node(bytesField(6, onnxTensor())))},
		{"empty graph", "m.onnx", onnxModel()},
		{"pieces", "tokenizer.model", append(pieces(3), bytesField(2, varintField(3, 1))...)},
		{"extension", "tokenizer.model", append(pieces(1), bytesField(200, []byte("x"))...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := policy.AdmitContent(snapshot.Policy{Content: protobufFormats}, pins(), []policy.ArtifactFile{file(c.path, c.b)}); !d.Allowed {
				t.Errorf("%+v", d)
			}
		})
	}
}

func hostileProtobuf() []hostile {
	location := bytesField(13, bytesField(1, []byte("location")), bytesField(2, []byte("../../../etc/passwd")))
	nested := func(levels int) []byte { // graphs in attributes of nodes in graphs
		var b []byte
		for range levels {
			b = bytesField(1, bytesField(5, bytesField(6, b)))
		}
		return onnxModel(b)
	}
	outside := "data lies in another file"
	cases := []hostile{
		{name: "empty", content: []byte{}, says: "one version and one graph"},
		{name: "no graph", content: varintField(1, 8), says: "one version and one graph"},
		{name: "no version", content: bytesField(7), says: "one version and one graph"},
		{name: "two graphs", content: append(onnxModel(), bytesField(7)...), says: "one version and one graph"},
		{name: "external data", content: onnxModel(onnxTensor(location)), says: outside},
		{name: "external location", content: onnxModel(onnxTensor(varintField(14, 1))), says: outside},
		{name: "external data in a node", content: onnxModel(bytesField(1, bytesField(5, bytesField(6, onnxTensor(location))))), says: outside},
		{name: "external data in a node's tensor", content: onnxModel(bytesField(1, bytesField(5, onnxTensor(location)))), says: outside},
		{name: "external data in a sparse tensor", content: onnxModel(bytesField(15, bytesField(1, location))), says: outside},
		{name: "external data in training", content: append(onnxModel(), bytesField(20, bytesField(1, onnxTensor(location)))...), says: outside},
		{name: "external data in a function", content: append(onnxModel(), bytesField(25, bytesField(7, bytesField(5, onnxTensor(location))))...), says: outside},
		{name: "unknown field", content: append(onnxModel(), bytesField(99)...), says: "field 99"},
		{name: "graph as number", content: append(varintField(1, 8), varintField(7, 1)...), says: "wire type 0"},
		{name: "length past the end", content: append(varintField(1, 8), 0x3a, 0x7f), says: "end inside"},
		{name: "length of 2^64-1", content: append(append(varintField(1, 8), 0x3a), protowire.AppendVarint(nil, math.MaxUint64)...), says: "end inside"},
		{name: "inner length past the outer", content: append(onnxModel([]byte{0x0a, 0x10}), make([]byte, 64)...), says: "end inside"},
		{name: "number without end", content: bytes.Repeat([]byte{0xff}, 40), says: "numbers of at most 64 bits"},
		{name: "field 0", content: []byte{0x00, 0x00}, says: "field number"},
		{name: "group", content: []byte{0x0b, 0x0c}, says: "wire type"},
		{name: "40 levels", content: nested(14), says: "levels"},
		{name: "4000 levels", content: nested(1300), says: "levels"},
		{name: "3 GiB", size: 3 << 30, content: varintField(1, 8), says: "too large"},
		{name: "2 GiB of zeros", size: 2 << 30, content: varintField(1, 8), says: "field number"},
	}
	for i := range cases {
		cases[i].path, cases[i].rule, cases[i].policy = "model.onnx", "content.formats.onnx", protobufFormats
	}
	tokenizers := []hostile{
		{name: "tokenizer without pieces", content: bytesField(2), says: "one piece"},
		{name: "empty tokenizer", content: []byte{}, says: "one piece"},
		{name: "tokenizer's unknown field", content: append(pieces(1), bytesField(6)...), says: "field 6"},
		{name: "tokenizer's number", content: append(pieces(1), varintField(1, 1)...), says: "wire type 0"},
		{name: "piece's unknown field", content: bytesField(1, bytesField(4)), says: "field 4"},
		{name: "piece with a score of text", content: bytesField(1, bytesField(2, []byte("x"))), says: "field 2"},
		{name: "tokenizer of 65 MiB", size: 65 << 20, content: pieces(1), says: "too large"},
	}
	for i := range tokenizers {
		tokenizers[i].path, tokenizers[i].rule, tokenizers[i].policy = "tokenizer.model", "content.formats.sentencepiece", protobufFormats
	}
	return append(cases, tokenizers...)
}
