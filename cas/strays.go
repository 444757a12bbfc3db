package cas

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

// stray is a name that nothing of the store has. It is never a root, so a
// collection leaves it alone and goes on.
type stray struct{ kind, path string }

// strays looks for names of no kind among directories, trees, layers and what
// collections took.
func (s *Store) strays() ([]stray, error) {
	var out []stray
	look := func(kind, dir string, ours func(name string) bool) error {
		names, err := s.readNames(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		for _, name := range names {
			if !ours(name) {
				out = append(out, stray{kind, filepath.Join(dir, name)})
			}
		}
		return err
	}
	named := func(name string) bool { return name[0] == '.' || isHex(name) } // a hidden one is a leftover
	err := errors.Join(
		look("blob", s.path("blobs/sha256"), isFan),
		look("map", s.path("maps/sha256"), isFan),
		look("tree", s.path("trees/sha256"), named),
		look("layer", s.path("layers/sha256"), named),
		look("trash", s.trashPath(), func(name string) bool {
			_, run := runTime(name)
			return run || strings.HasPrefix(name, "x-") || name == filepath.Base(s.sparePath())
		}),
	)
	if err != nil {
		return nil, err
	}
	runs, err := s.trashNames()
	if err != nil {
		return nil, err
	}
	for _, run := range runs {
		if _, ok := runTime(run); !ok {
			continue
		}
		err := look("trash", filepath.Join(s.trashPath(), run), func(name string) bool {
			_, _, ok := trashedName(name)
			return ok
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func isHex(name string) bool {
	_, ok := keyOfHex(name)
	return ok
}

func (c *collection) planStrays() error {
	strays, err := c.s.strays()
	for _, x := range strays {
		name, err := filepath.Rel(c.s.root, x.path)
		if err != nil {
			return err
		}
		c.keep(x.kind, name, 0, "not part of a store; fsck says what to do")
	}
	return err
}
