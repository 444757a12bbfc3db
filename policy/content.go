package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
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

// Defaults of [snapshot.Content].
const (
	DefaultFiles       = 4096
	DefaultFileBytes   = 1 << 40
	DefaultTotalBytes  = 4 << 40
	DefaultExpandRatio = 8
)

// DefaultFormats are admitted where a policy names none.
var DefaultFormats = []string{"safetensors", "gguf", "json", "text"}

// limits are a policy's limits with the defaults filled in.
func limits(p snapshot.Policy) snapshot.Limits {
	l := p.Content.Limits
	if l.Files == 0 {
		l.Files = DefaultFiles
	}
	if l.FileBytes == 0 {
		l.FileBytes = DefaultFileBytes
	}
	if l.TotalBytes == 0 {
		l.TotalBytes = DefaultTotalBytes
	}
	if l.ExpandRatio == 0 {
		l.ExpandRatio = DefaultExpandRatio
	}
	return l
}

func formats(p snapshot.Policy) []string {
	if len(p.Content.Formats) == 0 {
		return DefaultFormats
	}
	return p.Content.Formats
}

// AdmitContent decides from the files' bytes, before any engine sees them. It
// is an allow-list: each file must be, by its name and by a strict parse of
// what it holds, of a format that the policy admits. Weights cost their header
// alone, whatever their size; JSON and text are read whole, capped.
func AdmitContent(p snapshot.Policy, m snapshot.Model, files []ArtifactFile) Decision {
	rule := "policies[" + p.Name + "].content"
	l := limits(p)
	if len(files) == 0 {
		return refuse(ClassContent, rule, "the artifact has no files", "at least one file", "none")
	}
	if len(files) > l.Files {
		return refuse(ClassContent, rule+".limits.files", "too many files", fmt.Sprint(l.Files), fmt.Sprint(len(files)))
	}
	paths := make([]string, len(files))
	var total int64
	for i, f := range files {
		paths[i] = f.Path
		if f.Size < 0 || f.Size > l.FileBytes {
			return refuse(ClassContent, rule+".limits.fileBytes", fmt.Sprintf("file %q is too large", clip(f.Path)), amount(l.FileBytes), amount(f.Size))
		}
		if total += f.Size; total > l.TotalBytes {
			return refuse(ClassContent, rule+".limits.totalBytes", "the files are too large together", amount(l.TotalBytes), "more than "+amount(total))
		}
	}
	if err := SafePaths(paths); err != nil {
		return refuse(ClassContent, "paths", err.Error(), "plain relative paths that no file system confuses", err.Error())
	}
	g := &gate{policy: p, model: m, files: map[string]bool{}}
	for _, f := range paths {
		g.files[f] = true
	}
	for _, f := range files {
		if d, ok := g.file(rule, f); !ok {
			return d
		}
	}
	if !g.weights {
		return refuse(ClassContent, rule+".formats", "the artifact holds no weights", "a safetensors, gguf or onnx file", strings.Join(paths[:min(len(paths), 5)], ", "))
	}
	return Decision{Allowed: true, Rule: rule, Reason: fmt.Sprintf("%d files of admitted formats", len(files))}
}

// Template is a chat template in a file, by the digest of its text.
type Template struct {
	Path   string        `json:"path"`
	Name   string        `json:"name"` // key that holds it; empty for a file of its own
	Digest digest.Digest `json:"digest"`
}

// Templates lists the chat templates of an artifact, for the publisher who
// pins them.
func Templates(files []ArtifactFile) ([]Template, error) {
	p := snapshot.Policy{Content: snapshot.Content{Formats: snapshot.ContentFormats, ChatTemplates: "any", RemoteCode: "ignore"}}
	g := &gate{policy: p, files: map[string]bool{}}
	for _, f := range files {
		g.files[f.Path] = true
	}
	for _, f := range files {
		if d, ok := g.file("content", f); !ok {
			return nil, errors.New(d.Reason)
		}
	}
	return g.templates, nil
}

// gate is one artifact on its way through the content check.
type gate struct {
	policy    snapshot.Policy
	model     snapshot.Model
	files     map[string]bool
	weights   bool
	templates []Template
}

// violation is a refusal of one file by a rule below content.
type violation struct {
	rule, expected, found string
}

func (v *violation) Error() string { return "expected " + v.expected + ", found " + v.found }

func breaks(rule, expected, format string, args ...any) error {
	return &violation{rule, expected, fmt.Sprintf(format, args...)}
}

func (g *gate) file(rule string, f ArtifactFile) (Decision, bool) {
	format := formatOf(f.Path, f.MediaType)
	if format == "" {
		return refuse(ClassContent, rule+".formats", fmt.Sprintf("file %q is of no admitted kind", clip(f.Path)),
			strings.Join(formats(g.policy), ", "), describe(f)), false
	}
	if !slices.Contains(formats(g.policy), format) {
		return refuse(ClassContent, rule+".formats", fmt.Sprintf("file %q is %s, which the policy does not admit", clip(f.Path), format),
			strings.Join(formats(g.policy), ", "), format), false
	}
	r, err := f.Open()
	if err != nil {
		return refuse(ClassContent, rule, fmt.Sprintf("file %q cannot be read: %s", clip(f.Path), err), "a readable file", err.Error()), false
	}
	defer r.Close()
	err = g.check(format, f, r)
	var v *violation
	switch {
	case err == nil:
		return Decision{}, true
	case errors.As(err, &v):
		return refuse(ClassContent, rule+"."+v.rule, fmt.Sprintf("file %q: expected %s, found %s", clip(f.Path), v.expected, clip(v.found)), v.expected, clip(v.found)), false
	}
	return refuse(ClassContent, rule+".formats", fmt.Sprintf("file %q is not valid %s: %s", clip(f.Path), format, clip(err.Error())), "valid "+format, clip(err.Error())), false
}

func (g *gate) check(format string, f ArtifactFile, r io.ReaderAt) error {
	if err := checkTail(r, f.Size); err != nil {
		return err
	}
	switch format {
	case "safetensors":
		g.weights = true
		return checkSafetensors(r, f.Size)
	case "gguf":
		g.weights = true
		return checkGGUF(r, f.Size, func(key, template string) error { return g.template(f.Path, key, []byte(template)) })
	case "onnx":
		g.weights = true
		return checkONNX(r, f.Size, path.Dir(f.Path), g.files)
	case "sentencepiece":
		return checkSentencepiece(r, f.Size)
	case "json":
		return g.json(f, r)
	case "jinja":
		b, err := readText(r, f.Size)
		if err != nil {
			return err
		}
		return g.template(f.Path, "", b)
	}
	_, err := readText(r, f.Size)
	return err
}

// template holds a chat template against the model's pins. Templates are
// programs that engines run with varying care; patterns for harmful ones are
// bypassed as soon as they are known, so that the digest alone decides.
func (g *gate) template(file, key string, text []byte) error {
	d := digest.FromBytes(text)
	g.templates = append(g.templates, Template{file, key, d})
	if g.policy.Content.ChatTemplates == "any" || slices.Contains(g.model.ChatTemplateDigests, d) {
		return nil
	}
	expected := "no chat template (chatTemplateDigests is empty)"
	if n := len(g.model.ChatTemplateDigests); n > 0 {
		expected = fmt.Sprintf("one of %d pinned chat templates", n)
	}
	at := "chat template"
	if key != "" {
		at += " in " + clip(key)
	}
	return breaks("chatTemplates", expected, "%s with digest %s", at, d)
}

// textNames are the files without a telling ending that models carry.
var textNames = []string{"license", "licence", "notice", "readme", "use_policy", "copying", "authors", "changelog", "citation", ".gitattributes", ".gitignore", "system", "prompt"}

// formatOf names the format that a file claims by its name, or for files
// whose names are made up, by its media type; "" for none that is known.
func formatOf(name, mediaType string) string {
	base := strings.ToLower(path.Base(name))
	switch mediaType {
	case "application/vnd.ollama.image.template":
		return "jinja"
	case "application/vnd.ollama.image.system", "application/vnd.ollama.image.prompt", "application/vnd.ollama.image.license":
		return "text"
	}
	switch path.Ext(base) {
	case ".safetensors":
		return "safetensors"
	case ".gguf":
		return "gguf"
	case ".onnx":
		return "onnx"
	case ".json":
		return "json"
	case ".jinja", ".jinja2":
		return "jinja"
	case ".txt", ".md", ".tiktoken":
		return "text"
	case ".model":
		if base == "tokenizer.model" || strings.HasSuffix(base, "spiece.model") || strings.HasSuffix(base, ".spm.model") || base == "sentencepiece.bpe.model" {
			return "sentencepiece"
		}
	}
	if base == "template" {
		return "jinja"
	}
	stem, _, _ := strings.Cut(strings.TrimLeft(base, "."), "-")
	if slices.Contains(textNames, base) || slices.Contains(textNames, stem) && path.Ext(base) == "" {
		return "text"
	}
	return ""
}

// kinds are what files of no admitted kind are told to be in messages. They
// decide nothing: a kind that is missing here is refused all the same.
var kinds = []struct {
	offset int
	magic  string
	name   string
}{
	{0, "PK\x03\x04", "a zip archive (torch .pt and .bin, .keras, .npz, .nemo)"},
	{0, "\x89HDF\r\n\x1a\n", "HDF5"},
	{0, "\x93NUMPY", "a NumPy array, which may hold pickles"},
	{0, "\x7fELF", "an ELF executable or library"},
	{0, "MZ", "a Windows or cosmopolitan executable (llamafile)"},
	{0, "#!", "a script"},
	{0, "\x1f\x8b", "gzip"},
	{0, "\x28\xb5\x2f\xfd", "zstd"},
	{257, "ustar", "a tar archive"},
	{0, "\x80\x02", "a pickle"},
	{0, "\x80\x04", "a pickle"},
	{0, "\x80\x05", "a pickle"},
	{0, "GGUF", "GGUF under another name"},
}

func describe(f ArtifactFile) string {
	ext := path.Ext(f.Path)
	r, err := f.Open()
	if err != nil {
		return fmt.Sprintf("%q", ext)
	}
	defer r.Close()
	head := make([]byte, min(f.Size, 512))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Sprintf("%q", ext)
	}
	for _, k := range kinds {
		if len(head) >= k.offset && bytes.HasPrefix(head[k.offset:], []byte(k.magic)) {
			return k.name
		}
	}
	return fmt.Sprintf("%q", ext)
}
