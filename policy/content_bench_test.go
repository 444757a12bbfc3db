package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// largeGGUF is the header of a model with a vocabulary of 256k tokens and
// merges, and the size of the file with some 8 GB of tensors.
func largeGGUF() (head le, size int64) {
	const tokens, layers, each = 256 << 10, 400, 10 << 20
	b := ggufStart(3, layers, 5).pair("general.architecture", "llama")
	b = b.array("tokenizer.ggml.tokens", 8, tokens)
	for i := range tokens {
		b = b.text(fmt.Sprintf("tok%d", i))
	}
	b = b.array("tokenizer.ggml.merges", 8, tokens)
	for i := range tokens {
		b = b.text(fmt.Sprintf("a%d b%d", i, i))
	}
	b = b.array("tokenizer.ggml.scores", 6, tokens).zeros(4*tokens).pair("tokenizer.chat_template", jinja)
	for i := range layers {
		b = b.tensor(fmt.Sprintf("blk.%d.ffn_up.weight", i), 1, uint64(i)*2*each, each)
	}
	b = b.pad(32)
	return b, int64(len(b)) + layers*2*each
}

// largeSafetensors is a header with 2000 tensors, and its file's size.
func largeSafetensors() (head []byte, size int64) {
	const layers, each = 2000, 4 << 20
	var s strings.Builder
	s.WriteString(`{"__metadata__":{"format":"pt"}`)
	for i := range layers {
		fmt.Fprintf(&s, `,"model.layers.%d.mlp.up_proj.weight":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}`, i, each, i*each, (i+1)*each)
	}
	s.WriteByte('}')
	head = tensors(s.String(), 0)
	return head, int64(len(head)) + layers*each
}

// largeModels are well-formed files of 8 GB, all of it zeros but the header.
func largeModels() []hostile {
	gguf, ggufSize := largeGGUF()
	safetensors, safetensorsSize := largeSafetensors()
	return []hostile{
		{name: "gguf", path: "m.gguf", content: gguf, size: ggufSize},
		{name: "safetensors", path: "m.safetensors", content: safetensors, size: safetensorsSize},
	}
}

// Memory does not follow the number of tokens.
func TestLargeModelsTakeLittleMemory(t *testing.T) {
	for _, m := range largeModels() {
		t.Run(m.name, func(t *testing.T) {
			f := m.file()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			d := policy.AdmitContent(snapshot.Policy{}, pins(jinja), []policy.ArtifactFile{f})
			runtime.ReadMemStats(&after)
			if !d.Allowed {
				t.Fatalf("%+v", d)
			}
			bytes, times := after.TotalAlloc-before.TotalAlloc, after.Mallocs-before.Mallocs
			t.Logf("%d bytes in %d allocations for a header of %d bytes", bytes, times, len(m.content))
			if bytes > 2<<20 || times > 50_000 {
				t.Errorf("%d bytes in %d allocations", bytes, times)
			}
		})
	}
}

// BenchmarkContent measures the whole gate on sparse files of 8 GB.
func BenchmarkContent(b *testing.B) {
	for _, m := range largeModels() {
		b.Run(m.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), m.path)
			if err := os.WriteFile(path, m.content, 0o600); err != nil {
				b.Fatal(err)
			}
			if err := os.Truncate(path, m.size); err != nil {
				b.Fatal(err)
			}
			files := []policy.ArtifactFile{{Path: m.path, Size: m.size, Open: func() (policy.ReaderAtCloser, error) { return os.Open(path) }}}
			b.SetBytes(int64(len(m.content))) // of the header: the rest is not read
			b.ReportAllocs()
			for b.Loop() {
				if d := policy.AdmitContent(snapshot.Policy{}, pins(jinja), files); !d.Allowed {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

func BenchmarkJSON(b *testing.B) {
	var s strings.Builder
	s.WriteString(`{"model": {"vocab": {"a": 0`)
	for i := range 256 << 10 {
		fmt.Fprintf(&s, `, "token%d": %d`, i, i)
	}
	s.WriteString(`}}}`)
	f := text("tokenizer.json", s.String())
	b.SetBytes(f.Size)
	b.ReportAllocs()
	for b.Loop() {
		if d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{f}); !d.Allowed {
			b.Fatalf("%+v", d)
		}
	}
}

func BenchmarkSafePaths(b *testing.B) {
	paths := make([]string, 1000)
	for i := range paths {
		paths[i] = fmt.Sprintf("layers/%d/model-%05d-of-01000.safetensors", i%10, i)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := policy.SafePaths(paths); err != nil {
			b.Fatal(err)
		}
	}
}
