package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
)

// suspicion is why a blob is not trusted (invariant 4).
type suspicion struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

func (s *Store) readSuspect(k key) (*suspicion, error) {
	var flag suspicion
	err := s.readRecord(s.suspectPath(k), &flag)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrCorrupt):
		// That there is a flag is what counts.
		return &suspicion{Reason: "its suspect flag cannot be read"}, nil
	case err != nil:
		return nil, err
	}
	return &flag, nil
}

func (s *Store) setSuspect(k key, flag suspicion) error {
	if flag.Since.IsZero() {
		flag.Since = s.now().UTC()
	}
	flag.Reason = terminal.Clean(flag.Reason)
	b, err := seal(flag)
	if err != nil {
		return err
	}
	return noSpace(durable.WriteFileFS(s.fs, s.suspectPath(k), b, 0o644))
}

func (s *Store) clearSuspect(k key) error {
	path := s.suspectPath(k)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.removeLeftover(context.Background(), path); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(path))
}

// Suspects lists the blobs that are not trusted, and why.
func (s *Store) Suspects() (map[digest.Digest]string, error) {
	names, err := s.readNames(s.path("suspect"))
	if err != nil {
		return nil, err
	}
	out := map[digest.Digest]string{}
	for _, name := range names {
		h, ok := strings.CutPrefix(name, "sha256-")
		k, valid := keyOfHex(h)
		if !ok || !valid {
			continue
		}
		flag, err := s.readSuspect(k)
		if err != nil {
			return nil, err
		}
		if flag != nil {
			out[k.digest()] = flag.Reason
		}
	}
	return out, nil
}

// Discard is for a blob that failed a check of the caller's. It becomes
// suspect, and is gone at once unless a tree links it or a process has it open
// or mapped; then the flag stays until a repair or a new ingest.
func (s *Store) Discard(ctx context.Context, d digest.Digest, reason string) error {
	k, err := keyOf(d)
	if err != nil {
		return err
	}
	st, err := s.lstat(k)
	if err != nil {
		return err
	}
	if err := s.setSuspect(k, suspicion{Reason: reason}); err != nil {
		return err
	}
	if st.Nlink > 1 {
		return nil
	}
	// Out of sight first, so that nobody opens it after the probe.
	condemned := filepath.Join(s.trashPath(), "x-"+k.hex()+"-"+randomID())
	if err := s.renameShared(ctx, s.blobPath(k), condemned); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("%w: %s", ErrNotFound, d), s.clearSuspect(k))
		}
		return err
	}
	open, err := isOpen(condemned)
	if err != nil || open {
		back := s.fs.RenameNew(condemned, s.blobPath(k))
		if errors.Is(back, fs.ErrExist) {
			back = s.fs.Unlink(condemned) // a new ingest published good bytes meanwhile
		}
		return errors.Join(err, back)
	}
	if err := s.fs.Unlink(condemned); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.removeLeftover(ctx, s.mapPath(k)); err != nil {
		return err
	}
	if err := s.fs.SyncDir(filepath.Dir(s.blobPath(k))); err != nil {
		return err
	}
	return s.clearSuspect(k)
}
