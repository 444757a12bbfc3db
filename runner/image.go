package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
)

// imageFacts is what an image's configuration asks for and the box must
// answer. Read from the engine, so hostile.
type imageFacts struct {
	id       digest.Digest // what the engine runs
	names    []string      // what the engine calls it
	manifest digest.Digest // where the engine tells
	config   digest.Digest // where the engine tells
	env      map[string]string
	volumes  []string
	command  []string // entrypoint and default arguments
	entries  int      // how many words of command are the entrypoint
}

const (
	maxImageEnv     = 512
	maxImageVolumes = 16
	maxImageNames   = 64
)

// image finds the job's image in the engine, loads it when it is absent, and
// reads its facts.
func (e *Engine) image(ctx context.Context, j Job, note func(string, ...any)) (imageFacts, error) {
	ids := slices.DeleteFunc(e.imageIDs(j.Image), func(d digest.Digest) bool { return d == "" })
	if len(ids) == 0 {
		return imageFacts{}, fmt.Errorf("%w: %s: %s needs a digest that the run was not given", ErrImage, j.Image.Reference, e.name)
	}
	for _, d := range ids {
		if err := d.Validate(); err != nil {
			return imageFacts{}, fmt.Errorf("%w: %s: %w", ErrImage, j.Image.Reference, err)
		}
	}
	facts, found, err := e.findImage(ctx, j, ids)
	if err != nil {
		return facts, err
	}
	if found {
		// One of our name was loaded by a run whose note is lost, or by another
		// node of this engine, which loads it again when it needs it.
		if slices.Contains(facts.names, j.Image.Name) {
			err = e.noteImage(j.StateDir, j.Image)
		}
		return facts, err
	}
	if j.Image.Archive == nil {
		return imageFacts{}, fmt.Errorf("%w: %s is not in %s and no archive was given", ErrImage, j.Image.Reference, e.name)
	}
	if err := e.noteImage(j.StateDir, j.Image); err != nil {
		return imageFacts{}, err
	}
	note("loading the runtime image into %s", e.name)
	if err := e.load(ctx, j.Image); err != nil {
		return imageFacts{}, err
	}
	facts, found, err = e.findImage(ctx, j, ids)
	if err != nil {
		return imageFacts{}, err
	}
	if !found {
		return imageFacts{}, fmt.Errorf("%w: the archive of %s was loaded, yet %s does not know %s", ErrImage, j.Image.Reference, e.name, ids[0])
	}
	return facts, nil
}

func (e *Engine) findImage(ctx context.Context, j Job, ids []digest.Digest) (imageFacts, bool, error) {
	for _, id := range ids {
		out, err := e.call(ctx, slices.Concat([]string{"image", "inspect"}, e.inspectMode, []string{id.String()})...)
		var ce *callError
		if errors.As(err, &ce) {
			continue // docker and podman: absent
		}
		if err != nil {
			return imageFacts{}, false, fmt.Errorf("%w: %w", ErrEngine, err)
		}
		facts, found, err := parseImage(out)
		if err != nil {
			return imageFacts{}, false, fmt.Errorf("%w: %s: %w", ErrImage, j.Image.Reference, err)
		}
		if !found {
			continue // nerdctl: absent, with exit code 0
		}
		facts.id = id
		if facts.manifest != "" && facts.manifest != j.Image.Manifest {
			return imageFacts{}, false, fmt.Errorf("%w: %s: the engine answers with manifest %s for %s", ErrImage, j.Image.Reference, facts.manifest, id)
		}
		if facts.config != "" && j.Image.Config != "" && facts.config != j.Image.Config {
			return imageFacts{}, false, fmt.Errorf("%w: %s: its configuration is %s, expected %s", ErrImage, j.Image.Reference, facts.config, j.Image.Config)
		}
		return facts, true, nil
	}
	return imageFacts{}, false, nil
}

// load streams the archive into the engine. A pipe, not a file: an image can
// be tens of gigabytes.
func (e *Engine) load(ctx context.Context, img Image) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEngine, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	written := make(chan error, 1)
	go func() {
		err := img.Archive(w)
		if err != nil {
			cancel() // a truncated archive must not look like a whole one
		}
		w.Close()
		written <- err
	}()
	_, err = e.callWith(ctx, r, nil, "load")
	r.Close() // the writer ends with EPIPE if the engine left early
	if werr := <-written; werr != nil && err == nil || isArchiveError(werr) {
		return fmt.Errorf("%w: writing the archive of %s: %w", ErrImage, img.Reference, werr)
	}
	if err != nil {
		return fmt.Errorf("%w: loading %s: %w", ErrEngine, img.Reference, err)
	}
	return nil
}

// isArchiveError tells the archive's own failure from a pipe that the engine
// closed, whose reason is the engine's.
func isArchiveError(err error) bool {
	return err != nil && !errors.Is(err, os.ErrClosed) && !isBrokenPipe(err)
}

// parseImage reads "image inspect": containerd's native form (nerdctl) or
// docker's. found is false when the answer is empty.
func parseImage(out []byte) (facts imageFacts, found bool, err error) {
	type config struct {
		Env        []string
		Volumes    map[string]struct{}
		Entrypoint []string
		Cmd        []string
	}
	if len(strings.TrimSpace(string(out))) == 0 {
		return facts, false, nil
	}
	var all []struct {
		RepoTags     []string // docker, podman
		Config       *config
		Image        *struct{ Name string } // nerdctl
		ManifestDesc *struct {
			Digest digest.Digest `json:"digest"`
		}
		ImageConfigDesc *struct {
			Digest digest.Digest `json:"digest"`
		}
		ImageConfig *struct {
			Config config `json:"config"`
		}
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return facts, false, fmt.Errorf("unreadable image description: %w", err)
	}
	if len(all) == 0 {
		return facts, false, nil
	}
	if len(all) > maxImageNames || len(all[0].RepoTags) > maxImageNames {
		return facts, false, fmt.Errorf("more than %d names for one image", maxImageNames)
	}
	facts.names = all[0].RepoTags
	// nerdctl tells an image once per name. They are one image when manifest and
	// configuration are the same.
	for _, same := range all {
		if same.Image != nil {
			facts.names = append(facts.names, same.Image.Name)
		}
		a, b := all[0], same
		if len(all) > 1 && (a.ManifestDesc == nil || b.ManifestDesc == nil || a.ImageConfigDesc == nil || b.ImageConfigDesc == nil ||
			*a.ManifestDesc != *b.ManifestDesc || *a.ImageConfigDesc != *b.ImageConfigDesc) {
			return facts, false, fmt.Errorf("%d images under one digest", len(all))
		}
	}
	c := all[0].Config
	if n := all[0].ImageConfig; n != nil {
		c = &n.Config
		if all[0].ManifestDesc == nil || all[0].ImageConfigDesc == nil {
			return facts, false, errors.New("unreadable image description: no descriptors")
		}
		facts.manifest, facts.config = all[0].ManifestDesc.Digest, all[0].ImageConfigDesc.Digest
	}
	if c == nil {
		return facts, false, errors.New("unreadable image description: no configuration")
	}
	facts.command, facts.entries = slices.Concat(c.Entrypoint, c.Cmd), len(c.Entrypoint)
	if len(facts.command) > maxArgs {
		return facts, false, fmt.Errorf("a command of %d words, at most %d", len(facts.command), maxArgs)
	}
	if len(c.Env) > maxImageEnv || len(c.Volumes) > maxImageVolumes {
		return facts, false, fmt.Errorf("%d variables and %d volumes, at most %d and %d", len(c.Env), len(c.Volumes), maxImageEnv, maxImageVolumes)
	}
	facts.env = make(map[string]string, len(c.Env))
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		if v != "" || facts.env[k] == "" { // a later empty entry must not hide an earlier one
			facts.env[k] = v
		}
	}
	for v := range c.Volumes {
		facts.volumes = append(facts.volumes, v)
	}
	slices.Sort(facts.volumes)
	return facts, true, nil
}
