package cas

import (
	"context"
	"errors"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Roots are the roots of a store beside what is really there, for a caller
// that has records of his own to compare them with.
type Roots struct {
	Roots  []RootState
	Broken []Finding       // refs that cannot be read; while there are any, nothing is collected
	Loose  []digest.Digest // trees that no root names: a pull's that is under way, or garbage
}

// RootState is a root and what it lacks. Whether its bytes are good is not
// looked at.
type RootState struct {
	Ref
	Lacks []Finding
}

// CheckRoots looks up everything that roots name, down to the files of their
// trees and layers (invariant 9). It changes nothing.
func (s *Store) CheckRoots(ctx context.Context) (Roots, error) {
	var out Roots
	files, err := s.refFiles()
	if err != nil {
		return out, err
	}
	named := map[key]bool{}
	for _, file := range files {
		if err := context.Cause(ctx); err != nil {
			return out, err
		}
		r, err := s.readRef(file)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrInvalid):
			out.Broken = append(out.Broken, Finding{
				Kind: "ref", Name: file, Problem: err.Error(),
				Remedy: "put the ref again, or delete its file; until then nothing is collected",
			})
		case err != nil:
			return out, err
		default:
			state, err := s.checkRoot(ctx, r)
			if err != nil {
				return out, err
			}
			out.Roots = append(out.Roots, state)
			if k, err := keyOf(r.Tree); err == nil {
				named[k] = true
			}
		}
	}
	trees, err := s.treeNames()
	for _, k := range trees {
		if !named[k] {
			out.Loose = append(out.Loose, k.digest())
		}
	}
	return out, err
}

func (s *Store) checkRoot(ctx context.Context, r Ref) (RootState, error) {
	state := RootState{Ref: r}
	lacks := func(kind string, d digest.Digest, err error, remedy string) error {
		switch {
		case err == nil, errors.Is(err, ErrSuspect): // that is told of the blob
			return nil
		case errors.Is(err, ErrNotFound):
			state.Lacks = append(state.Lacks, Finding{Kind: "ref", Name: r.Name, Problem: "its " + kind + " " + string(d) + " is not there", Remedy: remedy})
			return nil
		case errors.Is(err, ErrCorrupt):
			state.Lacks = append(state.Lacks, Finding{Kind: "ref", Name: r.Name, Problem: "its " + kind + " " + string(d) + " cannot be read", Remedy: remedy})
			return nil
		}
		return err
	}
	for _, d := range r.Blobs {
		_, err := s.Stat(d)
		if err := lacks("blob", d, err, remedyIngest); err != nil {
			return state, err
		}
	}
	for _, d := range r.Layers {
		_, err := s.Layer(ctx, d, "")
		if err := lacks("layer", d, err, remedyIngest); err != nil {
			return state, err
		}
	}
	k, err := keyOf(r.Tree)
	if err != nil {
		return state, nil // a root without a tree
	}
	index, err := s.findTree(ctx, k)
	if err := lacks("tree", r.Tree, err, remedyRebuild); err != nil {
		return state, err
	}
	for _, e := range index.Entries {
		_, err := s.Stat(e.Blob)
		if err := lacks("file "+e.Path+" with the blob", e.Blob, err, remedyIngest); err != nil {
			return state, err
		}
	}
	return state, nil
}
