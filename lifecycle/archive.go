package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// receiptType is the media type under which a model's record travels with its
// artifact into an archive or an export.
const receiptType = "application/vnd.rmodels.receipt.v1+json"

// layoutPrefix marks a source or target that is an OCI image layout directory.
const layoutPrefix = "oci-layout://"

// archiveTarget is where archived models go: a directory that holds an OCI
// image layout, or oci://registry[/prefix].
func (n *Node) archiveTarget() (layout, registry string) {
	if p, ok := strings.CutPrefix(n.o.Archive, "oci://"); ok {
		return "", strings.TrimSuffix(p, "/")
	}
	return strings.TrimPrefix(n.o.Archive, layoutPrefix), ""
}

// archiveSource is the archive as a source of an artifact, for a restore.
func (n *Node) archiveSource(ref oci.Reference) string {
	layout, registry := n.archiveTarget()
	if layout != "" {
		return layoutPrefix + layout
	}
	return registry + "/" + ref.Repository
}

// Archive moves an installed version that nothing uses any more to cold
// storage. The snapshot's retention does it by itself for outdated versions.
func (n *Node) Archive(ctx context.Context, nameOrID string) (*Record, error) {
	acc, err := n.Current()
	if err != nil {
		return nil, err
	}
	r, err := n.Record(nameOrID)
	if err != nil {
		return nil, err
	}
	if m, ok := acc.Document.Model(r.Name, r.Version); ok && m.Enabled {
		return nil, &Failure{
			Cause: CauseListing, Reason: r.ID() + ": the snapshot lists and enables it: the next sync would bring it back",
			Hint: "archive what the snapshot disables or no longer lists",
		}
	}
	return n.locked(ctx, r.ID(), func(r *Record) error {
		return n.archive(ctx, acc, "asked for", r)
	})
}

// locked runs change on a record under its lock.
func (n *Node) locked(ctx context.Context, id string, change func(*Record) error) (*Record, error) {
	lk, err := n.models.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer lk.Unlock()
	r := new(Record)
	if err := n.models.read(id, r); err != nil {
		return nil, err
	}
	return r, change(r)
}

// archive copies a model with its signatures and its record to the archive,
// and frees its hot copy only when every byte of the cold one was compared.
func (n *Node) archive(ctx context.Context, acc *snapshot.Accepted, why string, r *Record) error {
	if n.o.Archive == "" {
		return &Failure{Cause: CauseConfig, Reason: "no archive is configured", Hint: "set archive to a directory on a slow disk, or to oci://registry/prefix"}
	}
	if err := n.evicted(r); err != nil {
		return err
	}
	if r.Reason == freedByGC {
		return &Failure{
			Cause: CauseListing, Reason: r.ID() + " is not here any more: it was " + freedByGC,
			Hint: "nothing is left to archive; it is fetched again once the snapshot enables it",
		}
	}
	if !r.State.Installed() {
		return &Failure{Cause: CauseListing, Reason: fmt.Sprintf("%s is %s: only what is installed can be archived", r.ID(), r.State), Hint: "see why with: rmodels explain " + r.ID()}
	}
	step := n.step(r.ID(), "archive")
	c, err := n.gather(ctx, acc, r, n.o.Archive)
	if err != nil {
		step(err, "")
		f := AsFailure(err)
		return &Failure{
			Cause: f.Cause, Reason: "it cannot be copied: " + f.Reason, Digest: f.Digest, Expected: f.Expected, Found: f.Found, Source: f.Source, Err: err,
			Hint: cmp.Or(f.Hint, "look it through with: rmodels verify --repair "+r.ID()),
		}
	}
	defer c.lease.Release()
	res, err := n.copyOut(ctx, c)
	step(err, amount.Bytes(res.Bytes)+" written and compared")
	if err != nil {
		// Whatever is wrong with the cold copy, the hot one is good: it stays.
		f := &Failure{
			Cause: CauseUnavailable, Reason: "the archive did not take it: " + err.Error(), Source: n.o.Archive, Err: err,
			Hint: "the hot copy is kept; look at the archive's disk, the next sync tries again",
		}
		if bad := AsFailure(err); bad.Cause == CauseHash {
			return errors.Join(f, n.incident(Incident{
				Kind: CauseHash, Model: r.Name, Version: r.Version, Digest: bad.Digest, Expected: bad.Expected, Found: bad.Found,
				Source: n.o.Archive, Reason: "the archive's copy does not read back as it was written", Action: "the hot copy is kept", Snapshot: acc.Digest,
			}))
		}
		return f
	}
	if r.State == Pending {
		if err := r.move(Inactive, n.o.By, why, acc.Digest, n.now()); err != nil {
			return err
		}
	}
	if err := r.move(Archived, n.o.By, why, acc.Digest, n.now()); err != nil {
		return err
	}
	r.Tree, r.Holds, r.Cold = "", "", true
	return n.save(r)
}

// copied is a model on its way to a layout directory or a registry: everything
// of it is here, and held by the lease.
type copied struct {
	record   *Record
	to       string
	lease    *cas.Lease
	artifact *oci.Packed
	evidence []oci.Evidence
}

// gather makes a model ready to be copied. Packed layers are here as the files
// that they hold; as they were published they are fetched again, and go with
// the lease.
func (n *Node) gather(ctx context.Context, acc *snapshot.Accepted, r *Record, to string) (_ *copied, err error) {
	st, err := n.store()
	if err != nil {
		return nil, err
	}
	l, err := st.Lease(ctx, "copy "+r.ID(), r.Manifest)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Release())
		}
	}()
	ref, err := st.Ref(n.modelRef(r.ID()))
	if err != nil {
		return nil, err
	}
	if err := l.Add(ctx, append(ref.Blobs, ref.Layers...)...); err != nil {
		return nil, err
	}
	c := &copied{record: r, to: to, lease: l}
	if c.artifact, err = oci.Stored(st, r.Manifest); err != nil {
		return nil, err
	}
	if err := n.fetchLayers(ctx, st, acc, c, ref.Layers); err != nil {
		return nil, err
	}
	if c.evidence, err = evidenceOf(st, r.Receipt); err != nil {
		return nil, err
	}
	b, err := seal(r)
	if err != nil {
		return nil, err
	}
	c.evidence = append(c.evidence, oci.Evidence{MediaType: receiptType, Payload: b})
	return c, nil
}

// fetchLayers brings the packed layers back: from the model's sources, or from
// where it was copied to before.
func (n *Node) fetchLayers(ctx context.Context, st *cas.Store, acc *snapshot.Accepted, c *copied, layers []digest.Digest) error {
	var missing []ocispec.Descriptor
	for _, b := range c.artifact.Blobs() {
		if stat, err := st.Stat(b.Digest); slices.Contains(layers, b.Digest) && (err != nil || stat.Suspect) {
			missing = append(missing, b)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	client, err := n.client()
	if err != nil {
		return err
	}
	ref, err := oci.ParseReference(c.record.Reference)
	if err != nil {
		return err
	}
	m, _ := acc.Document.Model(c.record.Name, c.record.Version)
	mirrors, err := n.mirrors(client, acc.Document, ref, m.Mirrors)
	if err != nil {
		return err
	}
	if registry, ok := strings.CutPrefix(c.to, "oci://"); ok {
		mirrors = append(mirrors, strings.TrimSuffix(registry, "/")+"/"+ref.Repository)
	} else {
		mirrors = append(mirrors, layoutPrefix+strings.TrimPrefix(c.to, layoutPrefix))
	}
	step := n.step(c.record.ID(), "fetch packed layers")
	res, err := client.FetchLayers(ctx, st, c.lease, ref, mirrors, missing, oci.FetchOptions{Progress: n.o.Progress, Model: c.record.ID()})
	step(err, fetchedLine(res))
	if merr := n.reportMismatches(&snapshot.Model{Name: c.record.Name, Version: c.record.Version}, acc, res.Mismatches, err); merr != nil && err == nil {
		err = merr
	}
	if err != nil {
		f := *AsFailure(sentBy(ref, err))
		f.Hint = "a copy needs the packed layers as they were published, and this node keeps only their files: make one of the model's sources reachable, or name one with --from"
		return &f
	}
	return nil
}

// copyOut writes a model's artifact, its signatures and its record.
func (n *Node) copyOut(ctx context.Context, c *copied) (oci.LayoutResult, error) {
	var res oci.LayoutResult
	target, isRegistry := strings.CutPrefix(c.to, "oci://")
	if !isRegistry {
		return oci.Export(ctx, strings.TrimPrefix(c.to, layoutPrefix), c.record.ID(), c.artifact, c.evidence)
	}
	client, err := n.client()
	if err != nil {
		return res, err
	}
	pinned, err := oci.ParseReference(c.record.Reference)
	if err != nil {
		return res, err
	}
	cold, err := client.Push(ctx, c.artifact, strings.TrimSuffix(target, "/")+"/"+pinned.Repository)
	if err != nil {
		return res, err
	}
	for _, e := range c.evidence {
		if err := client.Attach(ctx, cold, e); err != nil {
			return res, err
		}
	}
	res.Bytes = c.artifact.Size()
	return res, client.Compare(ctx, cold, c.artifact)
}

// evidenceOf is what proves an admission: the signatures that counted.
func evidenceOf(st *cas.Store, rc *Receipt) ([]oci.Evidence, error) {
	if rc == nil {
		return nil, errors.New("the record has no receipt")
	}
	var ev []oci.Evidence
	for _, s := range rc.Evidence {
		b, err := st.ReadAll(s.Digest, evidenceMax)
		if err != nil {
			return nil, fmt.Errorf("signature %s: %w", s.Digest, err)
		}
		ev = append(ev, oci.Evidence{MediaType: s.MediaType, Payload: b, Annotations: s.Annotations})
	}
	return ev, nil
}

// unarchive deletes an archived version whose retention is over, unless
// another version there has the same content. What a registry holds is left
// to the registry's own retention.
func (n *Node) unarchive(ctx context.Context, r *Record) error {
	layout, _ := n.archiveTarget()
	if layout == "" {
		return nil
	}
	needed, err := n.coldElsewhere(r)
	if err != nil || needed {
		return err
	}
	return oci.Unexport(ctx, layout, r.Manifest)
}

// coldElsewhere reports whether another model of this node, of whichever
// network, relies on the archive's copy of r's content.
func (n *Node) coldElsewhere(r *Record) (bool, error) {
	networks := filepath.Dir(n.dir)
	dirs, err := os.ReadDir(networks)
	if err != nil {
		return false, err
	}
	for _, d := range dirs {
		other := records{filepath.Join(networks, d.Name(), "models")}
		ids, err := other.ids()
		if err != nil {
			return false, err
		}
		for _, id := range ids {
			var x Record
			if d.Name() == n.o.Network && id == r.ID() {
				continue
			}
			switch err := other.read(id, &x); {
			case errors.Is(err, fs.ErrNotExist): // removed meanwhile
			case err != nil:
				return false, fmt.Errorf("whether %s relies on the archive cannot be told: %w", id, err)
			case x.Cold && x.Manifest == r.Manifest:
				return true, nil
			}
		}
	}
	return false, nil
}
