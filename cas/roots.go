package cas

import (
	"context"
	"errors"
	"io/fs"
	"slices"

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
	refs, broken, err := s.ReadRefs()
	if err != nil {
		return out, err
	}
	out.Broken = broken
	named := map[key]bool{}
	for _, r := range refs {
		if err := context.Cause(ctx); err != nil {
			return out, err
		}
		state, err := s.checkRoot(ctx, r)
		if err != nil {
			return out, err
		}
		out.Roots = append(out.Roots, state)
		if k, err := keyOf(r.Tree); err == nil {
			named[k] = true
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

// ReadRefs lists the roots that can be read by name, and names those that
// cannot. Who decides what goes asks [Store.Refs], which fails on one of these.
func (s *Store) ReadRefs() (refs []Ref, broken []Finding, err error) {
	files, err := s.refFiles()
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(files)
	for _, file := range files {
		r, err := s.readRef(file)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case errors.Is(err, ErrCorrupt), errors.Is(err, ErrInvalid):
			broken = append(broken, Finding{
				Kind: "ref", Name: file, Problem: err.Error(),
				Remedy: "a sync writes that of a listed model anew; another is to be deleted by hand; until then nothing is collected",
			})
		case err != nil:
			return nil, nil, err
		default:
			refs = append(refs, r)
		}
	}
	return refs, broken, nil
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
