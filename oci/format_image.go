package oci

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// A model inside a container image (RamaLama's raw and car images, KServe's
// modelcars): its files stand under /models/ of the root filesystem.
const (
	labelImageModel = "org.containers.type"
	imagePrefix     = "models/"
)

func planImage(m ocispec.Manifest, config []byte) ([]File, error) {
	var image ocispec.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return nil, fmt.Errorf("%w: image config: %v", ErrFormat, err)
	}
	switch label := image.Config.Labels[labelImageModel]; label {
	case "", "ai.image.model.raw", "ai.image.model.car":
	default:
		return nil, fmt.Errorf("%w: an image of type %q (label %s)", ErrFormat, terminal.Clip(label, 100), labelImageModel)
	}
	var files []File
	for i, l := range m.Layers {
		f := File{Path: ".", Desc: l, Kind: "image", Tar: true, Mode: modeFile, keep: inModels}
		switch {
		case strings.HasSuffix(l.MediaType, "tar+gzip"), strings.HasSuffix(l.MediaType, "tar.gzip"):
			f.Compression = Gzip
		case strings.HasSuffix(l.MediaType, "tar+zstd"):
			f.Compression = Zstd
		case strings.HasSuffix(l.MediaType, ".tar"):
		default:
			return nil, fmt.Errorf("%w: image layer %d has media type %q", ErrFormat, i+1, terminal.Clip(l.MediaType, 100))
		}
		files = append(files, f)
	}
	return files, nil
}

// inModels keeps what can matter to /models/: its entries, and whiteouts at
// the root. The rest of an image is not looked at.
func inModels(name string) bool {
	return strings.HasPrefix(name+"/", imagePrefix) || !strings.Contains(name, "/") && strings.HasPrefix(name, whiteout)
}
