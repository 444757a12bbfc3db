package oci

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// Ollama models: a Docker manifest whose raw layers have a type and no name.
const (
	ollamaPrefix          = "application/vnd.ollama.image."
	mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

var ollama = map[string]struct{ kind, name string }{
	"model":     {"weight", "model.gguf"},
	"projector": {"projector", "mmproj.gguf"},
	"adapter":   {"adapter", "adapter.gguf"},
	"draft":     {"weight", "draft.gguf"},
	"embed":     {"weight", "embed.gguf"},
	"template":  {"template", "template"},
	"prompt":    {"template", "prompt"},
	"system":    {"template", "system"},
	"params":    {"weight.config", "params.json"},
	"messages":  {"weight.config", "messages.json"},
	"license":   {"license", "license"},
	"tensor":    {"weight", ""},
	"json":      {"weight.config", ""},
}

func planOllama(m ocispec.Manifest) ([]File, error) {
	taken := map[string]int{}
	var files []File
	for i, l := range m.Layers {
		short := strings.TrimPrefix(l.MediaType, ollamaPrefix)
		short, _, _ = strings.Cut(short, ";") // parameters, as in "; from=…"
		known, ok := ollama[strings.TrimSpace(short)]
		if !ok || !strings.HasPrefix(l.MediaType, ollamaPrefix) {
			return nil, fmt.Errorf("%w: layer %d has media type %q, which Ollama does not define", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		name := known.name
		if name == "" {
			if name = ollamaName(l); name == "" {
				return nil, fmt.Errorf("%w: layer %d of type %q has no name", ErrFormat, i+1, short)
			}
		}
		if taken[name]++; taken[name] > 1 {
			name = numbered(name, taken[name]-1)
		}
		files = append(files, File{Path: name, Desc: l, Kind: known.kind, Mode: modeFile})
	}
	return files, nil
}

// ollamaName is the name of a tensor or JSON layer, which the manifest keeps
// in an annotation.
func ollamaName(l ocispec.Descriptor) string {
	if n := l.Annotations["name"]; n != "" {
		return cleanPath(n)
	}
	return layerName(l)
}

// numbered puts -n before the extension: license-1, adapter-1.gguf.
func numbered(name string, n int) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return fmt.Sprintf("%s-%d%s", name[:i], n, name[i:])
	}
	return fmt.Sprintf("%s-%d", name, n)
}
