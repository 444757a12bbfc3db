package policy

import (
	"bytes"
	"encoding/binary"
	"io"
	"path"
	"slices"
	"strings"
)

// Formats of files, as a policy names them. A template is a text that an
// engine runs (Ollama's); it is admitted as text and pinned like Jinja.
const (
	formatSafetensors   = "safetensors"
	formatGGUF          = "gguf"
	formatJSON          = "json"
	formatText          = "text"
	formatONNX          = "onnx"
	formatSentencePiece = "sentencepiece"
	formatJinja         = "jinja"
	formatTemplate      = "template"
)

// defaultFormats are admitted by a policy that lists none.
var defaultFormats = []string{formatSafetensors, formatGGUF, formatJSON, formatText}

// formatByExtension is the whole allow-list of names with an extension.
var formatByExtension = map[string]string{
	".safetensors": formatSafetensors,
	".gguf":        formatGGUF,
	".mmproj":      formatGGUF, // Docker's name for a projector
	".json":        formatJSON,
	".jinja":       formatJinja,
	".jinja2":      formatJinja,
	".onnx":        formatONNX,
	".model":       formatSentencePiece,

	".md": formatText, ".txt": formatText, ".rst": formatText,
	".csv": formatText, ".tsv": formatText, ".jsonl": formatText, ".cff": formatText,
	".bpe": formatText, ".vocab": formatText, ".tiktoken": formatText, // vocabularies and merges
	".gitattributes": formatText, ".gitignore": formatText,
}

// formatByName is the allow-list of lower-case names without an extension.
var formatByName = map[string]string{
	"license": formatText, "licence": formatText, "notice": formatText, "copying": formatText,
	"readme": formatText, "changelog": formatText, "authors": formatText, "use_policy": formatText, "version": formatText,
	"kitfile": formatText, "modelfile": formatText, "system": formatText, // KitOps and Ollama
	"template": formatTemplate, "prompt": formatTemplate, // Ollama: Go templates
}

// formatOf is the format that a file's name claims; "" is none. Engines go by
// names, so that a name is what decides how bytes are read.
func formatOf(name string) string {
	base := strings.ToLower(path.Base(name))
	ext := path.Ext(base)
	if f, ok := formatByExtension[ext]; ok {
		return f
	}
	if ext != "" {
		return ""
	}
	if f, ok := formatByName[base]; ok {
		return f
	}
	// license-1, LICENSE-MIT
	if stem, _, ok := strings.Cut(base, "-"); ok && formatByName[stem] == formatText {
		return formatText
	}
	return ""
}

// format checks a file's name against the formats that the policy admits.
func (g *gate) format(name string) (string, error) {
	f := formatOf(name)
	admit := f
	if f == formatTemplate {
		admit = formatText
	}
	if f != "" && slices.Contains(g.formats, admit) {
		return f, nil
	}
	b := &breach{rule: "content.formats", expected: list(g.formats)}
	if f == "" {
		b.reason, b.found = "has a name of no format that a policy can admit", quoted(path.Base(name))
	} else {
		b.reason, b.found = "is of a format that the policy does not admit", admit
	}
	return "", b
}

// magic is how a foreign format starts.
type magic struct {
	offset int
	bytes  string
	what   string
}

// foreignHeads are formats that run code, hide files or hold programs. The
// allow-list refuses them anyway; knowing them gives the refusal its reason.
var foreignHeads = []magic{
	{0, "PK\x03\x04", "a zip archive (TorchScript, PyTorch, Keras, NumPy, jar)"},
	{0, "PK\x05\x06", "a zip archive"},
	{0, "PK\x07\x08", "a zip archive"},
	{0, "\x80\x02", "a pickle"},
	{0, "\x80\x03", "a pickle"},
	{0, "\x80\x04", "a pickle"},
	{0, "\x80\x05", "a pickle"},
	{0, "\x93NUMPY", "a NumPy array, which may hold pickles"},
	{0, "\x7fELF", "an ELF executable"},
	{0, "MZ", "a Windows executable"},
	{0, "\xfe\xed\xfa\xce", "a Mach-O executable"},
	{0, "\xfe\xed\xfa\xcf", "a Mach-O executable"},
	{0, "\xce\xfa\xed\xfe", "a Mach-O executable"},
	{0, "\xcf\xfa\xed\xfe", "a Mach-O executable"},
	{0, "\xca\xfe\xba\xbe", "a Java class or Mach-O executable"},
	{0, "\x00asm", "a WebAssembly module"},
	{0, "#!", "a script"},
	{0, "!<arch>\n", "an ar archive"},
	{0, "\x1f\x8b", "a gzip stream"},
	{0, "BZh", "a bzip2 stream"},
	{0, "\xfd7zXZ\x00", "an xz stream"},
	{0, "\x28\xb5\x2f\xfd", "a zstd stream"},
	{0, "\x04\x22\x4d\x18", "an lz4 stream"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{0, "Rar!", "a rar archive"},
	{0, "%PDF", "a PDF"},
	{0, "\xd0\xcf\x11\xe0", "an OLE document"},
	{0, "ggml", "a legacy ggml model"},
	{0, "ggjt", "a legacy ggml model"},
	{0, "ggla", "a legacy ggml adapter"},
	{4, "TFL3", "a TensorFlow Lite model"},
	{4, "ET12", "an ExecuTorch program"},
	{4, "ET13", "an ExecuTorch program"},
}

const (
	magicHDF5 = "\x89HDF\r\n\x1a\n"
	magicTar  = "ustar" // at byte 257
	magicZip  = "PK\x05\x06"
	// zipTail is how far from the end readers look for a zip's directory: its
	// record of 22 bytes and a comment of at most 65535.
	zipTail = 22 + 1<<16 - 1
)

// foreign refuses bytes that another program would read as an archive, a
// script or a pickle, at any place where such readers look: a file may be
// well-formed and something else as well.
func foreign(r io.ReaderAt, size int64, kind string) error {
	refuse := func(what string) error {
		return &breach{rule: "content.formats", reason: "is also " + what, expected: "one format and no other: " + kind, found: what}
	}
	head, err := readSpan(r, 0, min(size, 512))
	if err != nil {
		return err
	}
	// A safetensors file starts with a length, which may spell anything; all
	// of its bytes are accounted for by the strict parse.
	if kind != formatSafetensors {
		for _, m := range foreignHeads {
			if len(head) >= m.offset && bytes.HasPrefix(head[m.offset:], []byte(m.bytes)) {
				return refuse(m.what)
			}
		}
	}
	if len(head) > 257 && bytes.HasPrefix(head[257:], []byte(magicTar)) {
		return refuse("a tar archive")
	}
	// HDF5 (Keras) may start at 0, 512 and each doubling (HDF5 file format, II.A).
	for at := int64(0); at <= size-int64(len(magicHDF5)); at = max(512, 2*at) {
		b, err := readSpan(r, at, int64(len(magicHDF5)))
		if err != nil {
			return err
		}
		if string(b) == magicHDF5 {
			return refuse("an HDF5 file (Keras)")
		}
	}
	return foreignTail(r, size, refuse)
}

// foreignTail looks for a zip's central directory, which readers find from
// the end of the file: a model with a zip behind it is a TorchScript archive
// for them.
func foreignTail(r io.ReaderAt, size int64, refuse func(string) error) error {
	from := max(0, size-zipTail)
	tail, err := readSpan(r, from, size-from)
	if err != nil {
		return err
	}
	for end := len(tail); ; {
		i := bytes.LastIndex(tail[:end], []byte(magicZip))
		if i < 0 {
			return nil
		}
		end = i
		if len(tail)-i < 22 {
			continue
		}
		if is, err := zipDirectory(r, size, from+int64(i), tail[i:]); err != nil {
			return err
		} else if is {
			return refuse("a zip archive (its directory is at the end of the file)")
		}
	}
}

// zipDirectory tells a zip's end record from tensor data that happens to
// spell its four bytes: some reader must find a directory entry by it.
func zipDirectory(r io.ReaderAt, size, at int64, record []byte) (bool, error) {
	length := int64(binary.LittleEndian.Uint32(record[12:]))
	offset := int64(binary.LittleEndian.Uint32(record[16:]))
	// Readers disagree: Python goes back by the length, miniz (PyTorch) trusts
	// the offset; zip64 has another record in front.
	for _, look := range []struct {
		at        int64
		signature string
	}{{at - length, "PK\x01\x02"}, {offset, "PK\x01\x02"}, {at - 20, "PK\x06\x07"}} {
		if look.at < 0 || look.at > size-4 {
			continue
		}
		b, err := readSpan(r, look.at, 4)
		if err != nil {
			return false, err
		}
		if string(b) == look.signature {
			return true, nil
		}
	}
	return false, nil
}
