package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
)

// Token names a lease that outlives the process that took it, until its time
// is over. Whoever knows a token may renew or release it.
type Token string

type tokenRecord struct {
	Purpose  string          `json:"purpose"`
	NotAfter time.Time       `json:"notAfter"`
	Digests  []digest.Digest `json:"digests"`
}

// TokenLease protects roots for ttl. Unlike a [Lease] it is durable.
func (s *Store) TokenLease(ctx context.Context, purpose string, ttl time.Duration, roots ...digest.Digest) (Token, error) {
	if _, err := keysOf(roots); err != nil {
		return "", err
	}
	if ttl <= 0 || len(purpose) > 1024 || len(roots) > maxLeaseDigests {
		return "", fmt.Errorf("%w: token lease of %v for %d digests", ErrInvalid, ttl, len(roots))
	}
	id := "t-" + randomID()
	rec := tokenRecord{Purpose: purpose, NotAfter: s.now().Add(ttl).UTC(), Digests: roots}
	if err := s.writeToken(ctx, id, rec, true); err != nil {
		return "", err
	}
	return Token(id), nil
}

// Renew lets a token lease end ttl from now. A token whose time is over may
// have lost its blobs already; it is [ErrNotFound].
func (s *Store) Renew(ctx context.Context, t Token, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("%w: token lease of %v", ErrInvalid, ttl)
	}
	rec, err := s.readToken(t)
	if err != nil {
		return err
	}
	if !s.now().Before(rec.NotAfter) {
		return fmt.Errorf("%w: token lease %s ended at %v; take a new one", ErrNotFound, t, rec.NotAfter)
	}
	rec.NotAfter = s.now().Add(ttl).UTC()
	return s.writeToken(ctx, string(t), rec, false)
}

// ReleaseToken ends a token lease. One that is over already is no error.
func (s *Store) ReleaseToken(ctx context.Context, t Token) error {
	if err := t.check(); err != nil {
		return err
	}
	err := s.fs.Unlink(s.leasePath(string(t)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.fs.SyncDir(s.path("leases"))
}

func (t Token) check() error {
	id, ok := strings.CutPrefix(string(t), "t-")
	if !ok || len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: %q is not a lease token", ErrInvalid, string(t))
	}
	return nil
}

func (s *Store) readToken(t Token) (tokenRecord, error) {
	var rec tokenRecord
	if err := t.check(); err != nil {
		return rec, err
	}
	err := s.readRecord(s.leasePath(string(t)), &rec)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, fmt.Errorf("%w: token lease %s", ErrNotFound, t)
	}
	return rec, err
}

// writeToken keeps the fsync of the bytes outside the store lock. A renewal
// may not bring back a lease that a collector has taken for dead meanwhile.
func (s *Store) writeToken(ctx context.Context, id string, rec tokenRecord, fresh bool) error {
	b, err := seal(rec)
	if err != nil {
		return err
	}
	path := s.leasePath(id)
	tmp := durable.Temporary(path)
	if err := durable.CreateFS(s.fs, tmp, b, 0o600); err != nil {
		return fmt.Errorf("token lease: %w", noSpace(err))
	}
	if err := s.publishToken(ctx, tmp, path, fresh); err != nil {
		return errors.Join(err, s.fs.Unlink(tmp))
	}
	return s.fs.SyncDir(s.path("leases"))
}

func (s *Store) publishToken(ctx context.Context, tmp, path string, fresh bool) error {
	guard, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	if !fresh {
		if err := s.readRecord(path, &tokenRecord{}); err != nil {
			return fmt.Errorf("%w: token lease ended meanwhile: %w", ErrNotFound, err)
		}
	}
	if err := s.gen.leasesChanged(); err != nil {
		return err
	}
	return s.fs.Rename(tmp, path)
}

func (s *Store) readTokenLease(name string) (*heldLease, error) {
	var rec tokenRecord
	if err := s.readRecord(s.leasePath(name), &rec); err != nil {
		return nil, err
	}
	if !s.now().Before(rec.NotAfter) {
		return nil, nil
	}
	keys, err := keysOf(rec.Digests)
	if err != nil {
		return nil, fmt.Errorf("%w: lease %s: %w", ErrCorrupt, name, err)
	}
	return &heldLease{id: name, purpose: rec.Purpose, keys: keys}, nil
}
