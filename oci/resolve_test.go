package oci_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/resultity/rmodels/oci"
)

// publish describes an artifact in the words of a test table.
type publish struct {
	mediaType, artifactType, configType string
	config                              string
	layers                              []ocispec.Descriptor // digests are filled in from the media type and title
}

func layer(mediaType string, annotations ...string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Annotations: map[string]string{}}
	for i := 0; i+1 < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	return d
}

func (r *registry) publish(repository string, p publish) oci.Reference {
	r.t.Helper()
	if p.config == "" {
		p.config = "{}"
	}
	m := ocispec.Manifest{MediaType: p.mediaType, ArtifactType: p.artifactType}
	m.Config = r.blob(repository, p.configType, []byte(p.config))
	for i, l := range p.layers {
		content := fmt.Sprintf("%d %s %v", i, l.MediaType, l.Annotations)
		desc := r.blob(repository, l.MediaType, []byte(content))
		desc.Annotations = l.Annotations
		m.Layers = append(m.Layers, desc)
	}
	return r.manifest(repository, m)
}

func TestFormats(t *testing.T) {
	const (
		cncf   = "application/vnd.cncf.model."
		cnai   = "application/vnd.cnai.model."
		kit    = "application/vnd.kitops.modelkit."
		docker = "application/vnd.docker.ai."
		ollama = "application/vnd.ollama.image."
		path   = "org.cncf.model.filepath"
		title  = "org.opencontainers.image.title"
	)
	nth := func(p publish, i int) string { // the digest that publish gives layer i
		return digest.FromString(fmt.Sprintf("%d %s %v", i, p.layers[i].MediaType, p.layers[i].Annotations)).String()
	}
	newKit := publish{artifactType: kit + "manifest.v1+json", configType: kit + "config.v1+json", layers: []ocispec.Descriptor{
		layer(kit + "model.v1.tar"), layer(kit+"docs.v1.raw", path, "README.md"), layer(kit + "modelpart.v1.tar+gzip"), layer(kit + "dataset.v1.tar"),
	}}
	newKit.config = fmt.Sprintf(`{"manifestVersion":"1.0.0","model":{"name":"m","path":"weights/m.gguf","digest":%q,"diffId":"x","parts":[{"path":"lora","digest":%q}]},
		"docs":[{"path":"README.md","digest":%q}],"datasets":[{"path":"far","remotePath":"s3://bucket"},{"path":"data","digest":%q}],"parameters":{"any":1}}`,
		nth(newKit, 0), nth(newKit, 2), nth(newKit, 1), nth(newKit, 3))
	for name, tc := range map[string]struct {
		p      publish
		format oci.Format
		files  string // "path kind [tar] [compression] [x]", in order
		err    error
	}{
		"modelpack raw": {publish{artifactType: cncf + "manifest.v1+json", configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{
			layer(cncf+"weight.v1.raw", path, "model.gguf"), layer(cncf+"weight.config.v1.raw", path, "config.json"),
			layer(cncf+"doc.v1.raw", path, "./docs/README.md"), layer(cncf+"code.v1.raw", path, "run.sh", "org.cncf.model.file.metadata+json", `{"name":"run.sh","mode":493,"uid":0,"typeflag":48}`),
			layer(cncf+"dataset.v1.raw", path, "eval.jsonl"),
		}}, oci.FormatModelPack, "model.gguf weight, config.json weight.config, docs/README.md doc, run.sh code x, eval.jsonl dataset", nil},
		"modelpack packed": {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{
			layer(cncf + "weight.v1.tar"), layer(cncf + "weight.v1.tar+gzip"), layer(cncf + "doc.v1.tar+zstd"),
		}}, oci.FormatModelPack, ". weight tar, . weight tar gzip, . doc tar zstd", nil},
		"modelpack cnai with old annotations": {publish{configType: cnai + "config.v1+json", layers: []ocispec.Descriptor{
			layer(cnai+"weight.v1.raw", "org.cnai.model.filepath", "a.safetensors", "org.cnai.model.file.metadata", `{"mode":420}`),
		}}, oci.FormatModelPack, "a.safetensors weight", nil},
		"modelpack early":         {publish{artifactType: cnai + "manifest.v1+json", layers: []ocispec.Descriptor{layer(cnai + "layer.v1.tar+gzip")}}, oci.FormatModelPack, ". weight tar gzip", nil},
		"modelpack by docker":     {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf+"weight.v1.gguf", path, "m.gguf")}}, oci.FormatModelPack, "m.gguf weight", nil},
		"modelpack by podman":     {publish{artifactType: cncf + "manifest.v1+json", configType: "application/vnd.oci.empty.v1+json", layers: []ocispec.Descriptor{layer("application/octet-stream", title, "m.gguf")}}, oci.FormatModelPack, "m.gguf weight", nil},
		"modelpack without path":  {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf + "weight.v1.raw")}}, "", "", oci.ErrFormat},
		"modelpack traversal":     {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf+"weight.v1.raw", path, "../../etc/passwd")}}, "", "", oci.ErrPath},
		"modelpack same path":     {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf+"weight.v1.raw", path, "a"), layer(cncf+"doc.v1.raw", path, "./a")}}, "", "", oci.ErrFormat},
		"modelpack unknown layer": {publish{configType: cncf + "config.v1+json", layers: []ocispec.Descriptor{layer(cncf+"weight.v2.raw", path, "a")}}, "", "", oci.ErrFormat},
		"modelpack no layers":     {publish{configType: cncf + "config.v1+json"}, "", "", oci.ErrFormat},
		"kit":                     {newKit, oci.FormatKitOps, ". weight tar, README.md doc, . weight.config tar gzip, . dataset tar", nil},
		"kit before 0.5": {publish{configType: kit + "config.v1+json", config: `{"model":{"path":"./w/m.gguf"},"code":[{"path":"src"},{"path":"."}]}`, layers: []ocispec.Descriptor{
			layer(kit + "code.v1.tar+gzip"), layer(kit + "model.v1.tar+gzip"), layer(kit + "code.v1.tar+gzip"),
		}}, oci.FormatKitOps, ". code tar gzip, w weight tar gzip, . code tar gzip", nil},
		"kit raw compressed": {publish{configType: kit + "config.v1+json", config: `{"model":{"path":"m.gguf"}}`, layers: []ocispec.Descriptor{
			layer(kit+"model.v1.raw+zstd", path, "m.gguf"),
		}}, oci.FormatKitOps, "m.gguf weight zstd", nil},
		"kit of another kit": {publish{configType: kit + "config.v1+json", config: `{"model":{"path":"registry.example/base:v1"}}`, layers: []ocispec.Descriptor{
			layer(kit+"docs.v1.raw", path, "a"),
		}}, "", "", oci.ErrFormat},
		"kit that is no json": {publish{configType: kit + "config.v1+json", config: `kit`, layers: []ocispec.Descriptor{layer(kit + "docs.v1.raw")}}, "", "", oci.ErrFormat},
		"docker ai": {publish{configType: docker + "model.config.v0.1+json", layers: []ocispec.Descriptor{
			layer(docker + "gguf.v3"), layer(docker + "license"), layer(docker + "chat.template.jinja"), layer(docker + "mmproj"), layer(docker + "vllm.config.tar"), layer(docker+"model.file", path, "tokenizer/vocab.json"),
		}}, oci.FormatDockerAI, "model.gguf weight, LICENSE license, template.jinja template, model.mmproj projector, . weight.config tar, tokenizer/vocab.json weight.config", nil},
		"docker ai shards": {publish{configType: docker + "model.config.v0.2+json", layers: []ocispec.Descriptor{
			layer(docker + "safetensors"), layer(docker + "safetensors"), layer(docker+"safetensors", path, "named.safetensors"),
		}}, oci.FormatDockerAI, "model-00001-of-00003.safetensors weight, model-00002-of-00003.safetensors weight, named.safetensors weight", nil},
		"docker ai file without path": {publish{configType: docker + "model.config.v0.1+json", layers: []ocispec.Descriptor{layer(docker + "model.file")}}, "", "", oci.ErrFormat},
		"docker ai unknown layer":     {publish{configType: docker + "model.config.v0.1+json", layers: []ocispec.Descriptor{layer(docker + "new")}}, "", "", oci.ErrFormat},
		"ollama": {publish{mediaType: "application/vnd.docker.distribution.manifest.v2+json", configType: "application/vnd.docker.container.image.v1+json", layers: []ocispec.Descriptor{
			layer(ollama + "model"), layer(ollama + "template"), layer(ollama + "system"), layer(ollama + "params"), layer(ollama + "license"), layer(ollama + "license"), layer(ollama + "projector"),
		}}, oci.FormatOllama, "model.gguf weight, template template, system template, params.json weight.config, license license, license-1 license, mmproj.gguf projector", nil},
		"ollama unknown layer": {publish{configType: "application/vnd.docker.container.image.v1+json", layers: []ocispec.Descriptor{layer(ollama + "model"), layer(ollama + "magic")}}, "", "", oci.ErrFormat},
		"image": {publish{configType: "application/vnd.oci.image.config.v1+json", config: `{"config":{"Labels":{"org.containers.type":"ai.image.model.raw"}}}`, layers: []ocispec.Descriptor{
			layer("application/vnd.oci.image.layer.v1.tar+gzip"), layer("application/vnd.oci.image.layer.v1.tar"), layer("application/vnd.oci.image.layer.v1.tar+zstd"), layer("application/vnd.docker.image.rootfs.diff.tar.gzip"),
		}}, oci.FormatImage, ". image tar gzip, . image tar, . image tar zstd, . image tar gzip", nil},
		"oras": {publish{artifactType: "application/vnd.unknown.artifact.v1", configType: "application/vnd.oci.empty.v1+json", layers: []ocispec.Descriptor{
			layer("application/vnd.oci.image.layer.v1.tar", title, "m.gguf"), layer("application/octet-stream"), layer("text/plain", title, "x", path, "y"),
			layer("application/vnd.oci.image.layer.v1.tar+gzip", title, "dir", "io.deis.oras.content.unpack", "true"),
		}}, oci.FormatORAS, "m.gguf weight, y weight, . weight tar gzip", nil},
		"oras absolute title": {publish{configType: "application/vnd.oci.empty.v1+json", layers: []ocispec.Descriptor{layer("a/b", title, "/etc/shadow")}}, "", "", oci.ErrPath},
		"signature":           {publish{configType: "application/vnd.oci.image.config.v1+json", layers: []ocispec.Descriptor{layer("application/vnd.dev.cosign.simplesigning.v1+json")}}, "", "", oci.ErrFormat},
		"bundle":              {publish{artifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", configType: "application/vnd.oci.empty.v1+json", layers: []ocispec.Descriptor{layer("application/vnd.dev.sigstore.bundle.v0.3+json")}}, "", "", oci.ErrFormat},
		"nothing known":       {publish{configType: "application/x", layers: []ocispec.Descriptor{layer("application/y")}}, "", "", oci.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			ref := r.publish("org/model", tc.p)
			a, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil)
			if !errors.Is(err, tc.err) || tc.err == nil && err != nil {
				t.Fatalf("got error %v, want %v", err, tc.err)
			}
			if err != nil {
				return
			}
			var files []string
			for _, f := range a.Files {
				s := f.Path + " " + f.Kind
				if f.Tar {
					s += " tar"
				}
				if f.Compression != "" {
					s += " " + string(f.Compression)
				}
				if f.Mode&0o111 != 0 {
					s += " x"
				}
				files = append(files, s)
			}
			if got := strings.Join(files, ", "); got != tc.files || a.Format != tc.format {
				t.Errorf("got  %s: %s\nwant %s: %s", a.Format, got, tc.format, tc.files)
			}
		})
	}
}

func TestResolveRefusesWhatIsNoPinnedManifest(t *testing.T) {
	r := newRegistry(t)
	c := newClient(t, oci.Options{}, r)
	child := r.model("m", file{"a", []byte("a")})
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":10}]}`, child.Digest)
	big := int64(1) << 60
	for name, tc := range map[string]struct {
		raw  string
		want error
	}{
		"index":                {index, oci.ErrFormat},
		"index and manifest":   {strings.Replace(index, `"manifests"`, `"layers":[],"manifests"`, 1), oci.ErrFormat},
		"schema 1":             {`{"schemaVersion":1,"fsLayers":[],"name":"x"}`, oci.ErrFormat},
		"not json":             {`hello`, oci.ErrFormat},
		"duplicate keys":       {`{"schemaVersion":2,"schemaVersion":2,"config":{},"layers":[]}`, oci.ErrFormat},
		"negative size":        {fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":-1},"layers":[]}`, child.Digest), oci.ErrFormat},
		"impossible size":      {fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":%d},"layers":[]}`, child.Digest, big), oci.ErrFormat},
		"sha512 layer":         {fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":1},"layers":[{"digest":"sha512:%0128d","size":1}]}`, child.Digest, 0), oci.ErrFormat},
		"no digest":            {`{"schemaVersion":2,"config":{"mediaType":"x","size":1},"layers":[]}`, oci.ErrFormat},
		"one digest two sizes": {fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":1},"layers":[{"digest":%q,"size":2}]}`, child.Digest, child.Digest), oci.ErrFormat},
		"artifact manifest":    {`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","schemaVersion":2,"blobs":[]}`, oci.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			ref := r.raw("m", "application/vnd.oci.image.manifest.v1+json", []byte(tc.raw))
			_, err := c.Resolve(background(t), ref, nil)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// A manifest that is right but for one claim.
func TestManifestClaims(t *testing.T) {
	r := newRegistry(t)
	c := newClient(t, oci.Options{}, r)
	const manifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.cncf.model.manifest.v1+json",
		"config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":%q,"size":2},
		"layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":%q,"size":%d,"annotations":{"org.cncf.model.filepath":"a"}},
		{"mediaType":"application/vnd.cncf.model.doc.v1.raw","digest":%q,"size":5,"annotations":{"org.cncf.model.filepath":"b"}}]}`
	config, layer := digest.FromString("{}"), digest.FromString("layer")
	for name, tc := range map[string]struct {
		size  int64
		layer digest.Digest
		ok    bool
	}{
		"right":               {7, digest.FromString("other"), true},
		"the same blob twice": {5, layer, true},
		"negative size":       {-1, digest.FromString("other"), false},
		"impossible size":     {1 << 60, digest.FromString("other"), false},
		"two sizes":           {6, layer, false},
		"size of the config":  {5, config, false},
	} {
		ref := r.raw("m", "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil, manifest, config, tc.layer, tc.size, layer))
		if _, err := c.Resolve(background(t), ref, nil); tc.ok && err != nil || !tc.ok && !errors.Is(err, oci.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What others read as an index (CVE-2021-41190).
	both := strings.Replace(manifest, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, `"manifests":[],`, 1)
	ref := r.raw("m", "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil, both, config, digest.FromString("other"), 7, layer))
	if _, err := c.Resolve(background(t), ref, nil); !errors.Is(err, oci.ErrFormat) {
		t.Errorf("an index and a manifest at once: %v", err)
	}
}

func TestResolveTakesTheFirstSourceWithTheRightBytes(t *testing.T) {
	files := file{"model.gguf", []byte("weights")}
	bad, empty, good := newRegistry(t), newRegistry(t), newRegistry(t)
	ref := bad.model("org/m", files)
	good.model("mirror/org/m", files)
	bad.setFault(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.Contains(req.URL.Path, "/manifests/") {
			_ = json.NewEncoder(w).Encode(ocispec.Manifest{})
			return
		}
		next.ServeHTTP(w, req)
	})
	c := newClient(t, oci.Options{}, bad, empty, good)
	_, err := c.Resolve(background(t), ref, []string{empty.repository("org/m")})
	var wrong *oci.DigestError
	if !errors.As(err, &wrong) || wrong.Expected != ref.Digest || wrong.Source != bad.repository("org/m") || wrong.Found == "" {
		t.Errorf("wrong content must be named with its source: %v", err)
	}
	a, err := c.Resolve(background(t), ref, []string{empty.repository("org/m"), "oci://" + good.name + "/mirror"})
	if err != nil {
		t.Fatal(err)
	}
	if a.From != good.repository("mirror/org/m") || len(a.Mismatches) != 1 || a.Mismatches[0].Source != bad.repository("org/m") || len(a.Sources) != 3 {
		t.Errorf("from %s, mismatches %v, sources %v", a.From, a.Mismatches, a.Sources)
	}
}

func TestResolveErrorClasses(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(code)
			fmt.Fprint(w, `{"errors":[{"code":"DENIED","message":"no\u001b[31m entry"}]}`)
		}
	}
	for name, tc := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request, http.Handler)
		want  error
	}{
		"404": {status(404), oci.ErrNotFound},
		"401": {status(401), oci.ErrUnauthorized},
		"403": {status(403), oci.ErrUnauthorized},
		"400": {status(400), oci.ErrUnavailable},
		"503": {status(503), oci.ErrUnavailable},
		"too large": {func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			for range 5000 {
				_, _ = w.Write(make([]byte, 1024))
			}
		}, oci.ErrTooLarge},
		"redirect loop": {func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect)
		}, oci.ErrRedirect},
		"redirect to metadata": {func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, "https://169.254.169.254/latest", http.StatusTemporaryRedirect)
		}, oci.ErrRedirect},
		"redirect to plain http": {func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, "http://storage.invalid/x", http.StatusTemporaryRedirect)
		}, oci.ErrRedirect},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			ref := r.model("m", file{"a", []byte("a")})
			r.setFault(tc.fault)
			_, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\x1b") {
				t.Errorf("a terminal escape of the registry reached the message: %q", err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		r := newRegistry(t)
		ref := r.model("m", file{"a", []byte("a")})
		r.server.Close()
		_, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil)
		if !errors.Is(err, oci.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}
