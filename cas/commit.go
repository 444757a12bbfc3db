package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/resultity/rmodels/internal/durable"
)

// Commit publishes the blob if all its bytes are there and hash to its name
// (invariant 1). After a [*MismatchError] the ingest stays open: write the bad
// ranges again and commit again, or discard it. After any other error only
// Close and Discard are left, and the blob may or may not be published.
func (i *Ingest) Commit(ctx context.Context) error {
	if err := i.complete(); err != nil {
		return err
	}
	// The bytes are on their way to the disk while the rest is hashed; only
	// the name has to wait for both.
	synced := make(chan error, 1)
	go func() { synced <- sealData(i.f) }()
	err := i.hashRest(ctx)
	if err2 := <-synced; err2 != nil {
		return i.lose(err2)
	}
	if err != nil {
		return err
	}
	if !i.stop() {
		return fmt.Errorf("%w: %s", ErrClosed, i.k.digest())
	}
	defer i.lock.unlock()
	if err := i.closeFiles(); err != nil {
		return fmt.Errorf("commit %s: %w", i.k.digest(), err)
	}
	// What was hashed is an open file, what is published a name.
	if mine, err := i.lock.is(filepath.Join(i.dir, "lock")); err != nil || !mine {
		return errors.Join(fmt.Errorf("%w: the ingest of %s was taken away from %s; pull it again", ErrIncomplete, i.k.digest(), i.dir), err)
	}
	if err := i.s.publish(ctx, i.k, filepath.Join(i.dir, "data"), i.h.finish()); err != nil {
		return fmt.Errorf("commit %s: %w", i.k.digest(), err)
	}
	return i.s.removeIngest(i.k)
}

// complete waits for the writes under way and refuses a blob with gaps.
func (i *Ingest) complete() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.busy) > 0 {
		i.changed.Wait()
	}
	if err := i.usable(); err != nil {
		return err
	}
	if missing := i.present.missing(i.size); len(missing) > 0 {
		return fmt.Errorf("%w: commit of %s lacks %d of %d bytes, the first at %d", ErrIncomplete,
			i.k.digest(), i.size-i.present.total(), i.size, missing[0].Off)
	}
	i.hashBehind()
	return nil
}

// sealData makes the bytes durable, and with them the mode and time that a
// published blob has.
func sealData(f durable.File) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.SetModTime(Epoch); err != nil {
		return err
	}
	return f.Sync()
}

// hashRest waits for the hasher and compares.
func (i *Ingest) hashRest(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.changed.Broadcast()
	})
	defer stop()
	for i.hashing || i.hashed.off < i.size {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := i.usable(); err != nil {
			return err
		}
		if len(i.present.missing(i.size)) > 0 {
			return fmt.Errorf("%w: %s was written to during its commit", ErrIncomplete, i.k.digest())
		}
		i.hashBehind()
		i.changed.Wait()
	}
	found := i.h.digest()
	if found == i.k.digest() {
		return nil
	}
	mismatch := &MismatchError{Digest: i.k.digest(), Found: found, Size: i.size}
	// Which bytes are bad is not known, so none of the hash can be kept.
	if err := i.h.back(0); err != nil {
		return err
	}
	i.hashed = hashed{i.h.off, i.h.sums, i.h.states}
	return mismatch
}

// publish gives verified, durable bytes their name (invariant 2: the map is
// durable before the blob is visible, the data before either).
func (s *Store) publish(ctx context.Context, k key, data string, m chunkMap) error {
	if m.size > MapThreshold {
		if err := s.writeMap(k, m); err != nil {
			return err
		}
	}
	flag, err := s.readSuspect(k)
	if err != nil {
		return err
	}
	path := s.blobPath(k)
	if err := s.makeFan(path); err != nil {
		return err
	}
	// Only bytes that are not trusted are replaced. Trees link the inode that
	// has the name now; another with the same bytes would not be theirs.
	rename := s.fs.RenameNew
	if flag != nil {
		rename = s.fs.Rename
	}
	err = s.underLock(ctx, func() error { return rename(data, path) })
	if errors.Is(err, fs.ErrExist) {
		_, err = s.lstat(k)
	}
	if err != nil {
		return err
	}
	if err := s.fs.SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	if flag == nil {
		return nil
	}
	// The bad inode keeps its links in trees until each is replaced.
	if err := s.relinkTrees(ctx, k); err != nil {
		return err
	}
	return s.clearSuspect(k)
}

func (s *Store) renameShared(ctx context.Context, from, to string) error {
	return s.underLock(ctx, func() error { return s.fs.Rename(from, to) })
}

// underLock does something while no collector is in an exclusive section.
func (s *Store) underLock(ctx context.Context, do func() error) error {
	guard, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer guard.unlock()
	return do()
}
