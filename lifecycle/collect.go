package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// GC frees what no model needs any more. What the snapshot withdraws is
// withdrawn first, so that records say what may go. A root that a record wants
// and that is not pinned is kept, pinned and an incident: the collector does
// not rely on the paths that lead to a record. The store serves all networks
// of the state directory, so all of them are asked.
func (n *Node) GC(ctx context.Context, o cas.GCOptions) (*cas.GCResult, error) {
	st, networks, err := n.collector()
	if err != nil {
		return nil, err
	}
	for _, x := range networks {
		var res SyncResult
		if err := x.withdrawStored(ctx, &res); err != nil { // what stays in use is kept
			n.o.Log.Warn("nothing was withdrawn before the collection", "network", x.o.Network, "error", err)
		}
		ids, err := x.models.ids()
		if err == nil {
			err = x.settleRoots(ctx, ids, true)
		}
		if err != nil { // a pin that stays keeps more
			n.o.Log.Warn("not all roots say what their records do", "network", x.o.Network, "error", err)
		}
	}
	o.Wanted = wanted(st, networks)
	res, err := st.GC(ctx, o)
	if res == nil {
		return nil, err
	}
	for _, name := range res.Unpinned {
		for _, x := range networks {
			if id, ok := strings.CutPrefix(name, x.modelRef("")); ok {
				err = errors.Join(err, x.pinFound(ctx, st, id))
			}
		}
	}
	return res, err
}

// PlanGC is what [Node.GC] would do to the store as records stand.
func (n *Node) PlanGC(ctx context.Context, o cas.GCOptions) (*cas.GCPlan, error) {
	st, networks, err := n.collector()
	if err != nil {
		return nil, err
	}
	o.Wanted = wanted(st, networks)
	return st.PlanGC(ctx, o)
}

func (n *Node) collector() (*cas.Store, []*Node, error) {
	st, err := n.store()
	if err != nil {
		return nil, nil, err
	}
	networks, err := n.networks()
	return st, networks, err
}

// networks are the nodes of all networks of the state directory, this one
// among them.
func (n *Node) networks() ([]*Node, error) {
	dirs, err := os.ReadDir(filepath.Dir(n.dir))
	if err != nil {
		return nil, err
	}
	var all []*Node
	for _, d := range dirs {
		switch {
		case d.Name() == n.o.Network:
			all = append(all, n)
		case isDirectory(filepath.Join(filepath.Dir(n.dir), d.Name())):
			o := n.o
			o.Network = d.Name()
			all = append(all, newNode(o))
		}
	}
	return all, nil
}

// isDirectory follows a link: a network's state may lie on another disk.
func isDirectory(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// wanted are the roots that the records of these networks say stay, with what
// they hold. A record that cannot be read wants its root: nobody can tell that
// it does not. So it is with roots of networks that this state directory does
// not know, where several use one store, and of listed models without a record.
func wanted(st *cas.Store, networks []*Node) func(context.Context) ([]cas.Want, error) {
	return func(context.Context) ([]cas.Want, error) {
		var out []cas.Want
		refs, _, err := st.ReadRefs() // one that cannot be read ends the collection elsewhere
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if want, err := unrecorded(networks, ref); err != nil {
				return nil, err
			} else if want {
				out = append(out, cas.Want{Ref: ref.Name})
			}
		}
		for _, n := range networks {
			ids, err := n.models.ids()
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				var r Record
				switch err := n.models.read(id, &r); {
				case errors.Is(err, fs.ErrNotExist): // removed meanwhile
				case errors.Is(err, errCorrupt):
					out = append(out, cas.Want{Ref: n.modelRef(id)})
				case err != nil:
					return nil, err
				case r.rooting() == pinned:
					out = append(out, cas.Want{Ref: n.modelRef(id), Digests: r.holds()})
				}
			}
		}
		return out, nil
	}
}

// unrecorded reports whether a root stays although no record here says so.
func unrecorded(networks []*Node, ref cas.Ref) (bool, error) {
	for _, n := range networks {
		id, ok := strings.CutPrefix(ref.Name, n.modelRef(""))
		if !ok {
			if strings.HasPrefix(ref.Name, n.runtimeRef("")) {
				return false, nil // by its pin
			}
			continue
		}
		var r Record
		switch err := n.models.read(id, &r); {
		case errors.Is(err, fs.ErrNotExist), err == nil && r.State == Absent:
			return n.rootingUnrecorded(id, ref) == pinned, nil
		case errors.Is(err, errCorrupt):
			return false, nil // as the record itself wants
		default:
			return false, err // by its record
		}
	}
	return strings.HasPrefix(ref.Name, "model/") || strings.HasPrefix(ref.Name, "runtime/"), nil
}

// holds are the digests that a record names itself: its tree, and the
// signatures that admitted it.
func (r *Record) holds() []digest.Digest {
	ds := []digest.Digest{r.Manifest}
	if r.Receipt != nil {
		for _, e := range r.Receipt.Evidence {
			ds = append(ds, e.Digest)
		}
	}
	return ds
}

// pinFound pins the root of a model that a collection found without a pin.
func (n *Node) pinFound(ctx context.Context, st *cas.Store, id string) error {
	ref, err := st.Ref(n.modelRef(id))
	if err != nil {
		return unlessAbsent(err)
	}
	return n.settleRoot(ctx, id, ref)
}
