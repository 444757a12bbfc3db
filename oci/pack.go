package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/resultity/rmodels/internal/durable"
)

// Packed is an artifact that is ready to be pushed. Its blobs stay where they
// are; only the manifest and the config are held in memory.
type Packed struct {
	Digest    digest.Digest // of the manifest
	Raw       []byte        // the manifest
	MediaType string
	Manifest  ocispec.Manifest
	Config    []byte

	children []ocispec.Descriptor // of an index: the manifests that come along
	open     map[digest.Digest]func() (io.ReadCloser, error)
}

// Size is the sum of all blobs in bytes.
func (p *Packed) Size() int64 {
	var n int64
	for _, d := range p.Blobs() {
		n += d.Size
	}
	return n
}

// Blobs returns the config and the layers, and the manifest that an index
// brings along, each digest once.
func (p *Packed) Blobs() []ocispec.Descriptor {
	return uniqueBlobs(slices.Concat(p.children, []ocispec.Descriptor{p.Manifest.Config}, p.Manifest.Layers))
}

// Open reads one blob.
func (p *Packed) Open(d digest.Digest) (io.ReadCloser, error) {
	open, ok := p.open[d]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w in the packed artifact", d, ErrNotFound)
	}
	return open()
}

// PackOptions describe a model. Every field may be empty; nothing that
// changes between two runs goes in by itself.
type PackOptions struct {
	Name         string
	Version      string
	Family       string
	Architecture string // "transformer", …
	Format       string // "gguf", "safetensors", …; "" is taken from the weights
	ParamSize    string // "8b"
	Precision    string
	Quantization string
	Licenses     []string
	Created      time.Time // zero: not recorded
	Annotations  map[string]string
}

// modelConfig is ModelPack's config document, application/vnd.cncf.model.config.v1+json.
type modelConfig struct {
	Descriptor struct {
		CreatedAt *time.Time `json:"createdAt,omitzero"`
		Family    string     `json:"family,omitzero"`
		Name      string     `json:"name,omitzero"`
		Version   string     `json:"version,omitzero"`
		Licenses  []string   `json:"licenses,omitzero"`
	} `json:"descriptor"`
	Config struct {
		Architecture string `json:"architecture,omitzero"`
		Format       string `json:"format,omitzero"`
		ParamSize    string `json:"paramSize,omitzero"`
		Precision    string `json:"precision,omitzero"`
		Quantization string `json:"quantization,omitzero"`
	} `json:"config"`
	ModelFS struct {
		Type    string          `json:"type"`
		DiffIDs []digest.Digest `json:"diffIds"`
	} `json:"modelfs"`
}

// Pack makes a ModelPack artifact of a directory: one raw layer per regular
// file, in the order of their paths, so that a node can share, resume and
// repair each by itself. The same directory gives the same digest on every
// machine: owners and times are not recorded. Links, devices and unsafe paths
// are refused.
func Pack(ctx context.Context, dir string, o PackOptions) (*Packed, error) {
	files, err := listFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	p := &Packed{MediaType: ocispec.MediaTypeImageManifest, open: map[digest.Digest]func() (io.ReadCloser, error){}}
	layers := make([]ocispec.Descriptor, len(files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for i, f := range files {
		group.Go(func() (err error) {
			layers[i], err = packLayer(ctx, f)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	for i, f := range files {
		p.open[layers[i].Digest] = func() (io.ReadCloser, error) { return durable.OpenLink(f.name) }
	}
	var config modelConfig
	if !o.Created.IsZero() {
		created := o.Created.UTC()
		config.Descriptor.CreatedAt = &created
	}
	config.Descriptor.Family, config.Descriptor.Name, config.Descriptor.Version, config.Descriptor.Licenses = o.Family, o.Name, o.Version, o.Licenses
	config.Config.Architecture, config.Config.ParamSize = o.Architecture, o.ParamSize
	config.Config.Precision, config.Config.Quantization = o.Precision, o.Quantization
	config.Config.Format = o.Format
	if config.Config.Format == "" {
		config.Config.Format = weightFormat(files)
	}
	config.ModelFS.Type, config.ModelFS.DiffIDs = "layers", []digest.Digest{}
	for _, l := range layers {
		config.ModelFS.DiffIDs = append(config.ModelFS.DiffIDs, l.Digest)
	}
	if p.Config, err = marshal(config); err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	p.Manifest = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactTypeModelPack,
		Config: p.keep(configTypeModelPack, p.Config), Layers: layers, Annotations: o.Annotations,
	}
	return p, p.seal()
}

// keep holds a small blob in memory and describes it.
func (p *Packed) keep(mediaType string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	p.open[d] = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// seal fixes the manifest's bytes.
func (p *Packed) seal() (err error) {
	if p.Raw, err = marshal(p.Manifest); err != nil {
		return err
	}
	p.Digest = digest.FromBytes(p.Raw)
	return nil
}

// packFile is a file to pack.
type packFile struct {
	name string // on disk
	path string // in the artifact
	mode uint32
	size int64
}

func listFiles(dir string) ([]packFile, error) {
	var files []packFile
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		if err := CheckPath(rel); err != nil {
			return err
		}
		if !e.Type().IsRegular() {
			return fmt.Errorf("%q is no regular file; links and devices cannot be packed", rel)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		files = append(files, packFile{name: name, path: rel, mode: plainMode(uint32(info.Mode().Perm())), size: info.Size()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("the directory holds no file")
	}
	if len(files) > maxLayers {
		return nil, fmt.Errorf("%w: %d files, at most %d can be layers", ErrTooLarge, len(files), maxLayers)
	}
	sort.Slice(files, func(i, j int) bool { return files[i].path < files[j].path })
	return files, nil
}

func packLayer(ctx context.Context, f packFile) (ocispec.Descriptor, error) {
	in, err := durable.OpenLink(f.name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer in.Close()
	d, n, err := hashAll(ctx, in)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if n != f.size {
		return ocispec.Descriptor{}, fmt.Errorf("%q changed while it was read", f.path)
	}
	meta, err := marshal(struct {
		Name     string    `json:"name"`
		Mode     uint32    `json:"mode"`
		UID      uint32    `json:"uid"`
		GID      uint32    `json:"gid"`
		Size     int64     `json:"size"`
		ModTime  time.Time `json:"mtime"`
		Typeflag byte      `json:"typeflag"`
	}{path.Base(f.path), f.mode, 0, 0, f.size, epoch, '0'})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{
		MediaType: "application/vnd.cncf.model." + layerKind(f.path) + ".v1.raw", Digest: d, Size: n,
		Annotations: map[string]string{
			annotationFilepath:                       f.path,
			annotationTitle:                          f.path, // lets oras pull it under its name
			annotationMetadata:                       string(meta),
			"org.cncf.model.file.mediatype.untested": strconv.FormatBool(layerKind(f.path) == "weight.config"),
		},
	}, nil
}

// hashAll reads to the end and honours ctx.
func hashAll(ctx context.Context, r io.Reader) (digest.Digest, int64, error) {
	h := digest.SHA256.Digester()
	buffer := make([]byte, 1<<20)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return "", 0, context.Cause(ctx)
		}
		n, err := r.Read(buffer)
		h.Hash().Write(buffer[:n])
		total += int64(n)
		if err == io.EOF {
			return h.Digest(), total, nil
		}
		if err != nil {
			return "", 0, err
		}
	}
}

// layerKind sorts a file into ModelPack's kinds by its name.
func layerKind(name string) string {
	base := strings.ToLower(path.Base(name))
	switch path.Ext(base) {
	case ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".npz", ".tflite", ".dduf":
		return "weight"
	case ".md", ".rst", ".pdf":
		return "doc"
	case ".py", ".sh", ".ipynb", ".go", ".c", ".cpp", ".rs":
		return "code"
	case ".parquet", ".csv", ".jsonl", ".arrow":
		return "dataset"
	}
	for _, doc := range []string{"license", "notice", "readme", "copying"} {
		if strings.HasPrefix(base, doc) {
			return "doc"
		}
	}
	return "weight.config"
}

func weightFormat(files []packFile) string {
	for _, f := range files {
		if layerKind(f.path) == "weight" {
			return strings.TrimPrefix(strings.ToLower(path.Ext(f.path)), ".")
		}
	}
	return ""
}
