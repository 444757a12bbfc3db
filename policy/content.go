package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// ReaderAtCloser is an open file of an artifact.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

// ArtifactFile is one verified file of a model, opened on demand.
type ArtifactFile struct {
	Path      string
	Size      int64
	MediaType string
	Open      func() (ReaderAtCloser, error)
}

// AdmitContent decides from the files' bytes, before any engine sees them. It
// is an allow-list: a file passes when its name is of an admitted format and
// its bytes are strictly of that format. Tensor data is never read, so the
// cost is that of headers and texts, whatever the size of the weights.
//
// The rules that it and [AdmitLayout] name:
//
//	content.limits.…         counts and sizes, as claimed and as unpacked
//	size                     the model's size in the snapshot
//	paths                    [SafePath] and [SafePaths]
//	content.mediaTypes       of layers
//	content.formats          the name of no admitted format, or bytes of another one
//	content.formats.FORMAT   bytes that are not strictly of the format
//	content.remoteCode       JSON that names Python code
//	content.chatTemplates    a template whose SHA-256 (of its text in UTF-8) is not pinned
//	content.read             a file that cannot be read
func AdmitContent(p snapshot.Policy, m snapshot.Model, files []ArtifactFile) Decision {
	g, err := newGate(p, m)
	if err != nil {
		return refused(ClassContent, err)
	}
	if err := g.sizes(files); err != nil {
		return refused(ClassContent, err)
	}
	formats := map[string]int{}
	for _, f := range files {
		format, err := g.admit(f)
		if err != nil {
			return refused(ClassContent, about(f.Path, err))
		}
		formats[format]++
	}
	var parts []string
	for format, n := range formats {
		parts = append(parts, fmt.Sprintf("%d %s", n, format))
	}
	slices.Sort(parts)
	reason := "every file is strictly of an admitted format: " + strings.Join(parts, ", ")
	if g.templates > 0 {
		how := "pinned by the snapshot"
		if !g.pinned {
			how = "unpinned, as the policy admits"
		}
		reason += fmt.Sprintf("; %s, %s", count(g.templates, "chat template"), how)
	}
	return Decision{Allowed: true, Rule: "content.formats", Reason: reason}
}

// gate is one decision about one model's files.
type gate struct {
	content   snapshot.Content
	model     snapshot.Model
	limits    snapshot.Limits
	formats   []string
	pinned    bool // chat templates must be listed in the model's entry
	autoMap   bool // JSON may name remote code
	templates int  // chat templates seen
}

// newGate refuses settings that it does not know: fail closed.
func newGate(p snapshot.Policy, m snapshot.Model) (*gate, error) {
	c := p.Content
	g := &gate{content: c, model: m, limits: withDefaults(c.Limits), formats: c.Formats}
	if len(g.formats) == 0 {
		g.formats = defaultFormats
	}
	unknown := func(field, value, want string) error {
		return &breach{rule: field, reason: "the policy has a setting that this version does not know", expected: want, found: quoted(value)}
	}
	switch c.ChatTemplates {
	case "", "pinned":
		g.pinned = true
	case "any":
	default:
		return nil, unknown("content.chatTemplates", c.ChatTemplates, "pinned or any")
	}
	switch c.RemoteCode {
	case "", "refuse":
	case "ignore":
		g.autoMap = true
	default:
		return nil, unknown("content.remoteCode", c.RemoteCode, "refuse or ignore")
	}
	if l := g.limits; l.Files < 0 || l.FileBytes < 0 || l.TotalBytes < 0 || l.ExpandRatio < 0 {
		return nil, unknown("content.limits", fmt.Sprintf("%+v", c.Limits), "numbers of 0 or more")
	}
	return g, nil
}

// sizes checks what unpacking made of the claims that AdmitLayout saw.
func (g *gate) sizes(files []ArtifactFile) error {
	if err := g.count(len(files)); err != nil {
		return err
	}
	paths := make([]string, len(files))
	var total int64
	var err error
	for i, f := range files {
		paths[i] = f.Path
		if total, err = g.add(f.Size, total); err != nil {
			return about(f.Path, err)
		}
	}
	// A model size of zero is a publisher's check before there is an entry.
	if size, ratio := g.model.Size, int64(g.limits.ExpandRatio); size > 0 && total > 0 && (total-1)/ratio >= size {
		return &breach{
			rule: "content.limits.expandRatio", reason: "the unpacked files are out of proportion to the layers",
			expected: fmt.Sprintf("at most %d times %d bytes", ratio, size), found: fmt.Sprintf("%d bytes", total),
		}
	}
	if err := SafePaths(paths); err != nil {
		return pathBreach(err)
	}
	return nil
}

// admit checks one file and names its format.
func (g *gate) admit(f ArtifactFile) (format string, err error) {
	kind, err := g.format(f.Path)
	if err != nil {
		return "", err
	}
	if f.Open == nil {
		return "", errors.New("there is nothing to open")
	}
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	defer func() { err = cmp.Or(err, r.Close()) }()
	if err := foreign(r, f.Size, kind); err != nil {
		return "", err
	}
	switch kind {
	case formatGGUF:
		err = g.gguf(r, f.Size)
	case formatSafetensors:
		err = g.safetensors(r, f.Size)
	case formatJSON:
		err = g.json(f.Path, r, f.Size)
	case formatJinja, formatTemplate:
		err = g.templateFile(r, f.Size)
	case formatText:
		err = g.text(r, f.Size)
	case formatONNX:
		err = g.onnx(r, f.Size)
	case formatSentencePiece:
		err = g.sentencePiece(r, f.Size)
	default:
		err = &breach{rule: "content.formats", reason: "is of a format that this version does not check", expected: list(defaultFormats), found: kind}
	}
	return kind, err
}

// template decides about one chat template by its UTF-8 bytes. A template is
// a program for the engine's renderer; searching it for bad words is easily
// bypassed, so that the snapshot lists the digest of each.
func (g *gate) template(where string, text []byte) error {
	g.templates++
	if !g.pinned {
		return nil
	}
	d := digest.FromBytes(text)
	if slices.Contains(g.model.ChatTemplateDigests, d) {
		return nil
	}
	expected := "one of the model's chatTemplateDigests: " + list(g.model.ChatTemplateDigests)
	if len(g.model.ChatTemplateDigests) == 0 {
		expected = "no chat template: the model's entry pins none"
	}
	return &breach{
		rule: "content.chatTemplates", reason: "has a chat template that the snapshot does not pin (" + quoted(where) + ")",
		expected: expected, found: d.String(),
	}
}

// breach is one rule of the gate that a file or a manifest breaks. The reason
// is a predicate of the file, if there is one.
type breach struct{ file, rule, reason, expected, found string }

func (b *breach) Error() string {
	if b.file == "" {
		return b.reason
	}
	return quoted(b.file) + " " + b.reason
}

// about says which file an error is about.
func about(file string, err error) error {
	var b *breach
	if !errors.As(err, &b) {
		b = &breach{rule: "content.read", reason: "cannot be read: " + err.Error(), expected: "bytes that can be read", found: err.Error()}
	}
	with := *b
	with.file = file
	return &with
}

// malformed is a breach of a format's own rules.
func malformed(format, expected, found string, args ...any) *breach {
	found = fmt.Sprintf(found, args...)
	return &breach{
		rule: "content.formats." + format, reason: "is not a well-formed " + format + " file: expected " + expected + ", found " + found,
		expected: expected, found: found,
	}
}

// refused turns an error of the gate into a decision.
func refused(class Class, err error) Decision {
	var b *breach
	if !errors.As(err, &b) {
		b = &breach{rule: "content", reason: err.Error()}
	}
	d := Decision{Class: class, Rule: b.rule, Reason: b.Error(), Expected: b.expected, Found: b.found}
	if b.file != "" {
		d.Found += " in " + quoted(b.file)
	}
	return d
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// list names the first few of a rule's values.
func list[T ~string](values []T) string {
	const most = 8
	var b strings.Builder
	for i, v := range values {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(values)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}
