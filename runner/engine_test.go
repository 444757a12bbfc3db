package runner_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

const howToSetUp = `this test needs a container engine: start containerd (root, own --root and --state, CRI plugin disabled) and set
RMODELS_TEST_CONTAINERD to its address and RMODELS_TEST_NERDCTL to the path of nerdctl; "make test" does both`

// testNamespace is containerd's namespace of these tests.
const testNamespace = "rmodels-runner-test"

var dataRoot = sync.OnceValue(func() string {
	if dir := os.Getenv(victim + "_DATA"); dir != "" { // the parent's, which removes it
		return dir
	}
	dir, err := os.MkdirTemp("", "rmodels-nerdctl-")
	if err != nil {
		panic(err)
	}
	return dir
})

// stateDir is shared by the tests that do not look at it, so that they share
// the proofs in it.
var stateDir = sync.OnceValue(func() string {
	if dir := os.Getenv(victim); dir != "" {
		return dir
	}
	dir, err := os.MkdirTemp("", "rmodels-state-")
	if err != nil {
		panic(err)
	}
	return dir
})

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(stateDir())
	os.RemoveAll(dataRoot())
	os.RemoveAll(fixtures())
	os.Exit(code)
}

func engineOptions(t testing.TB) runner.EngineOptions {
	t.Helper()
	nerdctl, address := os.Getenv("RMODELS_TEST_NERDCTL"), os.Getenv("RMODELS_TEST_CONTAINERD")
	if nerdctl == "" || address == "" {
		t.Fatal(howToSetUp)
	}
	return runner.EngineOptions{Name: "nerdctl", Path: nerdctl, Probe: buildStatic(t, "./probe/rmodels-probe"), Args: []string{
		"--address", address, "--namespace", testNamespace, "--data-root", dataRoot(),
	}}
}

func testEngine(t testing.TB) *runner.Engine {
	t.Helper()
	e, err := runner.FindEngine(t.Context(), engineOptions(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, howToSetUp)
	}
	return e
}

// engineCLI calls nerdctl as a test's own eyes.
func engineCLI(t testing.TB, args ...string) string {
	t.Helper()
	o := engineOptions(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, o.Path, append(o.Args, args...)...).Output()
	if err != nil {
		t.Fatalf("nerdctl %v: %v", args, err)
	}
	return string(out)
}

var fixtures = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "rmodels-fixture-")
	if err != nil {
		panic(err)
	}
	return dir
})

// buildStatic compiles a main package without cgo and returns its path.
var builds sync.Map

func buildStatic(t testing.TB, pkg string) string {
	t.Helper()
	if dir := os.Getenv(victim + "_FIXTURES"); dir != "" { // built by the parent
		return filepath.Join(dir, filepath.Base(pkg))
	}
	build, _ := builds.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		path := filepath.Join(fixtures(), filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
		return path, nil
	}))
	path, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

type file struct {
	name string
	mode int64
	body []byte
	link string
}

// packImage makes a one-layer image as an OCI layout in a tar, FROM scratch.
func packImage(t testing.TB, name string, config ocispec.ImageConfig, files ...file) runner.Image {
	t.Helper()
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		tw.Write(f.body)
	}
	tw.Close()
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	desc := func(mediaType string, b []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	created := time.Unix(0, 0).UTC()
	configBytes := encode(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: config,
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}},
		History: []ocispec.History{{Created: &created, CreatedBy: "test"}},
	})
	manifest := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    desc(ocispec.MediaTypeImageConfig, configBytes),
		Layers:    []ocispec.Descriptor{desc(ocispec.MediaTypeImageLayer, layer.Bytes())},
	}
	manifest.SchemaVersion = 2
	manifestBytes := encode(manifest)
	top := desc(ocispec.MediaTypeImageManifest, manifestBytes)
	local := "rmodels.invalid/" + name + ":sha256-" + top.Digest.Encoded()
	top.Annotations = map[string]string{"io.containerd.image.name": local, ocispec.AnnotationRefName: local}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}}
	index.SchemaVersion = 2
	return runner.Image{
		Reference: "fixture.local/" + name + "@" + top.Digest.String(), Manifest: top.Digest, Config: manifest.Config.Digest, Name: local,
		Archive: func(w io.Writer) error {
			tw := tar.NewWriter(w)
			for _, f := range []struct {
				name string
				mode int64
				body []byte
			}{
				{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)},
				{"index.json", 0o644, encode(index)},
				{"manifest.json", 0o644, encode([]map[string]any{{ // docker reads this, the others the layout
					"Config":   "blobs/sha256/" + manifest.Config.Digest.Encoded(),
					"RepoTags": []string{local},
					"Layers":   []string{"blobs/sha256/" + manifest.Layers[0].Digest.Encoded()},
				}})},
				{"blobs/sha256/" + top.Digest.Encoded(), 0o644, manifestBytes},
				{"blobs/sha256/" + manifest.Config.Digest.Encoded(), 0o644, configBytes},
				{"blobs/sha256/" + manifest.Layers[0].Digest.Encoded(), 0o644, layer.Bytes()},
			} {
				if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Typeflag: tar.TypeReg}); err != nil {
					return err
				}
				if _, err := tw.Write(f.body); err != nil {
					return err
				}
			}
			return tw.Close()
		},
	}
}

// fixtureImage is the test engine's image.
func fixtureImage(t testing.TB) runner.Image {
	t.Helper()
	plain := fixtureFile(t)
	setuid := plain
	setuid.name, setuid.mode = "setuid-fixture", 0o4755
	return packImage(t, "engine", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}}, plain, setuid)
}

func fixtureFile(t testing.TB) file {
	t.Helper()
	b, err := os.ReadFile(buildStatic(t, "./testdata/fixture"))
	if err != nil {
		t.Fatal(err)
	}
	return file{name: "fixture", mode: 0o755, body: b}
}

// fixtureJob is a run of the test engine in the given part.
func fixtureJob(t testing.TB, part ...string) runner.Job {
	t.Helper()
	model := t.TempDir()
	if err := os.Chmod(model, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(model, "weights.bin"), []byte("weights"), 0o444); err != nil {
		t.Fatal(err)
	}
	return runner.Job{
		Name: "tiny", Version: "1.0.0", Manifest: digest.FromString("tiny"), ModelDir: model,
		Runtime: snapshot.Runtime{
			Name: "fixture", Version: "1.0.0", Protocol: "openai-chat", Port: 8080, GPU: "none",
			Args: part, Memory: 256 << 20, Pids: 64, StartTimeout: snapshot.Duration(10 * time.Second),
		},
		Image: fixtureImage(t),
		Validation: snapshot.Validation{
			Request: jsontext.Value(`{"messages":[{"role":"user","content":"ping"}],"max_tokens":16}`),
			Expect:  snapshot.Expect{Exact: "the right words"},
			Timeout: snapshot.Duration(5 * time.Second),
		},
		StateDir: stateDir(),
	}
}

// contextWithTrigger ends soon after reached is closed.
func contextWithTrigger(t testing.TB, reached <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		select {
		case <-reached:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func TestFindEngine(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) string {
		path := filepath.Join(dir, name)
		if err := writeProgram(path, "#!/bin/sh\n"+body); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script("nerdctl", "echo 'cannot access containerd socket' >&2; exit 1")
	docker := script("docker", `echo 'noise' >&2; echo '{"Client":{"Version":"20.10.24"},"Server":{"Version":"20.10.24","Components":[{"Name":"containerd","Version":"1.6.20"}]}}'`)
	script("podman", "head -c 3000000 /dev/zero")
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	e, err := runner.FindEngine(t.Context(), runner.EngineOptions{})
	if err != nil || e.Name() != "docker" || e.Version() != "client 20.10.24, containerd 1.6.20" {
		t.Errorf("first engine that answers: %+v, %v", e, err)
	}
	if e, err := runner.FindEngine(t.Context(), runner.EngineOptions{Path: docker}); err != nil || e.Name() != "docker" {
		t.Errorf("by path: %v", err)
	}
	for name, c := range map[string]struct {
		o      runner.EngineOptions
		needle string
	}{
		"says what it said": {runner.EngineOptions{Name: "nerdctl"}, "cannot access containerd socket"},
		"too much output":   {runner.EngineOptions{Name: "podman"}, "more than"},
		"unknown":           {runner.EngineOptions{Name: "rkt"}, "nerdctl, docker, podman"},
		"nameless path":     {runner.EngineOptions{Path: "/opt/thing"}, "name it"},
		"missing path":      {runner.EngineOptions{Name: "docker", Path: "/nonexistent/docker"}, "install containerd and nerdctl"},
	} {
		if _, err := runner.FindEngine(t.Context(), c.o); !errors.Is(err, runner.ErrNoEngine) || !strings.Contains(err.Error(), c.needle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("PATH", "/nonexistent")
	if _, err := runner.FindEngine(t.Context(), runner.EngineOptions{}); !errors.Is(err, runner.ErrNoEngine) || !strings.Contains(err.Error(), "not on PATH") {
		t.Errorf("nothing installed: %v", err)
	}
}

// writeProgram writes a script while nothing forks: a child would keep it open
// for writing until its own exec, and it could not be started (ETXTBSY).
func writeProgram(path, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, []byte(text), 0o755)
}
