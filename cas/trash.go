package cas

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trashed is an entry of the trash. Kind is 'b' (blob), 'm' (chunk map), 't'
// (tree), 'l' (layer), or 'x' for what must not come back.
type trashed struct {
	kind byte
	k    key
	path string
	at   time.Time // when its run began
}

// newRun makes the trash directory of a collection. Its name is durable before
// anything is renamed into it, or a power loss could lose with it what is to
// stay restorable.
func (s *Store) newRun() (string, error) {
	path := filepath.Join(s.trashPath(), "r-"+strconv.FormatInt(s.now().UnixNano(), 10)+"-"+randomID()[:8])
	err := s.fs.Mkdir(path, 0o755)
	if errors.Is(noSpace(err), ErrNoSpace) {
		if spare := s.fs.Rename(s.sparePath(), path); spare != nil {
			return "", errors.Join(noSpace(err), spare)
		}
		err = nil
	}
	if err != nil {
		return "", err
	}
	return path, s.fs.SyncDir(s.trashPath())
}

// sparePath is an empty directory for the run of a collection on a full disk.
func (s *Store) sparePath() string { return filepath.Join(s.trashPath(), ".spare") }

// readTrash lists what collections took and has not been deleted yet.
func (s *Store) readTrash() ([]trashed, error) {
	runs, err := s.trashNames()
	if err != nil {
		return nil, err
	}
	var out []trashed
	for _, run := range runs {
		path := filepath.Join(s.trashPath(), run)
		if h, ok := strings.CutPrefix(run, "x-"); ok {
			h, _, _ = strings.Cut(h, "-")
			k, _ := keyOfHex(h)
			out = append(out, trashed{kind: 'x', k: k, path: path})
			continue
		}
		at, ok := runTime(run)
		if !ok {
			continue // a stray
		}
		names, err := s.readNames(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if kind, k, ok := trashedName(name); ok {
				out = append(out, trashed{kind, k, filepath.Join(path, name), at})
			}
		}
	}
	return out, nil
}

func runTime(run string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(run, "r-")
	stamp, _, ok2 := strings.Cut(rest, "-")
	ns, err := strconv.ParseInt(stamp, 10, 64)
	return time.Unix(0, ns), ok && ok2 && err == nil
}

// trashedName takes the name of an entry in a run apart.
func trashedName(name string) (kind byte, k key, ok bool) {
	of, h, _ := strings.Cut(name, "-")
	k, ok = keyOfHex(h)
	if !ok || len(of) != 1 || !strings.Contains("blmt", of) {
		return 0, key{}, false
	}
	return of[0], k, true
}

// home is where an entry came from.
func (s *Store) home(t trashed) string {
	switch t.kind {
	case 'b':
		return s.blobPath(t.k)
	case 'm':
		return s.mapPath(t.k)
	case 'l':
		return s.layerPath(t.k)
	default:
		return s.treePath(t.k)
	}
}

// planTrash decides over what earlier runs took (G1): live again goes back,
// dead for long enough is deleted.
func (c *collection) planTrash() error {
	entries, err := c.s.readTrash()
	if err != nil {
		return err
	}
	for _, t := range entries {
		name := string(t.k.digest())
		why, live := c.marks.whyTrashed(t)
		age := c.s.now().Sub(t.at)
		var st unix.Stat_t
		if unix.Lstat(t.path, &st) != nil {
			continue
		}
		bytes := int64(0)
		if t.kind != 't' && st.Nlink == 1 {
			bytes = st.Blocks * 512
		}
		foreseen := c.foreseeUse(t, st.Mode)
		switch {
		case foreseen != "":
			c.keep("trash", name, bytes, foreseen)
		case live && t.kind != 'x':
			if t.kind != 'm' {
				c.keep("trash", name, bytes, "to be put back: "+why)
			}
		case t.kind != 'x' && age < c.o.Grace && !c.short:
			c.keep("trash", name, bytes, "restorable until "+t.at.Add(c.o.Grace).UTC().Format(time.RFC3339))
		default:
			c.trash = append(c.trash, candidate{k: t.k, path: t.path, item: c.drop("trash", name, bytes, "collected earlier and still unused")})
		}
	}
	return nil
}

// foreseeUse says why a run would keep what is in the trash although nothing
// references it.
func (c *collection) foreseeUse(t trashed, mode uint32) string {
	if _, live := c.marks.whyTrashed(t); !c.dry || live && t.kind != 'x' {
		return ""
	}
	switch {
	case c.marks.mounted[t.k]:
		return "mounted"
	case mode&unix.S_IFMT == unix.S_IFDIR && c.marks.keepTrees != "":
		return c.marks.keepTrees
	case c.foreseeOpen(t.path, mode):
		return heldOpen
	}
	return ""
}

func (m *marks) whyTrashed(t trashed) (string, bool) {
	switch t.kind {
	case 't':
		return m.whyTree(t.k)
	case 'l':
		return m.whyLayer(t.k)
	}
	return m.keepsBlob(t.k)
}
