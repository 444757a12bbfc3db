package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// Options say where a node keeps its state and how it reaches the world. The
// zero value of each field but StateDir and Network is a working default.
type Options struct {
	StateDir string
	StoreDir string // default StateDir/store; one store may serve several networks
	Network  string
	MinFree  int64    // bytes of the store's file system that stay free
	Mirrors  []string // registry[/prefix], used where the snapshot permits a node's own
	From     []string // sources a person named for this process alone: an air gap's oci-layout:///dir
	Archive  string   // cold storage: a directory, or oci://registry[/prefix]; empty: none

	OCI     oci.Options
	Engine  runner.EngineOptions
	Devices []string      // CDI names given to runtimes that use a GPU; default nvidia.com/gpu=all where present
	Facts   *policy.Facts // replaces what the host says of itself, field by field where set

	By       string // who moves models: the command, for transitions
	Progress progress.Sink
	Log      *slog.Logger     // default: discard
	Now      func() time.Time // default time.Now
}

// Node is one network's models on this machine. Its methods may be called
// from several goroutines; opening is cheap, and the store, the trust state
// and the container engine are opened when first needed.
type Node struct {
	o        Options
	dir      string // networks/<network>
	models   records
	runtimes records

	store  func() (*cas.Store, error)
	trust  func() (*snapshot.Trust, error)
	client func() (*oci.Client, error)
	engine func(context.Context) (engine, error)

	admissions readmitted

	logStuck atomic.Int64 // when the log's lock was waited for in vain, in Unix nanoseconds

	told sync.Map // runtimes whose refusal this process has recorded
}

// ErrNoNode says that the state directory has no such network.
var ErrNoNode = errors.New("node is not initialised")

// Open opens the state of a network that [Init] set up.
func Open(o Options) (*Node, error) {
	n := newNode(o)
	if _, err := os.Stat(n.trustDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, &Failure{
			Cause: CauseState, Err: ErrNoNode,
			Reason: fmt.Sprintf("network %q is not set up in %s", o.Network, o.StateDir),
			Hint:   "set it up with: rmodels init --network NAME --root ROOT.json",
		}
	} else if err != nil {
		return nil, fmt.Errorf("open node state: %w", err)
	}
	return n, n.unexposed()
}

// unexposed refuses state that somebody else could have written.
func (n *Node) unexposed() error {
	for _, d := range []string{n.o.StateDir, filepath.Dir(n.dir), n.dir, n.models.dir, n.runtimes.dir, n.runsDir(), n.trustDir(), filepath.Join(n.trustDir(), "roots"), filepath.Dir(n.floorPath())} {
		if err := durable.CheckEntries(d, recordFile); errors.Is(err, durable.ErrExposed) {
			return untrusted(err)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) { // runs come with the first
			return fmt.Errorf("open node state: %w", err)
		}
	}
	return nil
}

func untrusted(err error) *Failure {
	return &Failure{Cause: CauseState, Reason: "the state of this node cannot be trusted: " + err.Error(), Hint: "then check what is in it, or begin with an empty one: rmodels init", Err: err}
}

// recordFile tells a file whose content counts; a lock's does not.
func recordFile(name string) bool { return !strings.HasSuffix(name, ".lock") }

func newNode(o Options) *Node {
	if o.StoreDir == "" {
		o.StoreDir = filepath.Join(o.StateDir, "store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Engine.DataRoot == "" {
		o.Engine.DataRoot = filepath.Join(o.StateDir, "engine")
	}
	dir := filepath.Join(o.StateDir, "networks", o.Network)
	n := &Node{o: o, dir: dir, models: records{filepath.Join(dir, "models")}, runtimes: records{filepath.Join(dir, "runtimes")}}
	n.store = sync.OnceValues(func() (*cas.Store, error) {
		return cas.Open(o.StoreDir, cas.Options{MinFree: o.MinFree, Now: o.Now})
	})
	n.trust = sync.OnceValues(func() (*snapshot.Trust, error) {
		return snapshot.OpenTrust(n.trustDir(), n.floorPath())
	})
	n.engine = func(ctx context.Context) (engine, error) {
		eng, err := runner.FindEngine(ctx, n.o.Engine)
		if err != nil {
			return nil, err
		}
		return eng, nil
	}
	if n.o.OCI.Progress == nil {
		n.o.OCI.Progress = n.o.Progress
	}
	n.client = sync.OnceValues(func() (*oci.Client, error) { return oci.New(n.o.OCI) })
	return n
}

// Init sets up a network: the store, and the pinned first root. It may be
// repeated with the same root; another root is refused.
func Init(o Options, root []byte) error {
	n := newNode(o)
	for _, d := range []string{n.o.StoreDir, n.dir, filepath.Dir(n.floorPath())} { // before anything is made there
		if err := durable.CheckPlace(d); errors.Is(err, durable.ErrExposed) {
			return untrusted(err)
		} else if err != nil {
			return err
		}
	}
	st, err := cas.Open(n.o.StoreDir, cas.Options{Create: true, MinFree: o.MinFree})
	if err != nil {
		return err
	}
	if err := st.Close(); err != nil {
		return err
	}
	for _, d := range []string{n.models.dir, n.runtimes.dir, n.trustDir(), filepath.Dir(n.floorPath())} {
		if err := durable.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := n.unexposed(); err != nil {
		return err
	}
	if err := snapshot.Pin(n.trustDir(), n.floorPath(), o.Network, root); err != nil {
		return err
	}
	n.keepReserve()
	return nil
}

// keepReserve holds space for what must be written on a full disk: a newer
// snapshot, and the records of what it withdraws. It is best effort: where
// there is no space now there may be some at the next pass.
func (n *Node) keepReserve() {
	err := errors.Join(
		snapshot.KeepReserve(n.trustDir(), n.floorPath()),
		durable.KeepReserve(n.models.dir, 4, 128<<10),
		durable.KeepReserve(n.dir, 2, 16<<10), // marks
	)
	if st, serr := n.store(); serr == nil {
		err = errors.Join(err, st.KeepReserve())
	}
	if err != nil {
		n.o.Log.Warn("too little space is kept for a full disk", "error", err)
	}
}

func (n *Node) trustDir() string     { return filepath.Join(n.dir, "trust") }
func (n *Node) floorPath() string    { return filepath.Join(n.o.StateDir, "floor", n.o.Network+".json") }
func (n *Node) auditPath() string    { return filepath.Join(n.dir, "audit.jsonl") }
func (n *Node) snapshotLock() string { return filepath.Join(n.dir, "snapshot.lock") }
func (n *Node) runsDir() string      { return filepath.Join(n.dir, "runs") }
func (n *Node) runLock() string      { return filepath.Join(n.o.StateDir, "run.lock") } // of all networks
func (n *Node) now() time.Time       { return n.o.Now().UTC().Truncate(time.Second) }

// Network is the name of the network this node follows here.
func (n *Node) Network() string { return n.o.Network }

// StateDir is where the node keeps its state.
func (n *Node) StateDir() string { return n.o.StateDir }

// Store is the content store.
func (n *Node) Store() (*cas.Store, error) { return n.store() }

// Client is the client for registries.
func (n *Node) Client() (*oci.Client, error) { return n.client() }

// Current is the snapshot that the node acts upon, verified again.
func (n *Node) Current() (*snapshot.Accepted, error) {
	t, err := n.trust()
	if err != nil {
		return nil, err
	}
	return t.Current(n.now())
}

// Records lists what the node remembers, in name order, as the snapshot in
// force leaves it: a model that it withdraws is shown so, also before that is
// written down. A damaged record is skipped and reported in the error; the
// others are returned all the same.
func (n *Node) Records() ([]*Record, error) {
	seen, err := n.models.seen() // before they are read
	if err != nil {
		return nil, err
	}
	recs, err := n.known()
	n.underSnapshot(recs, seen)
	return recs, err
}

// known are the records with what gc freed, also before a pass has written
// that down.
func (n *Node) known() ([]*Record, error) {
	recs, err := n.written()
	for _, r := range recs {
		if gone, serr := n.isEvicted(r); serr == nil && gone { // without a store, the record's word stands
			r.freed()
		}
	}
	return recs, err
}

// written are the records as they are on the disk.
func (n *Node) written() ([]*Record, error) {
	ids, err := n.models.ids()
	if err != nil {
		return nil, err
	}
	var out []*Record
	var bad []error
	for _, id := range ids {
		r := new(Record)
		switch err := n.models.read(id, r); {
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		case err != nil:
			bad = append(bad, err)
		case r.ID() != id:
			bad = append(bad, fmt.Errorf("%s: holds the record of %s: %w", n.models.path(id), r.ID(), errCorrupt))
		default:
			out = append(out, r)
		}
	}
	return out, errors.Join(bad...)
}

// Record reads one record by name@version, or by name alone where the node
// knows one version of it, or one that is Active.
func (n *Node) Record(nameOrID string) (*Record, error) {
	all, err := n.Records()
	var match []*Record
	for _, r := range all {
		if r.ID() == nameOrID {
			return r, nil
		}
		if r.Name == nameOrID {
			match = append(match, r)
		}
	}
	if len(match) > 1 {
		for _, r := range match {
			if r.State == Active {
				return r, nil
			}
		}
	}
	if len(match) > 0 {
		return match[len(match)-1], nil
	}
	return nil, errors.Join(err, &Failure{
		Cause: CauseListing, Reason: fmt.Sprintf("%s: this node knows no such model", nameOrID),
		Hint: "see what it knows with: rmodels list",
	})
}

// Incidents returns the newest limit incidents, oldest first, of one model
// (name or name@version) or of all; limit 0 means no limit. Those that the log
// did not take yet come last.
func (n *Node) Incidents(model string, limit int) ([]Incident, error) {
	wanted := func(in Incident) bool {
		return model == "" || in.Model == model || modelID(in.Model, in.Version) == model
	}
	all, err := readIncidents(n.auditPath(), wanted, limit)
	recs, _ := n.written() // what is damaged holds none
	for _, r := range recs {
		for _, in := range r.Unlogged {
			if wanted(in) && !slices.ContainsFunc(all, in.same) {
				all = append(all, in)
			}
		}
	}
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	return all, err
}

// incident records a failed check. Failing to record it is itself an error:
// a check must not fail silently (invariant 3).
func (n *Node) incident(in Incident) error {
	in = n.note(in)
	return n.record(Entry{Incident: &in})
}

// note dates an incident and tells the program's own log of it.
func (n *Node) note(in Incident) Incident {
	in.Time = n.now()
	in.bound()
	n.o.Log.Warn("incident", "kind", in.Kind, "model", in.Model, "version", in.Version, "digest", in.Digest,
		"expected", in.Expected, "found", in.Found, "source", in.Source, "reason", in.Reason)
	return in
}

// facts is what this node offers, with the configuration's statements on top.
func (n *Node) facts(ctx context.Context) (policy.Facts, error) {
	h, err := runner.HostFacts(ctx)
	if err != nil {
		return policy.Facts{}, fmt.Errorf("ask the host for its hardware: %w", err)
	}
	f := policy.Facts{Driver: h.Driver, Memory: h.Memory, CPUs: h.CPUs}
	for _, g := range h.GPUs {
		f.GPUs = append(f.GPUs, policy.GPU(g))
	}
	if s := n.o.Facts; s != nil {
		if s.GPUs != nil {
			f.GPUs = s.GPUs
		}
		if s.Driver != "" {
			f.Driver = s.Driver
		}
		if s.Memory != 0 {
			f.Memory = s.Memory
		}
		if s.CPUs != 0 {
			f.CPUs = s.CPUs
		}
		f.Tasks = s.Tasks
	}
	return f, nil
}

// devices are the CDI names for a runtime's definition.
func (n *Node) devices(ctx context.Context, gpu string) ([]string, error) {
	if gpu != "required" && gpu != "optional" {
		return nil, nil
	}
	if len(n.o.Devices) > 0 {
		return n.o.Devices, nil
	}
	h, err := runner.HostFacts(ctx)
	if err != nil {
		return nil, err
	}
	const all = "nvidia.com/gpu=all"
	for _, d := range h.CDIDevices {
		if d == all {
			return []string{all}, nil
		}
	}
	if gpu == "optional" {
		return nil, nil
	}
	return nil, fmt.Errorf("no CDI device %s: write its specification with: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml: %w", all, runner.ErrDevice)
}
