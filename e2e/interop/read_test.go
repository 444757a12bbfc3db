package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

// closedRanges fails when a range without an end was asked for, which some
// registries refuse, or when no range was.
func closedRanges(t *testing.T, r registry) {
	t.Helper()
	ranges := 0
	for _, q := range r.requests() {
		if q.Range == "" {
			continue
		}
		ranges++
		if strings.HasSuffix(q.Range, "-") || strings.Contains(q.Range, ",") || q.Status >= 400 {
			t.Errorf("asked for %s of a %s, answered with %d", q.Range, q.Kind, q.Status)
		}
	}
	if ranges == 0 {
		t.Error("no range was asked for")
	}
}

// What oras pushes by default: titles, raw bytes under a tar media type, and
// a directory as tar and gzip.
func TestPlainORAS(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		want := model()
		dir := want.write(t)
		to := r.name + "/acme/plain"
		d := peer(t, dir, "oras", "push", "--plain-http", "--format", "go-template={{.digest}}", to+":v1", "model.gguf", "tokenizer", "LICENSE:text/plain")
		a, st := pull(t, newClient(t, r), to+"@"+d)
		if a.Format != oci.FormatORAS {
			t.Errorf("read as %s", a.Format)
		}
		holds(t, a, st, want)
		closedRanges(t, r)
	})
}

// A ModelPack artifact by oras, with the layers' annotations in a file.
func TestModelPackByORAS(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		want := model()
		dir := want.write(t)
		annotations := map[string]map[string]string{}
		args := []string{"push", "--plain-http", "--format", "go-template={{.digest}}", "--artifact-type", "application/vnd.cncf.model.manifest.v1+json", "--annotation-file", "annotations.json"}
		kinds := map[string]string{"model.gguf": "weight", "LICENSE": "doc"}
		var layers []string
		for name := range want {
			annotations[name] = map[string]string{"org.cncf.model.filepath": name}
			kind := kinds[name]
			if kind == "" {
				kind = "weight.config"
			}
			layers = append(layers, name+":application/vnd.cncf.model."+kind+".v1.raw")
		}
		b, err := json.Marshal(annotations)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "annotations.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		to := r.name + "/acme/pack"
		d := peer(t, dir, "oras", append(append(args, to+":v1"), layers...)...)
		a, st := pull(t, newClient(t, r), to+"@"+d)
		if a.Format != oci.FormatModelPack {
			t.Errorf("read as %s", a.Format)
		}
		holds(t, a, st, want)
	})
}

// A model in a container image, as crane builds one.
func TestModelCarByCrane(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		first, second := files{"model.gguf": noise(1, 9<<20), "old.txt": []byte("old")}, files{"old.txt": []byte("new"), "a/b.json": []byte("{}")}
		to := r.name + "/acme/car"
		for i, f := range []files{first, second} {
			args := []string{"append", "--insecure", "-t", to + ":v1", "-f", f.archive(t, "models/")}
			if i > 0 {
				args = append(args, "-b", to+":v1")
			}
			peer(t, "", "crane", args...)
		}
		peer(t, "", "crane", "mutate", "--insecure", "--label", "org.containers.type=ai.image.model.car", "-t", to+":v2", to+":v1")
		a, st := pull(t, newClient(t, r), to+"@"+peer(t, "", "crane", "digest", "--insecure", to+":v2"))
		if a.Format != oci.FormatImage {
			t.Errorf("read as %s", a.Format)
		}
		holds(t, a, st, files{"model.gguf": first["model.gguf"], "old.txt": []byte("new"), "a/b.json": []byte("{}")})
	})
}

// Layouts that others wrote are sources, as directories and as tar files.
func TestLayoutsOfOthers(t *testing.T) {
	r := distribution(t)
	want := model()
	to := r.name + "/acme/plain"
	d := peer(t, want.write(t), "oras", "push", "--plain-http", "--format", "go-template={{.digest}}", to+":v1", "model.gguf", "tokenizer", "LICENSE:text/plain")
	dir := t.TempDir()
	peer(t, "", "oras", "copy", "--from-plain-http", "--to-oci-layout", to+":v1", dir+"/oras:v1")
	peer(t, "", "crane", "pull", "--insecure", "--format", "oci", to+":v1", dir+"/crane")
	peer(t, "", "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+to+":v1", "oci:"+dir+"/skopeo:v1")
	peer(t, "", "skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+to+":v1", "oci-archive:"+dir+"/skopeo.tar:v1")
	for _, name := range []string{"oras", "crane", "skopeo", "skopeo.tar"} {
		t.Run(name, func(t *testing.T) {
			// Nobody listens there: all comes from the layout.
			a, st := pull(t, newClient(t), "127.0.0.1:1/acme/plain@"+d, "oci-layout://"+filepath.Join(dir, name))
			holds(t, a, st, want)
		})
	}
}

// Signatures that oras attached are found with and without the referrers API.
func TestEvidenceByORAS(t *testing.T) {
	everywhere(t, func(t *testing.T, r registry) {
		dir := files{"m.gguf": noise(1, 1000), "bundle.json": []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`)}.write(t)
		to := r.name + "/acme/signed"
		d := peer(t, dir, "oras", "push", "--plain-http", "--format", "go-template={{.digest}}", to+":v1", "m.gguf")
		const bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
		peer(t, dir, "oras", "attach", "--plain-http", "--artifact-type", bundle, to+"@"+d, "bundle.json:"+bundle)
		ref, err := oci.ParseReference(to + "@" + d)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := newClient(t, r).Evidence(t.Context(), ref, nil)
		if err != nil || len(ev) != 1 || ev[0].MediaType != bundle || !strings.HasPrefix(string(ev[0].Payload), `{"mediaType"`) {
			t.Errorf("found %v, %v", ev, err)
		}
	})
}

// A pull-through cache as a mirror: the first pull fills it, the second must
// do without its upstream.
func TestPullThroughCache(t *testing.T) {
	origin := distribution(t)
	cache := distribution(t, "-upstream", "http://"+origin.name)
	want := model()
	d := peer(t, want.write(t), "oras", "push", "--plain-http", "--format", "go-template={{.digest}}", origin.name+"/acme/plain:v1", "model.gguf", "tokenizer", "LICENSE:text/plain")
	for _, pass := range []string{"cold", "warm"} {
		t.Run(pass, func(t *testing.T) {
			before := len(origin.requests())
			a, st := pull(t, newClient(t, cache), "127.0.0.1:1/acme/plain@"+d, cache.name+"/acme/plain")
			holds(t, a, st, want)
			if a.From != cache.name+"/acme/plain" {
				t.Errorf("from %s", a.From)
			}
			for _, q := range origin.requests()[before:] {
				if pass == "warm" && q.Method == "GET" && q.Kind == "blob" {
					t.Errorf("the origin was asked for a blob again (%s)", q.Range)
				}
			}
		})
	}
}
