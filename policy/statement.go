package policy

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/resultity/rmodels/internal/terminal"
)

// Caps on evidence, checked before anything is decoded.
const (
	maxEvidence      = 128     // pieces per artifact
	maxEvidenceBytes = 8 << 20 // of all pieces together
	maxBundle        = 4 << 20
	maxPayload       = 64 << 10 // a simplesigning payload has about 250 bytes
	maxSubjects      = 1024
)

// statement is an in-toto statement in a bundle, as it claims to be; only
// after the envelope's signature verified may its words be used.
type statement struct {
	Type          string         `json:"_type"`
	Subject       []subject      `json:"subject"`
	PredicateType string         `json:"predicateType"`
	Predicate     jsontext.Value `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// about tells whether the digest is one of the subjects.
func (s *statement) about(d digest.Digest) bool {
	for _, sub := range s.Subject {
		if sub.Digest["sha256"] == d.Encoded() {
			return true
		}
	}
	return false
}

// subjects names what the statement is about, for messages.
func (s *statement) subjects() string {
	var names []string
	for i, sub := range s.Subject {
		if i == 3 {
			names = append(names, fmt.Sprintf("and %d more", len(s.Subject)-3))
			break
		}
		if h := sub.Digest["sha256"]; h != "" {
			names = append(names, brief("sha256:"+h))
		} else {
			names = append(names, fmt.Sprintf("%q without SHA-256", brief(sub.Name)))
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// openBundle decodes a bundle and the statement in it, strictly: one DSSE
// envelope with one signature over one in-toto statement.
func openBundle(payload []byte) (*bundle.Bundle, *statement, error) {
	if len(payload) > maxBundle {
		return nil, nil, fmt.Errorf("bundle of %d bytes, at most %d", len(payload), maxBundle)
	}
	// protojson takes a duplicate member's last value, other readers the
	// first: what can be read two ways is refused.
	if v := jsontext.Value(payload); v.Kind() != '{' || !v.IsValid() {
		return nil, nil, fmt.Errorf("bundle is not one JSON object with unique members")
	}
	var b bundle.Bundle
	var raw []byte
	err := guarded(func() error {
		if err := b.UnmarshalJSON(payload); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
		env := b.GetDsseEnvelope()
		if env == nil {
			return fmt.Errorf("bundle holds no DSSE envelope: a bare signature names neither subject nor predicate type")
		}
		if n := len(env.GetSignatures()); n != 1 {
			return fmt.Errorf("envelope has %d signatures, must have exactly one", n)
		}
		if t := env.GetPayloadType(); t != inTotoPayload {
			return fmt.Errorf("envelope's payload is %q, must be %q", brief(t), inTotoPayload)
		}
		raw = env.GetPayload()
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	s, err := parseStatement(raw)
	if err != nil {
		return nil, nil, err
	}
	return &b, s, nil
}

// envelope is a DSSE envelope (secure-systems-lab/dsse, envelope.md) as JSON;
// byte slices are base64 there.
type envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     []byte              `json:"payload"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	KeyID string `json:"keyid"` // selects nothing
	Sig   []byte `json:"sig"`
}

// openEnvelope decodes a bare envelope as strictly as [openBundle] does one in
// a bundle. A plain signature has another shape in this format.
func openEnvelope(payload []byte) (*envelope, *statement, error) {
	if len(payload) > maxBundle {
		return nil, nil, fmt.Errorf("envelope of %d bytes, at most %d", len(payload), maxBundle)
	}
	var e envelope
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, nil, fmt.Errorf("envelope: %w", err)
	}
	if n := len(e.Signatures); n != 1 {
		return nil, nil, fmt.Errorf("envelope has %d signatures, must have exactly one", n)
	}
	if e.PayloadType != inTotoPayload {
		return nil, nil, fmt.Errorf("envelope's payload is %q, must be %q", brief(e.PayloadType), inTotoPayload)
	}
	s, err := parseStatement(e.Payload)
	if err != nil {
		return nil, nil, err
	}
	if s.PredicateType == SignaturePredicate {
		return nil, nil, fmt.Errorf("a bare envelope carries attestations, not signatures")
	}
	return &e, s, nil
}

func parseStatement(raw []byte) (*statement, error) {
	var s statement
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("in-toto statement: %w", err)
	}
	if s.Type != statementV1 && s.Type != statementV01 {
		return nil, fmt.Errorf("in-toto statement is of type %q", brief(s.Type))
	}
	if len(s.Subject) == 0 || len(s.Subject) > maxSubjects {
		return nil, fmt.Errorf("in-toto statement has %d subjects, must have 1 to %d", len(s.Subject), maxSubjects)
	}
	if s.PredicateType == "" {
		return nil, fmt.Errorf("in-toto statement has no predicate type")
	}
	return &s, nil
}

// guarded turns a panic of a library on hostile bytes into a refusal.
func guarded(step func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("evidence that the library could not take: %v", r)
		}
	}()
	return step()
}

// maxReason bounds why a piece of evidence does not count: one clause for each
// authority.
const maxReason = 2000

// brief keeps hostile text short and printable in messages.
func brief(s string) string { return briefTo(s, 120) }

func briefTo(s string, n int) string {
	return terminal.Clip(s, n)
}
