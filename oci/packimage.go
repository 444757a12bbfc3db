package oci

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/internal/durable"
)

// ImageOptions are an image's configuration.
type ImageOptions struct {
	Entrypoint   []string
	Cmd          []string
	Env          []string
	User         string
	WorkingDir   string
	Labels       map[string]string
	Architecture string    // "" is this machine's
	Created      time.Time // zero is 1970, so that the digest does not change
}

// PackImage makes a one-layer OCI image of a root filesystem. The same tree
// gives the same digest: entries are sorted, owned by root, dated Created;
// setuid bits, extended attributes, devices and sockets are left out.
//
// The layer is not kept: it is written anew for each reader.
func PackImage(ctx context.Context, rootfs string, o ImageOptions) (*Packed, error) {
	if o.Created.IsZero() {
		o.Created = epoch
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	open := func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeRootfs(w, rootfs, o.Created)) }()
		return r, nil
	}
	layer, err := open()
	if err != nil {
		return nil, err
	}
	d, n, err := hashAll(ctx, layer)
	layer.Close()
	if err != nil {
		return nil, fmt.Errorf("pack image %s: %w", rootfs, err)
	}
	p := &Packed{MediaType: ocispec.MediaTypeImageManifest, open: map[digest.Digest]func() (io.ReadCloser, error){d: open}}
	config := ocispec.Image{
		Created:  &o.Created,
		Platform: ocispec.Platform{OS: "linux", Architecture: o.Architecture},
		Config: ocispec.ImageConfig{
			User: o.User, Env: o.Env, Entrypoint: o.Entrypoint, Cmd: o.Cmd, WorkingDir: o.WorkingDir, Labels: o.Labels,
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{d}},
		// nerdctl 2.2.2 panics at an entry without a time.
		History: []ocispec.History{{Created: &o.Created, CreatedBy: "rmodels"}},
	}
	if p.Config, err = marshal(config); err != nil {
		return nil, fmt.Errorf("pack image %s: %w", rootfs, err)
	}
	p.Manifest = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: p.keep(ocispec.MediaTypeImageConfig, p.Config),
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: n}},
	}
	return p, p.seal()
}

// writeRootfs writes the tree as a tar. WalkDir goes in lexical order, so the
// first name of a hard-linked file is the same each time.
func writeRootfs(w io.Writer, rootfs string, created time.Time) error {
	tw := tar.NewWriter(w)
	linked := map[[2]uint64]string{}
	buffer := make([]byte, bufferSize)
	err := filepath.WalkDir(rootfs, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(rootfs, name)
		if err != nil || rel == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: rel, ModTime: created, Mode: int64(info.Mode().Perm()), Format: tar.FormatPAX}
		if info.Mode()&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch {
		case info.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, rel+"/"
			return tw.WriteHeader(h)
		case info.Mode()&fs.ModeSymlink != 0:
			h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
			if h.Linkname, err = os.Readlink(name); err != nil {
				return err
			}
			return tw.WriteHeader(h)
		case !info.Mode().IsRegular():
			return nil // the container runtime makes its own /dev
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			key := [2]uint64{uint64(st.Dev), st.Ino}
			if first, seen := linked[key]; seen {
				h.Typeflag, h.Linkname = tar.TypeLink, first
				return tw.WriteHeader(h)
			}
			linked[key] = rel
		}
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		f, err := durable.OpenLink(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.CopyBuffer(tw, io.LimitReader(f, h.Size), buffer)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}
