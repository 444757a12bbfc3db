package oci

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Plain ORAS artifacts: a layer is the raw file that its title names, even
// under ORAS' default media type, which says tar. Only the unpack annotation
// makes a layer a directory.
const annotationORASUnpack = "io.deis.oras.content.unpack"

func planORAS(m ocispec.Manifest) ([]File, error) {
	var files []File
	for _, l := range m.Layers {
		name := layerName(l)
		if name == "" {
			continue // oras pull skips untitled layers too
		}
		f := File{Path: name, Desc: l, Kind: "weight", Mode: modeFile}
		if l.Annotations[annotationORASUnpack] == "true" {
			// Entries repeat the title as their first parts.
			f.Path, f.Tar, f.Compression, f.Under = ".", true, Gzip, name
		}
		files = append(files, f)
	}
	return files, nil
}
