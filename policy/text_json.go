package policy

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// jsonDepthMax bounds nesting: engines' own parsers recurse.
const jsonDepthMax = 128

// json requires one strict JSON document (RFC 8259, UTF-8, no name twice in
// an object) that asks no engine to load code, and decides about the chat
// templates in it. Names are compared unescaped and at any depth.
func (g *gate) json(r io.ReaderAt, size int64) error {
	if err := textSize(formatJSON, size, textMax); err != nil {
		return err
	}
	s := &jsonScan{gate: g, Decoder: jsontext.NewDecoder(io.NewSectionReader(r, 0, size))}
	if err := s.value(""); err != nil {
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
	gate *gate
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

// value reads one value. template is the path of the chat template that
// strings in it belong to, "" if they do not.
func (s *jsonScan) value(template string) error {
	t, err := s.next()
	if err != nil {
		return err
	}
	switch t.Kind() {
	case '{':
		return s.object(template)
	case '[':
		for s.PeekKind() != ']' {
			if err := s.value(template); err != nil {
				return err
			}
		}
		_, err = s.next()
		return err
	case '"':
		if template != "" {
			return s.template(template, t.String())
		}
	case 'n':
	default:
		if template != "" {
			return malformed(formatJSON, "chat templates that are strings", "%v under %s", t.Kind(), quoted(template))
		}
	}
	return nil
}

func (s *jsonScan) object(template string) error {
	for s.PeekKind() != '}' {
		t, err := s.next()
		if err != nil {
			return err
		}
		name := t.String()
		if err := s.member(name); err != nil {
			return err
		}
		under := template
		switch {
		case template == "" && name == "chat_template":
			under = name
		case template != "" && name == "name" && s.PeekKind() == '"':
			under = "" // the list form: {"name": "tool_use", "template": "…"}
		case template != "":
			under = template + "." + name
		}
		if err := s.value(under); err != nil {
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

// jsonBreach tells bad JSON from a file that cannot be read.
func jsonBreach(format string, err error) error {
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return malformed(format, "strict JSON", "%s", strings.TrimPrefix(err.Error(), "jsontext: "))
	}
	return err
}
