package policy

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	jsonDepthMax = 128     // engines' own parsers recurse
	jsonNamesMax = 1 << 20 // members in all; the decoder keeps an object's names to find one twice, vocabularies have some 2^18
)

// vocabularies are the files in which a member with a number is a token and
// its index: a vocabulary may hold any word.
var vocabularies = map[string]bool{"tokenizer.json": true, "vocab.json": true, "added_tokens.json": true}

// json requires one strict JSON document (RFC 8259, UTF-8, no name twice in
// an object) that asks no engine to load code or files from elsewhere, and
// decides about the chat templates in it. Names are compared unescaped and at
// any depth.
func (g *gate) json(name string, r io.ReaderAt, size int64) error {
	if err := textSize(formatJSON, size, textMax); err != nil {
		return err
	}
	base := strings.ToLower(path.Base(name))
	s := &jsonScan{
		Decoder: jsontext.NewDecoder(io.NewSectionReader(r, 0, size)), gate: g,
		tokens: vocabularies[base], index: strings.HasSuffix(base, ".index.json"),
	}
	if err := s.value(role{}); err != nil {
		return err
	}
	if _, err := s.ReadToken(); !errors.Is(err, io.EOF) {
		return malformed(formatJSON, "one JSON value", "more after it")
	}
	return nil
}

// jsonScan reads a document once, front to back.
type jsonScan struct {
	*jsontext.Decoder
	gate   *gate
	tokens bool // a vocabulary
	index  bool // a map of tensors to shards
	names  int  // members so far
}

// role is what the strings below a value are.
type role struct {
	template string // path of the chat template they are, if any
	listed   bool   // in the list form: {"name": "tool_use", "template": "…"}
	shard    bool   // names of shards
}

func (s *jsonScan) next() (jsontext.Token, error) {
	t, err := s.ReadToken()
	if err != nil {
		return t, jsonBreach(formatJSON, err)
	}
	if s.StackDepth() > jsonDepthMax {
		return t, malformed(formatJSON, fmt.Sprintf("at most %d levels", jsonDepthMax), "more")
	}
	return t, nil
}

func (s *jsonScan) value(is role) error {
	t, err := s.next()
	if err != nil {
		return err
	}
	switch t.Kind() {
	case '{':
		return s.object(is)
	case '[':
		is.listed = is.template != ""
		for s.PeekKind() != ']' {
			if err := s.value(is); err != nil {
				return err
			}
		}
		_, err = s.next()
		return err
	case '"':
		switch {
		case is.template != "":
			return s.template(is.template, t.String())
		case is.shard:
			return shardName(t.String())
		}
	}
	return nil
}

func (s *jsonScan) object(is role) error {
	for s.PeekKind() != '}' {
		t, err := s.next()
		if err != nil {
			return err
		}
		if s.names++; s.names > jsonNamesMax {
			return malformed(formatJSON, fmt.Sprintf("at most %d members", jsonNamesMax), "more")
		}
		name := t.String()
		if !s.tokens || s.PeekKind() != '0' {
			if err := s.member(name); err != nil {
				return err
			}
		}
		below := role{shard: is.shard || s.index && name == "weight_map"}
		switch {
		case is.listed && name == "name":
		case is.template != "":
			below.template = is.template + "." + name
		case name == "chat_template":
			below.template = name
		}
		if len(below.template) > 1<<10 {
			return malformed(formatJSON, "chat templates with short names", "longer ones")
		}
		if err := s.value(below); err != nil {
			return err
		}
	}
	_, err := s.next()
	return err
}

// member refuses names that make an engine import code.
func (s *jsonScan) member(name string) error {
	switch name {
	case "trust_remote_code", "custom_pipelines", "custom_pipeline":
		return &breach{
			rule: "content.formats.json", reason: "asks the engine to run code from the model (" + name + ")",
			expected: "JSON without trust_remote_code and custom_pipelines", found: name,
		}
	case "auto_map":
		if !s.gate.autoMap {
			return &breach{
				rule: "content.remoteCode", reason: "names Python code of its own (auto_map), which the policy refuses",
				expected: `JSON without auto_map, or a policy with remoteCode "ignore"`, found: name,
			}
		}
	}
	return nil
}

func (s *jsonScan) template(where, text string) error {
	if len(text) > chatTemplateMax {
		return malformed(formatJSON, fmt.Sprintf("a chat template of at most %d bytes", chatTemplateMax), "%d bytes", len(text))
	}
	return s.gate.template(where, []byte(text))
}

// shardName checks a file that an index sends engines to: they join it to the
// model's directory as it is.
func shardName(name string) error {
	if err := SafePath(name); err != nil {
		return &breach{rule: "content.formats.json", reason: "sends the engine to a file outside the model", expected: "plain relative file names in weight_map", found: quoted(name)}
	}
	return nil
}

// jsonBreach tells bad JSON from a file that cannot be read.
func jsonBreach(format string, err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		// The message of err would repeat names of any length from the file.
		cause := quoted(strings.TrimPrefix(syntax.Err.Error(), "jsontext: "))
		return malformed(format, "strict JSON", "%s at byte %d", cause, syntax.ByteOffset)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return malformed(format, "strict JSON", "an unfinished value")
	}
	return err
}
