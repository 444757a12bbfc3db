package oci

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// ModelPack (modelpack/model-spec). Version 0.0.7 renamed cnai to cncf;
// both are read.
const (
	artifactTypeModelPack = "application/vnd.cncf.model.manifest.v1+json"
	configTypeModelPack   = "application/vnd.cncf.model.config.v1+json"
	annotationMetadata    = "org.cncf.model.file.metadata+json"
)

var (
	modelPackLayer = regexp.MustCompile(`^application/vnd\.(?:cncf|cnai)\.model\.(weight\.config|weight|doc|code|dataset)\.v1\.(raw|tar|tar\+gzip|tar\+zstd)$`)
	// Docker writes its own suffixes, early versions had one type for all.
	modelPackDocker = regexp.MustCompile(`^application/vnd\.(?:cncf|cnai)\.model\.weight\.v1\.(?:gguf|safetensors)$`)
	modelPackEarly  = regexp.MustCompile(`^application/vnd\.(?:cncf|cnai)\.model\.layer\.v1\.(tar|tar\+gzip)$`)
)

func isModelPackType(mediaType, kind string) bool {
	return mediaType == "application/vnd.cncf.model."+kind+".v1+json" || mediaType == "application/vnd.cnai.model."+kind+".v1+json"
}

func planModelPack(m ocispec.Manifest) ([]File, error) {
	var files []File
	for i, l := range m.Layers {
		f := File{Path: layerName(l), Desc: l, Mode: modelPackMode(l)}
		packing := "raw"
		if match := modelPackLayer.FindStringSubmatch(l.MediaType); match != nil {
			f.Kind, packing = match[1], match[2]
		} else if match := modelPackEarly.FindStringSubmatch(l.MediaType); match != nil {
			f.Kind, packing = "weight", match[1]
		} else if modelPackDocker.MatchString(l.MediaType) || l.MediaType == "application/octet-stream" {
			f.Kind = "weight"
		} else {
			return nil, fmt.Errorf("%w: layer %d has media type %q, which ModelPack does not define", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		switch packing {
		case "tar":
			f.Tar = true
		case "tar+gzip":
			f.Tar, f.Compression = true, Gzip
		case "tar+zstd":
			f.Tar, f.Compression = true, Zstd
		}
		if f.Tar {
			// The archive's entries carry their paths from the model's root.
			f.Path = "."
		} else if f.Path == "" {
			return nil, fmt.Errorf("%w: layer %d has no file path: no annotation %s", ErrFormat, i+1, annotationFilepath)
		}
		files = append(files, f)
	}
	return files, nil
}

// modelPackMode reads the mode of the metadata annotation. The annotation is
// a hint: what cannot be read is 0644. Its typeflag is ignored.
func modelPackMode(l ocispec.Descriptor) uint32 {
	for key, value := range l.Annotations {
		switch strings.Replace(key, "org.cnai.", "org.cncf.", 1) {
		case annotationMetadata, strings.TrimSuffix(annotationMetadata, "+json"):
			var meta struct {
				Mode uint32 `json:"mode"`
			}
			if len(value) <= 4<<10 && json.Unmarshal([]byte(value), &meta) == nil {
				return plainMode(meta.Mode)
			}
		}
	}
	return modeFile
}
