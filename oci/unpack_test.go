package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
	"oras.land/oras-go/v2"
	orasfile "oras.land/oras-go/v2/content/file"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

type entry struct {
	name string
	body []byte
	kind byte // 0: a file
	link string
	mode int64
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Size: int64(len(e.body)), Mode: 0o644, Linkname: e.link}
		if e.kind != 0 {
			h.Typeflag = e.kind
		}
		if e.mode != 0 {
			h.Mode = e.mode
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	// Two members: decoders must go on after the first.
	for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		z := gzip.NewWriter(&out)
		_, _ = z.Write(part)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, part := range [][]byte{b[:len(b)/2], b[len(b)/2:]} {
		z, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = z.Write(part)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// tree fetches an artifact, builds its tree, and lists "path content-length
// mode" in order.
func tree(t *testing.T, r *registry, ref oci.Reference, limits oci.Limits) (string, error) {
	t.Helper()
	c := newClient(t, oci.Options{}, r)
	st, l := newStore(t)
	a, err := c.Resolve(background(t), ref, nil)
	if err != nil {
		return "", err
	}
	if _, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Limits: limits}); err != nil {
		return "", err
	}
	entries, err := a.Entries(t.Context(), st)
	if err != nil {
		return "", err
	}
	// Another process, which did not fetch, sees the same.
	again, err := resolve(t, c, ref).Entries(t.Context(), st)
	if err != nil || fmt.Sprint(again) != fmt.Sprint(entries) {
		t.Errorf("listed again: %v, %v", again, err)
	}
	built, err := st.BuildTree(background(t), l, ref.Digest, entries)
	if err != nil {
		return "", err
	}
	var out []string
	err = filepath.Walk(built.Path, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(built.Path, name)
		b, err := os.ReadFile(name)
		x := ""
		if info.Mode()&0o111 != 0 {
			x = " x"
		}
		out = append(out, fmt.Sprintf("%s=%s%s", rel, short8(b), x))
		return err
	})
	sort.Strings(out)
	return strings.Join(out, ", "), err
}

func short8(b []byte) string {
	if len(b) > 8 {
		return fmt.Sprintf("%.8x…%d", b[:4], len(b))
	}
	return string(b)
}

func TestPackedLayers(t *testing.T) {
	const cncf = "application/vnd.cncf.model."
	big := noise(1, 700_000)
	bigText := fmt.Sprintf("%.8x…%d", big[:4], len(big))
	weights := makeTar(t, entry{name: "./", kind: tar.TypeDir}, entry{name: "a/", kind: tar.TypeDir}, entry{name: "./a/w.gguf", body: big}, entry{name: "a/tool", body: []byte("x"), mode: 0o4755}, entry{name: "empty"})
	docs := makeTar(t, entry{name: "README", body: []byte("docs")}, entry{name: "a/copy.gguf", body: big})
	for name, tc := range map[string]struct {
		artifactType, configType, config string
		layers                           []ocispec.Descriptor
		content                          [][]byte
		want                             string
	}{
		"modelpack": {
			artifactType: cncf + "manifest.v1+json", configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf + "weight.v1.tar+zstd"), layer(cncf + "doc.v1.tar+gzip"), layer(cncf+"weight.config.v1.raw", "org.cncf.model.filepath", "config.json")},
			content: [][]byte{zstded(t, weights), gzipped(t, docs), []byte("{}")},
			want:    "README=docs, a/copy.gguf=" + bigText + ", a/tool=x x, a/w.gguf=" + bigText + ", config.json={}, empty=",
		},
		"plain tar": {
			configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf + "weight.v1.tar")}, content: [][]byte{weights},
			want: "a/tool=x x, a/w.gguf=" + bigText + ", empty=",
		},
		"kit": {
			configType: "application/vnd.kitops.modelkit.config.v1+json", config: `{"model":{"path":"deep/er/w.gguf"},"docs":[{"path":"NOTES"}]}`,
			layers:  []ocispec.Descriptor{layer("application/vnd.kitops.modelkit.model.v1.tar+gzip"), layer("application/vnd.kitops.modelkit.docs.v1.raw+zstd")},
			content: [][]byte{gzipped(t, makeTar(t, entry{name: "w.gguf", body: big})), zstded(t, []byte("a note"))},
			want:    "NOTES=a note, deep/er/w.gguf=" + bigText,
		},
		"docker ai": {
			configType: "application/vnd.docker.ai.model.config.v0.1+json", layers: []ocispec.Descriptor{layer("application/vnd.docker.ai.gguf.v3"), layer("application/vnd.docker.ai.vllm.config.tar")},
			content: [][]byte{big, makeTar(t, entry{name: "tokenizer.json", body: []byte("{}")})},
			want:    "model.gguf=" + bigText + ", tokenizer.json={}",
		},
		"image": {
			configType: "application/vnd.oci.image.config.v1+json", config: `{"config":{"Labels":{"org.containers.type":"ai.image.model.car"}}}`,
			layers: []ocispec.Descriptor{layer("application/vnd.oci.image.layer.v1.tar+gzip"), layer("application/vnd.oci.image.layer.v1.tar"), layer("application/vnd.oci.image.layer.v1.tar+zstd")},
			content: [][]byte{
				gzipped(t, makeTar(t, entry{name: "dev/null", kind: tar.TypeChar}, entry{name: "bin/sh", body: []byte("sh")}, entry{name: "models/", kind: tar.TypeDir}, entry{name: "models/old", body: []byte("old")}, entry{name: "models/sub/gone", body: []byte("gone")}, entry{name: "models/kept", body: []byte("kept")})),
				makeTar(t, entry{name: "models/w.gguf", body: big}, entry{name: "models/.wh.old"}, entry{name: "models/sub/.wh..wh..opq"}, entry{name: "models/sub/new", body: []byte("new")}),
				zstded(t, makeTar(t, entry{name: "models/model.file", kind: tar.TypeSymlink, link: "w.gguf"}, entry{name: "models/abs", kind: tar.TypeSymlink, link: "/models/model.file"}, entry{name: "models/hard", kind: tar.TypeLink, link: "models/w.gguf"}, entry{name: "models/kept", body: []byte("new")})),
			},
			want: "abs=" + bigText + ", hard=" + bigText + ", kept=new, model.file=" + bigText + ", sub/new=new, w.gguf=" + bigText,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := r.layers("m", tc.artifactType, tc.configType, tc.config, tc.layers, tc.content)
			got, err := tree(t, r, ref, oci.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// layers publishes an artifact whose layers have the given content.
func (r *registry) layers(repository, artifactType, configType, config string, layers []ocispec.Descriptor, content [][]byte) oci.Reference {
	r.t.Helper()
	if config == "" {
		config = "{}"
	}
	m := ocispec.Manifest{ArtifactType: artifactType, Config: r.blob(repository, configType, []byte(config))}
	for i, l := range layers {
		d := r.blob(repository, l.MediaType, content[i])
		d.Annotations = l.Annotations
		m.Layers = append(m.Layers, d)
	}
	return r.manifest(repository, m)
}

// A directory pushed by oras-go itself, the way oras push does.
func TestDirectoryOfORAS(t *testing.T) {
	big := noise(2, 400_000)
	dir := writeTree(t, file{"weights/w.gguf", big}, file{"weights/sub/config.json", []byte("{}")}, file{"README.md", []byte("hi")})
	store, err := orasfile.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx := context.Background()
	var layers []ocispec.Descriptor
	for _, name := range []string{"weights", "README.md"} {
		d, err := store.Add(ctx, name, "", "")
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, d)
	}
	desc, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, "application/vnd.example", oras.PackManifestOptions{Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t)
	repo, err := orasremote.NewRepository(r.repository("org/dir"))
	if err != nil {
		t.Fatal(err)
	}
	repo.PlainHTTP = true
	if err := oras.CopyGraph(ctx, store, repo, desc, oras.DefaultCopyGraphOptions); err != nil {
		t.Fatal(err)
	}
	got, err := tree(t, r, oci.Reference{Registry: r.name, Repository: "org/dir", Digest: desc.Digest}, oci.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("README.md=hi, weights/sub/config.json={}, weights/w.gguf=%.8x…%d", big[:4], len(big))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The entries of a directory that ORAS packed begin with its title.
func TestDirectoryOutsideOfItsTitle(t *testing.T) {
	for name, ok := range map[string]bool{"dir/a": true, "directory/a": false, "other/a": false} {
		r := newRegistry(t)
		ref := r.layers("m", "application/vnd.example", "", "", []ocispec.Descriptor{
			layer("application/vnd.oci.image.layer.v1.tar+gzip", "org.opencontainers.image.title", "dir", "io.deis.oras.content.unpack", "true"),
		}, [][]byte{gzipped(t, makeTar(t, entry{name: name, body: []byte("x")}, entry{name: "dir/b", body: []byte("x")}))})
		if got, err := tree(t, r, ref, oci.Limits{}); (err == nil) != ok {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestHostileLayers(t *testing.T) {
	const cncf = "application/vnd.cncf.model."
	zeros := make([]byte, 20<<20)
	oversize := makeTar(t, entry{name: "a", body: []byte("x")})
	oversize8 := bytes.Clone(oversize)
	copy(oversize[124:136], "00040000000\x00")  // 8 MiB claimed
	copy(oversize8[124:136], "77777777777\x00") // 8 GiB
	fixChecksum(oversize)
	fixChecksum(oversize8)
	manyNames := make([]entry, 5500)
	for n := range manyNames {
		manyNames[n] = entry{name: fmt.Sprintf("%s%d", strings.Repeat(strings.Repeat("d", 200)+"/", 4), n)}
	}
	for name, tc := range map[string]struct {
		mediaType string
		content   []byte
		limits    oci.Limits
		want      error
	}{
		"parent directory":   {"weight.v1.tar", makeTar(t, entry{name: "../x", body: []byte("x")}), oci.Limits{}, oci.ErrPath},
		"parent inside":      {"weight.v1.tar", makeTar(t, entry{name: "a/../../x", body: []byte("x")}), oci.Limits{}, oci.ErrPath},
		"absolute":           {"weight.v1.tar", makeTar(t, entry{name: "/etc/passwd", body: []byte("x")}), oci.Limits{}, oci.ErrPath},
		"backslash":          {"weight.v1.tar", makeTar(t, entry{name: `..\x`, body: []byte("x")}), oci.Limits{}, oci.ErrPath},
		"symlink":            {"weight.v1.tar", makeTar(t, entry{name: "a", kind: tar.TypeSymlink, link: "/etc/passwd"}, entry{name: "good", body: []byte("x")}), oci.Limits{}, oci.ErrFormat},
		"hard link":          {"weight.v1.tar", makeTar(t, entry{name: "b", body: []byte("b")}, entry{name: "a", kind: tar.TypeLink, link: "b"}), oci.Limits{}, oci.ErrFormat},
		"device":             {"weight.v1.tar", makeTar(t, entry{name: "a", kind: tar.TypeBlock}, entry{name: "good", body: []byte("x")}), oci.Limits{}, oci.ErrFormat},
		"fifo":               {"weight.v1.tar", makeTar(t, entry{name: "a", kind: tar.TypeFifo}, entry{name: "good", body: []byte("x")}), oci.Limits{}, oci.ErrFormat},
		"same name twice":    {"weight.v1.tar", makeTar(t, entry{name: "a", body: []byte("1")}, entry{name: "./a", body: []byte("2")}), oci.Limits{}, oci.ErrFormat},
		"no files":           {"weight.v1.tar", makeTar(t, entry{name: "a/", kind: tar.TypeDir}), oci.Limits{}, oci.ErrFormat},
		"no tar":             {"weight.v1.tar", noise(1, 10_000), oci.Limits{}, oci.ErrFormat},
		"cut tar":            {"weight.v1.tar", makeTar(t, entry{name: "a", body: noise(1, 600_000)})[:300_000], oci.Limits{}, oci.ErrFormat},
		"claims more":        {"weight.v1.tar", oversize, oci.Limits{}, oci.ErrFormat},
		"claims far more":    {"weight.v1.tar", oversize8, oci.Limits{}, oci.ErrTooLarge},
		"sparse bomb":        {"weight.v1.tar", sparseTar(t, 600<<20), oci.Limits{}, oci.ErrTooLarge},
		"packed sparse bomb": {"weight.v1.tar+zstd", zstded(t, sparseTar(t, 700<<20)), oci.Limits{}, oci.ErrTooLarge},
		"long names":         {"weight.v1.tar+zstd", zstded(t, append(makeTar(t, manyNames...), noise(1, 1<<20)...)), oci.Limits{}, oci.ErrTooLarge},
		"file over limit":    {"weight.v1.tar", makeTar(t, entry{name: "a", body: make([]byte, 1001)}), oci.Limits{FileBytes: 1000}, oci.ErrTooLarge},
		"total over limit":   {"weight.v1.tar", makeTar(t, entry{name: "a", body: make([]byte, 800)}, entry{name: "b", body: make([]byte, 800)}), oci.Limits{TotalBytes: 1000}, oci.ErrTooLarge},
		"too many entries":   {"weight.v1.tar", makeTar(t, entry{name: "a"}, entry{name: "b"}, entry{name: "c"}), oci.Limits{Files: 2}, oci.ErrTooLarge},
		"gzip bomb":          {"weight.v1.tar+gzip", gzipped(t, makeTar(t, entry{name: "a", body: zeros})), oci.Limits{ExpandRatio: 10}, oci.ErrTooLarge},
		"zstd bomb":          {"weight.v1.tar+zstd", zstded(t, makeTar(t, entry{name: "a", body: zeros})), oci.Limits{ExpandRatio: 10}, oci.ErrTooLarge},
		"bomb after the end": {"weight.v1.tar+gzip", gzipped(t, append(makeTar(t, entry{name: "a", body: []byte("a")}), zeros...)), oci.Limits{ExpandRatio: 10}, oci.ErrTooLarge},
		"no gzip":            {"weight.v1.tar+gzip", noise(1, 1000), oci.Limits{}, oci.ErrFormat},
		"cut gzip":           {"weight.v1.tar+gzip", cut(gzipped(t, makeTar(t, entry{name: "a", body: noise(1, 100_000)}))), oci.Limits{}, oci.ErrFormat},
		"cut large gzip":     {"weight.v1.tar+gzip", cut(gzipped(t, makeTar(t, entry{name: "a", body: noise(1, 3<<20)}))), oci.Limits{}, oci.ErrFormat},
		"no zstd":            {"weight.v1.tar+zstd", noise(1, 1000), oci.Limits{}, oci.ErrFormat},
		"later zstd window":  {"weight.v1.tar+zstd", append(zstded(t, makeTar(t, entry{name: "a", body: noise(2, 1<<20)})), zstdFrame(24, []byte("behind the archive"))...), oci.Limits{}, oci.ErrFormat},
		"zstd window":        {"weight.v1.tar+zstd", wideZstd(makeTar(t, entry{name: "a", body: []byte("a")})), oci.Limits{}, oci.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			ref := r.layers("m", cncf+"manifest.v1+json", cncf+"config.v1+json", "", []ocispec.Descriptor{layer(cncf + tc.mediaType)}, [][]byte{tc.content})
			got, err := tree(t, r, ref, tc.limits)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %q, %v; want %v", got, err, tc.want)
			}
		})
	}
	const kit = "application/vnd.kitops.modelkit."
	for name, tc := range map[string]struct {
		content []byte
		limits  oci.Limits
		want    error
	}{
		"cut":        {cut(gzipped(t, noise(1, 3<<20))), oci.Limits{}, oci.ErrFormat},
		"over limit": {gzipped(t, noise(1, 3<<20)), oci.Limits{FileBytes: 1 << 20}, oci.ErrTooLarge},
		"bomb":       {gzipped(t, zeros), oci.Limits{ExpandRatio: 10}, oci.ErrTooLarge},
	} {
		t.Run("compressed file "+name, func(t *testing.T) {
			r := newRegistry(t)
			ref := r.layers("m", "", kit+"config.v1+json", `{"docs":[{"path":"NOTES"}]}`, []ocispec.Descriptor{layer(kit + "docs.v1.raw+gzip")}, [][]byte{tc.content})
			if got, err := tree(t, r, ref, tc.limits); !errors.Is(err, tc.want) {
				t.Errorf("got %q, %v; want %v", got, err, tc.want)
			}
		})
	}
	for name, entries := range map[string][]entry{
		"link out of the prefix": {{name: "models/a", kind: tar.TypeSymlink, link: "/etc/passwd"}},
		"link up":                {{name: "models/a", kind: tar.TypeSymlink, link: "../../models/../etc/passwd"}},
		"link loop":              {{name: "models/a", kind: tar.TypeSymlink, link: "b"}, {name: "models/b", kind: tar.TypeSymlink, link: "a"}},
		"hard link out":          {{name: "etc/shadow", body: []byte("x")}, {name: "models/a", kind: tar.TypeLink, link: "etc/shadow"}},
		"prefix is a link":       {{name: "models", kind: tar.TypeSymlink, link: "etc"}},
		"traversal":              {{name: "models/../../x", body: []byte("x")}},
		"no models":              {{name: "bin/x", body: []byte("x")}},
	} {
		t.Run("image "+name, func(t *testing.T) {
			r := newRegistry(t)
			ref := r.layers("m", "", "application/vnd.oci.image.config.v1+json", "{}", []ocispec.Descriptor{layer("application/vnd.oci.image.layer.v1.tar")}, [][]byte{makeTar(t, entries...)})
			got, err := tree(t, r, ref, oci.Limits{})
			if !errors.Is(err, oci.ErrFormat) && !errors.Is(err, oci.ErrPath) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// wideZstd is a frame that asks for a window of 128 MiB.
func wideZstd(b []byte) []byte { return zstdFrame(27, b) }

// zstdFrame is a frame that asks for a window of 2^log bytes (RFC 8878,
// 3.1.1.1.2) around one raw block.
func zstdFrame(log byte, b []byte) []byte {
	block := uint32(len(b))<<3 | 1
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3, byte(block), byte(block >> 8), byte(block >> 16)}
	return append(frame, b...)
}

// sparseTar is a few blocks that say they are a file of so many bytes, nearly
// all of them a hole: GNU's format 1.0, which archive/tar reads and does not
// write.
func sparseTar(t testing.TB, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	data := append([]byte(fmt.Sprintf("1\n%d\n1\n", size-1)), make([]byte, 512)...)[:512]
	data = append(data, 'x')
	h := &tar.Header{Name: "GNUSparseFile.0/hole.bin", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), PAXRecords: map[string]string{
		"XNU.sparse.major": "1", "XNU.sparse.minor": "0", "XNU.sparse.name": "hole.bin", "XNU.sparse.realsize": strconv.Itoa(size),
	}}
	if err := tw.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b.Bytes(), []byte("XNU.sparse"), []byte("GNU.sparse"))
}

func cut(b []byte) []byte { return b[:len(b)-30] }

// fixChecksum makes a changed first tar header consistent again.
func fixChecksum(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}
