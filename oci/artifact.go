package oci

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Format is the convention by which an artifact's layers become files.
type Format string

const (
	FormatModelPack Format = "modelpack"
	FormatKitOps    Format = "kitops"
	FormatDockerAI  Format = "docker-ai"
	FormatOllama    Format = "ollama"
	FormatImage     Format = "image" // a model inside a container image
	FormatORAS      Format = "oras"
)

// Artifact is a resolved manifest: verified, classified, planned.
type Artifact struct {
	Ref        Reference
	Raw        []byte // the manifest's bytes; they hash to Ref.Digest
	MediaType  string // of the manifest
	Manifest   ocispec.Manifest
	Config     []byte // the verified config, where the format needs it; else nil
	Format     Format
	Files      []File     // in manifest order
	Sources    []string   // where blobs may be fetched from, in order
	From       string     // the source that the manifest came from
	Mismatches []Mismatch // sources that answered with another manifest
}

// File is one layer as the model's directory sees it. Path is relative,
// slash-separated and safe. For a packed layer (Tar) it is the directory that
// the archive's entries are relative to, "." for the model's directory
// itself; which files it holds is known once the layer was fetched
// ([Artifact.Entries]).
type File struct {
	Path        string
	Desc        ocispec.Descriptor
	Kind        string // weight, weight.config, adapter, projector, template, license, doc, code, dataset, …
	Mode        uint32 // permission bits; 0644 where the format has none
	Tar         bool
	Compression Compression
	Under       string // entries outside of this directory make the layer invalid; "" for none

	keep func(name string) bool // which entries count; nil for all
}

// Compression of a layer's bytes.
type Compression string

const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// Mismatch is one source's wrong content.
type Mismatch struct {
	What     string // "manifest", "config", "layer"
	Expected digest.Digest
	Found    digest.Digest // "" when unknown
	Source   string
	Ranges   []Range // what was wrong, once another source showed the right bytes; nil when unknown
}

// Range is Len bytes from Off.
type Range struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// Blobs returns the config and the layers, each digest once.
func (a *Artifact) Blobs() []ocispec.Descriptor {
	return uniqueBlobs(append([]ocispec.Descriptor{a.Manifest.Config}, a.Manifest.Layers...))
}

// Kept is what the store has of an artifact once Fetch has brought it in, and a
// ref has to name: blobs, the manifest first, and the packed layers, which are
// there as the files that they unfold to.
func (a *Artifact) Kept() (blobs, layers []digest.Digest) {
	plain, packed := a.split()
	blobs = []digest.Digest{a.Ref.Digest}
	for _, b := range plain {
		blobs = append(blobs, b.Digest)
	}
	for _, f := range packed {
		layers = append(layers, f.Desc.Digest)
	}
	return blobs, layers
}

// split tells the blobs that the store keeps as they are from the layers that
// are unpacked, each once.
func (a *Artifact) split() (plain []ocispec.Descriptor, packed []File) {
	unfolds := map[digest.Digest]bool{}
	asIs := map[digest.Digest]bool{a.Manifest.Config.Digest: true}
	for _, f := range a.Files {
		switch {
		case !f.packed():
			asIs[f.Desc.Digest] = true
		case !unfolds[f.Desc.Digest]:
			unfolds[f.Desc.Digest] = true
			packed = append(packed, f)
		}
	}
	for _, b := range a.Blobs() {
		if asIs[b.Digest] || !unfolds[b.Digest] {
			plain = append(plain, b)
		}
	}
	return plain, packed
}

// Size is the sum of [Artifact.Blobs] in bytes.
func (a *Artifact) Size() int64 {
	var n int64
	for _, d := range a.Blobs() {
		n += d.Size
	}
	return n
}

func uniqueBlobs(all []ocispec.Descriptor) []ocispec.Descriptor {
	seen := make(map[digest.Digest]bool, len(all))
	out := make([]ocispec.Descriptor, 0, len(all))
	for _, d := range all {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}
