package oci

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// KitOps ModelKit: the config is the Kitfile as JSON.
const (
	artifactTypeKit = "application/vnd.kitops.modelkit.manifest.v1+json"
	configTypeKit   = "application/vnd.kitops.modelkit.config.v1+json"
	// annotationKitSubtype tells prompts from code, which share a media type.
	annotationKitSubtype = "ml.kitops.modelkit.layer-subtype"
)

var kitLayer = regexp.MustCompile(`^application/vnd\.kitops\.modelkit\.(model|modelpart|dataset|code|docs|mcpb)\.v1\.(tar|raw)(?:\+(gzip|zstd))?$`)

// kitEntry is one element of a Kitfile. Digest is the layer's, in kits since
// 0.5; older kits match entries and layers by order alone.
type kitEntry struct {
	Path       string `json:"path"`
	Digest     string `json:"digest"`
	RemotePath string `json:"remotePath"`
}

type kitfile struct {
	Model *struct {
		kitEntry
		Parts []kitEntry `json:"parts"`
	} `json:"model"`
	Code     []kitEntry `json:"code"`
	DataSets []kitEntry `json:"datasets"`
	Docs     []kitEntry `json:"docs"`
	Prompts  []kitEntry `json:"prompts"`
}

// entries lists the Kitfile's elements by layer kind, in order. Remote data
// sets have no layer.
func (k kitfile) entries() map[string][]kitEntry {
	out := map[string][]kitEntry{"code": k.Code, "docs": k.Docs, "prompt": k.Prompts}
	if k.Model != nil {
		out["model"] = []kitEntry{k.Model.kitEntry}
		out["modelpart"] = k.Model.Parts
	}
	for _, d := range k.DataSets {
		if d.RemotePath == "" {
			out["dataset"] = append(out["dataset"], d)
		}
	}
	return out
}

func planKitOps(m ocispec.Manifest, config []byte) ([]File, error) {
	var kit kitfile
	if err := json.Unmarshal(config, &kit); err != nil {
		return nil, fmt.Errorf("%w: kitfile: %v", ErrFormat, err)
	}
	if kit.Model != nil && isKitReference(kit.Model.Path) && !anyLayer(m, func(l ocispec.Descriptor) bool {
		match := kitLayer.FindStringSubmatch(l.MediaType)
		return match != nil && match[1] == "model"
	}) {
		return nil, fmt.Errorf("%w: the kit's model is another kit, %q, named by tag; list that kit itself by digest", ErrFormat, terminal.Clip(kit.Model.Path, 200))
	}
	entries := kit.entries()
	byDigest := map[string]kitEntry{}
	for _, list := range entries {
		for _, e := range list {
			if e.Digest != "" {
				byDigest[e.Digest] = e
			}
		}
	}
	taken := map[string]int{}
	var files []File
	for i, l := range m.Layers {
		match := kitLayer.FindStringSubmatch(l.MediaType)
		if match == nil {
			return nil, fmt.Errorf("%w: layer %d has media type %q, which ModelKits do not define", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		kind := match[1]
		if kind == "code" && l.Annotations[annotationKitSubtype] == "prompt" {
			kind = "prompt"
		}
		n := taken[kind]
		taken[kind]++
		f := File{Desc: l, Kind: kitKinds[kind], Tar: match[2] == "tar", Compression: Compression(match[3]), Mode: modelPackMode(l)}
		entry, named := byDigest[l.Digest.String()]
		if !named && n < len(entries[kind]) && entries[kind][n].Digest == "" {
			entry = entries[kind][n]
		} else if !named && layerName(l) == "" {
			return nil, fmt.Errorf("%w: layer %d (%s) has no entry in the kitfile", ErrFormat, i+1, kind)
		}
		switch {
		case f.Tar && named:
			f.Path = "." // entries start at the kit's root
		case f.Tar:
			// Old kits: entries start at the parent of the entry's path.
			f.Path = path.Dir(path.Clean(cleanPath(entry.Path)))
		default:
			if f.Path = layerName(l); f.Path == "" {
				f.Path = cleanPath(entry.Path)
			}
		}
		files = append(files, f)
	}
	return files, nil
}

// kitKinds are ModelPack's words for a kit's.
var kitKinds = map[string]string{
	"model": "weight", "modelpart": "weight.config", "dataset": "dataset",
	"code": "code", "docs": "doc", "prompt": "prompt", "mcpb": "code",
}

// isKitReference tells registry/repository:tag from a path: a reference's
// first part is a host.
func isKitReference(s string) bool {
	host, rest, ok := strings.Cut(s, "/")
	return ok && strings.Contains(rest, ":") && strings.ContainsAny(host, ".:") && !strings.HasPrefix(host, ".")
}
