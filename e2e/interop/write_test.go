package interop

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/oci"
)

// What is pushed here is read by the others, byte for byte.
func TestPushed(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		want := model()
		p, err := oci.Pack(t.Context(), want.write(t), oci.PackOptions{Name: "tiny"})
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, r)
		ref, err := c.Push(t.Context(), p, r.name+"/acme/ours")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AttachChunkMaps(t.Context(), ref, p); err != nil {
			t.Fatal(err)
		}
		if err := c.Attach(t.Context(), ref, oci.Evidence{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: []byte("{}"), Annotations: map[string]string{"dev.cosignproject.cosign/signature": "x"}}); err != nil {
			t.Fatal(err)
		}
		readBack(t, r, ref, p, want)

		// Who lists referrers sees ours.
		var found struct {
			Referrers []struct {
				Reference string `json:"reference"`
			} `json:"referrers"`
		}
		text := peer(t, "", "oras", "discover", "--plain-http", "--format", "json", ref.String())
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			t.Fatal(err)
		}
		var types []string
		for _, x := range found.Referrers {
			// go-containerregistry's list says the config's type instead.
			var m struct {
				ArtifactType string `json:"artifactType"`
			}
			if err := json.Unmarshal([]byte(peer(t, "", "oras", "manifest", "fetch", "--plain-http", x.Reference)), &m); err != nil {
				t.Fatal(err)
			}
			types = append(types, m.ArtifactType)
		}
		slices.Sort(types)
		if got := strings.Join(types, " "); got != "application/vnd.dev.cosign.artifact.sig.v1+json application/vnd.rmodels.chunkmap.v1" {
			t.Errorf("oras discovers %s: %s", got, text)
		}
	})
}

// Chunk maps are found on every registry: the next version costs what changed.
func TestDelta(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		c := newClient(t, r)
		var refs []oci.Reference
		for _, change := range []string{"", "changed"} {
			f := model()
			copy(f["model.gguf"][5<<20:], change)
			p, err := oci.Pack(t.Context(), f.write(t), oci.PackOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ref, err := c.Push(t.Context(), p, r.name+"/acme/ours")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.AttachChunkMaps(t.Context(), ref, p); err != nil {
				t.Fatal(err)
			}
			refs = append(refs, ref)
		}
		old, st := pull(t, c, refs[0].String())
		a, err := c.Resolve(t.Context(), refs[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		l, err := st.Lease(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		var bases []digest.Digest
		for _, b := range old.Blobs() {
			bases = append(bases, b.Digest)
		}
		res, err := c.Fetch(t.Context(), st, l, a, oci.FetchOptions{Bases: bases})
		if err != nil {
			t.Fatal(err)
		}
		if res.Bytes > 1<<20 || res.Copied < 8<<20 {
			t.Errorf("%d bytes fetched, %d copied", res.Bytes, res.Copied)
		}
	})
}

// What another repository of the registry has is mounted from there.
func TestMount(t *testing.T) {
	r := distribution(t)
	p, err := oci.Pack(t.Context(), model().write(t), oci.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, r)
	if _, err := c.Push(t.Context(), p, r.name+"/acme/one"); err != nil {
		t.Fatal(err)
	}
	before := len(r.requests())
	ref, err := c.Push(t.Context(), p, r.name+"/acme/two", "acme/none", "acme/one")
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range r.requests()[before:] {
		if q.Method == "PATCH" {
			t.Errorf("a blob was sent again: %+v", q)
		}
	}
	a, st := pull(t, c, ref.String())
	holds(t, a, st, model())
}

// readBack reads an artifact on a registry with each of the other clients.
func readBack(t *testing.T, r registry, ref oci.Reference, p *oci.Packed, want files) {
	t.Helper()
	if got := peer(t, "", "crane", "digest", "--insecure", ref.String()); got != ref.Digest.String() {
		t.Errorf("crane: digest %s", got)
	}
	if got := digest.FromString(peer(t, "", "oras", "manifest", "fetch", "--plain-http", ref.String())); got != ref.Digest {
		t.Errorf("oras: the manifest hashes to %s", got)
	}
	dir := t.TempDir()
	peer(t, "", "crane", "pull", "--insecure", "--format", "oci", ref.String(), dir+"/crane")
	peer(t, "", "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+ref.String(), "oci:"+dir+"/skopeo:v1")
	peer(t, "", "oras", "copy", "--from-plain-http", "--to-oci-layout", ref.String(), dir+"/oras:v1")
	for _, name := range []string{"crane", "skopeo", "oras"} {
		blobs := read(t, filepath.Join(dir, name, "blobs", "sha256"))
		for _, b := range p.Blobs() {
			if got := digest.FromBytes(blobs[b.Digest.Encoded()]); got != b.Digest {
				t.Errorf("%s: blob %s holds %s", name, b.Digest, got)
			}
		}
	}
	// oras writes titles, which pack sets beside ModelPack's paths.
	peer(t, dir, "oras", "pull", "--plain-http", "-o", "files", ref.String())
	got := read(t, filepath.Join(dir, "files"))
	if len(got) != len(want) {
		t.Errorf("oras pull wrote %d files, want %d", len(got), len(want))
	}
	for name, b := range want {
		if string(got[name]) != string(b) {
			t.Errorf("oras pull: %s differs", name)
		}
	}
}

// What the store exports is a layout that the others push elsewhere.
func TestExported(t *testing.T) {
	r := distribution(t)
	want := model()
	p, err := oci.Pack(t.Context(), want.write(t), oci.PackOptions{Name: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, r)
	ref, err := c.Push(t.Context(), p, r.name+"/acme/ours")
	if err != nil {
		t.Fatal(err)
	}
	a, st := pull(t, c, ref.String())
	holds(t, a, st, want)
	stored, err := oci.Stored(st, ref.Digest)
	if err != nil {
		t.Fatal(err)
	}
	// One artifact by itself: crane pushes a layout of one image.
	dir := t.TempDir()
	if _, err := oci.Export(t.Context(), dir, "v1", stored, nil); err != nil {
		t.Fatal(err)
	}
	other := distribution(t)
	at := func(repository string) oci.Reference {
		return oci.Reference{Registry: other.name, Repository: repository, Digest: ref.Digest}
	}
	peer(t, "", "crane", "push", "--insecure", dir, other.name+"/by/crane:v1")
	peer(t, "", "oras", "copy", "--from-oci-layout", "--to-plain-http", dir+"@"+ref.Digest.String(), other.name+"/by/oras:v1")
	peer(t, "", "skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:"+dir+":v1", "docker://"+other.name+"/by/skopeo:v1")
	for _, by := range []string{"crane", "oras", "skopeo"} {
		t.Run(by, func(t *testing.T) {
			a, st := pull(t, newClient(t, other), at("by/"+by).String())
			holds(t, a, st, want)
			readBack(t, other, at("by/"+by), p, want)
		})
	}
	// Beside other artifacts and with a signature.
	second, err := oci.Pack(t.Context(), files{"a.gguf": noise(3, 1000)}.write(t), oci.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ev := []oci.Evidence{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Payload: []byte("{}"), Annotations: map[string]string{"dev.cosignproject.cosign/signature": "x"}}}
	if _, err := oci.Export(t.Context(), dir, "v2", second, ev); err != nil {
		t.Fatal(err)
	}
	peer(t, "", "oras", "copy", "-r", "--from-oci-layout", "--to-plain-http", dir+":v2", other.name+"/by/oras:v2")
	peer(t, "", "skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:"+dir+":v1", "docker://"+other.name+"/by/skopeo:again")
	peer(t, "", "crane", "push", "--insecure", "--index", dir, other.name+"/by/crane:all")
	found, err := newClient(t, other).Evidence(t.Context(), oci.Reference{Registry: other.name, Repository: "by/oras", Digest: second.Digest}, nil)
	if err != nil || len(found) != 1 {
		t.Errorf("the signature that oras copied along: %v, %v", found, err)
	}
}
