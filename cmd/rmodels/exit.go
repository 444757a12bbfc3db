package main

import (
	"context"
	"errors"

	"github.com/resultity/rmodels/lifecycle"
)

// Exit codes are part of the interface: scripts decide by them.
const (
	exitOK           = 0
	exitUnexpected   = 1
	exitUsage        = 2
	exitRefused      = 3
	exitCheckFailed  = 4
	exitIncompatible = 5
	exitValidation   = 6
	exitUnavailable  = 7
	exitBusy         = 8
	exitNoSpace      = 9
	exitSnapshot     = 10
	exitPartial      = 11
	exitInterrupted  = 130 // as shells have it
)

// exitHelp documents the codes where every command's help can show them.
const exitHelp = `Exit codes:
  0   ok
  1   unexpected error
  2   wrong usage
  3   not listed by the snapshot, or refused by its policy
  4   a hash, signature or content check failed, or the store is damaged
  5   incompatible with this node
  6   the test inference failed
  7   a source or the network is unavailable
  8   busy: another rmodels is at work
  9   no space
  10  the snapshot was rejected
  11  some models failed, others went through
  130 interrupted; the same command goes on from there`

// usageError is a command line that cannot be obeyed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError carries a code that the command itself decided, after its result
// has said why. The failure is for whoever reads the event stream alone.
type exitError struct {
	code    int
	failure lifecycle.Failure
}

func (e exitError) Error() string { return e.failure.Reason }

// causeCode maps each class of failure to its exit code: the one place.
var causeCode = map[lifecycle.Cause]int{
	lifecycle.CauseListing:       exitRefused,
	lifecycle.CausePolicy:        exitRefused,
	lifecycle.CauseRevoked:       exitRefused,
	lifecycle.CauseSignature:     exitCheckFailed,
	lifecycle.CauseAttestation:   exitCheckFailed,
	lifecycle.CauseLayout:        exitCheckFailed,
	lifecycle.CauseContent:       exitCheckFailed,
	lifecycle.CauseHash:          exitCheckFailed,
	lifecycle.CauseState:         exitUnexpected,
	lifecycle.CauseStore:         exitCheckFailed,
	lifecycle.CauseConfig:        exitUsage,
	lifecycle.CauseCompatibility: exitIncompatible,
	lifecycle.CauseEngine:        exitIncompatible,
	lifecycle.CauseRuntime:       exitIncompatible,
	lifecycle.CauseValidation:    exitValidation,
	lifecycle.CauseIsolation:     exitValidation,
	lifecycle.CauseUnavailable:   exitUnavailable,
	lifecycle.CauseBusy:          exitBusy,
	lifecycle.CauseSpace:         exitNoSpace,
	lifecycle.CauseSnapshot:      exitSnapshot,
	lifecycle.CauseUnexpected:    exitUnexpected,
}

// exitCode is the code for an error that ended a command.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if e, ok := errors.AsType[publisherError](err); ok {
		return codeOf(e.failure.Cause)
	}
	if errors.Is(err, lifecycle.ErrNoNode) { // a command before init
		return exitUsage
	}
	return codeOf(lifecycle.AsFailure(err).Cause)
}

// codeOf is never exitOK: a cause without a code of its own is unexpected.
func codeOf(c lifecycle.Cause) int {
	if code, ok := causeCode[c]; ok {
		return code
	}
	return exitUnexpected
}

// passCode is the code of a pass over several models. A model that this node
// cannot run is the node's nature and not a failure of the pass, unless it
// was asked for by name.
func passCode(res *lifecycle.SyncResult, named bool) int {
	failed, through, code := 0, 0, exitOK
	for _, o := range res.Outcomes {
		switch {
		case o.Failure == nil:
			if o.Verb != lifecycle.Wait && o.Verb != lifecycle.Keep || o.After == lifecycle.Active {
				through++
			}
		case !named && notForThisNode(o):
		default:
			c := codeOf(o.Failure.Cause)
			if failed > 0 && c != code {
				c = exitPartial
			}
			failed, code = failed+1, c
		}
	}
	if failed > 0 && through > 0 {
		code = exitPartial
	}
	if res.SnapshotFailure != nil && (code == exitOK || res.SnapshotFailure.Cause == lifecycle.CauseSnapshot) {
		code = codeOf(res.SnapshotFailure.Cause)
	}
	return code
}

// notForThisNode tells a refusal that is no failure: snapshots list models for
// other hardware, too.
func notForThisNode(x lifecycle.Outcome) bool {
	return x.Verb == lifecycle.Refuse && x.Failure.Cause == lifecycle.CauseCompatibility
}
