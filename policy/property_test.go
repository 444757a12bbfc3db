package policy_test

import (
	"crypto"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// fact is what is true about a piece of evidence, known because we made it.
type fact struct {
	ev        policy.Evidence
	signer    string // "key 2" or "identity 1"
	format    string
	predicate string // "" for legacy
	subject   digest.Digest
	sound     bool // the bytes verify
}

// party is an authority as the brute-force reading sees it.
type party struct {
	name    string
	format  string
	signers []string
	attests bool // and nothing else
}

// pool is all evidence that the random cases draw from.
type pool struct {
	keys  []crypto.Signer
	ids   []snapshot.Identity
	root  []byte
	facts []fact
}

func newPool(t *testing.T) *pool {
	p := &pool{}
	s := newSigstore(t)
	p.root = s.trustedRoot()
	for i := range 4 {
		k := newKey(t)
		p.keys = append(p.keys, k)
		signer := fmt.Sprintf("key %d", i)
		for _, subject := range []digest.Digest{manifest, other} {
			for _, predicate := range []string{policy.SignaturePredicate, slsa, "https://example.org/verdict/v1"} {
				b := must(policy.SignAttestation(k, subject, predicate, []byte("{}")))(t)
				p.facts = append(p.facts, fact{bundleEvidence(b), signer, "bundle", predicate, subject, true})
			}
			p.facts = append(p.facts, fact{legacyBy(t, k, subject), signer, "legacy", "", subject, true})
		}
		broken := must(policy.SignBundle(newKey(t), manifest))(t)
		p.facts = append(p.facts, fact{bundleEvidence(broken), signer, "bundle", policy.SignaturePredicate, manifest, false})
	}
	for i := range 3 {
		id := snapshot.Identity{Issuer: issuer, Subject: fmt.Sprintf("robot-%d@example.org", i)}
		p.ids = append(p.ids, id)
		for _, predicate := range []string{policy.SignaturePredicate, slsa} {
			b := s.sign(bundleShape{who: id.Subject, predicateType: predicate})
			p.facts = append(p.facts, fact{bundleEvidence(b), fmt.Sprintf("identity %d", i), "bundle", predicate, manifest, true})
		}
		moved := s.sign(bundleShape{who: id.Subject, subject: other})
		p.facts = append(p.facts, fact{bundleEvidence(moved), fmt.Sprintf("identity %d", i), "bundle", policy.SignaturePredicate, other, true})
	}
	return p
}

// byTheBook reads the policy by trying everything: some set of threshold
// authorities, and some way of giving each a signer of its own, such that
// every one has a sound signature by that signer; and for each attestation
// some authority of its list.
func byTheBook(parties []party, threshold int, required [][]string, evidence []fact, revoked map[string]bool) bool {
	vouches := func(p party, signer, predicate string) bool {
		if revoked[signer] {
			return false
		}
		named := false
		for _, s := range p.signers {
			named = named || s == signer
		}
		for _, f := range evidence {
			if named && f.sound && f.signer == signer && f.subject == manifest && f.format == p.format &&
				(f.predicate == predicate || f.format == "legacy" && predicate == policy.SignaturePredicate) {
				return true
			}
		}
		return false
	}
	var assign func(i, left int, used map[string]bool) bool
	assign = func(i, left int, used map[string]bool) bool {
		if left == 0 {
			return true
		}
		if i == len(parties) {
			return false
		}
		if assign(i+1, left, used) {
			return true
		}
		for _, s := range parties[i].signers {
			if !used[s] && !parties[i].attests && vouches(parties[i], s, policy.SignaturePredicate) {
				used[s] = true
				if assign(i+1, left-1, used) {
					return true
				}
				delete(used, s)
			}
		}
		return false
	}
	if threshold < 1 || !assign(0, threshold, map[string]bool{}) {
		return false
	}
	for _, names := range required {
		met := false
		for _, p := range parties {
			for _, n := range names {
				for _, s := range p.signers {
					met = met || n == p.name && p.format == "bundle" && vouches(p, s, slsa)
				}
			}
		}
		if !met {
			return false
		}
	}
	return true
}

// TestAdmissionProperty: over random policies, signatures and revocations
// admission holds exactly when the brute-force reading says so.
func TestAdmissionProperty(t *testing.T) {
	p := newPool(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	yes := 0
	const rounds = 200
	for round := range rounds {
		var parties []party
		pol := acme(1 + r.IntN(3))
		for i := range 1 + r.IntN(5) {
			name := fmt.Sprintf("a%d", i)
			if r.IntN(3) == 0 {
				a := keylessAuthority(name)
				a.Keyless.Identities = nil
				pa := party{name: name, format: "bundle"}
				for _, j := range r.Perm(len(p.ids))[:1+r.IntN(len(p.ids))] {
					a.Keyless.Identities = append(a.Keyless.Identities, p.ids[j])
					pa.signers = append(pa.signers, fmt.Sprintf("identity %d", j))
				}
				pol.Authorities, parties = append(pol.Authorities, a), append(parties, pa)
				continue
			}
			k, format := r.IntN(len(p.keys)), []string{"bundle", "legacy"}[r.IntN(2)]
			pol.Authorities = append(pol.Authorities, keyAuthority(t, name, format, p.keys[k]))
			parties = append(parties, party{name, format, []string{fmt.Sprintf("key %d", k)}, false})
		}
		if last := len(parties) - 1; r.IntN(4) == 0 {
			parties[last].attests, pol.Authorities[last].AttestsOnly = true, true
		}
		var required [][]string
		if r.IntN(3) == 0 {
			names := []string{}
			for _, pa := range parties {
				if r.IntN(2) == 0 {
					names = append(names, pa.name)
				}
			}
			required = append(required, names)
			pol.Attestations = []snapshot.Attestation{{PredicateType: slsa, Authorities: names}}
		}
		acc := accepted(pol)
		acc.TrustRoots = map[string][]byte{"net": p.root}
		revoked := map[string]bool{}
		if i := r.IntN(12); i < len(p.keys) {
			revoked[fmt.Sprintf("key %d", i)] = true
			acc.Document.Revocations = append(acc.Document.Revocations, snapshot.Revocation{Key: keyDigest(t, p.keys[i])})
		} else if i < len(p.keys)+len(p.ids) {
			i -= len(p.keys)
			revoked[fmt.Sprintf("identity %d", i)] = true
			acc.Document.Revocations = append(acc.Document.Revocations, snapshot.Revocation{Identity: &p.ids[i]})
		}
		var evidence []fact
		var ev []policy.Evidence
		for range r.IntN(20) {
			f := p.facts[r.IntN(len(p.facts))]
			if r.IntN(2) == 0 && (!f.sound || f.subject != manifest) {
				continue
			}
			evidence, ev = append(evidence, f), append(ev, f.ev)
		}
		want := byTheBook(parties, pol.Threshold, required, evidence, revoked)
		d := admit(acc, ev...)
		if d.Allowed != want {
			t.Fatalf("round %d: decided %v, the policy says %v\nparties %+v\nthreshold %d required %v revoked %v\ndecision %+v", round, d.Allowed, want, parties, pol.Threshold, required, revoked, d)
		}
		if want {
			yes++
		}
	}
	if yes < 5 || yes > rounds-5 {
		t.Errorf("%d of %d rounds were admitted: the cases are lopsided", yes, rounds)
	}
	t.Logf("%d of %d admitted", yes, rounds)
}
