package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
)

// localDomain is where images that this program loads have their names. No
// registry can have it (RFC 6761), so whatever the engine calls by such a
// name was never pulled.
const localDomain = "rmodels.invalid/"

// loaded is the note that an image was put into an engine for a run of this
// state directory. It is written before the load and removed after the image
// is: what has no note, or not such a name, came from elsewhere and is left
// alone.
type loaded struct {
	Engine   string        `json:"engine"`
	Instance digest.Digest `json:"instance"` // of the engine's global flags: which of several
	Name     string        `json:"name"`
	Manifest digest.Digest `json:"manifest"`
}

const (
	loadedPrefix = "image-"
	loadedBound  = 4 << 10 // bytes of a note
)

func (e *Engine) instance() digest.Digest { return digest.FromString(strings.Join(e.args, "\x00")) }

// noteImage writes the note of an image that is about to be loaded, once.
func (e *Engine) noteImage(stateDir string, img Image) error {
	if img.Name == "" {
		return nil
	}
	if !strings.HasPrefix(img.Name, localDomain) || strings.ContainsAny(img.Name, " \t\r\n") {
		return fmt.Errorf("%w: %s: its archive calls it %q, which is not in %s", ErrImage, img.Reference, img.Name, localDomain)
	}
	note := loaded{e.name, e.instance(), img.Name, img.Manifest}
	path := filepath.Join(stateDir, loadedPrefix+e.name+"-"+img.Manifest.Encoded()+".json")
	if old, err := readLoaded(path); err == nil && old == note {
		return nil
	}
	text, err := json.Marshal(note)
	if err == nil {
		err = durable.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	return nil
}

// RemoveImages removes from the engine the images that runs of stateDir
// loaded into it, but for those whose manifest is kept and those that a
// container uses. lock is the run lock of [Job]; while a run holds it,
// RemoveImages returns [ErrBusy]. It returns the names of what it removed.
func (e *Engine) RemoveImages(ctx context.Context, stateDir, lock string, keep []digest.Digest) (removed []string, err error) {
	paths, err := filepath.Glob(filepath.Join(stateDir, loadedPrefix+e.name+"-*.json"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	if lock == "" {
		lock = filepath.Join(stateDir, "run.lock")
	}
	var errs []error
	var held *filelock.Lock
	for _, path := range paths {
		n, err := readLoaded(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if n.Engine != e.name || n.Instance != e.instance() || slices.Contains(keep, n.Manifest) {
			continue
		}
		if held == nil { // between a run's look at its image and its start, the image must stay
			if held, err = lockFile(lock, "removing images", ErrBusy); err != nil {
				return removed, err
			}
			defer unlock(held)
		}
		if err := e.removeImage(ctx, n.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("%w: %w", ErrStateDir, err))
		}
		removed = append(removed, n.Name)
	}
	return removed, errors.Join(errs...)
}

// LoadedImages are the manifests of the images that runs of stateDir loaded
// into whatever engine and that were not removed since.
func LoadedImages(stateDir string) ([]digest.Digest, error) {
	paths, err := filepath.Glob(filepath.Join(stateDir, loadedPrefix+"*.json"))
	if err != nil {
		return nil, err
	}
	var ds []digest.Digest
	for _, path := range paths {
		n, err := readLoaded(path)
		if err != nil {
			return nil, err
		}
		ds = append(ds, n.Manifest)
	}
	return ds, nil
}

func readLoaded(path string) (n loaded, err error) {
	b, err := durable.ReadFile(path, loadedBound)
	if err == nil {
		n, err = parseLoaded(b)
	}
	if err != nil {
		return n, fmt.Errorf("%w: %s: %w", ErrStateDir, path, err)
	}
	return n, nil
}

func parseLoaded(b []byte) (n loaded, err error) {
	if err := json.Unmarshal(b, &n, json.RejectUnknownMembers(true)); err != nil {
		return n, err
	}
	if err := n.Manifest.Validate(); err != nil {
		return n, err
	}
	if !strings.HasPrefix(n.Name, localDomain) || strings.ContainsAny(n.Name, " \t\r\n") {
		return n, fmt.Errorf("%q is no name of an image that a run loaded", n.Name)
	}
	return n, nil
}

// removeImage takes a name away, and the image with its last name. The engines
// refuse where a container uses it, running or not.
func (e *Engine) removeImage(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := e.call(ctx, "rmi", name)
	if err == nil {
		return nil
	}
	out, ierr := e.call(ctx, slices.Concat([]string{"image", "inspect"}, e.inspectMode, []string{name})...)
	var ce *callError
	if errors.As(ierr, &ce) { // docker and podman: absent
		return nil
	}
	if ierr == nil {
		if _, found, perr := parseImage(out); perr == nil && !found { // nerdctl: absent
			return nil
		}
	}
	return fmt.Errorf("%w: %s stays for now: %w", ErrEngine, name, err)
}
