package cas

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// Lease protects what a process is working on. It lives as long as the flock
// on its file: a killed process protects nothing any more, at once and without
// a clock.
//
// The file holds one record a line and grows by [Lease.Add]. It is not synced:
// after a power loss its owner is dead, and a dead owner's lease means nothing.
type Lease struct {
	s    *Store
	id   string
	lock *flock

	mu       sync.Mutex
	f        durable.File
	size     int64
	have     map[key]bool
	released bool
}

// leaseLine is one record of a lease file; the first also says who and why.
type leaseLine struct {
	Purpose string          `json:"purpose,omitempty"`
	PID     int             `json:"pid,omitempty"`
	Created time.Time       `json:"created,omitzero"`
	Digests []digest.Digest `json:"digests,omitempty"`
}

// maxLeaseDigests bounds what one lease may announce, to what fits a record.
const maxLeaseDigests = 1 << 19

// Lease announces that this process works on roots. Until it is released (or
// the process dies) the blobs and trees of these names are not collected. The
// purpose is shown to operators who ask why something is kept.
func (s *Store) Lease(ctx context.Context, purpose string, roots ...digest.Digest) (_ *Lease, err error) {
	if len(purpose) > 1024 || len(roots) > maxLeaseDigests {
		return nil, fmt.Errorf("%w: a lease for %d digests, its purpose of %d bytes", ErrInvalid, len(roots), len(purpose))
	}
	keys, err := keysOf(roots)
	if err != nil {
		return nil, err
	}
	id := "p-" + randomID()
	path := s.leasePath(id)
	tmp := s.leasePath("." + id)
	// Locked under a hidden name first: whoever can see a lease and lock it
	// may conclude that its owner is dead.
	lock, err := s.tryLock(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, unix.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", noSpace(err))
	}
	if lock == nil {
		return nil, fmt.Errorf("%w: a new lease file is locked already", ErrFileSystem)
	}
	l := &Lease{s: s, id: id, lock: lock, have: map[key]bool{}}
	defer func() {
		if err != nil {
			_ = s.fs.Unlink(tmp)
			l.close()
		}
	}()
	if l.f, err = s.fs.OpenFile(tmp, os.O_RDWR|os.O_APPEND, 0); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	line := leaseLine{Purpose: purpose, PID: os.Getpid(), Created: s.now().UTC(), Digests: roots}
	if err := l.append(line, keys); err != nil {
		return nil, err
	}
	guard, err := s.shared(ctx)
	if err != nil {
		return nil, err
	}
	defer guard.unlock()
	if err := s.gen.leasesChanged(); err != nil {
		return nil, err
	}
	if err := s.fs.Rename(tmp, path); err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return l, nil
}

// ID names the lease; it is unique in the store.
func (l *Lease) ID() string { return l.id }

// Add announces more digests. When it returns nil they are protected: it
// appends while it holds the store lock shared, so each later exclusive
// section of a collector reads them (invariant 7).
func (l *Lease) Add(ctx context.Context, ds ...digest.Digest) error {
	keys, err := keysOf(ds)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return fmt.Errorf("%w: %s", ErrReleased, l.id)
	}
	var fresh []digest.Digest
	var freshKeys []key
	for n, k := range keys {
		if !l.have[k] {
			fresh, freshKeys = append(fresh, ds[n]), append(freshKeys, k)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if len(l.have)+len(fresh) > maxLeaseDigests {
		return fmt.Errorf("%w: a lease of more than %d digests", ErrInvalid, maxLeaseDigests)
	}
	guard, err := l.s.shared(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	if err := l.s.gen.leasesChanged(); err != nil {
		return err
	}
	return l.append(leaseLine{Digests: fresh}, freshKeys)
}

// append writes one line; a write that came short is taken back, so that the
// file always parses.
func (l *Lease) append(line leaseLine, keys []key) error {
	b, err := seal(line)
	if err != nil {
		return err
	}
	if l.size+int64(len(b)) > maxRecord {
		return fmt.Errorf("%w: the lease %s would have more than %d bytes; take another one", ErrInvalid, l.id, maxRecord)
	}
	if err := l.f.Append(b); err != nil {
		return fmt.Errorf("lease: %w", errors.Join(noSpace(err), l.f.Truncate(l.size)))
	}
	l.size += int64(len(b))
	for _, k := range keys {
		l.have[k] = true
	}
	return nil
}

// Release ends the protection. It may be called more than once.
func (l *Lease) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil
	}
	l.released = true
	err := l.s.fs.Unlink(l.s.leasePath(l.id))
	l.close()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (l *Lease) close() {
	if l.f != nil {
		_ = l.f.Close()
	}
	l.lock.unlock()
}

// heldLease is a lease as others see it.
type heldLease struct {
	id      string
	purpose string
	pid     int
	keys    []key
}

// readLeases returns the leases that protect something now, and the files of
// those that no longer do. With torn, a last line without its end is left
// out: outside the store lock an Add may be half done, and what it announces
// is read again inside. Anything else that does not parse is an error
// (invariant 5).
func (s *Store) readLeases(torn bool) (held []heldLease, dead []string, err error) {
	names, err := s.readNames(s.path("leases"))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		var l *heldLease
		switch {
		case strings.HasPrefix(name, "p-"):
			l, err = s.readProcessLease(name, torn)
		case strings.HasPrefix(name, "t-"):
			l, err = s.readTokenLease(name)
		case strings.HasPrefix(name, "."):
			continue // not yet a lease, or a leftover that the collector sweeps by age
		default:
			err = fmt.Errorf("%w: %s is not a lease", ErrCorrupt, s.leasePath(name))
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // released meanwhile
		case err != nil:
			return nil, nil, err
		case l == nil:
			dead = append(dead, name)
		default:
			held = append(held, *l)
		}
	}
	return held, dead, nil
}

func (s *Store) readProcessLease(name string, torn bool) (*heldLease, error) {
	path := s.leasePath(name)
	lock, err := s.tryLock(path, unix.O_RDONLY, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	if lock != nil {
		lock.unlock()
		return nil, nil // its owner is dead
	}
	b, err := s.readFile(path, maxRecord)
	if err != nil {
		return nil, err
	}
	l, err := parseLease(b, torn)
	if err != nil {
		return nil, fmt.Errorf("read lease %s: %w", path, err)
	}
	l.id = name
	return l, nil
}

func parseLease(b []byte, torn bool) (*heldLease, error) {
	l := &heldLease{}
	first := true
	for line := range bytes.Lines(b) {
		if torn && line[len(line)-1] != '\n' {
			break
		}
		var rec leaseLine
		if err := unseal(line, &rec); err != nil {
			return nil, err
		}
		if first {
			l.purpose, l.pid, first = rec.Purpose, rec.PID, false
		}
		keys, err := keysOf(rec.Digests)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		l.keys = append(l.keys, keys...)
	}
	if first && !torn {
		return nil, fmt.Errorf("%w: empty lease", ErrCorrupt)
	}
	return l, nil
}

func keysOf(ds []digest.Digest) ([]key, error) {
	keys := make([]key, len(ds))
	for n, d := range ds {
		var err error
		if keys[n], err = keyOf(d); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
