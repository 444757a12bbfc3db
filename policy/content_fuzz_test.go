package policy_test

import (
	"bytes"
	"encoding/json"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// seed adds the hostile files that are small enough to mutate.
func seed(f *testing.F, groups ...[]hostile) {
	for _, g := range groups {
		for _, h := range g {
			if h.size == 0 && len(h.content) <= 8<<10 {
				f.Add(h.content)
			}
		}
	}
}

func admitted(content snapshot.Content, m snapshot.Model, name string, b []byte) bool {
	d := policy.AdmitContent(snapshot.Policy{Content: content}, m, []policy.ArtifactFile{file(name, b)})
	return d.Allowed
}

// What is admitted fills its file: nothing can stand behind it, and no part
// of it passes for the whole.
func FuzzGGUF(f *testing.F) {
	seed(f, hostileGGUF())
	f.Add([]byte(oneTensor()))
	f.Add([]byte(ggufStart(3, 0, 2).array("a", 8, 2).text("x").text("").pair("tokenizer.chat_template", "x")))
	f.Add([]byte(ggufStart(3, 2, 1).align(8).tensor("a", 0, 0, 1).tensor("b", 0, 8, 1).pad(8).zeros(16)))
	any := snapshot.Content{ChatTemplates: "any"}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !admitted(any, snapshot.Model{}, "m.gguf", b) {
			return
		}
		if admitted(any, snapshot.Model{}, "m.gguf", append(bytes.Clone(b), make([]byte, 64<<10)...)) {
			t.Error("admitted with 64 KiB behind it")
		}
		if admitted(any, snapshot.Model{}, "m.gguf", b[:len(b)/2]) {
			t.Error("half of it is admitted too")
		}
	})
}

// Another JSON decoder agrees on what an admitted header says, and every byte
// of the data belongs to one tensor.
func FuzzSafetensors(f *testing.F) {
	seed(f, hostileSafetensors())
	f.Add(tensors(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, 24))
	f.Add(tensors(`{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"shape":[1],"data_offsets":[0,1],"dtype":"F8_E4M3"}}  `, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !admitted(snapshot.Content{}, snapshot.Model{}, "m.safetensors", b) {
			return
		}
		length := 0
		for i := range 8 {
			length |= int(b[i]) << (8 * i)
		}
		header := map[string]json.RawMessage{}
		if err := json.Unmarshal(b[8:8+length], &header); err != nil {
			t.Fatalf("admitted a header that is not JSON: %v", err)
		}
		data := uint64(len(b) - 8 - length)
		var sum uint64
		for name, raw := range header {
			if name == "__metadata__" {
				continue
			}
			var entry struct {
				Offsets [2]uint64 `json:"data_offsets"`
			}
			if err := json.Unmarshal(raw, &entry); err != nil {
				t.Fatalf("admitted the entry %s: %v", raw, err)
			}
			if entry.Offsets[0] > entry.Offsets[1] || entry.Offsets[1] > data {
				t.Fatalf("admitted offsets %d in %d bytes", entry.Offsets, data)
			}
			sum += entry.Offsets[1] - entry.Offsets[0]
		}
		if sum != data {
			t.Errorf("admitted tensors of %d bytes in %d bytes", sum, data)
		}
		if admitted(snapshot.Content{}, snapshot.Model{}, "m.safetensors", append(bytes.Clone(b), 0)) {
			t.Error("admitted with a byte behind it")
		}
	})
}

// Another JSON decoder finds nothing in an admitted document that the gate
// should have seen.
func FuzzJSONGate(f *testing.F) {
	seed(f, hostileJSON())
	f.Add([]byte(`{"chat_template": [{"name": "default", "template": "pinned"}], "x": [1, -2.5e3, null, true]}`))
	f.Add([]byte(`{"chat_template": {"name": "pinned"}}`))
	f.Add([]byte(`1E700`))
	m := pins("pinned")
	f.Fuzz(func(t *testing.T, b []byte) {
		if !admitted(snapshot.Content{}, m, "config.json", b) {
			return
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber() // of any size
		if err := d.Decode(&v); err != nil || d.More() {
			t.Fatalf("admitted what is not one JSON value: %v", err)
		}
		var look func(v any, template, inList bool)
		look = func(v any, template, inList bool) {
			switch v := v.(type) {
			case map[string]any:
				for name, below := range v {
					switch name {
					case "trust_remote_code", "custom_pipelines", "auto_map":
						t.Errorf("admitted %s", name)
					}
					if name == "name" && inList {
						continue
					}
					look(below, template || name == "chat_template", false)
				}
			case []any:
				for _, below := range v {
					look(below, template, template)
				}
			case string:
				if template && digest.FromString(v) != digest.FromString("pinned") {
					t.Errorf("admitted the template %q", v)
				}
			}
		}
		look(v, false, false)
	})
}

// Neither decoder of the formats that are protocol buffers may fail badly.
func FuzzProtobufGate(f *testing.F) {
	seed(f, hostileProtobuf())
	f.Add(onnxModel(onnxTensor()))
	f.Add(pieces(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{"m.onnx", "tokenizer.model"} {
			if admitted(protobufFormats, snapshot.Model{}, name, b) && admitted(protobufFormats, snapshot.Model{}, name, append(bytes.Clone(b), 0)) {
				t.Errorf("%s: admitted with a byte behind it", name)
			}
		}
	})
}

func FuzzTextGate(f *testing.F) {
	seed(f, hostileText())
	f.Add([]byte("plain\n\ttext 模型"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if admitted(snapshot.Content{}, snapshot.Model{}, "a.txt", b) && (!utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0) {
			t.Errorf("admitted %q", b)
		}
	})
}

func FuzzSafePath(f *testing.F) {
	for _, p := range []string{"a/b.gguf", "../x", "a/./b", "/x", `a\b`, "C:x", ".rmodels", "a\x00", "é/e\u0301", strings.Repeat("a/", 40), "\u202ex", "a//b", "stra\u00dfe", "\u212a"} {
		f.Add(p, "a")
	}
	f.Fuzz(func(t *testing.T, p, q string) {
		if policy.SafePath(p) != nil {
			return
		}
		if !filepath.IsLocal(p) || path.Clean(p) != p || p == "." || strings.ContainsAny(p, "\x00\\") || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) {
			t.Errorf("accepted %q", p)
		}
		if got := filepath.Join("/srv/model", p); !strings.HasPrefix(got, "/srv/model/") {
			t.Errorf("%q leaves its root: %q", p, got)
		}
		if policy.SafePaths([]string{p, p}) == nil {
			t.Errorf("accepted %q twice", p)
		}
		if q != p && strings.EqualFold(p, q) && policy.SafePaths([]string{p, q}) == nil {
			t.Errorf("accepted %q beside %q", p, q)
		}
		if policy.SafePaths([]string{p, p + "/x"}) == nil || policy.SafePaths([]string{p + "/x", p}) == nil {
			t.Errorf("accepted %q as a file and as a directory", p)
		}
		if (policy.SafePaths([]string{p, q}) == nil) != (policy.SafePaths([]string{q, p}) == nil) {
			t.Errorf("the order of %q and %q matters", p, q)
		}
	})
}
