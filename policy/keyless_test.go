package policy_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// TestLogKeysEnd: the key of a log counts inside its validity alone, as of the
// time that others vouch for, whether the log promised or proves.
func TestLogKeysEnd(t *testing.T) {
	f := newFulcio(t)
	now := time.Now()
	open := window{now.Add(-4 * time.Hour), now.Add(time.Hour)}
	ended := window{now.Add(-4 * time.Hour), now.Add(-30 * time.Minute)}
	later := window{now.Add(30 * time.Minute), now.Add(time.Hour)}
	endless := window{start: now.Add(-4 * time.Hour)}
	// The holder of a log's old key chooses its dates; a certificate that is
	// long enough, and the timestamp authority, are as of now.
	name := altNames(t, emailName(robot))
	long := issue{names: name, notBefore: now.Add(-50 * time.Minute), notAfter: now.Add(time.Hour), logged: now.Add(-40 * time.Minute)}
	proof, dated, inTime := issue{names: name, noPromise: true}, long, issue{names: name}
	unstamped := issue{names: name, noPromise: true, noTSA: true}
	sct := func(at time.Time) issue {
		i := long
		i.logged, i.sct = now, at
		return i
	}
	stamp := func(a *snapshot.Authority) { a.Timestamp = &snapshot.LogRef{TrustRootRef: "net"} }
	ct := func(a *snapshot.Authority) { a.CTLog = &snapshot.LogRef{TrustRootRef: "net"} }
	plain := func(*snapshot.Authority) {}
	for _, c := range []struct {
		name      string
		ask       func(*snapshot.Authority)
		rekor, ct window
		issue     issue
		words     string // of the refusal; empty: admitted
	}{
		{"a promise in time", plain, open, open, inTime, ""},
		{"a promise by a key without an end", plain, endless, open, inTime, ""},
		{"a promise after the end", plain, ended, open, inTime, "log"},
		{"a promise before the beginning", plain, later, open, inTime, "log"},
		{"a promise dated back, with a timestamp", stamp, ended, open, dated, "keys were valid at"},
		{"a promise dated back, with a timestamp that is not asked for", plain, ended, open, dated, "keys were valid at"},
		{"a proof in time", plain, open, open, proof, ""},
		{"a proof by a key without an end", plain, endless, open, proof, ""},
		{"a proof after the end", plain, ended, open, proof, "keys were valid at"},
		{"a proof before the beginning", plain, later, open, proof, "keys were valid at"},
		{"a proof by a key without a beginning", plain, window{end: now.Add(time.Hour)}, open, proof, "keys were valid at"},
		{"a proof that nobody dates", plain, open, open, unstamped, "timestamp"},
		{"a certificate timestamp in time", ct, open, open, sct(now), ""},
		{"a certificate timestamp by a key without bounds", ct, open, window{}, sct(now), ""},
		{"a certificate timestamp after the end", ct, open, ended, sct(now), "SCT"},
		{"a certificate timestamp dated back", ct, open, ended, sct(now.Add(-40 * time.Minute)), "keys were valid at"},
		{"a certificate timestamp dated ahead", ct, open, later, sct(now.Add(40 * time.Minute)), "keys were valid at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := keylessAuthority("bot")
			c.ask(&a)
			acc := accepted(acme(1, a))
			acc.TrustRoots = map[string][]byte{"net": f.trustedRoot(c.rekor, c.ct)}
			d := admit(acc, f.sign(c.issue))
			if c.words == "" {
				wantAllowed(t, d, "bot")
			} else {
				wantRefused(t, d, policy.ClassSignature, "policies[acme].threshold", c.words)
			}
		})
	}
}

// TestCertificateNames: an identity is matched by the type of the name in the
// certificate, too, and a certificate that can be read in two ways counts for
// nothing.
func TestCertificateNames(t *testing.T) {
	f := newFulcio(t)
	now := time.Now()
	open := window{now.Add(-time.Hour), now.Add(time.Hour)}
	root := f.trustedRoot(open, open)
	const (
		workflow = "https://git.example/acme/models/.ci/release.yml@refs/heads/main"
		user     = "robot!git.example"
	)
	userName := *must(cryptoutils.MarshalOtherNameSAN(user, false))(t)
	mailAsUser := *must(cryptoutils.MarshalOtherNameSAN(robot, false))(t)
	derText := func(s string) []byte { return must(asn1.MarshalWithParams(s, "utf8"))(t) }
	for _, c := range []struct {
		name    string
		subject string
		issue   issue
		words   string // of the refusal; empty: admitted
	}{
		{"a URI", workflow, issue{names: altNames(t, uriName(workflow))}, ""},
		{"an e-mail address", robot, issue{names: altNames(t, emailName(robot))}, ""},
		{"a user name", user, issue{names: userName}, ""},
		{"an e-mail address that spells a URI", workflow, issue{names: altNames(t, emailName(workflow))}, "is spelled as the URI"},
		{"a URI that spells an e-mail address", robot, issue{names: altNames(t, uriName(robot))}, "is spelled as the e-mail address"},
		{"a URI that spells a user name", user, issue{names: altNames(t, uriName(user))}, "is spelled as the user name"},
		{"a user name that spells an e-mail address", robot, issue{names: mailAsUser}, "is spelled as the e-mail address"},
		{"two names of one type", robot, issue{names: altNames(t, emailName(robot), emailName("x@example.org"))}, "more than one subject alternative name"},
		{"two names of two types", workflow, issue{names: altNames(t, emailName(robot), uriName(workflow))}, "more than one subject alternative name"},
		{"a URI in another spelling", "https://git.example/a%20b", issue{names: altNames(t, uriName("https://git.example/a b"))}, "is not one of the authority's"},
		{"the issuer in both forms", robot, issue{names: altNames(t, emailName(robot)), issuers: []pkix.Extension{
			{Id: oidIssuer, Value: []byte(issuer)}, {Id: oidIssuerV2, Value: derText(issuer)},
		}}, ""},
		{"the issuer in the new form", robot, issue{names: altNames(t, emailName(robot)), issuers: []pkix.Extension{
			{Id: oidIssuerV2, Value: derText(issuer)},
		}}, ""},
		{"two issuers", robot, issue{names: altNames(t, emailName(robot)), issuers: []pkix.Extension{
			{Id: oidIssuer, Value: []byte("https://evil.example")}, {Id: oidIssuerV2, Value: derText(issuer)},
		}}, "two issuers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			acc := accepted(acme(1, keylessAuthority("bot", snapshot.Identity{Issuer: issuer, Subject: c.subject})))
			acc.TrustRoots = map[string][]byte{"net": root}
			d := admit(acc, f.sign(c.issue))
			if c.words != "" {
				wantRefused(t, d, policy.ClassSignature, "policies[acme].threshold", c.words)
				return
			}
			wantAllowed(t, d, "bot")
			if id := d.Signers[0].Identity; id == nil || id.Subject != c.subject || id.Issuer != issuer {
				t.Errorf("%+v", d.Signers[0])
			}
		})
	}
}
