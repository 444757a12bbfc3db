package lifecycle

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// Cause classes what went wrong, by what an operator does about it. The
// classes of package policy are causes too.
type Cause string

const (
	CauseListing       = Cause(policy.ClassListing)
	CausePolicy        = Cause(policy.ClassPolicy)
	CauseRevoked       = Cause(policy.ClassRevoked)
	CauseSignature     = Cause(policy.ClassSignature)
	CauseAttestation   = Cause(policy.ClassAttestation)
	CauseLayout        = Cause(policy.ClassLayout)
	CauseContent       = Cause(policy.ClassContent)
	CauseCompatibility = Cause(policy.ClassCompatibility)

	CauseHash        Cause = "hash"          // bytes do not have the digest that pins them
	CauseValidation  Cause = "validation"    // the test inference failed
	CauseIsolation   Cause = "isolation"     // the sandbox was not closed
	CauseEngine      Cause = "engine"        // no container engine, or it cannot do what is needed
	CauseRuntime     Cause = "runtime"       // the runtime's image, definition or test is not one that can be run sealed
	CauseUnavailable Cause = "unavailable"   // a source or the network did not answer
	CauseSpace       Cause = "space"         // the disk is full, or would be
	CauseBusy        Cause = "busy"          // another process works on it
	CauseSnapshot    Cause = "snapshot"      // the snapshot was rejected
	CauseState       Cause = "state"         // a file of the node's own state is damaged
	CauseStore       Cause = "store"         // the store is damaged where no model is at fault
	CauseConfig      Cause = "configuration" // a setting is missing or wrong
	CauseUnexpected  Cause = "unexpected"
)

// failedCheck reports whether the cause is a check that said no, so that it
// is an incident and the model is Failed. The others are circumstances: the
// model stays as it was, and the next pass tries again.
func (c Cause) failedCheck() bool {
	switch c {
	case CausePolicy, CauseRevoked, CauseSignature, CauseAttestation, CauseLayout, CauseContent,
		CauseHash, CauseValidation, CauseIsolation:
		return true
	}
	return false
}

// Failure is an error with the evidence that an incident needs.
type Failure struct {
	Cause    Cause         `json:"cause"`
	Reason   string        `json:"reason"`        // one sentence, without the model's name
	Hint     string        `json:"hint,omitzero"` // what to do next
	Digest   digest.Digest `json:"digest,omitzero"`
	Expected string        `json:"expected,omitzero"`
	Found    string        `json:"found,omitzero"`
	Source   string        `json:"source,omitzero"`
	Err      error         `json:"-"`
}

func (f *Failure) Error() string { return f.Reason }
func (f *Failure) Unwrap() error { return f.Err }

// refusal turns a decision that did not allow into a failure.
func refusal(d policy.Decision, of digest.Digest, source string) *Failure {
	reason := d.Reason
	if d.Rule != "" {
		reason += " (rule " + d.Rule + ")"
	}
	f := &Failure{Cause: Cause(d.Class), Reason: reason, Digest: of, Expected: d.Expected, Found: d.Found, Source: source}
	switch f.Cause {
	case CauseCompatibility:
		f.Hint = "nothing to do: this node cannot run it"
	case CauseRevoked:
		f.Hint = "nothing to do: the network has withdrawn it"
	case CauseSignature, CauseAttestation:
		f.Hint = "the publisher signs it with a key of the policy, or the network changes the policy; the next sync tries again"
	default:
		f.Hint = "the publisher or the network has to mend it; the next sync tries again"
	}
	return f
}

// shortDigest is a digest as a person compares it.
func shortDigest(d digest.Digest) string {
	if d.Validate() != nil {
		return string(d)
	}
	return d.Encoded()[:12]
}

// AsFailure classes any error of the packages below. It is the one place that
// knows their sentinels.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	f := classify(err)
	bound(map[*string]int{&f.Reason: reasonMax, &f.Hint: hintMax, &f.Expected: wordsMax, &f.Found: wordsMax, &f.Source: wordsMax, (*string)(&f.Digest): wordsMax})
	return f
}

// Lengths in bytes of what a failure, an incident and a transition say. A
// record of full history stays far below [recordMax] with them.
const (
	reasonMax = 2 << 10
	wordsMax  = 1 << 10
	hintMax   = 512
)

// bound cleans and cuts texts that may quote strangers.
func bound(texts map[*string]int) {
	for s, limit := range texts {
		*s = terminal.Clip(terminal.Clean(*s), limit)
	}
}

// bound cuts what is to be kept of an incident.
func (in *Incident) bound() {
	bound(map[*string]int{
		&in.Reason: reasonMax, &in.Action: wordsMax, &in.Expected: wordsMax, &in.Found: wordsMax, &in.Source: wordsMax, (*string)(&in.Digest): wordsMax,
	})
}

// bound cuts what a record says of its state, so that it can always be saved.
func (r *Record) bound() {
	bound(map[*string]int{&r.Reason: reasonMax})
	for i := range r.History {
		bound(map[*string]int{&r.History[i].Why: reasonMax})
	}
	for i := range r.Unlogged {
		r.Unlogged[i].bound()
	}
}

// classify is [AsFailure] with the words of strangers as they came. What it
// returns is the caller's own.
func classify(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		own := *f
		return &own
	}
	f := &Failure{Cause: CauseUnexpected, Reason: err.Error(), Err: err}
	if d, ok := errors.AsType[*oci.DigestError](err); ok {
		f.Cause, f.Expected, f.Found, f.Source, f.Digest = CauseHash, d.Expected.String(), d.Found.String(), d.Source, d.Expected
		if f.Found == "" {
			f.Found = "other bytes"
		}
		f.Reason = fmt.Sprintf("%s sent wrong bytes for %s %s", d.Source, d.What, shortDigest(d.Expected))
		f.Hint = "the next sync fetches it again; if it repeats, tell the network which source serves wrong bytes"
		return f
	}
	if m, ok := errors.AsType[*cas.MismatchError](err); ok {
		f.Cause, f.Expected, f.Found, f.Digest = CauseHash, m.Digest.String(), m.Found.String(), m.Digest
		f.Reason = fmt.Sprintf("the bytes of blob %s do not match its digest", shortDigest(m.Digest))
		return f
	}
	for _, c := range causes {
		if !errors.Is(err, c.sentinel) {
			continue
		}
		if c.cause.failedCheck() && errors.Is(err, snapshot.ErrSource) {
			continue // a snapshot source answered with something else; no check of the network's failed
		}
		f.Cause, f.Hint = c.cause, c.hint
		if c.cause.failedCheck() && f.Expected == "" { // an incident says what was expected, and what was found
			f.Expected, f.Found = c.expected(), terminal.Clip(err.Error(), 300)
		}
		return f
	}
	return f
}

// class is a sentinel of a package below and what it means here.
type class struct {
	sentinel error
	cause    Cause
	hint     string
}

// expected is what a check of this class wanted, in words.
func (c class) expected() string {
	switch c.sentinel {
	case oci.ErrPath:
		return "relative paths that stay inside the model"
	case oci.ErrFormat:
		return "an artifact of a known format"
	case oci.ErrTooLarge:
		return "an artifact within its limits"
	}
	return "no " + c.sentinel.Error()
}

// causes maps the sentinels of the packages below, the most specific first.
var causes = []class{
	{durable.ErrExposed, CauseState, "then check what is in it; see docs/operator.md"},
	{ErrBusy, CauseBusy, "wait for it and try again; sync --wait 10m does so by itself"},
	{runner.ErrBusy, CauseBusy, "one test inference runs at a time; try again when it has ended"},
	{runner.ErrGPUBusy, CauseBusy, "the GPU is held by another runtime; stop it or let the agent yield it"},
	{runner.ErrNoEngine, CauseEngine, "install nerdctl with containerd, docker or podman, or set engine.path in the configuration"},
	{runner.ErrProbe, CauseEngine, "put rmodels-probe, which make build makes, beside rmodels"},
	{runner.ErrDevice, CauseEngine, "list the devices with: nvidia-ctk cdi list"},
	{runner.ErrIsolation, CauseIsolation, "do not run models on this engine before it is mended; see rmodels incidents"},
	{runner.ErrImage, CauseRuntime, "the runtime image cannot be run sealed; tell the network"},
	{runner.ErrRuntime, CauseRuntime, "the runtime's definition cannot be run sealed; tell the network"},
	{runner.ErrTest, CauseRuntime, "the model's test cannot be run; tell the network"},
	{runner.ErrModelDir, CauseState, "see: rmodels verify"},
	{runner.ErrStateDir, CauseState, "see who may write to the state directory"},
	{runner.ErrEngine, CauseEngine, "see the engine's own log; containerd must be running"},
	{cas.ErrNoSpace, CauseSpace, "free space with: rmodels gc, or move the store to a larger disk"},
	{cas.ErrBusy, CauseBusy, "wait for it and try again"},
	{cas.ErrDigestMismatch, CauseHash, "repair it with: rmodels verify --repair"},
	{cas.ErrSuspect, CauseHash, "repair it with: rmodels verify --repair"},
	{cas.ErrCorrupt, CauseStore, "see what is damaged, and what helps, with: rmodels fsck"},
	{cas.ErrNoStore, CauseState, "create it with: rmodels init"},
	{oci.ErrDigest, CauseHash, ""},
	{oci.ErrTag, CauseListing, "write registry/repository@sha256:…; a tag can be moved"},
	{oci.ErrReference, CauseListing, "no node can follow the reference that the snapshot gives; tell the network"},
	{oci.ErrFormat, CauseLayout, "the artifact is of no format that rmodels reads; tell the publisher"},
	{oci.ErrPath, CauseLayout, "the publisher has to pack it again with paths that stay inside the model"},
	{oci.ErrTooLarge, CauseLayout, "the artifact claims more than it may; tell the publisher"},
	{oci.ErrUnauthorized, CauseUnavailable, "check the registry's user and password: rmodels reads [hosts] of its configuration and docker's config.json"},
	{oci.ErrTLS, CauseUnavailable, "give the registry's certificate authority: [hosts.\"…\"] ca = \"/path/ca.pem\""},
	{oci.ErrNotFound, CauseUnavailable, "the registry does not have it; check the reference and its mirrors"},
	{oci.ErrUnavailable, CauseUnavailable, "check the network and the registry; the next attempt goes on where this one stopped"},
	{snapshot.ErrSource, CauseUnavailable, "check the snapshot source; the node goes on with the last snapshot it accepted"},
	{snapshot.ErrTrustState, CauseState, "nothing is accepted, and nothing new starts, before a person has mended it; see docs/operator.md"},
	{snapshot.ErrNotOwner, CauseState, ""},
	{snapshot.ErrCache, CauseState, "fetch it again with: rmodels sync, or hand it over with: rmodels snapshot apply FILE"},
	{snapshot.ErrFloorLost, CauseState, "see rmodels incidents; who deleted it may hand over an older snapshot next"},
	{snapshot.ErrClock, CauseSnapshot, "set this node's clock; if it is right, tell the network. What the snapshot withdraws is in force, and nothing new is activated"},
	{snapshot.ErrExpired, CauseSnapshot, "what it withdraws is in force, and nothing new is activated; the network has to renew it, or this node's clock is ahead"},
	{snapshot.ErrRejected, CauseSnapshot, "the node goes on with the last snapshot it accepted; tell the network"},
	{snapshot.ErrNone, CauseSnapshot, "fetch one with: rmodels sync, or hand one over with: rmodels snapshot apply FILE"},
	{snapshot.ErrNotPinned, CauseState, "pin the network's root with: rmodels init"},
	{unix.ENOSPC, CauseSpace, "free space on the disk of the node's state; the store's own with: rmodels gc"},
	{errCorrupt, CauseState, "rmodels sync moves it aside and rebuilds what it said"},
}
