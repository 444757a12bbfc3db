package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// Evidence is one signature or bundle as found on a registry or in the
// snapshot. Nothing in it is trusted.
type Evidence struct {
	MediaType   string
	Payload     []byte
	Annotations map[string]string
	Source      string
}

// AdmitSignatures decides whether enough of the policy's authorities signed
// the manifest, and whether every attestation that the policy asks for is
// there. It serves models and runtime images alike. Bundles that came with the
// snapshot count as evidence too.
//
// The rule: there must be at least threshold authorities, each with a valid
// signature of its own format over exactly this manifest, and each by a key or
// identity that no other of them is counted with. An attestation never counts
// as a signature, and neither does anything by an authority that only attests.
// now is the time of the decision, kept for the receipt.
//
// files are the artifact's files by path and digest; they are needed where the
// policy asks for an OMS attestation, which is about files.
func AdmitSignatures(acc *snapshot.Accepted, policyName, reference string, manifest digest.Digest, ev []Evidence, now time.Time, files ...FileDigest) Decision {
	d := admitSignatures(acc, policyName, reference, manifest, ev, files)
	d.Time = now.UTC()
	return d
}

func admitSignatures(acc *snapshot.Accepted, policyName, reference string, manifest digest.Digest, ev []Evidence, files []FileDigest) Decision {
	if acc == nil || acc.Document == nil {
		return refuse(ClassPolicy, "default", "there is no accepted snapshot", "an accepted snapshot", "none")
	}
	pol, ok := acc.Document.Policy(policyName)
	if !ok {
		return refuse(ClassPolicy, "default", fmt.Sprintf("policy %q does not exist", brief(policyName)), "a policy of the snapshot", brief(policyName))
	}
	rule := "policies[" + pol.Name + "]"
	repository, pin, err := snapshot.SplitReference(reference)
	if err != nil {
		return refuse(ClassPolicy, rule+".images", err.Error(), "registry/repository@sha256:…", brief(reference))
	}
	if pin != manifest {
		return refuse(ClassSignature, rule+".images", "the manifest at hand is not the pinned one", pin.String(), brief(manifest.String()))
	}
	if d := AdmitDigests(acc.Document, manifest); !d.Allowed {
		return d
	}
	if err := pol.CheckRepository(repository); err != nil {
		var globs []string
		for _, g := range pol.Images {
			globs = append(globs, g.Glob)
		}
		return refuse(ClassPolicy, rule+".images", err.Error(), strings.Join(globs, " or "), repository)
	}
	if pol.Threshold < 1 || len(pol.Authorities) == 0 {
		return refuse(ClassPolicy, rule+".threshold", "a policy without a threshold or authorities admits nothing", "threshold of at least 1", fmt.Sprint(pol.Threshold))
	}
	c := &counting{acc: acc, policy: pol, manifest: manifest, files: files}
	for _, a := range pol.Authorities {
		v, err := newVerifier(acc, a)
		if err != nil {
			return refuse(ClassPolicy, rule+".authorities["+a.Name+"]", err.Error(), "an authority that can be used", "none")
		}
		c.verifiers = append(c.verifiers, v)
	}
	c.weigh(ev)
	return c.decide(rule)
}

// counting is one decision in the making.
type counting struct {
	acc          *snapshot.Accepted
	policy       snapshot.Policy
	verifiers    []*verifier
	manifest     digest.Digest
	files        []FileDigest
	signers      []Signer // of plain signatures
	attestations []Signer
	rejected     []Reject
	elsewhere    string   // what a signature was about when it was not this
	outside      []string // files that an OMS statement of a signer does not list
}

// weigh takes the evidence piece by piece: the snapshot's own first, so that
// no flood from a registry pushes it out.
func (c *counting) weigh(ev []Evidence) {
	var all []Evidence
	for _, b := range c.acc.Bundles[c.manifest] {
		all = append(all, Evidence{MediaType: BundleMediaType, Payload: b, Source: "snapshot"})
	}
	all = append(all, ev...)
	seen := map[digest.Digest]bool{}
	total := 0
	for i, e := range all {
		if i == maxEvidence || total+len(e.Payload) > maxEvidenceBytes {
			c.rejected = append(c.rejected, Reject{Source: e.Source, Reason: fmt.Sprintf("%d pieces of evidence left out: more than %d, or %d bytes in all", len(all)-i, maxEvidence, maxEvidenceBytes)})
			return
		}
		total += len(e.Payload)
		id := digest.FromString(e.MediaType + "\n" + e.Annotations[LegacySignature] + "\n" + string(e.Payload))
		if seen[id] {
			continue // the same piece from a second source
		}
		seen[id] = true
		if err := c.take(e); err != nil {
			var other *otherArtifact
			if errors.As(err, &other) {
				c.elsewhere = other.about
			}
			c.rejected = append(c.rejected, Reject{Source: e.Source, Evidence: digest.FromBytes(e.Payload), Reason: briefTo(err.Error(), maxReason)})
		}
	}
}

func (c *counting) take(e Evidence) error {
	switch {
	case e.MediaType == LegacyMediaType:
		sig, err := openLegacy(e, c.manifest)
		if err != nil {
			return err
		}
		return c.eachSigner(e, func(v *verifier) (Signer, error) { return v.legacy(e.Payload, sig) })
	case e.MediaType == LegacyAttestation:
		env, s, err := openEnvelope(e.Payload)
		if err != nil {
			return err
		}
		return c.takeStatement(e, s, func(v *verifier, _ digest.Digest) (Signer, error) { return v.envelope(env, s) })
	case strings.HasPrefix(e.MediaType, "application/vnd.dev.sigstore.bundle"):
		b, s, err := openBundle(e.Payload)
		if err != nil {
			return err
		}
		return c.takeStatement(e, s, func(v *verifier, about digest.Digest) (Signer, error) { return v.bundle(b, s, about) })
	}
	return fmt.Errorf("media type %q is no kind of signature that is known", brief(e.MediaType))
}

// takeStatement looks at what a statement is about before verify looks at who
// signed it.
func (c *counting) takeStatement(e Evidence, s *statement, verify func(v *verifier, about digest.Digest) (Signer, error)) error {
	signature := s.PredicateType == SignaturePredicate
	if !signature && !slices.ContainsFunc(c.policy.Attestations, func(a snapshot.Attestation) bool { return a.PredicateType == s.PredicateType }) {
		return fmt.Errorf("predicate type %q: neither a signature nor an attestation that the policy asks for", brief(s.PredicateType))
	}
	about := c.manifest
	var outside []string
	if s.PredicateType == OMSPredicate {
		files, unlisted, err := checkOMS(s, c.files)
		if err != nil {
			return err
		}
		outside = unlisted
		if !s.about(c.manifest) { // model_signing knows no manifests
			about = files
		}
	}
	if !s.about(about) {
		return &otherArtifact{s.subjects()}
	}
	by := func(v *verifier) (Signer, error) { return verify(v, about) }
	if signature {
		return c.eachSigner(e, by)
	}
	if err := c.each(e, &c.attestations, by); err != nil {
		return err
	}
	c.outside = append(c.outside, outside...)
	return nil
}

var errAttestsOnly = errors.New("it may only attest")

// eachSigner holds a signature against the authorities that may sign.
func (c *counting) eachSigner(e Evidence, verify func(*verifier) (Signer, error)) error {
	return c.each(e, &c.signers, func(v *verifier) (Signer, error) {
		s, err := verify(v)
		if err == nil && v.authority.AttestsOnly {
			err = errAttestsOnly
		}
		return s, err
	})
}

// each holds one piece against every authority.
func (c *counting) each(e Evidence, into *[]Signer, verify func(*verifier) (Signer, error)) error {
	var reasons []string
	found := false
	for _, v := range c.verifiers {
		s, err := verify(v)
		if err != nil {
			reasons = append(reasons, v.authority.Name+": "+err.Error())
			continue
		}
		found = true
		s.Source, s.Evidence = e.Source, digest.FromBytes(e.Payload)
		*into = append(*into, s)
	}
	if found {
		return nil
	}
	// A signer that does not count any more, or not here, is the more telling
	// reason than a key that is another's.
	slices.SortStableFunc(reasons, func(a, b string) int { return strings.Compare(knownFirst(a), knownFirst(b)) })
	return fmt.Errorf("by no authority of the policy: %s", strings.Join(reasons, "; "))
}

func knownFirst(s string) string {
	if strings.Contains(s, errRevoked.Error()) || strings.Contains(s, errAttestsOnly.Error()) {
		return "0"
	}
	return "1"
}

// wanted says what the policy asks for.
func (c *counting) wanted(names []string) string {
	if c.policy.Threshold == 1 {
		return "a signature by " + strings.Join(names, " or ")
	}
	return fmt.Sprintf("signatures by %d of %s, each with a key or identity of its own", c.policy.Threshold, strings.Join(names, ", "))
}

func (c *counting) decide(rule string) Decision {
	var names []string
	for _, a := range c.policy.Authorities {
		if !a.AttestsOnly {
			names = append(names, a.Name)
		}
	}
	counted := match(c.signers)
	if len(counted) < c.policy.Threshold {
		found := "no signature"
		var reason string
		switch {
		case len(counted) > 0:
			var who []string
			for _, s := range counted {
				who = append(who, s.Authority)
			}
			found = fmt.Sprintf("%d: %s", len(counted), strings.Join(who, ", "))
			reason = "too few distinct signers"
		case c.elsewhere != "":
			found, reason = "a signature for "+c.elsewhere, "the signature is about another artifact"
		case len(c.rejected) > 0:
			found = "a signature " + c.rejected[0].Reason
			if n := len(c.rejected); n > 1 {
				found = fmt.Sprintf("%d signatures that do not count; the first is %s", n, c.rejected[0].Reason)
			}
			reason = "no signature by an authority of the policy"
		default:
			reason = "the artifact is not signed"
		}
		d := refuse(ClassSignature, rule+".threshold", reason,
			c.wanted(names), found)
		d.Signers, d.Rejected = c.signers, c.rejected
		return d
	}
	all := append(slices.Clone(c.signers), c.attestations...)
	for i, a := range c.policy.Attestations {
		if !slices.ContainsFunc(c.attestations, func(s Signer) bool {
			return s.PredicateType == a.PredicateType && slices.Contains(a.Authorities, s.Authority)
		}) {
			found := "none"
			if len(c.rejected) > 0 {
				found = fmt.Sprintf("none that counts; the first of %d: %s", len(c.rejected), c.rejected[0].Reason)
			}
			d := refuse(ClassAttestation, fmt.Sprintf("%s.attestations[%d]", rule, i), "a required attestation is missing",
				fmt.Sprintf("%s by %s", a.PredicateType, strings.Join(a.Authorities, " or ")), found)
			d.Signers, d.Rejected = all, c.rejected
			return d
		}
	}
	reason := fmt.Sprintf("signed by %d of %d needed, attestations: %d", len(counted), c.policy.Threshold, len(c.policy.Attestations))
	if outside := slices.Compact(slices.Sorted(slices.Values(c.outside))); len(outside) > 0 {
		reason += "; outside the OMS statement: " + quoteFiles(outside)
	}
	return Decision{
		Allowed: true, Rule: rule + ".threshold", Reason: reason,
		Signers: all, Rejected: c.rejected,
	}
}

// match finds the largest set of signatures in which every authority and every
// key or identity occurs once (augmenting paths over authorities on one side,
// keys and identities on the other). Counting bundles, or authorities alone,
// would let one key that stands under two names meet a threshold of two.
func match(signers []Signer) []Signer {
	options := map[string][]Signer{} // by authority
	var authorities []string
	for _, s := range signers {
		if options[s.Authority] == nil {
			authorities = append(authorities, s.Authority)
		}
		options[s.Authority] = append(options[s.Authority], s)
	}
	taken := map[string]Signer{} // by key or identity
	var place func(authority string, tried map[string]bool) bool
	place = func(authority string, tried map[string]bool) bool {
		for _, s := range options[authority] {
			who := s.who()
			if tried[who] {
				continue
			}
			tried[who] = true
			holder, ok := taken[who]
			if !ok || place(holder.Authority, tried) {
				taken[who] = s
				return true
			}
		}
		return false
	}
	for _, a := range authorities {
		place(a, map[string]bool{})
	}
	var set []Signer
	for _, s := range taken {
		set = append(set, s)
	}
	slices.SortFunc(set, func(a, b Signer) int { return strings.Compare(a.Authority, b.Authority) })
	return set
}

// who is the key or identity that signed.
func (s Signer) who() string {
	if s.Identity != nil {
		return fmt.Sprintf("identity %q %q", s.Identity.Issuer, s.Identity.Subject)
	}
	return "key " + s.Key.String()
}

func refuse(class Class, rule, reason, expected, found string) Decision {
	return Decision{Class: class, Rule: rule, Reason: reason, Expected: expected, Found: found}
}

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }
