package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
)

// LayerEntry is a name in a packed layer.
type LayerEntry struct {
	Path   string        `json:"path"` // slash-separated, relative, safe
	Kind   string        `json:"kind"` // EntryFile, EntryDir, EntryLink or EntrySymlink
	Mode   uint32        `json:"mode,omitzero"`
	Size   int64         `json:"size,omitzero"`   // of a file, in bytes
	Blob   digest.Digest `json:"blob,omitzero"`   // of a file
	Target string        `json:"target,omitzero"` // of a link, as it was written
}

// What a [LayerEntry] is.
const (
	EntryFile    = "file"
	EntryDir     = "dir"
	EntryLink    = "link"    // a hard link
	EntrySymlink = "symlink" // a symbolic one
)

// layer says what a packed blob unfolded to. The blob itself is not kept.
type layer struct {
	Name    digest.Digest `json:"name"`
	Reading string        `json:"reading"`
	Entries []LayerEntry  `json:"entries"`
}

// Bounds of a layer record.
const (
	maxLayerEntries = 1 << 20
	maxLayerTarget  = 4096
	maxReading      = 64
)

// Layer lists what the packed blob d unfolded to, in its order. A lease on d
// keeps the record and every file that it names. The reading says how the
// bytes were understood; the empty one stands for any. [ErrNotFound] when d was
// not unpacked, or in another reading, or one of its files is gone;
// [ErrSuspect] when one failed a check. Then [Store.Unpack] it again.
func (s *Store) Layer(ctx context.Context, d digest.Digest, reading string) ([]LayerEntry, error) {
	k, err := keyOf(d)
	if err != nil {
		return nil, err
	}
	rec, err := s.findLayer(ctx, k)
	if err != nil {
		return nil, err
	}
	if reading != "" && rec.Reading != reading {
		return nil, fmt.Errorf("%w: layer %s was unpacked as %s, not as %s", ErrNotFound, d, rec.Reading, reading)
	}
	for _, b := range rec.blobs() {
		st, err := s.find(ctx, b)
		if err == nil && st.Suspect {
			err = fmt.Errorf("%w: %s", ErrSuspect, b.digest())
		}
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", d, err)
		}
	}
	return rec.Entries, nil
}

func (s *Store) layerPath(k key) string {
	return filepath.Join(s.root, "layers", "sha256", k.hex())
}

// layerNames lists the records. A store has no directory for them before its
// first.
func (s *Store) layerNames() ([]key, error) {
	dir := s.path("layers/sha256")
	names, err := s.readNames(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys := make([]key, 0, len(names))
	for _, name := range names {
		if k, ok := keyOfHex(name); ok { // or it is a stray
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// findLayer is readLayer for a record that a collector may have taken
// (invariant 8).
func (s *Store) findLayer(ctx context.Context, k key) (layer, error) {
	rec, err := s.readLayer(s.layerPath(k), k)
	if !errors.Is(err, ErrNotFound) {
		return rec, err
	}
	back, restoreErr := s.restoreNamed(ctx, "l-"+k.hex(), s.layerPath(k))
	if restoreErr != nil {
		return rec, restoreErr
	}
	if !back {
		return rec, err
	}
	return s.readLayer(s.layerPath(k), k)
}

func (s *Store) readLayer(path string, k key) (layer, error) {
	b, err := s.readFile(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return layer{}, fmt.Errorf("%w: layer %s", ErrNotFound, k.digest())
	}
	if err != nil {
		return layer{}, err
	}
	return parseLayer(b, k)
}

func parseLayer(b []byte, k key) (layer, error) {
	var rec layer
	if err := unseal(b, &rec); err != nil {
		return layer{}, fmt.Errorf("layer %s: %w", k.digest(), err)
	}
	if err := rec.check(k); err != nil {
		return layer{}, fmt.Errorf("%w: layer %s: %w", ErrCorrupt, k.digest(), err)
	}
	return rec, nil
}

// check holds a record to what Commit writes.
func (x layer) check(k key) error {
	if x.Name != k.digest() {
		return fmt.Errorf("%w: the record is of %q", ErrInvalid, x.Name)
	}
	if x.Reading == "" || len(x.Reading) > maxReading || len(x.Entries) > maxLayerEntries {
		return fmt.Errorf("%w: %d entries, read as %q", ErrInvalid, len(x.Entries), x.Reading)
	}
	for _, e := range x.Entries {
		if err := e.check(); err != nil {
			return err
		}
	}
	return nil
}

func (e LayerEntry) check() error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	var zero LayerEntry
	rest := e
	rest.Path, rest.Kind, rest.Mode = "", "", 0
	valid := e.Mode <= 0o777
	switch e.Kind {
	case EntryFile:
		_, err := keyOf(e.Blob)
		valid = valid && err == nil && e.Size >= 0 && e.Size <= MaxSize
		rest.Blob, rest.Size = "", 0
	case EntryDir:
	case EntryLink, EntrySymlink:
		valid = valid && len(e.Target) <= maxLayerTarget && utf8.ValidString(e.Target)
		rest.Target = ""
	default:
		valid = false
	}
	if !valid || rest != zero {
		return fmt.Errorf("%w: impossible entry %q", ErrInvalid, e.Path)
	}
	return nil
}

// blobs are the files of a layer, each once.
func (x layer) blobs() []key {
	seen := make(map[key]bool, len(x.Entries))
	keys := make([]key, 0, len(x.Entries))
	for _, e := range x.Entries {
		if k, err := keyOf(e.Blob); err == nil && !seen[k] {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys
}

// findLayerDurable is [Store.Layer] for one that is to be relied on after a
// power loss.
func (s *Store) findLayerDurable(ctx context.Context, k key) error {
	rec, err := s.findLayer(ctx, k)
	if err != nil {
		return err
	}
	for _, b := range rec.blobs() {
		if err := s.findDurable(ctx, b); err != nil {
			return fmt.Errorf("layer %s: %w", k.digest(), err)
		}
	}
	// Whoever unpacked it may not have come to this yet.
	return s.fs.SyncDir(s.path("layers/sha256"))
}

// publishLayer gives a record its name, after everything that it names has
// its own, durably (invariant 9).
func (s *Store) publishLayer(ctx context.Context, k key, record []byte) error {
	path := s.layerPath(k)
	if err := errors.Join(s.makeFan(filepath.Dir(path)), s.makeFan(path)); err != nil {
		return err
	}
	tmp := durable.Temporary(path)
	if err := durable.CreateFS(s.fs, tmp, record, 0o444); err != nil {
		return noSpace(err)
	}
	if err := s.renameShared(ctx, tmp, path); err != nil {
		return errors.Join(err, s.fs.Unlink(tmp))
	}
	return s.fs.SyncDir(filepath.Dir(path))
}
