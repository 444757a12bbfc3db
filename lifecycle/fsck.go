package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// Fsck checks the store, and that the records of all networks of the state
// directory, their roots and their trees say the same. What of it means that a
// model may not be used is settled as a scrub settles it.
func (n *Node) Fsck(ctx context.Context, o cas.FsckOptions) ([]cas.Finding, error) {
	st, networks, err := n.collector()
	if err != nil {
		return nil, err
	}
	found, err := st.Fsck(ctx, o)
	if err != nil {
		return nil, err
	}
	if o.Hash { // bytes were read: what is bad is taken out of use, as by a scrub
		bad := slices.DeleteFunc(slices.Clone(found), func(f cas.Finding) bool { return f.Kind != "blob" })
		if err := n.ScrubFindings(ctx, bad); err != nil {
			return nil, err
		}
	}
	roots, err := st.CheckRoots(ctx) // what cannot be read is among the findings
	if err != nil {
		return nil, err
	}
	refs := make([]cas.Ref, len(roots.Roots))
	for i, r := range roots.Roots {
		refs[i] = r.Ref
	}
	for _, x := range networks {
		fs, err := x.compareRoots(st, refs)
		if err != nil {
			return nil, err
		}
		found = append(append(found, fs...), x.leftovers()...)
	}
	return found, nil
}

// leftovers are what writers that were killed left in a network's state.
func (n *Node) leftovers() []cas.Finding {
	var out []cas.Finding
	for dir, remedy := range map[string]string{
		n.dir: remedySync, n.models.dir: remedySync, n.runtimes.dir: remedySync, n.runsDir(): remedySync,
		n.trustDir(): remedyAccept, filepath.Join(n.trustDir(), "roots"): remedyAccept, filepath.Dir(n.floorPath()): remedyAccept,
	} {
		names, err := durable.OS.ReadNames(dir)
		if err != nil {
			continue // it comes with the first file
		}
		for _, name := range names {
			if durable.IsTemporary(name) {
				out = append(out, cas.Finding{Kind: "temporary", Name: filepath.Join(dir, name), Problem: "left by a writer that was killed, or being written now", Remedy: remedy})
			}
		}
	}
	slices.SortFunc(out, func(a, b cas.Finding) int { return strings.Compare(a.Name, b.Name) })
	return out
}

const (
	remedySync   = "set it right with: rmodels sync"
	remedyAccept = "it goes with the next snapshot: rmodels snapshot refresh"
	remedyAgain  = "fetch it again with: rmodels verify --repair"
)

// compareRoots holds the records of a network against the roots and trees of
// the store. What another command has under way is not reported: a record that
// changed meanwhile is left out.
func (n *Node) compareRoots(st *cas.Store, refs []cas.Ref) ([]cas.Finding, error) {
	var out []cas.Finding
	add := func(kind, name, remedy, problem string, args ...any) {
		out = append(out, cas.Finding{Kind: kind, Name: name, Problem: fmt.Sprintf(problem, args...), Remedy: remedy})
	}
	roots := map[string]cas.Ref{}
	for _, ref := range refs {
		if id, ok := strings.CutPrefix(ref.Name, n.modelRef("")); ok {
			roots[id] = ref
		}
	}
	ids, err := n.models.ids()
	if err != nil {
		return nil, err
	}
	recorded := map[string]bool{}
	for _, id := range ids {
		recorded[id] = true
		var r Record
		switch err := n.models.read(id, &r); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, errCorrupt):
			add("record", n.models.path(id), "move it aside and build it anew with: rmodels sync", "%v", err)
			continue
		case err != nil:
			return nil, err
		}
		want := r.rooting()
		ref, rooted := roots[id]
		switch {
		case !rooted && want == pinned:
			add("root", n.modelRef(id), remedyAgain, "%s is %s, and no root keeps its bytes", id, r.State)
		case !rooted: // freed by a collection, or never here
		case want == unrooted:
			add("root", ref.Name, remedySync, "%s is %s, and a root keeps bytes for it", id, r.State)
		case ref.Pinned != (want == pinned):
			add("root", ref.Name, remedySync, "%s is %s, and its root is pinned: %t", id, r.State, ref.Pinned)
		case ref.Tree != r.Manifest:
			add("root", ref.Name, remedyAgain, "%s is of %s, and its root keeps %s", id, r.Manifest, ref.Tree)
		default:
			if _, err := st.Tree(r.Manifest); errors.Is(err, cas.ErrNotFound) {
				add("tree", r.Manifest.String(), remedyAgain, "%s is %s, and its tree is not in the store", id, r.State)
			}
		}
	}
	for id, ref := range roots {
		if !recorded[id] {
			add("root", ref.Name, remedySync, "no record of network %s stands for it", n.o.Network)
		}
	}
	return out, nil
}
