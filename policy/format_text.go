package policy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxTextFile  = 64 << 20 // the largest public tokenizer.json has about 35 MB
	maxJSONDepth = 64
)

// readText reads a whole file that must be plain UTF-8 text.
func readText(r io.ReaderAt, size int64) ([]byte, error) {
	if size > maxTextFile {
		return nil, fmt.Errorf("text of %d bytes, at most %d", size, maxTextFile)
	}
	b := make([]byte, size)
	if err := readFull(r, b, 0); err != nil {
		return nil, err
	}
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	if bytes.HasPrefix(b, []byte("#!")) {
		return nil, errors.New("begins with #!, as a script does")
	}
	for i, c := range b {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f' || c == 0x7f {
			return nil, fmt.Errorf("control character 0x%02x at %d", c, i)
		}
	}
	return b, nil
}

// checkTail refuses a file that is a zip archive when it is read from its end
// (torch.load, zipimport and jar do), whatever it is from its start.
func checkTail(r io.ReaderAt, size int64) error {
	const record = 22 // bytes of an end-of-central-directory without comment
	n := min(size, record+65535)
	tail := make([]byte, n)
	if err := readFull(r, tail, size-n); err != nil {
		return err
	}
	for i := len(tail) - record; i >= 0; i-- {
		if bytes.HasPrefix(tail[i:], []byte("PK\x05\x06")) &&
			i+record+int(binary.LittleEndian.Uint16(tail[i+20:])) == len(tail) {
			return errors.New("ends as a zip archive does: two formats in one file")
		}
	}
	return nil
}

// json reads a JSON file strictly and refuses the members by which libraries
// load code or other files.
func (g *gate) json(f ArtifactFile, r io.ReaderAt) error {
	b, err := readText(r, f.Size)
	if err != nil {
		return err
	}
	d := jsontext.NewDecoder(bytes.NewReader(b)) // refuses duplicate names
	w := &jsonWalk{gate: g, file: f.Path, decoder: d, index: strings.HasSuffix(strings.ToLower(f.Path), ".index.json")}
	if err := w.value("", false); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the JSON value")
	}
	return nil
}

type jsonWalk struct {
	gate    *gate
	file    string
	decoder *jsontext.Decoder
	index   bool // the file maps tensors to shard files
}

// value walks one value; key is the nearest member name above it and
// inTemplates tells that a chat template member encloses it.
func (w *jsonWalk) value(key string, inTemplates bool) error {
	if w.decoder.StackDepth() > maxJSONDepth {
		return fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	tok, err := w.decoder.ReadToken()
	if err != nil {
		return err
	}
	switch tok.Kind() {
	case '{':
		return w.object(key, inTemplates)
	case '[':
		for w.decoder.PeekKind() != ']' {
			if err := w.value(key, inTemplates); err != nil {
				return err
			}
		}
		_, err := w.decoder.ReadToken()
		return err
	case '"':
		return w.text(key, tok.String(), inTemplates)
	}
	return nil
}

func (w *jsonWalk) object(parent string, inTemplates bool) error {
	for w.decoder.PeekKind() != '}' {
		tok, err := w.decoder.ReadToken()
		if err != nil {
			return err
		}
		key := tok.String()
		if err := w.member(key); err != nil {
			return err
		}
		if w.index && parent == "weight_map" && !inTemplates {
			if err := w.shard(); err != nil {
				return err
			}
			continue
		}
		if err := w.value(key, inTemplates || isTemplateKey(key)); err != nil {
			return err
		}
	}
	_, err := w.decoder.ReadToken()
	return err
}

func isTemplateKey(key string) bool { return key == "chat_template" || key == "chat_templates" }

// member refuses what makes a library import code: Hugging Face's custom code,
// hydra's _target_, jsonpickle's py/ members.
func (w *jsonWalk) member(key string) error {
	switch {
	case key == "auto_map":
		if w.gate.policy.Content.RemoteCode != "ignore" {
			return breaks("remoteCode", "JSON without auto_map (or remoteCode: ignore)", "member auto_map, which names Python code to load")
		}
	case key == "trust_remote_code", key == "custom_pipelines", key == "_target_", strings.HasPrefix(key, "py/"):
		return breaks("remoteCode", "JSON that loads no code", "member %s", clip(key))
	}
	return nil
}

// text looks at a string value. In files of chat templates every text of a
// template member is one, except the names in a list of named templates.
func (w *jsonWalk) text(key, value string, inTemplates bool) error {
	template := inTemplates && key != "name"
	if base := strings.ToLower(path.Base(w.file)); strings.HasPrefix(base, "chat_template") && key != "name" {
		template = true
	}
	if template {
		return w.gate.template(w.file, key, []byte(value))
	}
	return nil
}

// shard holds the file that an index names against the artifact's own: a
// loader opens whatever stands there.
func (w *jsonWalk) shard() error {
	tok, err := w.decoder.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '"' {
		return errors.New("weight_map names a file by something that is not text")
	}
	name := tok.String()
	if err := SafePath(name); err != nil {
		return fmt.Errorf("weight_map: %w", err)
	}
	if full := path.Join(path.Dir(w.file), name); !w.gate.files[full] {
		return fmt.Errorf("weight_map names %q, which the artifact lacks", clip(name))
	}
	return nil
}
