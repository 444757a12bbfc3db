package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Ref is a named root: it keeps a tree, the blobs of that tree, and Blobs.
type Ref struct {
	Name string        `json:"name"` // see [Store.PutRef]
	Tree digest.Digest `json:"tree,omitzero"`
	// Blobs is everything that has to stay besides the tree's files: manifest,
	// config, raw layers, signatures. The store parses none of them.
	Blobs []digest.Digest `json:"blobs"`
	// Layers are the packed layers, of which the store has the files.
	Layers   []digest.Digest `json:"layers,omitempty"`
	Pinned   bool            `json:"pinned"`   // never evicted to make space
	LastUsed time.Time       `json:"lastUsed"` // the least recently used is evicted first
}

// PutRef writes a root, durably; one of the same name is replaced. Everything
// that it names has to be published (invariant 9) and protected by a lease of
// the caller's until PutRef returns. Names have up to 200 letters, digits and
// "._@:+=-/", and begin with a letter or digit.
func (s *Store) PutRef(ctx context.Context, r Ref) error {
	unlock, err := s.lockRefs(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := refFile(r.Name)
	if err != nil {
		return err
	}
	keys, err := keysOf(r.Blobs)
	if err != nil {
		return err
	}
	layers, err := keysOf(r.Layers)
	if err != nil {
		return err
	}
	if r.Blobs == nil {
		r.Blobs = []digest.Digest{}
	}
	if r.Tree != "" {
		if _, err := s.Tree(r.Tree); err != nil {
			return fmt.Errorf("ref %s: %w", r.Name, err)
		}
		// Whoever built it may not have come to this yet (invariant 9).
		if err := s.fs.SyncDir(s.path("trees/sha256")); err != nil {
			return fmt.Errorf("ref %s: %w", r.Name, err)
		}
	}
	for _, k := range keys {
		if err := s.findDurable(ctx, k); err != nil {
			return fmt.Errorf("ref %s: %w", r.Name, err)
		}
	}
	for _, k := range layers {
		if err := s.findLayerDurable(ctx, k); err != nil {
			return fmt.Errorf("ref %s: %w", r.Name, err)
		}
	}
	return s.writeRef(ctx, file, r, keys, layers)
}

// writeRef looks at blobs once more before it publishes; the caller holds the
// lock of the refs.
func (s *Store) writeRef(ctx context.Context, file string, r Ref, blobs, layers []key) error {
	b, err := seal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(s.path("refs"), file)
	tmp := durable.Temporary(path)
	if err := durable.CreateFS(s.fs, tmp, b, 0o644); err != nil {
		return fmt.Errorf("ref %s: %w", r.Name, noSpace(err))
	}
	if err := s.publishRef(ctx, tmp, path, r.Tree, blobs, layers); err != nil {
		return errors.Join(fmt.Errorf("ref %s: %w", r.Name, err), s.fs.Unlink(tmp))
	}
	return s.fs.SyncDir(s.path("refs"))
}

// rewriteRef replaces a root that names the same things as before; it says
// nothing about whether they are whole. The caller holds the lock of the refs.
func (s *Store) rewriteRef(file string, r Ref) error {
	b, err := seal(r)
	if err != nil {
		return err
	}
	return noSpace(durable.WriteFileFS(s.fs, filepath.Join(s.path("refs"), file), b, 0o644))
}

// findDurable is find for a blob that is to be relied on after a power loss.
func (s *Store) findDurable(ctx context.Context, k key) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		st, err := s.find(ctx, k)
		if err != nil || st.Suspect {
			return err
		}
		settled, err := s.settled(ctx, k)
		if err != nil || settled {
			return err
		}
		if err := wait(ctx, pause); err != nil { // its writer is about to finish
			return err
		}
	}
}

// publishRef looks once more and renames in one section under the store lock,
// so that no collection comes in between.
func (s *Store) publishRef(ctx context.Context, tmp, path string, tree digest.Digest, blobs, layers []key) error {
	guard, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	if err := s.gen.rootsChanged(); err != nil {
		return err
	}
	for _, k := range blobs {
		if _, err := s.lstat(k); err != nil {
			return err
		}
	}
	for _, k := range layers {
		if err := unix.Access(s.layerPath(k), unix.F_OK); err != nil {
			return fmt.Errorf("%w: layer %s", ErrNotFound, k.digest())
		}
	}
	if tree != "" {
		k, err := keyOf(tree)
		if err != nil {
			return err
		}
		if err := unix.Access(s.treePath(k), unix.F_OK); err != nil {
			return fmt.Errorf("%w: tree %s", ErrNotFound, tree)
		}
	}
	return s.fs.Rename(tmp, path)
}

// DeleteRef removes a root, durably. What only it kept is freed by the next
// collection.
func (s *Store) DeleteRef(ctx context.Context, name string) error {
	unlock, err := s.lockRefs(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	file, err := refFile(name)
	if err != nil {
		return err
	}
	err = s.fs.Unlink(filepath.Join(s.path("refs"), file))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: ref %s", ErrNotFound, name)
	}
	if err != nil {
		return err
	}
	return s.fs.SyncDir(s.path("refs"))
}

// Ref reads one root; [ErrNotFound] when there is none.
func (s *Store) Ref(name string) (Ref, error) {
	file, err := refFile(name)
	if err != nil {
		return Ref{}, err
	}
	r, err := s.readRef(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Ref{}, fmt.Errorf("%w: ref %s", ErrNotFound, name)
	}
	return r, err
}

// Refs lists all roots by name. One that cannot be read is an error
// (invariant 5).
func (s *Store) Refs() ([]Ref, error) {
	files, err := s.refFiles()
	if err != nil {
		return nil, err
	}
	refs := make([]Ref, len(files))
	err = spread(context.Background(), len(files), func(n int) (err error) {
		if refs[n], err = s.readRef(files[n]); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	refs = slices.DeleteFunc(refs, func(r Ref) bool { return r.Name == "" }) // deleted meanwhile
	slices.SortFunc(refs, func(a, b Ref) int { return strings.Compare(a.Name, b.Name) })
	return refs, nil
}

// Touch notes that a root was used at t, unless a later use is noted.
func (s *Store) Touch(ctx context.Context, name string, t time.Time) error {
	return s.changeRef(ctx, name, func(r *Ref) bool {
		later := t.After(r.LastUsed)
		if later {
			r.LastUsed = t.UTC()
		}
		return later
	})
}

// KeepReserve holds space for changes of roots on a full disk; see
// [durable.KeepReserve].
func (s *Store) KeepReserve() error { return durable.KeepReserve(s.path("refs"), 2, 16<<10) }

// Pin sets whether a root may be evicted to make space; [ErrNotFound] when
// there is none. It writes nothing when that is so already. After it returns
// nil for pinned, no collection that has not dropped the root yet will.
func (s *Store) Pin(ctx context.Context, name string, pinned bool) error {
	if r, err := s.Ref(name); err != nil || r.Pinned == pinned {
		return err
	}
	return s.changeRef(ctx, name, func(r *Ref) bool {
		changed := r.Pinned != pinned
		r.Pinned = pinned
		return changed
	})
}

// changeRef reads a root and writes it back in one step where change says so.
func (s *Store) changeRef(ctx context.Context, name string, change func(*Ref) bool) error {
	unlock, err := s.lockRefs(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := s.Ref(name)
	if err != nil || !change(&r) {
		return err
	}
	file, err := refFile(name)
	if err != nil {
		return err
	}
	return s.rewriteRef(file, r)
}

// lockRefs makes reading a ref and writing it back one step.
func (s *Store) lockRefs(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(s.path("refs"), ".lock")
	deadline := time.Now().Add(lockPatience)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		l, err := s.tryLock(path, unix.O_RDWR|unix.O_CREAT, unix.LOCK_EX)
		if err != nil {
			return nil, noSpace(err)
		}
		if l != nil {
			return l.unlock, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: the lock %s was not free for %v; a stopped process may hold it", ErrBusy, path, lockPatience)
		}
		if err := wait(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func (s *Store) refFiles() ([]string, error) {
	names, err := s.readNames(s.path("refs"))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") }), nil
}

func (s *Store) readRef(file string) (Ref, error) {
	var r Ref
	if err := s.readRecord(filepath.Join(s.path("refs"), file), &r); err != nil {
		return Ref{}, err
	}
	return r, r.check(file)
}

func (r Ref) check(file string) error {
	if name, err := refFile(r.Name); err != nil || name != file {
		return fmt.Errorf("%w: ref file %s holds the ref %q", ErrCorrupt, file, r.Name)
	}
	for _, ds := range [][]digest.Digest{r.Blobs, r.Layers} {
		for _, d := range ds {
			if _, err := keyOf(d); err != nil {
				return fmt.Errorf("%w: ref %s: %w", ErrCorrupt, r.Name, err)
			}
		}
	}
	if r.Tree != "" {
		if _, err := keyOf(r.Tree); err != nil {
			return fmt.Errorf("%w: ref %s: %w", ErrCorrupt, r.Name, err)
		}
	}
	return nil
}

func refFile(name string) (string, error) {
	valid := len(name) > 0 && len(name) <= 200 && isAlphanumeric(rune(name[0]))
	for _, c := range name {
		valid = valid && (isAlphanumeric(c) || strings.ContainsRune("._@:+=-/", c))
	}
	file := strings.ReplaceAll(name, "/", "%2F")
	if !valid || len(file) > 220 { // a temporary name adds 32 bytes of 255
		return "", fmt.Errorf("%w: %q cannot name a ref", ErrInvalid, name)
	}
	return file, nil
}

func isAlphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
