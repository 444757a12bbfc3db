package oci

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/terminal"
)

// Annotations that name a layer's file.
const (
	annotationTitle        = ocispec.AnnotationTitle
	annotationFilepath     = "org.cncf.model.filepath"
	annotationFilepathCNAI = "org.cnai.model.filepath"
)

// Media types of signatures; they are evidence about an artifact, never one.
const (
	mediaTypeBundle        = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeBundlePrefix  = "application/vnd.dev.sigstore.bundle"
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaTypeEnvelope      = "application/vnd.dsse.envelope.v1+json" // of an attestation by cosign 2
	artifactTypeSignature  = "application/vnd.dev.cosign.artifact.sig.v1+json"
)

// detectFormat goes by artifactType, then by the config's media type, then by
// the layers': a single rule misses half of what publishers push.
func detectFormat(m ocispec.Manifest) (Format, error) {
	config := m.Config.MediaType
	if isSignature(m) {
		return "", fmt.Errorf("%w: it is a signature, not a model", ErrFormat)
	}
	switch {
	case isModelPackType(m.ArtifactType, "manifest"), isModelPackType(config, "config"):
		return FormatModelPack, nil
	case m.ArtifactType == artifactTypeKit, config == configTypeKit:
		return FormatKitOps, nil
	case strings.HasPrefix(config, "application/vnd.docker.ai.model.config."):
		return FormatDockerAI, nil
	case anyLayer(m, func(l ocispec.Descriptor) bool { return strings.HasPrefix(l.MediaType, ollamaPrefix) }):
		return FormatOllama, nil
	case config == ocispec.MediaTypeImageConfig, config == mediaTypeDockerConfig:
		return FormatImage, nil
	case anyLayer(m, func(l ocispec.Descriptor) bool { return layerName(l) != "" }):
		return FormatORAS, nil
	}
	types := []string{}
	for _, l := range m.Layers {
		if t := fmt.Sprintf("%q", terminal.Clip(l.MediaType, 100)); !slices.Contains(types, t) && len(types) < 8 {
			types = append(types, t)
		}
	}
	return "", fmt.Errorf("%w: artifactType %q, config %q, layers %s match no known format", ErrFormat,
		terminal.Clip(m.ArtifactType, 100), terminal.Clip(config, 100), strings.Join(types, ", "))
}

func isSignature(m ocispec.Manifest) bool {
	if strings.HasPrefix(m.ArtifactType, mediaTypeBundlePrefix) || m.ArtifactType == artifactTypeSignature {
		return true
	}
	return anyLayer(m, func(l ocispec.Descriptor) bool {
		return strings.HasPrefix(l.MediaType, mediaTypeBundlePrefix) || l.MediaType == mediaTypeSimpleSigning
	})
}

func anyLayer(m ocispec.Manifest, is func(ocispec.Descriptor) bool) bool {
	return slices.ContainsFunc(m.Layers, is)
}

// layerName is the file name that a layer's annotations give, ModelPack's
// before ORAS'.
func layerName(l ocispec.Descriptor) string {
	for _, key := range []string{annotationFilepath, annotationFilepathCNAI, annotationTitle} {
		if v := l.Annotations[key]; v != "" {
			return cleanPath(v)
		}
	}
	return ""
}

// planFiles maps layers to files and refuses unsafe or repeated paths.
func planFiles(a *Artifact) ([]File, error) {
	var files []File
	var err error
	switch a.Format {
	case FormatModelPack:
		files, err = planModelPack(a.Manifest)
	case FormatKitOps:
		files, err = planKitOps(a.Manifest, a.Config)
	case FormatDockerAI:
		files, err = planDockerAI(a.Manifest)
	case FormatOllama:
		files, err = planOllama(a.Manifest)
	case FormatORAS:
		files, err = planORAS(a.Manifest)
	case FormatImage:
		files, err = planImage(a.Manifest, a.Config)
	}
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no layer becomes a file", ErrFormat)
	}
	seen := map[string]bool{}
	readings := map[digest.Digest]string{}
	for _, f := range files {
		if f.packed() {
			if other, known := readings[f.Desc.Digest]; known && other != f.reading() {
				return nil, fmt.Errorf("%w: layer %s is to be read as %s and as %s", ErrFormat, f.Desc.Digest, other, f.reading())
			}
			readings[f.Desc.Digest] = f.reading()
		}
		if f.Tar && f.Path == "." {
			continue
		}
		if err := CheckPath(f.Path); err != nil {
			return nil, fmt.Errorf("layer %s: %w", f.Desc.Digest, err)
		}
		if !f.Tar && seen[f.Path] {
			return nil, fmt.Errorf("%w: two layers are both the file %q", ErrFormat, f.Path)
		}
		seen[f.Path] = true
	}
	return files, nil
}

const (
	modeFile       = 0o644
	modeExecutable = 0o755
)

// plainMode keeps the x bit and nothing else.
func plainMode(mode uint32) uint32 {
	if mode&0o111 != 0 {
		return modeExecutable
	}
	return modeFile
}
