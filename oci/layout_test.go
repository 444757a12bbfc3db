package oci_test

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/oci"
)

// A node without a network pulls from a layout that an export wrote, as a
// directory and as a tar of it.
func TestLayoutAsSource(t *testing.T) {
	content := noise(1, 700_000)
	p, err := oci.Pack(background(t), writeTree(t, file{"a.gguf", content}, file{"b.json", []byte("{}")}), oci.PackOptions{Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bundle := someBundle(t, "https://sigstore.dev/cosign/sign/v1")
	if _, err := oci.Export(background(t), dir, "m", p, []oci.Evidence{{MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", Payload: bundle}}); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "layout.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(f)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tw.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	down := newRegistry(t)
	down.server.Close()
	ref := oci.Reference{Registry: down.name, Repository: "m", Digest: p.Digest}
	for name, path := range map[string]string{"directory": dir, "tar": archive} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, oci.Options{}, down)
			source := "oci-layout://" + path
			a := resolve(t, c, ref, source)
			st, l := newStore(t)
			res, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{})
			if err != nil {
				t.Fatal(err)
			}
			complete(t, st, a)
			if res.Sources[source] != a.Size() || a.From != source {
				t.Errorf("from %s: %v", a.From, res.Sources)
			}
			ev, err := c.Evidence(background(t), ref, []string{source})
			if err != nil || len(ev) != 1 || string(ev[0].Payload) != string(bundle) {
				t.Errorf("evidence %v, %v", ev, err)
			}
		})
	}
	// One flipped byte in a blob of the layout is found.
	blob := filepath.Join(dir, "blobs/sha256", p.Manifest.Layers[0].Digest.Encoded())
	wrong := append([]byte(nil), content...)
	wrong[500_000] ^= 1
	if err := os.WriteFile(blob, wrong, 0o644); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, oci.Options{Attempts: 1}, down)
	a := resolve(t, c, ref, "oci-layout://"+dir)
	st, l := newStore(t)
	var bad *oci.DigestError
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{}); !errors.As(err, &bad) || bad.Source != "oci-layout://"+dir {
		t.Errorf("got %v", err)
	}
	_, err = c.Resolve(background(t), ref, []string{"oci-layout://" + dir + "/nowhere"})
	if err == nil || errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
}

// A layout may come from anyone: what is no file in it is neither waited for
// nor followed.
func TestLayoutOfNoFiles(t *testing.T) {
	p, err := oci.Pack(background(t), writeTree(t, file{"a.gguf", noise(1, 100)}), oci.PackOptions{Name: "m"})
	if err != nil {
		t.Fatal(err)
	}
	down := newRegistry(t)
	down.server.Close()
	ref := oci.Reference{Registry: down.name, Repository: "m", Digest: p.Digest}
	for name, replace := range map[string]func(path string) error{
		"FIFO": func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
		"link": func(path string) error {
			return errors.Join(os.Rename(path, path+"-real"), os.Symlink(path+"-real", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			export := func() error {
				_, err := oci.Export(background(t), dir, "m", p, nil)
				return err
			}
			if err := export(); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, oci.Options{Attempts: 1}, down)
			manifest := filepath.Join(dir, "blobs/sha256", p.Digest.Encoded())
			if err := replace(manifest); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Resolve(background(t), ref, []string{"oci-layout://" + dir}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("manifest: %v", err)
			}
			if err := export(); err != nil {
				t.Errorf("exported again: %v", err)
			}
			resolve(t, c, ref, "oci-layout://"+dir)
			if err := replace(filepath.Join(dir, "index.json")); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Evidence(background(t), ref, []string{"oci-layout://" + dir}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("index: %v", err)
			}
			if err := export(); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("exported over: %v", err)
			}
		})
	}
}
