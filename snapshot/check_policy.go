package snapshot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/ociref"
)

// Signature formats of an [Authority].
const (
	FormatBundle = "bundle"
	FormatLegacy = "legacy"
)

// SignaturePredicate is the in-toto predicate type of a plain signature, as
// cosign 3 writes it. It can not be asked for as an attestation.
const SignaturePredicate = "https://sigstore.dev/cosign/sign/v1"

// ContentFormats are the file formats that a policy may admit.
var ContentFormats = []string{"safetensors", "gguf", "json", "text", "onnx", "sentencepiece", "jinja"}

func (s *Snapshot) checkPolicies(p *problems) map[string]bool {
	names := map[string]bool{}
	if !p.count("policies", len(s.Policies), maxPolicies) {
		return names
	}
	for i, pol := range s.Policies {
		path := fmt.Sprintf("policies[%d]", i)
		p.addErr(path+".name", CheckName(pol.Name))
		if names[pol.Name] {
			p.add(path+".name", "%q stands twice", clip(pol.Name))
		}
		names[pol.Name] = true
		s.checkPolicy(p, path, pol)
	}
	return names
}

func (s *Snapshot) checkPolicy(p *problems, path string, pol Policy) {
	if len(pol.Images) == 0 {
		p.add(path+".images", "is empty: name the repositories that the policy is for")
	}
	if p.count(path+".images", len(pol.Images), maxGlobs) {
		for i, g := range pol.Images {
			p.addErr(fmt.Sprintf("%s.images[%d].glob", path, i), checkGlob(g.Glob))
		}
	}
	if pol.Threshold < 1 {
		p.add(path+".threshold", "is %d, must be at least 1", pol.Threshold)
	}
	if !p.count(path+".authorities", len(pol.Authorities), maxAuthorities) {
		return
	}
	names, signers, attesters := map[string]Authority{}, map[string]bool{}, map[string]bool{}
	signing := 0
	for i, a := range pol.Authorities {
		ap := fmt.Sprintf("%s.authorities[%d]", path, i)
		p.addErr(ap+".name", CheckName(a.Name))
		if _, twice := names[a.Name]; twice {
			p.add(ap+".name", "%q stands twice", clip(a.Name))
		}
		names[a.Name] = a
		if a.AttestsOnly {
			s.checkAuthority(p, ap, a, attesters)
			if !slices.ContainsFunc(pol.Attestations, func(at Attestation) bool { return slices.Contains(at.Authorities, a.Name) }) {
				p.add(ap+".attestsOnly", "is true, but no attestation of the policy names %q", clip(a.Name))
			}
		} else {
			signing++
			s.checkAuthority(p, ap, a, signers)
		}
	}
	if pol.Threshold > signing || pol.Threshold > len(signers) {
		p.add(path+".threshold", "is %d, but there are %d authorities that sign, with %d distinct keys and identities: it can never be met",
			pol.Threshold, signing, len(signers))
	}
	for who := range attesters {
		if signers[who] {
			p.add(path+".authorities", "%s stands under an authority that only attests and under one that signs", clip(who))
		}
	}
	if p.count(path+".attestations", len(pol.Attestations), maxAuthorities) {
		for i, a := range pol.Attestations {
			checkAttestation(p, fmt.Sprintf("%s.attestations[%d]", path, i), a, names)
		}
	}
	checkContent(p, path+".content", pol.Content)
}

// checkAuthority adds the authority's keys and identities to signers.
func (s *Snapshot) checkAuthority(p *problems, path string, a Authority, signers map[string]bool) {
	p.oneOf(path+".signatureFormat", a.SignatureFormat, FormatBundle, FormatLegacy)
	switch {
	case (a.Key == nil) == (a.Keyless == nil):
		p.add(path, "must have exactly one of key and keyless")
	case a.Key != nil:
		_, fp, err := ParseKey(a.Key.Data)
		p.addErr(path+".key.data", err)
		signers["key "+fp.String()] = true
		if a.CTLog != nil {
			p.add(path+".ctlog", "a key has no certificate that a CT log could hold")
		}
	default:
		s.checkTrustRef(p, path+".keyless.trustRootRef", a.Keyless.TrustRootRef)
		if len(a.Keyless.Identities) == 0 {
			p.add(path+".keyless.identities", "is empty: without an identity anyone would be accepted")
		}
		if p.count(path+".keyless.identities", len(a.Keyless.Identities), maxIdentities) {
			for i, id := range a.Keyless.Identities {
				checkIdentity(p, fmt.Sprintf("%s.keyless.identities[%d]", path, i), id)
				signers["identity "+id.Issuer+" "+id.Subject] = true
			}
		}
	}
	if a.SignatureFormat == FormatLegacy {
		if a.Keyless != nil {
			p.add(path+".signatureFormat", "legacy signatures are accepted with a key alone (CVE-2026-24122)")
		}
		if a.TLog != nil || a.Timestamp != nil || a.CTLog != nil {
			p.add(path, "log and timestamp requirements need signatureFormat \"bundle\"")
		}
	}
	for _, r := range []struct {
		name string
		ref  *LogRef
	}{{"ctlog", a.CTLog}, {"tlog", a.TLog}, {"rfc3161timestamp", a.Timestamp}} {
		if r.ref == nil {
			continue
		}
		s.checkTrustRef(p, path+"."+r.name+".trustRootRef", r.ref.TrustRootRef)
		if a.Keyless != nil && r.ref.TrustRootRef != a.Keyless.TrustRootRef {
			p.add(path+"."+r.name+".trustRootRef", "is %q, must be the keyless trust root %q", clip(r.ref.TrustRootRef), clip(a.Keyless.TrustRootRef))
		}
	}
	if a.Key != nil && a.TLog != nil && a.Timestamp != nil && a.TLog.TrustRootRef != a.Timestamp.TrustRootRef {
		p.add(path+".rfc3161timestamp.trustRootRef", "must be the same trust root as tlog")
	}
}

func (s *Snapshot) checkTrustRef(p *problems, path, ref string) {
	if _, ok := s.TrustRoots[ref]; !ok {
		p.add(path, "%q is not one of trustRoots", clip(ref))
	}
}

func checkIdentity(p *problems, path string, id Identity) {
	for _, f := range []struct{ name, value string }{{"issuer", id.Issuer}, {"subject", id.Subject}} {
		if f.value == "" {
			p.add(path+"."+f.name, "is empty: both issuer and subject are matched, exactly")
		}
		p.text(path+"."+f.name, f.value, maxText)
	}
}

func checkAttestation(p *problems, path string, a Attestation, names map[string]Authority) {
	if a.PredicateType == "" {
		p.add(path+".predicateType", "is empty")
	}
	if a.PredicateType == SignaturePredicate {
		p.add(path+".predicateType", "is that of a plain signature: use threshold")
	}
	p.text(path+".predicateType", a.PredicateType, maxText)
	if len(a.Authorities) == 0 {
		p.add(path+".authorities", "is empty")
	}
	if !p.count(path+".authorities", len(a.Authorities), maxAuthorities) {
		return
	}
	for i, n := range a.Authorities {
		if _, ok := names[n]; !ok {
			p.add(fmt.Sprintf("%s.authorities[%d]", path, i), "%q is not an authority of this policy", clip(n))
		}
	}
}

func checkContent(p *problems, path string, c Content) {
	if p.count(path+".mediaTypes", len(c.MediaTypes), maxGlobs) {
		for i, t := range c.MediaTypes {
			if t == "" || len(t) > 255 || strings.ContainsAny(t, " \t\r\n*") {
				p.add(fmt.Sprintf("%s.mediaTypes[%d]", path, i), "%q is not a media type", clip(t))
			}
		}
	}
	for i, f := range c.Formats {
		if i == len(ContentFormats) {
			p.add(path+".formats", "%d entries, at most %d", len(c.Formats), len(ContentFormats))
			break
		}
		p.oneOf(fmt.Sprintf("%s.formats[%d]", path, i), f, ContentFormats...)
	}
	p.oneOf(path+".chatTemplates", c.ChatTemplates, "", "pinned", "any")
	p.oneOf(path+".remoteCode", c.RemoteCode, "", "refuse", "ignore")
	if l := c.Limits; l.Files < 0 || l.FileBytes < 0 || l.TotalBytes < 0 || l.ExpandRatio < 0 {
		p.add(path+".limits", "must not be negative")
	}
}

// checkGlob wants a literal host and whole-segment wildcards: a partial one
// reads differently to every reader.
func checkGlob(g string) error {
	if len(g) > ociref.Max {
		return fmt.Errorf("%d bytes, at most %d", len(g), ociref.Max)
	}
	host, rest, ok := strings.Cut(g, "/")
	if !ok || checkRegistry(host) != nil {
		return fmt.Errorf("%q must begin with a registry host written out, then a path", clip(g))
	}
	for seg := range strings.SplitSeq(rest, "/") {
		if seg == "*" || seg == "**" {
			continue
		}
		if !ociref.IsComponent(seg) {
			return fmt.Errorf("%q: segment %q is neither a name nor * nor **", clip(g), clip(seg))
		}
	}
	return nil
}

// MatchGlob reports whether repository (with its host) matches: "*" is one
// path segment, "**" is any number of them, also none. The host is compared
// as it stands.
func MatchGlob(glob, repository string) bool {
	return matchSegments(strings.Split(glob, "/"), strings.Split(repository, "/"))
}

// CheckRepository refuses a repository (with its host) that the policy is not
// for.
func (pol Policy) CheckRepository(repository string) error {
	if !slices.ContainsFunc(pol.Images, func(g ImageGlob) bool { return MatchGlob(g.Glob, repository) }) {
		return errors.New("the repository is outside what the policy is for")
	}
	return nil
}

// matchSegments fills one row of a table per pattern segment: linear in
// pattern × name, whatever the number of wildcards.
func matchSegments(pattern, name []string) bool {
	row := make([]bool, len(name)+1)
	row[0] = true
	for _, seg := range pattern {
		next := make([]bool, len(name)+1)
		if seg == "**" {
			seen := false
			for i, ok := range row {
				seen = seen || ok
				next[i] = seen
			}
		} else {
			for i, part := range name {
				next[i+1] = row[i] && (seg == "*" || seg == part)
			}
		}
		row = next
	}
	return row[len(name)]
}

// ParseKey reads a public key in PEM (SubjectPublicKeyInfo) and returns it
// with the SHA-256 of its DER form, the name by which keys are revoked. RSA is
// accepted from 2048 to 8192 bits (above, verification is a denial of
// service), ECDSA on P-256, P-384 and P-521, and Ed25519.
func ParseKey(data string) (crypto.PublicKey, digest.Digest, error) {
	if len(data) > 16<<10 {
		return nil, "", fmt.Errorf("%d bytes, at most %d", len(data), 16<<10)
	}
	block, rest := pem.Decode([]byte(data))
	switch {
	case block == nil:
		return nil, "", fmt.Errorf("is not PEM")
	case block.Type != "PUBLIC KEY":
		return nil, "", fmt.Errorf("PEM block is %q, must be PUBLIC KEY", clip(block.Type))
	case strings.TrimSpace(string(rest)) != "":
		return nil, "", fmt.Errorf("holds more than one PEM block")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("public key: %w", err)
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if n := k.Curve.Params().BitSize; n < 256 {
			return nil, "", fmt.Errorf("ECDSA curve of %d bits, at least 256", n)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return nil, "", fmt.Errorf("RSA key of %d bits, must be 2048 to 8192", n)
		}
	default:
		return nil, "", fmt.Errorf("key type %T is not accepted", pub)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, "", fmt.Errorf("public key: %w", err)
	}
	return pub, digest.SHA256.FromBytes(der), nil
}
