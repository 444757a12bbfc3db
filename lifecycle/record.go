package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/filelock"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
)

// recordVersion is the layout of a record file. A file of another version is
// refused, never guessed at.
const recordVersion = 1

// recordMax bounds a record file in bytes.
const recordMax = 1 << 20

// Record is all that a node remembers of one model version.
type Record struct {
	Name      string        `json:"name"`
	Version   string        `json:"version"`
	State     State         `json:"state"`
	Reason    string        `json:"reason"`             // why it is in this state, one sentence
	Cause     Cause         `json:"cause,omitzero"`     // class of the failure or refusal behind the state
	Reference string        `json:"reference,omitzero"` // what the snapshot pins
	Manifest  digest.Digest `json:"manifest,omitzero"`
	Format    string        `json:"format,omitzero"` // artifact format, as package oci names it
	Size      int64         `json:"size,omitzero"`   // bytes of the model's files
	Tree      string        `json:"tree,omitzero"`   // directory of the read-only tree; empty when there is none
	Cold      bool          `json:"cold,omitzero"`   // the archive holds a copy

	Receipt *Receipt        `json:"receipt,omitzero"`
	Verdict *runner.Verdict `json:"verdict,omitzero"`
	Holds   string          `json:"holds,omitzero"` // what the verdict was made for; see verdictKey
	Tested  time.Time       `json:"tested,omitzero"`

	Failures   int          `json:"failures,omitzero"`   // in a row
	RetryAfter time.Time    `json:"retryAfter,omitzero"` // a Failed model is not tried before
	Unlisted   time.Time    `json:"unlisted,omitzero"`   // since when no snapshot lists it
	Updated    time.Time    `json:"updated"`
	Unlogged   []Incident   `json:"unlogged,omitzero"` // incidents that the log is still to get; see report
	History    []Transition `json:"history,omitzero"`
}

// Receipt is the proof of admission: who signed, by which rule, under which
// snapshot. The evidence itself is kept in the store, so that the decision
// can be made again without a network.
type Receipt struct {
	At       time.Time        `json:"at"`
	Snapshot digest.Digest    `json:"snapshot"`
	Policy   string           `json:"policy"`
	Decision policy.Decision  `json:"decision"`
	Evidence []StoredEvidence `json:"evidence"`
	Source   string           `json:"source"` // where the manifest came from
	Fetched  int64            `json:"fetched"`
}

// StoredEvidence names one signature or bundle that is kept in the store.
type StoredEvidence struct {
	Digest      digest.Digest     `json:"digest"`
	MediaType   string            `json:"mediaType"`
	Annotations map[string]string `json:"annotations,omitzero"`
	Source      string            `json:"source,omitzero"`
}

// ID is the name a person uses for the record: name@version.
func (r *Record) ID() string { return modelID(r.Name, r.Version) }

func modelID(name, version string) string { return name + "@" + version }

// envelope guards a record against a torn or edited file: Sum is the SHA-256
// of Record's bytes.
type envelope struct {
	Version int            `json:"version"`
	Sum     string         `json:"sum"`
	Record  jsontext.Value `json:"record"`
}

// seal encodes v for a state file; unseal is its strict inverse.
func seal(v any) ([]byte, error) {
	// A record that quotes a stranger is saved, whatever the stranger said.
	b, err := json.Marshal(v, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return json.Marshal(envelope{recordVersion, hex.EncodeToString(sum[:]), b})
}

func unseal(b []byte, v any) error {
	var e envelope
	if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if e.Version != recordVersion {
		return fmt.Errorf("layout version %d, this rmodels reads %d", e.Version, recordVersion)
	}
	if sum := sha256.Sum256(e.Record); hex.EncodeToString(sum[:]) != e.Sum {
		return errors.New("checksum does not fit")
	}
	return json.Unmarshal(e.Record, v, json.RejectUnknownMembers(true))
}

// records is a directory of sealed state files, one a key.
type records struct{ dir string }

func (rs records) path(id string) string { return filepath.Join(rs.dir, id+".json") }

// errCorrupt marks a state file that cannot be read back.
var errCorrupt = errors.New("state file is damaged")

func (rs records) read(id string, v any) error {
	b, err := durable.ReadFile(rs.path(id), recordMax)
	switch {
	case errors.Is(err, durable.ErrNotRegular), errors.Is(err, durable.ErrTooLong), errors.Is(err, unix.EIO):
		return fmt.Errorf("%v: %w", err, errCorrupt)
	case err != nil:
		return err
	}
	if err := unseal(b, v); err != nil {
		return fmt.Errorf("%s: %v: %w", rs.path(id), err, errCorrupt)
	}
	return nil
}

func (rs records) write(id string, v any) error {
	b, err := seal(v)
	if err != nil {
		return err
	}
	if len(b) > recordMax {
		return fmt.Errorf("%s: its state takes %d bytes, more than %d: the file is left as it was", id, len(b), recordMax)
	}
	if err := durable.MkdirAll(rs.dir, 0o755); err != nil {
		return err
	}
	return durable.WriteFile(rs.path(id), b, 0o644)
}

// setAside moves a damaged file out of the way, so that it can be looked at
// and the next sync rebuilds what it said. It returns the new path.
func (rs records) setAside(id string, now time.Time) (string, error) {
	to := rs.path(id) + ".corrupt-" + now.UTC().Format("20060102T150405")
	return to, os.Rename(rs.path(id), to)
}

// seen names the file of each key, so that it is told from every other that may
// take its place: nobody sets a file's change time.
func (rs records) seen() (map[string]string, error) {
	ids, err := rs.ids()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(ids))
	for _, id := range ids {
		var st unix.Stat_t
		if unix.Lstat(rs.path(id), &st) == nil {
			out[id] = fmt.Sprintf("%d-%d.%09d", st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
		}
	}
	return out, nil
}

// ids lists the keys in name order.
func (rs records) ids() ([]string, error) {
	es, err := os.ReadDir(rs.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range es {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// removeTemporary removes what commands that were killed left, key by key under
// its lock: a key that is locked is left to a later pass.
func (rs records) removeTemporary(ctx context.Context) {
	es, _ := os.ReadDir(rs.dir)
	for _, e := range es {
		base, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), "."), ".tmp-")
		id, ok := strings.CutSuffix(base, ".json")
		if !ok || !durable.IsTemporary(e.Name()) {
			continue
		}
		if l, err := rs.lock(ctx, id); err == nil {
			_ = durable.RemoveTemporary(rs.dir, base)
			l.Unlock()
		}
	}
}

// oldTemporary is how old a temporary file is that nobody writes any more.
const oldTemporary = time.Hour

// removeOld removes temporary files of writers that hold no lock: marks, and
// what a run needs.
func (n *Node) removeOld(dir string) {
	names, err := durable.OS.ReadNames(dir)
	if err != nil {
		return // it comes with its first file
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if fi, err := os.Lstat(path); err != nil || !durable.IsTemporary(name) || !fi.Mode().IsRegular() || time.Since(fi.ModTime()) < oldTemporary {
			continue
		}
		if err := os.Remove(path); err != nil {
			n.o.Log.Warn("what a killed writer left cannot be removed", "file", path, "error", err)
		}
	}
}

// lock takes the lock of one key without waiting; [ErrBusy] names the holder.
func (rs records) lock(ctx context.Context, id string) (*filelock.Lock, error) {
	if err := durable.MkdirAll(rs.dir, 0o755); err != nil {
		return nil, err
	}
	return takeLock(ctx, filepath.Join(rs.dir, "."+id+".lock"), id, 0)
}
