package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

const jinja = "{{ messages[0].content }}"

func TestTextsAndJSON(t *testing.T) {
	listForm := `{"chat_template": [{"name": "default", "template": "` + jinja + `"}, {"name": "tool_use", "template": "{{ tools }}"}]}`
	for _, c := range []struct {
		name   string
		file   policy.ArtifactFile
		policy snapshot.Content
		model  snapshot.Model
	}{
		{name: "empty text", file: text("README.md", "")},
		{name: "text", file: text("LICENSE", "Apache License\r\n\tVersion 2.0\f\n")},
		{name: "text with a byte order mark", file: text("notes.txt", "\ufeffhello")},
		{name: "vocabulary", file: text("vocab.txt", "[PAD]\n##é\n模型\n")},
		{name: "merges", file: text("merges.txt", "#version: 0.2\nĠ t\n")},
		{name: "tiktoken", file: text("qwen.tiktoken", "IQ== 0\nIg== 1\n")},
		{name: "rune across the window", file: text("a.txt", strings.Repeat("a", 64<<10-1)+"模"+strings.Repeat("b", 64<<10-3)+"型")},
		{name: "many names", file: text("docs/LICENSE-MIT", "x")},
		{name: "Ollama's licence", file: text("license-1", "x")},
		{name: "Git attributes", file: text(".gitattributes", "*.gguf filter=lfs\n")},
		{name: "JSON", file: text("config.json", `{"architectures": ["LlamaForCausalLM"], "eos_token_id": [1, 2], "x": null, "y": -1.5e3}`)},
		{name: "JSON scalar", file: text("a.json", "17\n")},
		{name: "tokens that look like members", file: text("vocab.json", `{"auto_map": 5, "trust_remote_code": 6}`)},
		{name: "tokens in a tokenizer", file: text("tokenizer.json", `{"model": {"vocab": {"chat_template": 5, "auto_map": 6}}}`)},
		{name: "shards", file: text("model.safetensors.index.json", `{"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}`)},
		{name: "auto_map where the policy ignores it", file: text("config.json", `{"auto_map": {"AutoConfig": "x.Y"}}`), policy: snapshot.Content{RemoteCode: "ignore"}},
		{name: "null template", file: text("tokenizer_config.json", `{"chat_template": null}`)},
		{name: "pinned template", file: text("tokenizer_config.json", `{"chat_template": "`+jinja+`"}`), model: pins(jinja)},
		{name: "pinned template, escaped", file: text("tokenizer_config.json", `{"chat\u005ftemplate": "{{\u0020messages[0].content }}"}`), model: pins(jinja)},
		{name: "list of pinned templates", file: text("tokenizer_config.json", listForm), model: pins(jinja, "{{ tools }}")},
		{name: "pinned templates by name", file: text("processor_config.json", `{"chat_template": {"default": "`+jinja+`"}}`), model: pins(jinja)},
		{name: "file of a template in JSON", file: text("chat_template.json", `{"chat_template": "`+jinja+`"}`), model: pins(jinja)},
		{name: "any template", file: text("tokenizer_config.json", listForm), policy: snapshot.Content{ChatTemplates: "any"}},
		{name: "pinned Jinja file", file: text("chat_template.jinja", jinja), policy: snapshot.Content{Formats: []string{"jinja"}}, model: pins(jinja)},
		{name: "any Jinja file", file: text("chat_template.jinja", jinja), policy: snapshot.Content{Formats: []string{"jinja"}, ChatTemplates: "any"}},
		{name: "pinned Ollama template", file: text("template", "{{ .Prompt }}"), model: pins("{{ .Prompt }}")},
		{name: "Ollama's system prompt", file: text("system", "You are brief.")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := policy.AdmitContent(snapshot.Policy{Content: c.policy}, c.model, []policy.ArtifactFile{c.file}); !d.Allowed {
				t.Errorf("%+v", d)
			}
		})
	}
}

func hostileJSON() []hostile {
	cases := []hostile{
		{name: "empty", content: []byte{}, says: "strict JSON"},
		{name: "cut", content: []byte(`{"a": [1, 2`), says: "strict JSON"},
		{name: "two values", content: []byte(`{} {}`), says: "one JSON value"},
		{name: "bytes behind", content: []byte("{}\x00"), says: "one JSON value"},
		{name: "duplicate", content: []byte(`{"a": 1, "a": 2}`), says: "duplicate"},
		{name: "duplicate, escaped", content: []byte(`{"a": 1, "\u0061": 2}`), says: "duplicate"},
		{name: "duplicate below", content: []byte(`[{"x": {"a": 1, "a": 2}}]`), says: "duplicate"},
		{name: "not UTF-8", content: []byte("{\"a\": \"\xff\"}"), says: "strict JSON"},
		{name: "lone surrogate", content: []byte(`{"a": "\ud800"}`), says: "strict JSON"},
		{name: "byte order mark", content: []byte("\ufeff{}"), says: "strict JSON"},
		{name: "comment", content: []byte(`{} // x`), says: "one JSON value"},
		{name: "final comma", content: []byte(`{"a": 1,}`), says: "strict JSON"},
		{name: "single quotes", content: []byte(`{'a': 1}`), says: "strict JSON"},
		{name: "NaN", content: []byte(`{"a": NaN}`), says: "strict JSON"},
		{name: "129 levels", content: []byte(strings.Repeat("[", 129) + strings.Repeat("]", 129)), says: "at most 128 levels"},
		{name: "a million levels", content: []byte(strings.Repeat("[", 1<<20)), says: "at most 128 levels"},
		{name: "a crowd of members", content: []byte("[" + strings.Repeat(`{"":0},`, 1<<20) + `{"":0}]`), says: "at most 1048576 members", memory: 64 << 20, crowd: true},
		{name: "65 MiB", size: 65 << 20, content: []byte("{"), says: "too large"},
		{name: "64 MiB of NUL", size: 64 << 20, content: []byte("{"), says: "strict JSON"},
		{name: "trust_remote_code", content: []byte(`{"trust_remote_code": true}`), says: "run code"},
		{name: "trust_remote_code, false", content: []byte(`{"trust_remote_code": false}`), says: "run code"},
		{name: "trust_remote_code, 1", content: []byte(`{"trust_remote_code": 1}`), says: "run code"},
		{name: "trust_remote_code, escaped", content: []byte(`{"trust\u005fremote_code": true}`), says: "run code"},
		{name: "trust_remote_code, deep", content: []byte(`{"a": [[{"b": {"trust_remote_code": true}}]]}`), says: "run code"},
		{name: "trust_remote_code in a vocabulary's file", path: "tokenizer.json", content: []byte(`{"trust_remote_code": true}`), says: "run code"},
		{name: "custom_pipelines", content: []byte(`{"custom_pipelines": {"x": {"impl": "y.Z"}}}`), says: "run code"},
		{name: "custom_pipeline", content: []byte(`{"custom_pipeline": "x"}`), says: "run code"},
		{name: "trust_remote_code where auto_map is ignored", content: []byte(`{"trust_remote_code": true}`), policy: snapshot.Content{RemoteCode: "ignore"}, says: "run code"},
		{name: "auto_map", content: []byte(`{"auto_map": {"AutoConfig": "x.Y"}}`), rule: "content.remoteCode", says: "auto_map"},
		{name: "auto_map, empty", content: []byte(`{"auto_map": {}}`), rule: "content.remoteCode", says: "auto_map"},
		{name: "shard outside", path: "model.safetensors.index.json", content: []byte(`{"weight_map": {"a": "../../secret.safetensors"}}`), says: "outside the model"},
		{name: "absolute shard", path: "a/pytorch_model.bin.index.json", content: []byte(`{"weight_map": {"a": "/dev/zero"}}`), says: "outside the model"},
		{name: "shard outside, nested", path: "model.safetensors.index.json", content: []byte(`{"weight_map": {"a": {"b": ["../x"]}}}`), says: "outside the model"},
		{name: "long name", content: []byte(`{"` + strings.Repeat("n", 1<<20) + `": 1, "trust_remote_code": 1}`), says: "run code", memory: 16 << 20},
		{name: "error below a long name", content: []byte(`{"` + strings.Repeat("n", 1<<20) + `": tru}`), says: "strict JSON", memory: 16 << 20},
		{name: "template of 2 MiB", content: []byte(`{"chat_template": "` + strings.Repeat("x", 2<<20) + `"}`), says: "template of at most", memory: 32 << 20},
		{name: "templates below long names", content: []byte(`{"chat_template": {"` + strings.Repeat("n", 4<<10) + `": "x"}}`), says: "short names"},
	}
	for _, c := range []struct{ name, body string }{
		{"text", `"` + jinja + `"`},
		{"escaped", `"\u007b\u007b x }}"`},
		{"in a list", `[{"name": "default", "template": "` + jinja + `"}]`},
		{"second of a list", `[{"name": "default", "template": "pinned"}, {"name": "rag", "template": "` + jinja + `"}]`},
		{"by name", `{"default": "` + jinja + `"}`},
		{"by the name name", `{"name": "` + jinja + `"}`},
		{"bare in a list", `["` + jinja + `"]`},
		{"under another member of a list", `[{"name": "default", "body": "` + jinja + `"}]`},
		{"as a name that is an object", `[{"name": {"template": "pinned", "x": "` + jinja + `"}, "template": "` + jinja + `"}]`},
	} {
		cases = append(cases, hostile{
			name: "unpinned template " + c.name, path: "tokenizer_config.json", content: []byte(`{"a": 1, "chat_template": ` + c.body + `}`),
			model: pins("pinned"), rule: "content.chatTemplates", says: "does not pin",
		})
	}
	for i := range cases {
		c := &cases[i]
		if c.path == "" {
			c.path = "config.json"
		}
		if c.rule == "" {
			c.rule = "content.formats.json"
		}
	}
	return cases
}

func hostileText() []hostile {
	cases := []hostile{
		{name: "NUL", content: []byte("a\x00b"), says: "0x00"},
		{name: "escape", content: []byte("a\x1b[2Jb"), says: "0x1b"},
		{name: "backspace", content: []byte("rm\x08\x08ls"), says: "0x08"},
		{name: "delete", content: []byte("a\x7f"), says: "0x7f"},
		{name: "Latin-1", content: []byte("caf\xe9 "), says: "UTF-8"},
		{name: "UTF-16", content: []byte("\xff\xfea\x00"), says: "UTF-8"},
		{name: "overlong", content: []byte("\xc0\xaf"), says: "UTF-8"},
		{name: "surrogate", content: []byte("\xed\xa0\x80"), says: "UTF-8"},
		{name: "rune cut at the end", content: []byte("abc\xe6\xa8"), says: "UTF-8"},
		{name: "rune cut at the window", content: []byte(strings.Repeat("a", 64<<10-1) + "\xe6\xa8\n"), says: "UTF-8"},
		{name: "bad byte after a window", content: []byte(strings.Repeat("a", 64<<10) + "\xff"), says: "UTF-8"},
		{name: "65 MiB", size: 65 << 20, says: "too large"},
		{name: "64 MiB of NUL", size: 64 << 20, content: []byte("hello"), says: "0x00"},
	}
	for i := range cases {
		cases[i].path, cases[i].rule = "README.md", "content.formats.text"
	}
	jinjaToo := snapshot.Content{Formats: []string{"jinja"}}
	return append(cases,
		hostile{name: "unpinned Jinja file", path: "chat_template.jinja", content: []byte(jinja), policy: jinjaToo, model: pins("other"), rule: "content.chatTemplates", says: "does not pin"},
		hostile{name: "Jinja file with a line end more", path: "chat_template.jinja", content: []byte(jinja + "\n"), policy: jinjaToo, model: pins(jinja), rule: "content.chatTemplates", says: "does not pin"},
		hostile{name: "binary Jinja file", path: "a.jinja", content: []byte("a\x00"), policy: snapshot.Content{Formats: []string{"jinja"}, ChatTemplates: "any"}, rule: "content.formats.text", says: "0x00"},
		hostile{name: "Jinja file of 2 MiB", path: "a.jinja", size: 2 << 20, policy: jinjaToo, rule: "content.formats.text", says: "too large"},
		hostile{name: "unpinned Ollama template", path: "template", content: []byte("{{ .Prompt }}"), rule: "content.chatTemplates", says: "does not pin"},
		hostile{name: "unpinned Ollama prompt", path: "prompt", content: []byte("{{ .Prompt }}"), rule: "content.chatTemplates", says: "does not pin"},
	)
}

// A template's place does not matter for its digest: the same text is pinned
// once for GGUF, JSON and Jinja.
func TestTemplateIsPinnedByItsText(t *testing.T) {
	content := snapshot.Content{Formats: []string{"gguf", "json", "jinja"}}
	files := []policy.ArtifactFile{
		file("m.gguf", ggufStart(3, 0, 2).pair("tokenizer.chat_template", jinja).pair("tokenizer.chat_template.tool_use", jinja)),
		text("tokenizer_config.json", fmt.Sprintf(`{"chat_template": %q}`, jinja)),
		text("chat_template.jinja", jinja),
	}
	d := policy.AdmitContent(snapshot.Policy{Content: content}, pins(jinja), files)
	if !d.Allowed || !strings.Contains(d.Reason, "4 chat templates, pinned") {
		t.Errorf("%+v", d)
	}
	for _, f := range files {
		if d := policy.AdmitContent(snapshot.Policy{Content: content}, pins(jinja+" "), []policy.ArtifactFile{f}); d.Allowed || d.Rule != "content.chatTemplates" {
			t.Errorf("%s: %+v", f.Path, d)
		}
	}
}
