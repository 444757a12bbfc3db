package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// RuntimeRecord is what a node remembers of a runtime image that it admitted.
type RuntimeRecord struct {
	Name      string          `json:"name"`
	Version   string          `json:"version"`
	Reference string          `json:"reference"`
	Receipt   *Receipt        `json:"receipt"`
	Image     digest.Digest   `json:"image"` // the platform's manifest
	Blobs     []digest.Digest `json:"blobs"`
	Size      int64           `json:"size"`
	Updated   time.Time       `json:"updated"`
}

// validate runs the test inference of an installed model and judges it. On
// success r is Active in memory. A refusal by the verdict is a [Failure] with
// CauseValidation or CauseIsolation; any other error means that no run could
// be made.
func (n *Node) validate(ctx context.Context, acc *snapshot.Accepted, m *snapshot.Model, r *Record) error {
	st, err := n.store()
	if err != nil {
		return err
	}
	f, err := n.facts(ctx)
	if err != nil {
		return err
	}
	l, err := st.Lease(ctx, "validate "+m.ID(), r.Manifest)
	if err != nil {
		return err
	}
	defer l.Release()
	if err := n.whole(ctx, st, r); err != nil {
		return treeFailure(r, err)
	}
	eng, err := n.engine(ctx)
	if err != nil {
		return err
	}
	job, err := n.job(ctx, l, acc, m, r)
	if err != nil {
		return err
	}
	if _, err := eng.RemoveOrphans(ctx, n.runsDir()); err != nil {
		n.o.Log.Warn("orphans of earlier runs", "error", err)
	}
	step := n.step(m.ID(), "test inference")
	watched, stop := n.watched(ctx, acc, m.ID())
	v, err := eng.Validate(watched, *job)
	err = endedFor(watched, err)
	stop()
	if err != nil {
		step(err, "")
		if f := AsFailure(err); f.Cause == CauseRuntime {
			f.Source = job.Runtime.Reference
			return errors.Join(err, n.runtimeIncident(acc, job.Runtime, f))
		}
		return err
	}
	step(nil, v.Reason)
	before := r.Verdict
	r.Verdict, r.Tested = v, n.now()
	for _, c := range runner.Compare(before, v, m.Validation.Deterministic) {
		if err := n.incident(Incident{
			Kind: CauseValidation, Model: m.Name, Version: m.Version, Digest: r.Manifest, Expected: c.Expected, Found: c.Found,
			Source: job.Runtime.Reference, Reason: c.Reason, Action: "it passed its test and stays in use", Snapshot: acc.Digest,
		}); err != nil {
			return err
		}
	}
	if !v.Passed {
		r.Holds = ""
		fl := &Failure{
			Cause: CauseValidation, Reason: "test inference: " + v.Reason, Digest: r.Manifest,
			Expected: v.Expected, Found: v.Found, Source: job.Runtime.Reference,
			Hint: "see the engine's answer and log with: rmodels show " + m.ID(),
		}
		if v.Cause == runner.CauseIsolation {
			fl.Cause = CauseIsolation
		}
		return fl
	}
	r.Holds = verdictKey(acc.Document, m, f)
	r.Failures, r.RetryAfter, r.Cause = 0, time.Time{}, ""
	if err := st.Touch(ctx, n.modelRef(m.ID()), n.now()); err != nil {
		n.o.Log.Warn("last use not recorded", "model", m.ID(), "error", err)
	}
	return r.move(Active, n.o.By, "test inference passed on "+job.Runtime.Name+" "+job.Runtime.Version, acc.Digest, n.now())
}

// treeFailure is what a tree that does not fit its blobs means. An error that
// says nothing about the bytes is returned as it is.
func treeFailure(r *Record, err error) error {
	if !errors.Is(err, cas.ErrCorrupt) && !errors.Is(err, cas.ErrSuspect) && !errors.Is(err, cas.ErrNotFound) {
		return fmt.Errorf("check the tree of %s: %w", r.ID(), err)
	}
	return &Failure{
		Cause: CauseHash, Reason: "the tree does not match the store: " + err.Error(), Digest: r.Manifest,
		Expected: "the files of " + r.Manifest.String(), Found: err.Error(), Source: r.Tree,
		Hint: "the next sync fetches what is bad; at once with: rmodels verify --repair", Err: err,
	}
}

// job puts a run together: the model's tree, and the runtime's image admitted
// by its policy and present in the store.
func (n *Node) job(ctx context.Context, l *cas.Lease, acc *snapshot.Accepted, m *snapshot.Model, r *Record) (*runner.Job, error) {
	rt, ok := acc.Document.Runtime(m.Compat.Runtime)
	if !ok {
		return nil, &Failure{Cause: CausePolicy, Reason: fmt.Sprintf("the snapshot has no runtime %q", m.Compat.Runtime)}
	}
	devices, err := n.devices(ctx, rt.GPU)
	if err != nil {
		return nil, err
	}
	im, err := n.runtimeImage(ctx, l, acc, rt, m.ID())
	if err != nil {
		return nil, err
	}
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	tree, err := st.Tree(r.Manifest) // a record names a place, the store knows it
	if err != nil {
		return nil, treeFailure(r, err)
	}
	return &runner.Job{
		Name: m.Name, Version: m.Version, Manifest: r.Manifest, ModelDir: tree.Path,
		Runtime: rt, Image: runner.Image{Reference: rt.Reference, Manifest: im.ManifestDigest, Config: im.ConfigDigest, Name: im.LocalName(), Archive: im.WriteArchive},
		Validation: m.Validation, Devices: devices, StateDir: n.runsDir(),
		Lock: n.runLock(), GPULock: filepath.Join(n.o.StateDir, "gpu.lock"),
		Progress: n.o.Progress,
	}, nil
}

// runtimeImage admits a runtime's image and brings it into the store. An
// image that is here already is admitted again from its stored evidence, so
// that a node without a network still validates.
func (n *Node) runtimeImage(ctx context.Context, l *cas.Lease, acc *snapshot.Accepted, rt snapshot.Runtime, forModel string) (*oci.Image, error) {
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	c, err := n.client()
	if err != nil {
		return nil, err
	}
	ref, err := oci.ParseReference(rt.Reference)
	if err != nil {
		return nil, err
	}
	if err := l.Add(ctx, ref.Digest); err != nil {
		return nil, err
	}
	id := modelID(rt.Name, rt.Version)
	lk, err := n.runtimes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer lk.Unlock()
	var rec RuntimeRecord
	switch err := n.runtimes.read(id, &rec); {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errCorrupt):
		if _, err := n.runtimes.setAside(id, n.now()); err != nil {
			return nil, err
		}
		rec = RuntimeRecord{}
	case err != nil:
		return nil, err
	}
	mirrors, err := n.mirrors(c, acc.Document, ref, rt.Mirrors)
	if err != nil {
		return nil, err
	}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if rec.Reference == rt.Reference && sound(st, rec.Blobs) {
		if d := n.readmit(acc, rt.Policy, rt.Reference, rec.Receipt, n.runtimeRef(id)); d.Allowed {
			if im, err := oci.StoredImage(st, ref, platform); err == nil {
				return im, nil
			}
		}
	}
	step := n.step(forModel, "runtime image")
	im, receipt, evidence, err := n.fetchImage(ctx, c, st, l, acc, rt, mirrors, platform, forModel)
	if err != nil {
		step(err, "")
		if f := AsFailure(err); f.Cause.failedCheck() {
			if ierr := n.runtimeIncident(acc, rt, f); ierr != nil {
				return nil, errors.Join(err, ierr)
			}
			return nil, &Failure{Cause: CauseRuntime, Reason: "runtime image " + id + " is not admitted: " + f.Reason, Hint: f.Hint, Err: err}
		}
		return nil, fmt.Errorf("runtime image %s: %w", id, err)
	}
	step(nil, amount.Bytes(im.Size))
	rec = RuntimeRecord{Name: rt.Name, Version: rt.Version, Reference: rt.Reference, Receipt: receipt, Image: im.ManifestDigest, Size: im.Size, Updated: n.now()}
	rec.Blobs = append(append(rec.Blobs, im.Blobs...), evidence...)
	if err := st.PutRef(ctx, cas.Ref{Name: n.runtimeRef(id), Blobs: rec.Blobs, Pinned: true, LastUsed: n.now()}); err != nil {
		return nil, err
	}
	return im, n.runtimes.write(id, &rec)
}

// sound says whether all blobs are here and none is known to be bad. Decisions
// are remembered: that an image is admitted does not say that its signatures
// are still here.
func sound(st *cas.Store, blobs []digest.Digest) bool {
	return !slices.ContainsFunc(blobs, func(d digest.Digest) bool {
		stat, err := st.Stat(d)
		return err != nil || stat.Suspect
	})
}

// forgetImages removes from the container engine the images of runtimes that
// the snapshot no longer names, or names with another digest. A container that
// still uses one keeps it until a later pass.
func (n *Node) forgetImages(ctx context.Context, acc *snapshot.Accepted) {
	var keep []digest.Digest
	for _, rt := range acc.Document.Runtimes {
		var rec RuntimeRecord
		if n.runtimes.read(modelID(rt.Name, rt.Version), &rec) == nil && rec.Reference == rt.Reference {
			keep = append(keep, rec.Image)
		}
	}
	there, err := runner.LoadedImages(n.runsDir())
	if err == nil && !slices.ContainsFunc(there, func(d digest.Digest) bool { return !slices.Contains(keep, d) }) {
		return
	}
	var removed []string
	if err == nil {
		var eng engine
		if eng, err = n.engine(ctx); err == nil {
			removed, err = eng.RemoveImages(ctx, n.runsDir(), n.runLock(), keep)
		}
	}
	for _, name := range removed {
		n.o.Log.Info("removed an image from the container engine", "image", name)
	}
	if err != nil {
		n.o.Log.Warn("images of earlier runtimes stay in the container engine", "error", err)
	}
}

// runtimeIncident records that a runtime cannot be used. Its models are not at
// fault and stay as they are; the incident is written once for all of them.
func (n *Node) runtimeIncident(acc *snapshot.Accepted, rt snapshot.Runtime, f *Failure) error {
	id := modelID(rt.Name, rt.Version)
	if _, told := n.told.LoadOrStore(id+" "+f.Reason, true); told {
		return nil
	}
	return n.incident(Incident{
		Kind: f.Cause, Model: rt.Name, Version: rt.Version, Digest: rt.Digest(), Expected: f.Expected, Found: f.Found,
		Source: f.Source, Reason: "runtime: " + f.Reason, Action: "its models are not validated", Snapshot: acc.Digest,
	})
}

func (n *Node) fetchImage(ctx context.Context, c *oci.Client, st *cas.Store, l *cas.Lease, acc *snapshot.Accepted, rt snapshot.Runtime, mirrors []string, platform, forModel string) (*oci.Image, *Receipt, []digest.Digest, error) {
	ad, err := n.admit(ctx, l, acc, rt.Policy, rt.Reference, rt.Mirrors)
	if err != nil {
		return nil, nil, nil, err
	}
	im, err := c.ImageWithProgress(ctx, st, l, ad.ref, mirrors, platform, func(e progress.Event) {
		e.Model, e.Step = forModel, "runtime"
		n.o.Progress.Emit(e)
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if d := policy.AdmitDigests(acc.Document, slices.Concat(im.Blobs, ad.blobs)...); !d.Allowed {
		return nil, nil, nil, refusal(d, ad.ref.Digest, ad.ref.Name())
	}
	return im, &ad.receipt, ad.blobs, nil
}
