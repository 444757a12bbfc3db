package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// record is the note that a box may exist. It is written before the box is
// made and removed after the box is gone; its lock is held as long as its
// owner lives, so a record that can be locked is an orphan's.
type record struct {
	path string
	f    *os.File
	note
}

type note struct {
	Container string `json:"container"`
	Engine    string `json:"engine"`
	Model     string `json:"model"`
	Pid       int    `json:"pid"` // of the owner, for messages
}

const recordPrefix = "box-"

var containerPattern = regexp.MustCompile(`^rmodels-[0-9a-f]{16}$`)

// label marks the boxes of one state directory, for those whose record was lost.
const label = "rmodels.state"

func labelOf(stateDir string) string {
	return label + "=" + digest.FromString(stateDir).Encoded()[:16]
}

func newRecord(stateDir, engine, model string) (*record, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	r := &record{note: note{Container: "rmodels-" + hex.EncodeToString(b[:]), Engine: engine, Model: model, Pid: os.Getpid()}}
	r.path = filepath.Join(stateDir, recordPrefix+r.Container+".json")
	text, err := json.Marshal(r.note)
	if err != nil {
		return nil, err
	}
	r.f, err = os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	err = unix.Flock(int(r.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = r.f.Write(append(text, '\n'))
	}
	if err == nil {
		err = r.f.Sync()
	}
	if err != nil {
		r.remove()
		return nil, fmt.Errorf("%w: %s: %w", ErrStateDir, r.path, err)
	}
	return r, nil
}

// fifoPath is where the box's output goes.
func (r *record) fifoPath() string { return strings.TrimSuffix(r.path, ".json") + ".log" }

func (r *record) remove() {
	os.Remove(r.path)
	r.f.Close()
}

// keep lets go of the record and leaves it for RemoveOrphans.
func (r *record) keep() { r.f.Close() }

// staleRecords opens and locks the records whose owner is dead.
func staleRecords(stateDir string) ([]*record, error) {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	var stale []*record
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), recordPrefix)
		if !ok {
			continue
		}
		name, ok = strings.CutSuffix(name, ".json")
		if !ok || !containerPattern.MatchString(name) {
			continue
		}
		path := filepath.Join(stateDir, e.Name())
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // removed by its owner just now
		}
		r := &record{path: path, f: f}
		if !lockDead(f, r.fifoPath()) {
			f.Close()
			continue // its owner lives
		}
		r.note = readNote(f)
		r.Container = name // what counts is the name; the text may be torn by the crash
		stale = append(stale, r)
	}
	return stale, nil
}

// lockDead takes the lock of a record whose owner is dead. A dead owner's
// record may be locked for a moment by the engine's call that it started;
// until that is over its box may still come into being. That call in turn waits
// for the box's shim, which waits for a reader of its output: the reader died
// with the owner, so there is one here meanwhile.
func lockDead(f *os.File, fifoPath string) bool {
	var reader *os.File
	defer func() {
		if reader != nil {
			reader.Close()
		}
	}()
	for deadline := time.Now().Add(makeTimeout); ; time.Sleep(20 * time.Millisecond) {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		owner := readNote(f)
		if owner.Pid <= 0 || !errors.Is(unix.Kill(owner.Pid, 0), unix.ESRCH) || time.Now().After(deadline) {
			return false
		}
		if reader == nil {
			reader, _ = os.OpenFile(fifoPath, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		}
	}
}

// readNote reads a record's text; what is torn or not one is empty.
func readNote(f *os.File) (n note) {
	text := make([]byte, 4<<10)
	k, _ := f.ReadAt(text, 0)
	if json.Unmarshal(text[:k], &n) != nil {
		return note{}
	}
	return n
}

// removeStale removes the boxes of dead runs that left a record. Those that
// were made in another engine than this one are left to it, and returned.
func (e *Engine) removeStale(ctx context.Context, stateDir string) (removed []string, elsewhere []note, err error) {
	stale, err := staleRecords(stateDir)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, r := range stale {
		if _, known := engines[r.Engine]; known && r.Engine != e.name {
			elsewhere = append(elsewhere, r.note)
			r.keep()
			continue
		}
		// The shim of a box that was being started waits for a reader of its
		// FIFO and cannot be ended before it has one.
		fifo, ferr := os.OpenFile(r.fifoPath(), os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		err := e.remove(ctx, r.Container)
		if ferr == nil {
			fifo.Close()
		}
		if err != nil {
			errs = append(errs, err)
			r.keep()
			continue
		}
		os.Remove(r.fifoPath())
		r.remove()
		removed = append(removed, r.Container)
	}
	return removed, elsewhere, errors.Join(errs...)
}

// RemoveOrphans removes the containers that dead runs left behind: those
// with a record in stateDir and those that carry its label without a living
// run's record. It returns their names. Runs that live are not touched.
func (e *Engine) RemoveOrphans(ctx context.Context, stateDir string) (removed []string, err error) {
	removed, elsewhere, err := e.removeStale(ctx, stateDir)
	if err != nil {
		return removed, err
	}
	defer func() {
		for _, n := range elsewhere {
			err = errors.Join(err, fmt.Errorf("%w: the container of a run that died is in %s; remove it with: %s rm -f -v %s", ErrEngine, n.Engine, n.Engine, n.Container))
		}
	}()
	if _, err := os.Stat(stateDir); errors.Is(err, fs.ErrNotExist) {
		return removed, nil
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := e.call(cctx, "ps", "-a", "--filter", "label="+labelOf(stateDir), "--format", "{{.Names}}")
	if err != nil {
		return removed, fmt.Errorf("%w: %w", ErrEngine, err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if !containerPattern.MatchString(name) {
			continue
		}
		// A living run's record exists before its container does.
		if _, err := os.Lstat(filepath.Join(stateDir, recordPrefix+name+".json")); err == nil {
			continue
		}
		if err := e.remove(ctx, name); err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	return removed, nil
}
