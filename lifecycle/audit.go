package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// Entry is one line of the audit log, which is appended to and never changed.
// One of its members besides Previous is set. Previous chains it to the line
// before: the SHA-256 of that line's bytes, whatever they are, so that none
// can be changed, dropped or put in without breaking the chain; the head that
// is kept beside it tells when its end is missing. Who can write the files can
// write all of them anew: keep the head on another machine.
type Entry struct {
	Previous digest.Digest `json:"previous,omitzero"` // empty in the first line
	Incident *Incident     `json:"incident,omitzero"`
	Admitted *Admitted     `json:"admitted,omitzero"`
	Accepted *Acceptance   `json:"accepted,omitzero"`
}

// Admitted is an artifact that the policy let in: the receipt without the
// evidence, which the store keeps as long as the artifact.
type Admitted struct {
	Time      time.Time       `json:"time"`
	Reference string          `json:"reference"`
	Policy    string          `json:"policy"`
	Rule      string          `json:"rule"`
	Signers   []policy.Signer `json:"signers"`
	More      int             `json:"more,omitzero"` // signers that did not fit
	Snapshot  digest.Digest   `json:"snapshot"`
}

// Acceptance is a snapshot that came into force.
type Acceptance struct {
	Time        time.Time     `json:"time"`
	Sequence    int64         `json:"sequence"`
	Snapshot    digest.Digest `json:"snapshot"`
	Before      digest.Digest `json:"before,omitzero"` // the one that it replaced
	Signers     []string      `json:"signers"`
	RootVersion int64         `json:"rootVersion"`
}

// lineMax bounds one line: a single O_APPEND write of this size is not torn by
// another writer on a local file system.
const lineMax = durable.MaxLine - 2

// encode shortens an entry until it fits on one line.
func (e Entry) encode() ([]byte, error) {
	for limit := 1024; ; limit /= 2 {
		e = e.shortened(limit)
		b, err := terminal.MarshalJSON(e) // the log is shown as it is
		if err != nil || len(b) <= lineMax || limit < 16 {
			return b, err
		}
	}
}

func (e Entry) shortened(limit int) Entry {
	if e.Incident != nil {
		in := *e.Incident
		for _, s := range []*string{&in.Expected, &in.Found, &in.Source, &in.Reason, &in.Action} {
			*s = terminal.Clip(*s, limit)
		}
		e.Incident = &in
	}
	if e.Admitted != nil {
		a := *e.Admitted
		kept := min(len(a.Signers), limit/100)
		a.More += len(a.Signers) - kept
		a.Signers = slices.Clone(a.Signers[:kept])
		for i := range a.Signers {
			a.Signers[i].Source = terminal.Clip(a.Signers[i].Source, limit)
		}
		e.Admitted = &a
	}
	if e.Accepted != nil {
		a := *e.Accepted
		a.Signers = a.Signers[:min(len(a.Signers), limit/50)]
		e.Accepted = &a
	}
	return e
}

// auditMark is kept beside the log.
type auditMark struct {
	Digest digest.Digest `json:"digest"`
}

// The marks: the SHA-256 of the line that was appended last, and the snapshot
// that was logged last.
const (
	markHead     = "audit-head"
	markSnapshot = "audit-snapshot"
)

// mark reads a mark; one that is absent or damaged says nothing.
func (n *Node) mark(which string) digest.Digest {
	var m auditMark
	if (records{n.dir}).read(which, &m) != nil {
		return ""
	}
	return m.Digest
}

// follow is what the next line has to name as the one before it: the last line,
// or the marked one where that is missing, so that the chain shows for ever
// that the log was cut off.
func (n *Node) follow(last []byte) (digest.Digest, error) {
	head := n.mark(markHead)
	if last == nil {
		return head, nil
	}
	if d := digest.FromBytes(last); head == "" || d == head {
		return d, nil
	}
	// A process died before it marked the last line, or an earlier version is at work.
	there := false
	err := auditLines(n.auditPath(), func(line []byte) error {
		there = there || digest.FromBytes(line) == head
		return nil
	})
	if !there {
		return head, err
	}
	return digest.FromBytes(last), err
}

// logWait bounds how long an entry waits for the log's lock. After one wait in
// vain none of this process waits for a while: what follows must not pay again.
const (
	logWait  = 5 * time.Second
	logPause = time.Minute
)

// record appends e, chained to the line before, and makes it durable. The log
// may be read by others, so it is not the log that is locked.
func (n *Node) record(e Entry) error {
	wait := logWait
	if time.Since(time.Unix(0, n.logStuck.Load())) < logPause {
		wait = 0
	}
	lk, err := takeLock(context.Background(), n.auditPath()+".lock", "the log", wait)
	if errors.Is(err, ErrBusy) {
		n.logStuck.Store(time.Now().UnixNano())
	}
	if err != nil {
		return fmt.Errorf("record in %s: %w", n.auditPath(), err)
	}
	defer lk.Unlock()
	_ = durable.RemoveTemporary(n.dir, markHead+".json")
	var head digest.Digest
	err = durable.AppendAfter(n.auditPath(), 0o644, func(last []byte) ([]byte, error) {
		var err error
		if e.Previous, err = n.follow(last); err != nil {
			return nil, err
		}
		b, err := e.encode()
		head = digest.FromBytes(b)
		return b, err
	})
	if err == nil {
		err = records{n.dir}.write(markHead, auditMark{head})
	}
	if err != nil {
		return fmt.Errorf("record in %s: %w", n.auditPath(), err)
	}
	return nil
}

// admitted records a decision that lets an artifact in.
func (n *Node) admitted(acc *snapshot.Accepted, policyName, reference string, d policy.Decision) error {
	return n.record(Entry{Admitted: &Admitted{
		Time: d.Time, Reference: reference, Policy: policyName, Rule: d.Rule, Signers: d.Signers, Snapshot: acc.Digest,
	}})
}

// accepted records a snapshot that came into force, once; also one that could
// not be recorded when it did. The caller holds the lock of the snapshot.
func (n *Node) accepted(acc *snapshot.Accepted) error {
	if n.mark(markSnapshot) == acc.Digest {
		return nil
	}
	logged, err := n.lastAccepted()
	if err == nil && logged != acc.Digest {
		err = n.record(Entry{Accepted: &Acceptance{
			Time: n.now(), Sequence: acc.Document.Sequence, Snapshot: acc.Digest, Before: acc.Previous, Signers: acc.Signers, RootVersion: acc.RootVersion,
		}})
	}
	if err != nil {
		return err
	}
	return records{n.dir}.write(markSnapshot, auditMark{acc.Digest})
}

// lastAccepted is the snapshot that the log names last.
func (n *Node) lastAccepted() (last digest.Digest, err error) {
	err = auditLines(n.auditPath(), func(line []byte) error {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Accepted != nil {
			last = e.Accepted.Snapshot
		}
		return nil
	})
	return last, err
}

// AuditResult is what reading the whole log showed.
type AuditResult struct {
	Entries int           `json:"entries"`
	Torn    int           `json:"torn"`            // lines that a crash cut off
	Head    digest.Digest `json:"head,omitzero"`   // of the last line: keep it elsewhere, and nothing before it can be changed unseen
	Broken  int           `json:"broken,omitzero"` // number of the first line that does not follow from the one before it
	Cut     bool          `json:"cut,omitzero"`    // it ends before a line that this node has written
}

// Audit hands every line of the log to each, oldest first, and checks the chain.
func (n *Node) Audit(each func(line []byte) error) (AuditResult, error) {
	var res AuditResult
	written := n.mark(markHead) // before the log: what is appended meanwhile comes later
	res.Cut = written != ""
	number := 0
	err := auditLines(n.auditPath(), func(line []byte) error {
		number++
		var e Entry
		switch {
		case json.Unmarshal(line, &e) != nil:
			res.Torn++
		case e.Previous != res.Head && res.Broken == 0:
			res.Broken = number
			fallthrough
		default:
			res.Entries++
			if err := each(line); err != nil {
				return err
			}
		}
		res.Head = digest.FromBytes(line)
		res.Cut = res.Cut && res.Head != written
		return nil
	})
	return res, err
}

// auditLines reads a log line by line. A line longer than any that is written
// is handed on cut off: it was not written by this program.
func auditLines(path string, each func(line []byte) error) error {
	f, err := durable.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for r := bufio.NewReaderSize(f, 2*durable.MaxLine); ; {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			if err := each(bytes.TrimSuffix(line, []byte{'\n'})); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
