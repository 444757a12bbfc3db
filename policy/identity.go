package policy

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/resultity/rmodels/snapshot"
)

// nameKind is the type of a name in a certificate (RFC 5280, 4.2.1.6). A
// certificate authority vouches for each type in a way of its own: whoever
// may have an e-mail address written into a certificate must not come by the
// URI of a workflow by choosing its spelling.
type nameKind string

const (
	nameURI   nameKind = "URI"
	nameEmail nameKind = "e-mail address"
	nameUser  nameKind = "user name" // an otherName of Fulcio's
)

var absoluteURI = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// kindOf is the type of name that an identity's subject asks for, by its
// spelling: what begins with a scheme is a URI, what else holds an @ is an
// e-mail address, and the rest are user names.
func kindOf(subject string) nameKind {
	switch {
	case absoluteURI.MatchString(subject):
		return nameURI
	case strings.Contains(subject, "@"):
		return nameEmail
	}
	return nameUser
}

// certificateIdentity reads issuer and subject of a certificate that verified.
// The library takes the first URI, or else the first e-mail address, as text
// without its type; a certificate that names two, or two issuers, can be read
// in two ways.
func certificateIdentity(c *x509.Certificate) (snapshot.Identity, nameKind, error) {
	kind, subject, err := subjectName(c)
	if err != nil {
		return snapshot.Identity{}, "", err
	}
	issuer, err := oidcIssuer(c)
	return snapshot.Identity{Issuer: issuer, Subject: subject}, kind, err
}

// subjectName reads the one subject alternative name.
func subjectName(c *x509.Certificate) (nameKind, string, error) {
	for _, e := range c.Extensions {
		if !e.Id.Equal(cryptoutils.SANOID) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 || len(names) == 0 {
			return "", "", errors.New("the certificate's subject alternative name cannot be read")
		}
		if len(names) > 1 {
			return "", "", errors.New("the certificate has more than one subject alternative name")
		}
		switch n := names[0]; {
		case n.Class == asn1.ClassContextSpecific && n.Tag == 1:
			return nameEmail, string(n.Bytes), nil
		case n.Class == asn1.ClassContextSpecific && n.Tag == 6:
			return nameURI, string(n.Bytes), nil
		}
		user, err := cryptoutils.UnmarshalOtherNameSAN(c.Extensions)
		if err != nil {
			return "", "", fmt.Errorf("the certificate's subject alternative name is no URI, e-mail address or user name: %w", err)
		}
		return nameUser, user, nil
	}
	return "", "", errors.New("the certificate has no subject alternative name")
}

// oidIssuerV1 is the issuer as plain bytes; older certificates carry it alone.
var oidIssuerV1 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}

// oidcIssuer reads the issuer, which Fulcio writes in an old and in a new form.
func oidcIssuer(c *x509.Certificate) (string, error) {
	var found []string
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oidIssuerV1):
			found = append(found, string(e.Value))
		case e.Id.Equal(certificate.OIDIssuerV2):
			var text string
			if err := certificate.ParseDERString(e.Value, &text); err != nil {
				return "", fmt.Errorf("the certificate's issuer: %w", err)
			}
			found = append(found, text)
		}
	}
	switch {
	case len(found) == 0:
		return "", errors.New("the certificate names no issuer of the identity")
	case len(found) == 2 && found[0] != found[1]:
		return "", fmt.Errorf("the certificate names two issuers, %s and %s", brief(found[0]), brief(found[1]))
	}
	return found[0], nil
}
