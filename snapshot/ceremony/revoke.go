package ceremony

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Revoke withdraws a digest, a key or an identity. One that matches nothing in
// the draft or the published document is refused, unless flags say [Unlisted]:
// it is most often a typing error that leaves what was meant in use.
func (r *Repository) Revoke(rev snapshot.Revocation, flags ...Flag) error {
	unlisted := false
	for _, f := range flags {
		unlisted = unlisted || f == Unlisted
	}
	return r.withdraw(flags, func(st *state, s *snapshot.Snapshot) error {
		var err error
		if rev.Digest, err = st.fullDigest(rev.Digest); err != nil {
			return err
		}
		if !unlisted {
			if err := st.matches(rev); err != nil {
				return err
			}
		}
		s.Revocations = put(s.Revocations, rev, sameRevocation(rev))
		return nil
	})
}

// minDigest is how much of a digest names an artifact: what is printed short.
const minDigest = 12

// fullDigest is a digest as it is, or the one that is listed and begins so.
func (st *state) fullDigest(d digest.Digest) (digest.Digest, error) {
	if d == "" || snapshot.CheckDigest(d) == nil {
		return d, nil
	}
	begin := strings.TrimPrefix(d.String(), "sha256:")
	var found []digest.Digest
	for _, doc := range []*snapshot.Snapshot{st.draft, st.document()} {
		if doc == nil || len(begin) < minDigest {
			continue
		}
		for _, x := range listedManifests(doc) {
			if strings.HasPrefix(x.Encoded(), begin) && !slices.Contains(found, x) {
				found = append(found, x)
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%w: %.80q is not a full digest (sha256: and 64 hexadecimal digits), and %d that are listed begin so (%d digits are needed)",
			ErrUnlisted, string(d), len(found), minDigest)
	}
	return found[0], nil
}

// hits are what a revocation that comes takes out of use, of what the
// documents list.
func hits(c snapshot.Change, docs ...*snapshot.Snapshot) []string {
	if c.Kind != "revocation" || c.Verb != "added" {
		return nil
	}
	var all []string
	add := func(name string) {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	for _, rev := range docs[len(docs)-1].Revocations {
		if b, err := json.Marshal(rev, json.Deterministic(true)); err != nil || string(b) != c.Name {
			continue
		}
		for _, doc := range docs {
			policies := hitPolicies(doc, rev)
			for _, m := range doc.Models {
				if rev.Digest != "" && m.Digest() == rev.Digest {
					add("model " + m.ID())
				} else if slices.Contains(policies, m.Policy) {
					add("signatures of model " + m.ID())
				}
			}
			for _, rt := range doc.Runtimes {
				if rev.Digest != "" && rt.Digest() == rev.Digest {
					add("runtime " + rt.Name)
				} else if slices.Contains(policies, rt.Policy) {
					add("signatures of runtime " + rt.Name)
				}
			}
		}
	}
	return all
}

// hitPolicies are those that let what is revoked sign.
func hitPolicies(doc *snapshot.Snapshot, rev snapshot.Revocation) []string {
	var all []string
	if rev.Digest != "" {
		return nil
	}
	for _, p := range doc.Policies {
		one := &snapshot.Snapshot{Policies: []snapshot.Policy{p}}
		if ok, _ := matchDocument(one, rev); ok {
			all = append(all, p.Name)
		}
	}
	return all
}

func sameRevocation(rev snapshot.Revocation) func(snapshot.Revocation) bool {
	return func(x snapshot.Revocation) bool {
		return x.Digest == rev.Digest && x.Key == rev.Key &&
			(x.Identity == nil) == (rev.Identity == nil) && (x.Identity == nil || *x.Identity == *rev.Identity)
	}
}

// matches refuses a revocation of what no document at hand lists.
func (st *state) matches(rev snapshot.Revocation) error {
	var near string
	for _, doc := range []*snapshot.Snapshot{st.draft, st.document()} {
		if doc == nil {
			continue
		}
		ok, hint := matchDocument(doc, rev)
		if ok {
			return nil
		}
		if near == "" {
			near = hint
		}
	}
	if near == "" && rev.Key != "" {
		near = st.roleHint(rev.Key)
	}
	if near == "" {
		near = "say that it is meant for what is not listed with --unlisted"
	}
	return fmt.Errorf("%w: %s; %s", ErrUnlisted, revoked(rev), near)
}

// matchDocument tells whether a document lists what is revoked, or else what
// was probably meant.
func matchDocument(doc *snapshot.Snapshot, rev snapshot.Revocation) (ok bool, hint string) {
	for _, d := range listedManifests(doc) {
		if rev.Digest != "" && d == rev.Digest {
			return true, ""
		}
	}
	for _, p := range doc.Policies {
		for _, a := range p.Authorities {
			if a.Key != nil && rev.Key != "" {
				_, d, err := snapshot.ParseKey(a.Key.Data)
				if err == nil && d == rev.Key {
					return true, ""
				}
				if err == nil && rev.Key == digest.FromString(a.Key.Data) {
					hint = fmt.Sprintf("that is the digest of the PEM file of %s in policy %s; its key is %s", a.Name, p.Name, d)
				}
			}
			if a.Keyless == nil || rev.Identity == nil {
				continue
			}
			for _, id := range a.Keyless.Identities {
				if id == *rev.Identity {
					return true, ""
				}
				if strings.Trim(id.Issuer, "/") == strings.Trim(rev.Identity.Issuer, "/") || id.Subject == rev.Identity.Subject {
					hint = fmt.Sprintf("%s in policy %s has issuer %q and subject %q", a.Name, p.Name, id.Issuer, id.Subject)
				}
			}
		}
	}
	return false, hint
}

// roleHint names a key of the ceremony itself: that one is rotated, not
// revoked.
func (st *state) roleHint(d digest.Digest) string {
	root := st.inForce()
	if root == nil {
		return ""
	}
	for _, role := range roleNames {
		for _, id := range root.Signed.Roles[role].KeyIDs {
			if id == d.Encoded() || snapshot.KeyDigest(root.Signed.Keys[id]) == d {
				return fmt.Sprintf("that is a key of role %s: replace it with snapshot rotate", role)
			}
		}
	}
	return ""
}

// revoked says what a revocation names.
func revoked(rev snapshot.Revocation) string {
	switch {
	case rev.Digest != "":
		return "digest " + rev.Digest.String()
	case rev.Key != "":
		return "key " + rev.Key.String()
	case rev.Identity != nil:
		return fmt.Sprintf("identity %q of %q", rev.Identity.Subject, rev.Identity.Issuer)
	}
	return "nothing"
}

// unrevoked are the revocations of old that now lacks.
func unrevoked(old, now *snapshot.Snapshot) []snapshot.Revocation {
	if old == nil {
		return nil
	}
	var lost []snapshot.Revocation
	for _, rev := range old.Revocations {
		found := false
		for _, x := range now.Revocations {
			found = found || sameRevocation(rev)(x)
		}
		if !found {
			lost = append(lost, rev)
		}
	}
	return lost
}

// withdrawsOnly tells whether a change does nothing but revoke, remove and
// disable.
func withdrawsOnly(changes []snapshot.Change, old, now *snapshot.Snapshot) bool {
	for _, c := range changes {
		switch {
		case c.Kind == "revocation" && c.Verb == "added", c.Kind == "model" && c.Verb == "removed":
		case c.Kind == "model" && c.Verb == "changed" && len(c.Members) == 1 && c.Members[0] == "enabled":
			name, version, _ := strings.Cut(c.Name, "@")
			m, ok := now.Model(name, version)
			if !ok || m.Enabled {
				return false
			}
		default:
			return false
		}
	}
	return len(unrevoked(old, now)) == 0
}
