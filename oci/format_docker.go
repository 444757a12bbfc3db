package oci

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// Docker AI models: layers under application/vnd.docker.ai., single raw
// files, often without a name.
const dockerAIPrefix = "application/vnd.docker.ai."

// dockerAI is what Docker's model runner calls a layer's file when no
// annotation names it.
var dockerAI = map[string]struct {
	kind, name string
	shards     bool // several become name-00001-of-0000N.ext
}{
	"gguf.v3":             {"weight", "model.gguf", true},
	"gguf.v3.lora":        {"adapter", "adapter.gguf", true},
	"gguf.v3.mmproj":      {"projector", "model.mmproj", false},
	"mmproj":              {"projector", "model.mmproj", false},
	"safetensors":         {"weight", "model.safetensors", true},
	"dduf":                {"weight", "model.dduf", true},
	"license":             {"license", "LICENSE", true},
	"chat.template.jinja": {"template", "template.jinja", false},
	"model.file":          {"weight.config", "", false},
}

func planDockerAI(m ocispec.Manifest) ([]File, error) {
	count := map[string]int{}
	for _, l := range m.Layers {
		count[strings.TrimPrefix(l.MediaType, dockerAIPrefix)]++
	}
	nth := map[string]int{}
	var files []File
	for i, l := range m.Layers {
		short, ok := strings.CutPrefix(l.MediaType, dockerAIPrefix)
		if !ok {
			return nil, fmt.Errorf("%w: layer %d has media type %q beside Docker AI layers", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		f := File{Path: layerName(l), Desc: l, Mode: modeFile}
		if short == "vllm.config.tar" || short == "dir.tar" {
			f.Kind, f.Tar, f.Path = "weight.config", true, "."
			files = append(files, f)
			continue
		}
		known, ok := dockerAI[short]
		if !ok {
			return nil, fmt.Errorf("%w: layer %d has media type %q, which this version does not read", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		f.Kind = known.kind
		nth[short]++
		if f.Path == "" {
			switch {
			case known.name == "":
				return nil, fmt.Errorf("%w: layer %d has no file path: no annotation %s", ErrFormat, i+1, annotationFilepath)
			case count[short] == 1:
				f.Path = known.name
			case known.shards:
				f.Path = shardName(known.name, nth[short], count[short])
			default:
				return nil, fmt.Errorf("%w: %d layers of type %q without names", ErrFormat, count[short], short)
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// shardName is the form that engines look for: model-00001-of-00003.gguf.
func shardName(name string, n, of int) string {
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		stem, ext = name[:i], name[i:]
	}
	return fmt.Sprintf("%s-%05d-of-%05d%s", stem, n, of, ext)
}
