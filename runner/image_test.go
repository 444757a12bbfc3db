package runner_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// TestHostileImages runs or refuses images that ask for what they must not have.
func TestHostileImages(t *testing.T) {
	e := testEngine(t)
	for name, c := range map[string]struct {
		config ocispec.ImageConfig
		refuse error // nil: contained
		needle string
	}{
		"LD_PRELOAD":          {ocispec.ImageConfig{Env: []string{"LD_PRELOAD=/evil.so"}}, runner.ErrImage, "LD_PRELOAD"},
		"LD_PRELOAD hidden":   {ocispec.ImageConfig{Env: []string{"LD_PRELOAD=/evil.so", "LD_PRELOAD="}}, runner.ErrImage, "LD_PRELOAD"},
		"LD_AUDIT":            {ocispec.ImageConfig{Env: []string{"LD_AUDIT=/evil.so"}}, runner.ErrImage, "LD_AUDIT"},
		"volume over proc":    {ocispec.ImageConfig{Volumes: map[string]struct{}{"/proc": {}}}, runner.ErrImage, "VOLUME"},
		"volume over model":   {ocispec.ImageConfig{Volumes: map[string]struct{}{"/models": {}}}, runner.ErrImage, "VOLUME"},
		"volume with a comma": {ocispec.ImageConfig{Volumes: map[string]struct{}{"/a,b": {}}}, runner.ErrImage, "VOLUME"},
		"volumes": {ocispec.ImageConfig{
			Volumes: map[string]struct{}{"/data": {}, "/var/lib/x": {}},
			User:    "0", WorkingDir: "/", Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all", "LD_LIBRARY_PATH=/usr/local/cuda/lib64"},
		}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, "serve", "the right words")
			c.config.Entrypoint = []string{"/fixture"}
			j.Image = packImage(t, "hostile", c.config, fixtureFile(t))
			if c.refuse != nil {
				_, err := e.Validate(t.Context(), j)
				if !errors.Is(err, c.refuse) || !strings.Contains(err.Error(), c.needle) {
					t.Errorf("got %v, want %v with %q", err, c.refuse, c.needle)
				}
				nothingLeft(t, j)
				return
			}
			v := validate(t, e, j)
			if !v.Passed {
				t.Errorf("refused: %s: %s", v.Reason, v.Found)
			}
			flags := strings.Join(v.Flags, " ")
			for _, want := range []string{"--env NVIDIA_DRIVER_CAPABILITIES= ", "--env NVIDIA_VISIBLE_DEVICES=void", "--tmpfs /data:rw,nosuid,nodev,noexec"} {
				if !strings.Contains(flags, want) {
					t.Errorf("flags lack %q: %s", want, flags)
				}
			}
			if out := strings.TrimSpace(engineCLI(t, "volume", "ls", "-q")); out != "" {
				t.Errorf("volumes left: %s", out)
			}
		})
	}
}

func TestImageErrors(t *testing.T) {
	e := testEngine(t)
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct {
		archive func(runner.Image) func(io.Writer) error
		want    []error
	}{
		"absent without archive": {func(runner.Image) func(io.Writer) error { return nil }, []error{runner.ErrImage}},
		"archive fails":          {func(runner.Image) func(io.Writer) error { return func(io.Writer) error { return broken } }, []error{runner.ErrImage, broken}},
		"archive of garbage": {func(runner.Image) func(io.Writer) error {
			return func(w io.Writer) error { _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); return err }
		}, []error{runner.ErrEngine}},
		"archive of another image": {func(runner.Image) func(io.Writer) error { return fixtureImage(t).Archive }, []error{runner.ErrImage}},
	} {
		t.Run(name, func(t *testing.T) {
			j := fixtureJob(t, "serve", "x")
			j.Image = packImage(t, "absent", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"for": name}}, fixtureFile(t))
			j.Image.Archive = c.archive(j.Image)
			_, err := e.Validate(t.Context(), j)
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("got %v, want %v", err, want)
				}
			}
			t.Log(err)
			nothingLeft(t, j)
		})
	}
}

// TestEngineShapedLikeVLLM runs what real engines need room for: a CUDA-like
// environment, a home, a library written and executed in scratch, hundreds of
// threads, shared memory.
func TestEngineShapedLikeVLLM(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "vllm")
	j.Image = packImage(t, "vllm", ocispec.ImageConfig{
		Entrypoint: []string{"/fixture"},
		Env:        []string{"LD_LIBRARY_PATH=/usr/local/cuda/lib64", "CUDA_VERSION=12.8", "NVIDIA_REQUIRE_CUDA=cuda>=12.8", "NVIDIA_VISIBLE_DEVICES=all"},
	}, fixtureFile(t), file{name: "etc/", mode: 0o755}, file{name: "etc/passwd", mode: 0o644, body: []byte("root:x:0:0::/root:/sbin/nologin\nengine:x:65532:65532::/home/engine:/sbin/nologin\n")},
		file{name: "home/", mode: 0o755}, file{name: "home/engine/", mode: 0o755}, file{name: "cache/", mode: 0o755})
	j.Runtime.Home = "/home/engine"
	j.Runtime.Scratch = []snapshot.Scratch{{Path: "/home/engine", Size: 16 << 20}, {Path: "/cache", Size: 32 << 20, Exec: true}}
	j.Runtime.Shm, j.Runtime.Pids = 128<<20, 600
	j.Runtime.Env = map[string]string{"MODEL": "{{.ModelName}}", "HF_HUB_OFFLINE": "1"}
	j.Validation.Request = jsontext.Value(`{"messages":[]}`)
	if v := validate(t, e, j); !v.Passed {
		t.Errorf("refused: %s: %s", v.Reason, v.Found)
	}
	// The same engine where scratch is not executable tells what it lacks.
	j.Runtime.Scratch[1].Exec = false
	if v := validate(t, e, j); v.Cause != runner.CauseExit || !strings.Contains(v.Found, "scratch") {
		t.Errorf("noexec scratch: %s, %s", v.Cause, v.Found)
	}
}

func TestSlowImageLoadIsCancelled(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "x")
	j.Image = packImage(t, "slow", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"slow": "yes"}}, fixtureFile(t))
	whole := j.Image.Archive
	reached := make(chan struct{})
	ctx, cancel := contextWithTrigger(t, reached)
	defer cancel()
	j.Image.Archive = func(w io.Writer) error {
		close(reached)
		if _, err := io.WriteString(w, "\x00"); err != nil {
			return err
		}
		<-ctx.Done()
		return whole(w)
	}
	began := time.Now()
	if _, err := e.Validate(ctx, j); err == nil {
		t.Error("a run that was cancelled while its image loaded went on")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}
