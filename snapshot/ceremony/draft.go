package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// Draft reads the document as it is being edited. Its sequence, created and
// expires are those of the last edit; [Repository.Sign] sets them.
func (r *Repository) Draft() (*snapshot.Snapshot, error) {
	b, err := os.ReadFile(r.path(draftFolder, snapshot.TargetName))
	if err != nil {
		return nil, fmt.Errorf("read draft: %w", err)
	}
	s, err := snapshot.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("draft %s: %w", r.path(draftFolder, snapshot.TargetName), err)
	}
	if s.Network != r.config.Network {
		return nil, fmt.Errorf("%w: draft is for %q, the repository for %q", snapshot.ErrNetwork, s.Network, r.config.Network)
	}
	return s, nil
}

// Edit changes the draft. It is stored only when the result is well formed.
func (r *Repository) Edit(change func(*snapshot.Snapshot) error) error {
	s, err := r.Draft()
	if err != nil {
		return err
	}
	if err := change(s); err != nil {
		return err
	}
	if s.Network != r.config.Network {
		return fmt.Errorf("%w: draft is for %q, the repository for %q", snapshot.ErrNetwork, s.Network, r.config.Network)
	}
	if err := s.Check(); err != nil {
		return err
	}
	return writeJSON(r.path(draftFolder, snapshot.TargetName), s)
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
func (r *Repository) SetEnabled(name, version string, enabled bool) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
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
func (r *Repository) RemoveModel(name, version string) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
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

// Revoke withdraws a digest, a key or an identity.
func (r *Repository) Revoke(rev snapshot.Revocation) error {
	return r.Edit(func(s *snapshot.Snapshot) error {
		s.Revocations = put(s.Revocations, rev, func(x snapshot.Revocation) bool {
			return x.Digest == rev.Digest && x.Key == rev.Key &&
				(x.Identity == nil) == (rev.Identity == nil) && (x.Identity == nil || *x.Identity == *rev.Identity)
		})
		return nil
	})
}

// AddTrustRoot puts a Sigstore trusted_root.json beside the document and pins
// it there under name.
func (r *Repository) AddTrustRoot(name string, trustedRoot []byte) error {
	if err := snapshot.CheckName(name); err != nil {
		return fmt.Errorf("%w: trust root name %w", snapshot.ErrInvalid, err)
	}
	if !jsontext.Value(trustedRoot).IsValid() || len(trustedRoot) > snapshot.MaxExtra {
		return fmt.Errorf("%w: trust root %s is not JSON of at most %d bytes", snapshot.ErrInvalid, name, snapshot.MaxExtra)
	}
	target := name + ".trusted_root.json"
	if err := r.writeTarget(target, trustedRoot); err != nil {
		return err
	}
	return r.Edit(func(s *snapshot.Snapshot) error {
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
	if !jsontext.Value(bundle).IsValid() {
		return fmt.Errorf("%w: bundle is not JSON", snapshot.ErrInvalid)
	}
	target := snapshot.BundleTarget(manifest)
	var list []jsontext.Value
	b, err := os.ReadFile(r.targetPath(target))
	if err == nil {
		err = json.Unmarshal(b, &list)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("bundles of %s: %w", manifest, err)
	}
	if slices.ContainsFunc(list, func(v jsontext.Value) bool { return string(v) == string(bundle) }) {
		return nil
	}
	if b, err = json.Marshal(append(list, bundle)); err != nil {
		return err
	}
	return r.writeTarget(target, b)
}

func (r *Repository) targetPath(target string) string {
	return r.path(draftFolder, "targets", target)
}

func (r *Repository) writeTarget(target string, b []byte) error {
	p := r.targetPath(target)
	if err := durable.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(p, b, 0o644)
}

// extraTargets are the draft's targets besides the document that it uses: its
// trust roots, and bundles for what it lists.
func (r *Repository) extraTargets(s *snapshot.Snapshot) (map[string][]byte, error) {
	targets := map[string][]byte{}
	for name, tr := range s.TrustRoots {
		b, err := os.ReadFile(r.targetPath(tr.Target))
		if err != nil {
			return nil, fmt.Errorf("trust root %s: %w", name, err)
		}
		if d := digest.FromBytes(b); d != tr.Digest {
			return nil, fmt.Errorf("%w: trust root %s: the draft pins %s, %s is %s", snapshot.ErrInvalid, name, tr.Digest, tr.Target, d)
		}
		targets[tr.Target] = b
	}
	listed := []digest.Digest{}
	for _, m := range s.Models {
		listed = append(listed, m.Digest())
	}
	for _, rt := range s.Runtimes {
		listed = append(listed, rt.Digest())
	}
	for _, d := range listed {
		target := snapshot.BundleTarget(d)
		b, err := os.ReadFile(r.targetPath(target))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		targets[target] = b
	}
	return targets, nil
}

// sameContent compares documents without what signing sets.
func sameContent(a, b *snapshot.Snapshot) (bool, error) {
	x, err := contentOf(a)
	if err != nil {
		return false, err
	}
	y, err := contentOf(b)
	return string(x) == string(y), err
}

func contentOf(s *snapshot.Snapshot) ([]byte, error) {
	c := *s
	c.Sequence, c.Created, c.Expires = 0, time.Time{}, time.Time{}
	return json.Marshal(&c, json.Deterministic(true))
}
