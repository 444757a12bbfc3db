package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// verifyWithin verifies a bundle, and once more with only those logs whose
// keys were valid when the signature was made. The library holds a key's
// validity against what the same key signed, the time in a log's promise or in
// a certificate timestamp, and does not look at it where an inclusion proof
// stands alone: a key that was retired because it was stolen could go on with
// a date of its choosing.
func verifyWithin(material root.TrustedMaterial, options []verify.VerifierOption, entity verify.SignedEntity, policy verify.PolicyBuilder) (*verify.VerificationResult, error) {
	res, err := verifyOnce(material, options, entity, policy)
	if err != nil {
		return nil, err
	}
	times := provenTimes(res)
	valid := &logsAt{material, times}
	if len(valid.RekorLogs()) == len(material.RekorLogs()) && len(valid.CTLogs()) == len(material.CTLogs()) {
		return res, nil
	}
	if res, err = verifyOnce(valid, options, entity, policy); err != nil {
		return nil, fmt.Errorf("with the logs whose keys were valid at %s: %w", stampAll(times), err)
	}
	return res, nil
}

func verifyOnce(material root.TrustedMaterial, options []verify.VerifierOption, entity verify.SignedEntity, policy verify.PolicyBuilder) (*verify.VerificationResult, error) {
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	return v.Verify(entity, policy)
}

// provenTimes are when the signature was there, by those who can tell: the
// timestamp authorities, and without one the logs that promised.
func provenTimes(res *verify.VerificationResult) []time.Time {
	var stamps, logs []time.Time
	for _, t := range res.VerifiedTimestamps {
		if t.Type == "TimestampAuthority" {
			stamps = append(stamps, t.Timestamp)
		} else {
			logs = append(logs, t.Timestamp)
		}
	}
	if len(stamps) > 0 {
		return stamps
	}
	return logs
}

func stampAll(times []time.Time) string {
	if len(times) == 0 {
		return "a time that nobody vouches for"
	}
	var all []string
	for _, t := range times {
		all = append(all, t.UTC().Format(time.RFC3339))
	}
	return strings.Join(all, " or ")
}

// logsAt is trusted material without the logs whose keys were not valid at any
// of times.
type logsAt struct {
	root.TrustedMaterial
	times []time.Time
}

// RekorLogs leaves out a log without a beginning, too, as the library does
// where the log promised.
func (m *logsAt) RekorLogs() map[string]*root.TransparencyLog {
	return m.valid(m.TrustedMaterial.RekorLogs(), func(l *root.TransparencyLog) bool { return !l.ValidityPeriodStart.IsZero() })
}

func (m *logsAt) CTLogs() map[string]*root.TransparencyLog {
	return m.valid(m.TrustedMaterial.CTLogs(), func(*root.TransparencyLog) bool { return true })
}

func (m *logsAt) valid(logs map[string]*root.TransparencyLog, usable func(*root.TransparencyLog) bool) map[string]*root.TransparencyLog {
	kept := map[string]*root.TransparencyLog{}
	for id, l := range logs {
		for _, t := range m.times {
			if usable(l) && !t.Before(l.ValidityPeriodStart) && (l.ValidityPeriodEnd.IsZero() || !t.After(l.ValidityPeriodEnd)) {
				kept[id] = l
			}
		}
	}
	return kept
}
