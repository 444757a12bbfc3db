package oci_test

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

// Whatever a registry sends as manifest and config: a plan of safe paths, or
// an error with a class.
func FuzzPlan(f *testing.F) {
	layer := func(mediaType, annotations string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3,"annotations":{%s}}`, mediaType, someDigest, annotations)
	}
	manifest := func(artifactType, configType string, layers ...string) []byte {
		return []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":%q,"config":{"mediaType":%q,"digest":%q,"size":0},"layers":[%s]}`,
			artifactType, configType, strings.Replace(someDigest, "e3b0", "e3b1", 1), strings.Join(layers, ",")))
	}
	f.Add(manifest("application/vnd.cncf.model.manifest.v1+json", "application/vnd.cncf.model.config.v1+json",
		layer("application/vnd.cncf.model.weight.v1.raw", `"org.cncf.model.filepath":"a/b","org.cncf.model.file.metadata+json":"{\"mode\":493}"`)), []byte("{}"))
	f.Add(manifest("", "application/vnd.cnai.model.config.v1+json", layer("application/vnd.cnai.model.weight.v1.tar+zstd", `"org.cnai.model.filepath":"../x"`)), []byte("{}"))
	f.Add(manifest("", "application/vnd.kitops.modelkit.config.v1+json", layer("application/vnd.kitops.modelkit.model.v1.tar", "")), []byte(`{"model":{"path":"../../x","parts":[{"path":"p","digest":"sha256:1"}]},"code":[{}],"datasets":[{"remotePath":"s3://x"}]}`))
	f.Add(manifest("", "application/vnd.docker.ai.model.config.v0.1+json", layer("application/vnd.docker.ai.gguf.v3", ""), layer("application/vnd.docker.ai.gguf.v3", "")), []byte("{}"))
	f.Add(manifest("", "application/vnd.docker.container.image.v1+json", layer("application/vnd.ollama.image.tensor", `"name":"a/../../b"`)), []byte("{}"))
	f.Add(manifest("", "application/vnd.oci.image.config.v1+json", layer("application/vnd.oci.image.layer.v1.tar+gzip", "")), []byte(`{"config":{"Labels":{"org.containers.type":"ai.image.model.raw"}}}`))
	f.Add(manifest("x", "application/vnd.oci.empty.v1+json", layer("a/b", `"org.opencontainers.image.title":"C:\\x"`)), []byte("{}"))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`), []byte("null"))
	f.Fuzz(func(t *testing.T, m, config []byte) {
		files, err := oci.Plan(m, config)
		if err != nil {
			if !oci.HasClass(err) {
				t.Fatalf("an error without a class: %v", err)
			}
			return
		}
		for _, file := range files {
			if file.Path != "." && oci.CheckPath(file.Path) != nil || file.Path == "." && !file.Tar || file.Desc.Size < 0 || file.Mode&^0o777 != 0 {
				t.Fatalf("planned %+v", file)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"` + someDigest + `","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`{"manifests":[null],"layers":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := oci.PlatformChild(b); err != nil && !oci.HasClass(err) {
			t.Fatalf("an error without a class: %v", err)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-99/100", "bytes 5-9/*", "bytes */100", "bytes -1-2/3", "bytes 9-5/10", "bytes 0-99999999999999999999/1", "items 0-1/2", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, size, err := oci.ContentRange(s)
		if err == nil && (first < 0 || last < first || size >= 0 && last >= size || size < -1 || last-first+1 <= 0) {
			t.Fatalf("%q reads as %d-%d/%d", s, first, last, size)
		}
	})
}

func TestContentRange(t *testing.T) {
	for s, ok := range map[string]bool{
		"bytes 0-99/100": true, "bytes 5-9/*": true, "bytes 0-0/1": true,
		"": false, "bytes */100": false, "bytes 0-100/100": false, "bytes +0-9/100": false, "bytes 0--9/100": false, "bytes 9-5/100": false,
		"bytes 0-9": false, "bytes 0-9/": false, "Bytes 0-9/10": false, "bytes  0-9/10": false, "bytes 0-9/10 ": false, "bytes 0-9,20-29/100": false,
		"bytes 0-9223372036854775807/9223372036854775807": false,
	} {
		if _, _, _, err := oci.ContentRange(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzTar(f *testing.F) {
	some := makeTar(f, entry{name: "a/b", body: []byte("hello")}, entry{name: "../x"}, entry{name: "l", kind: tar.TypeSymlink, link: "/etc"})
	f.Add(some, byte(0))
	f.Add(gzipped(f, some), byte(1))
	f.Add(zstded(f, some), byte(2))
	f.Add(wideZstd(some), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, how byte) {
		limits := oci.Limits{Files: 50, FileBytes: 1 << 20, TotalBytes: 4 << 20, ExpandRatio: 20}
		total, paths, err := oci.Unfold(b, []oci.Compression{oci.Plain, oci.Gzip, oci.Zstd}[how%3], limits)
		if err != nil && !oci.HasClass(err) {
			t.Fatalf("an error without a class: %v", err)
		}
		if total > limits.TotalBytes {
			t.Fatalf("unfolded %d bytes", total)
		}
		for _, p := range paths {
			if oci.CheckPath(p) != nil {
				t.Fatalf("path %q was handed out", p)
			}
		}
	})
}

func FuzzHostsFile(f *testing.F) {
	f.Add([]byte("server = \"https://x\"\n[host.\"https://m.example:5000/v2/p\"]\ncapabilities=[\"pull\"]\nca=[\"a\"]\nclient=[[\"a\",\"b\"]]\n"))
	f.Add([]byte("[host.'http://[::1]']\nskip_verify=true"))
	f.Fuzz(func(t *testing.T, b []byte) { _ = oci.HostsFile(b) })
}

func FuzzBundle(f *testing.F) {
	f.Add(someBundle(f, "x"))
	f.Add([]byte(`{"messageSignature":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) { _ = oci.BundleContent(b) })
}
