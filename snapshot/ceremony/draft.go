package ceremony

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Flag changes how an edit is made.
type Flag int

const (
	// Only makes the change to what was published last, and sets the draft's
	// other edits aside for [Repository.Resume]: what an emergency needs. An
	// edit that withdraws does so by itself where the draft cannot be read.
	Only Flag = iota + 1
	// Unlisted lets a revocation name what neither the draft nor the published
	// document lists: a layer, a file, something yet to come.
	Unlisted
)

// Draft reads the document as it is being edited. Its sequence is that of the
// published document from which it was begun; signing sets it, created and
// expires.
func (r *Repository) Draft() (*snapshot.Snapshot, error) {
	st, err := r.read(context.Background())
	if err != nil {
		return nil, err
	}
	return st.draft, st.draftErr
}

func parseDraft(b []byte, network string) (*snapshot.Snapshot, error) {
	var s snapshot.Snapshot
	if err := json.Unmarshal(b, &s, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", snapshot.ErrInvalid, err)
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	if s.Network != network {
		return nil, fmt.Errorf("%w: draft is for %.80q, the ceremony for %q", snapshot.ErrNetwork, s.Network, network)
	}
	return &s, nil
}

// Edit changes the draft. It is stored only when nodes would take the result,
// or when it makes smaller what they would not.
func (r *Repository) Edit(change func(*snapshot.Snapshot) error, flags ...Flag) error {
	return r.edit(false, flags, func(_ *state, s *snapshot.Snapshot) error { return change(s) })
}

// withdraw is Edit for what takes something away: it falls back to the
// published document where the draft cannot be read.
func (r *Repository) withdraw(flags []Flag, change func(*state, *snapshot.Snapshot) error) error {
	return r.edit(true, flags, change)
}

func (r *Repository) edit(withdraws bool, flags []Flag, change func(*state, *snapshot.Snapshot) error) error {
	ctx := context.Background()
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(flags, Only) || withdraws && st.draft == nil && st.document() != nil {
			return r.editPublished(st, change)
		}
		if st.draft == nil {
			return st.draftErr
		}
		next, err := clone(st.draft)
		if err != nil {
			return err
		}
		// A draft that says what was published is begun from that, whatever it was
		// begun from before: earlier versions left the mark of their first.
		if st.document() != nil && sameContent(next, st.document()) {
			next.Sequence = st.sequence()
		}
		if err := r.apply(st, next, change); err != nil {
			if withdraws && st.draftErr != nil && st.document() != nil {
				return r.editPublished(st, change)
			}
			return err
		}
		return r.storeDraft(next)
	})
}

// apply changes a document and holds it against what nodes take.
func (r *Repository) apply(st *state, s *snapshot.Snapshot, change func(*state, *snapshot.Snapshot) error) error {
	before, err := signedForm(s)
	if err != nil {
		return err
	}
	if err := change(st, s); err != nil {
		return err
	}
	if s.Network != r.config.Network {
		return fmt.Errorf("%w: draft is for %.80q, the ceremony for %q", snapshot.ErrNetwork, s.Network, r.config.Network)
	}
	if err := s.Check(); err != nil {
		return err
	}
	after, err := signedForm(s)
	if err != nil {
		return err
	}
	if len(after) < len(before) { // on the way back to what nodes take
		return nil
	}
	extra, err := r.extraTargets(s, func(string) {})
	if err != nil {
		return err
	}
	return st.limits(s, extra)
}

func (r *Repository) storeDraft(s *snapshot.Snapshot) error { return writeJSON(r.files, draftFile, s) }

func clone(s *snapshot.Snapshot) (*snapshot.Snapshot, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var c snapshot.Snapshot
	return &c, json.Unmarshal(b, &c)
}

// signedForm is a document as nodes get it.
func signedForm(s *snapshot.Snapshot) ([]byte, error) {
	return json.Marshal(s, json.Deterministic(true), jsontext.WithIndent(" "))
}

// limits says early what nodes would refuse at the end: size, files, bytes.
func (st *state) limits(s *snapshot.Snapshot, extra map[string][]byte) error {
	raw, err := signedForm(s)
	if err != nil {
		return err
	}
	if n := len(raw); n > snapshot.MaxDocument {
		return fmt.Errorf("%w: document of %d bytes, nodes take %d", snapshot.ErrTooLarge, n, snapshot.MaxDocument)
	}
	bytes, list := 0, 0
	for name, b := range extra {
		bytes += len(b)
		list += len(name) + 160 // of a line of targets.json
	}
	if bytes > snapshot.MaxExtra {
		return fmt.Errorf("%w: trust roots and bundles of %d bytes, nodes take %d", snapshot.ErrTooLarge, bytes, snapshot.MaxExtra)
	}
	if limit := int(snapshot.MaxMetadata("targets")) - snapshot.MaxKeys*300; list > limit {
		return fmt.Errorf("%w: %d trust roots and bundles are more than targets.json can list", snapshot.ErrTooLarge, len(extra))
	}
	roots := st.publishedVersion() + 1
	if n := int(roots) + 3 + 1 + len(extra); n > snapshot.MaxPushFiles {
		return fmt.Errorf("%w: %d files with %d trust roots and bundles, a push file holds %d", snapshot.ErrTooLarge, n, len(extra), snapshot.MaxPushFiles)
	}
	return nil
}

// AddModel adds a model, or replaces the one of the same name and version.
func (r *Repository) AddModel(m snapshot.Model) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
		s.Models = put(s.Models, m, func(x snapshot.Model) bool { return x.Name == m.Name && x.Version == m.Version })
		return nil
	})
}

// AddRuntime adds a runtime, or replaces the one of the same name.
func (r *Repository) AddRuntime(rt snapshot.Runtime) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
		s.Runtimes = put(s.Runtimes, rt, func(x snapshot.Runtime) bool { return x.Name == rt.Name })
		return nil
	})
}

// AddPolicy adds a policy, or replaces the one of the same name.
func (r *Repository) AddPolicy(p snapshot.Policy) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
		s.Policies = put(s.Policies, p, func(x snapshot.Policy) bool { return x.Name == p.Name })
		return nil
	})
}

func put[T any](list []T, v T, same func(T) bool) []T {
	if i := slices.IndexFunc(list, same); i >= 0 {
		list[i] = v
		return list
	}
	return append(list, v)
}

// SetEnabled enables or disables a model; version "" means every version.
func (r *Repository) SetEnabled(name, version string, enabled bool, flags ...Flag) error {
	return r.edit(!enabled, flags, func(_ *state, s *snapshot.Snapshot) error {
		found := false
		for i := range s.Models {
			if m := &s.Models[i]; m.Name == name && (version == "" || m.Version == version) {
				m.Enabled, found = enabled, true
			}
		}
		if !found {
			return notListed(name, version)
		}
		return nil
	})
}

// RemoveModel drops a model; version "" means every version.
func (r *Repository) RemoveModel(name, version string, flags ...Flag) error {
	return r.withdraw(flags, func(_ *state, s *snapshot.Snapshot) error {
		n := len(s.Models)
		s.Models = slices.DeleteFunc(s.Models, func(m snapshot.Model) bool {
			return m.Name == name && (version == "" || m.Version == version)
		})
		if len(s.Models) == n {
			return notListed(name, version)
		}
		return nil
	})
}

func notListed(name, version string) error {
	if version != "" {
		name += "@" + version
	}
	return fmt.Errorf("model %s is not in the draft: %w", name, fs.ErrNotExist)
}

// AddTrustRoot puts a Sigstore trusted_root.json beside the document and pins
// it there under name.
func (r *Repository) AddTrustRoot(name string, trustedRoot []byte) error {
	if err := snapshot.CheckName(name); err != nil {
		return fmt.Errorf("%w: trust root name %w", snapshot.ErrInvalid, err)
	}
	if len(trustedRoot) > snapshot.MaxExtra || !jsontext.Value(trustedRoot).IsValid() {
		return fmt.Errorf("%w: trust root %s is not JSON of at most %d bytes", snapshot.ErrInvalid, name, snapshot.MaxExtra)
	}
	target := name + ".trusted_root.json"
	return r.edit(false, nil, func(_ *state, s *snapshot.Snapshot) error {
		// Beside the draft before the draft names it: a crash between the two
		// leaves a file that nothing uses.
		if err := r.files.write(path.Join(draftTargets, target), trustedRoot); err != nil {
			return err
		}
		if s.TrustRoots == nil {
			s.TrustRoots = map[string]snapshot.TrustRoot{}
		}
		s.TrustRoots[name] = snapshot.TrustRoot{Target: target, Digest: digest.FromBytes(trustedRoot)}
		return nil
	})
}

// AddBundle sends a signature bundle along with the snapshot, for nodes whose
// mirrors drop referrers.
func (r *Repository) AddBundle(manifest digest.Digest, bundle []byte) error {
	if err := snapshot.CheckDigest(manifest); err != nil {
		return fmt.Errorf("%w: %w", snapshot.ErrInvalid, err)
	}
	if len(bundle) > snapshot.MaxExtra || !jsontext.Value(bundle).IsValid() {
		return fmt.Errorf("%w: bundle is not JSON of at most %d bytes", snapshot.ErrInvalid, snapshot.MaxExtra)
	}
	target := path.Join(draftTargets, snapshot.BundleTarget(manifest))
	ctx := context.Background()
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		if st.draft == nil {
			return st.draftErr
		}
		var list []jsontext.Value
		b, err := r.files.read(target, snapshot.MaxExtra)
		if err == nil {
			err = json.Unmarshal(b, &list)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err != nil {
			list = nil // damaged, and left out by everything else: begun again
		}
		if slices.ContainsFunc(list, func(v jsontext.Value) bool { return bytes.Equal(v, bundle) }) {
			return nil
		}
		if b, err = json.Marshal(append(list, bundle)); err != nil {
			return err
		}
		extra := map[string][]byte{snapshot.BundleTarget(manifest): b}
		for name, old := range st.extra {
			if name != snapshot.BundleTarget(manifest) {
				extra[name] = old
			}
		}
		if err := st.limits(st.draft, extra); err != nil {
			return err
		}
		return r.files.write(target, b)
	})
}

// extraTargets are a document's targets besides itself: its trust roots, and
// bundles for what it lists. They lie beside the draft, else where the last
// snapshot was published.
func (r *Repository) extraTargets(s *snapshot.Snapshot, damaged func(string)) (map[string][]byte, error) {
	targets := map[string][]byte{}
	for name, tr := range s.TrustRoots {
		b, err := r.files.read(path.Join(draftTargets, tr.Target), snapshot.MaxExtra)
		if err != nil || digest.FromBytes(b) != tr.Digest {
			published, perr := r.files.read(path.Join(metadataFolder, snapshot.TargetFile(tr.Target, tr.Digest.Encoded())), snapshot.MaxExtra)
			if perr == nil && digest.FromBytes(published) == tr.Digest {
				b, err = published, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("trust root %s: %w", name, err)
		}
		if d := digest.FromBytes(b); d != tr.Digest {
			return nil, fmt.Errorf("%w: trust root %s: the draft pins %s, %s is %s", snapshot.ErrInvalid, name, tr.Digest, tr.Target, d)
		}
		targets[tr.Target] = b
	}
	for _, d := range listedManifests(s) {
		b, err := r.files.read(path.Join(draftTargets, snapshot.BundleTarget(d)), snapshot.MaxExtra)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var list []jsontext.Value
		if err == nil {
			err = json.Unmarshal(b, &list)
		}
		if err != nil {
			// Nodes look for signatures elsewhere too: what is damaged may not be
			// in the way of the rest.
			damaged(fmt.Sprintf("the bundles of %s are left out: %v", d, err))
			continue
		}
		targets[snapshot.BundleTarget(d)] = b
	}
	return targets, nil
}

func listedManifests(s *snapshot.Snapshot) []digest.Digest {
	var listed []digest.Digest
	for _, m := range s.Models {
		listed = append(listed, m.Digest())
	}
	for _, rt := range s.Runtimes {
		listed = append(listed, rt.Digest())
	}
	return listed
}

// contentOf is a document without what signing sets.
func contentOf(s *snapshot.Snapshot) ([]byte, error) {
	c := *s
	c.Sequence, c.Created, c.Expires = 0, time.Time{}, time.Time{}
	return json.Marshal(&c, json.Deterministic(true))
}

func sameContent(a, b *snapshot.Snapshot) bool {
	x, err := contentOf(a)
	if err != nil {
		return false
	}
	y, err := contentOf(b)
	return err == nil && bytes.Equal(x, y)
}
