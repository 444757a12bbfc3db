package runner_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/runner"
)

func imageNames(t *testing.T) []string {
	t.Helper()
	return strings.Fields(engineCLI(t, "images", "--format", "{{.Repository}}:{{.Tag}}"))
}

// TestLoadedImagesAreRemoved: what a run loaded goes once nobody keeps it and
// no container uses it; what came otherwise stays.
func TestLoadedImagesAreRemoved(t *testing.T) {
	e := testEngine(t)
	image := func(label string) runner.Image {
		return packImage(t, "loaded", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"for": label}}, fixtureFile(t))
	}
	j := fixtureJob(t, "serve", "the right words")
	j.StateDir = filepath.Join(t.TempDir(), "runs")
	old, kept, foreign := image("old"), image("kept"), image("foreign")
	for _, img := range []runner.Image{old, kept} {
		j.Image = img
		if v := validate(t, e, j); !v.Passed {
			t.Fatal(v.Reason, v.Found)
		}
	}
	// Put there by somebody else, under a name of theirs as well.
	o := engineOptions(t)
	load := exec.Command(o.Path, append(o.Args, "load")...)
	in, err := load.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(foreign.Archive(in), in.Close(), load.Wait()); err != nil {
		t.Fatal(err)
	}
	const theirs = "fixture.local/theirs:1"
	t.Cleanup(func() { engineCLI(t, "rmi", theirs) })
	engineCLI(t, "tag", foreign.Name, theirs)
	engineCLI(t, "rmi", foreign.Name)
	foreign.Archive = nil
	j.Image = foreign // used as it is
	if v := validate(t, e, j); !v.Passed {
		t.Fatal(v.Reason, v.Found)
	}

	remove := func(want error, gone ...string) {
		t.Helper()
		removed, err := e.RemoveImages(t.Context(), j.StateDir, "", []digest.Digest{kept.Manifest})
		if !errors.Is(err, want) || !slices.Equal(removed, gone) {
			t.Errorf("removed %v, %v; want %v, %v", removed, err, gone, want)
		}
	}
	j.Image = old
	if _, err := e.Keep(t.Context(), j, time.Minute, func(k runner.Kept) {
		remove(runner.ErrBusy)
		engineCLI(t, "rm", "-f", k.Container)
	}); err != nil {
		t.Error(err)
	}
	engineCLI(t, "run", "--detach", "--name", "somebody", "--network", "none", old.Name, "mute")
	remove(runner.ErrEngine)
	engineCLI(t, "rm", "-f", "somebody")
	remove(nil, old.Name)
	remove(nil) // its note went with it
	names := imageNames(t)
	for _, img := range []struct {
		name string
		want bool
	}{{old.Name, false}, {kept.Name, true}, {theirs, true}} {
		if slices.Contains(names, img.name) != img.want {
			t.Errorf("%s there: %v; all: %v", img.name, !img.want, names)
		}
	}
	// With two names it is still one image, and loses ours alone.
	engineCLI(t, "tag", kept.Name, "fixture.local/kept:1")
	t.Cleanup(func() { engineCLI(t, "rmi", "fixture.local/kept:1") })
	j.Image = kept
	if v := validate(t, e, j); !v.Passed {
		t.Error(v.Reason, v.Found)
	}
	// A lost note is written again.
	notes, err := filepath.Glob(filepath.Join(j.StateDir, "image-*"))
	if err != nil || len(notes) != 1 {
		t.Fatalf("%v, %v", notes, err)
	}
	if err := os.Remove(notes[0]); err != nil {
		t.Fatal(err)
	}
	validate(t, e, j)
	if ds, err := runner.LoadedImages(j.StateDir); err != nil || !slices.Equal(ds, []digest.Digest{kept.Manifest}) {
		t.Errorf("noted: %v, %v", ds, err)
	}
	j.Image = old // comes back when it is needed again
	if v := validate(t, e, j); !v.Passed {
		t.Error(v.Reason, v.Found)
	}
	// Removed by hand meanwhile: only the note goes.
	engineCLI(t, "rmi", old.Name)
	remove(nil, old.Name)
	if removed, err := e.RemoveImages(t.Context(), j.StateDir, "", nil); err != nil || !slices.Equal(removed, []string{kept.Name}) {
		t.Errorf("removed %v, %v", removed, err)
	}
	if names := imageNames(t); slices.Contains(names, kept.Name) || !slices.Contains(names, "fixture.local/kept:1") {
		t.Errorf("names left: %v", names)
	}
}

// TestImageNotesAreNotTrusted: a note can name nothing but what runs load.
func TestImageNotesAreNotTrusted(t *testing.T) {
	e := testEngine(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "image-nerdctl-x.json")
	for name, text := range map[string]string{
		"another's image": `{"engine":"nerdctl","instance":"` + digest.FromString("x").String() + `","name":"registry.example/app:1","manifest":"` + digest.FromString("x").String() + `"}`,
		"a flag":          `{"engine":"nerdctl","instance":"` + digest.FromString("x").String() + `","name":"--force","manifest":"` + digest.FromString("x").String() + `"}`,
		"no digest":       `{"engine":"nerdctl","instance":"` + digest.FromString("x").String() + `","name":"rmodels.invalid/x:1","manifest":"x"}`,
		"unknown member":  `{"engine":"nerdctl","all":true}`,
		"torn":            `{"engine":"nerd`,
		"too long":        `{"engine":"` + strings.Repeat("x", 8<<10) + `"}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if removed, err := e.RemoveImages(t.Context(), dir, "", nil); !errors.Is(err, runner.ErrStateDir) || removed != nil {
			t.Errorf("%s: removed %v, %v", name, removed, err)
		}
	}
}

func TestImageNameIsOurs(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	j.Image = packImage(t, "named", ocispec.ImageConfig{Entrypoint: []string{"/fixture"}, Labels: map[string]string{"for": "name"}}, fixtureFile(t))
	j.Image.Name = "registry.example/app:1"
	if _, err := e.Validate(t.Context(), j); !errors.Is(err, runner.ErrImage) {
		t.Errorf("got %v", err)
	}
}
