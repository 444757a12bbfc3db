package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// VerifyOptions tune [Store.Verify].
type VerifyOptions struct {
	Parallel int // blobs at a time; zero: one for each processor
	// OnProgress is called from several goroutines with bytes hashed of d.
	OnProgress func(d digest.Digest, done, total int64)
}

// Finding is something wrong in a store.
type Finding struct {
	Kind     string  `json:"kind"` // blob, map, tree, layer, ref, lease, flag, partial, trash, store
	Name     string  `json:"name"`
	Problem  string  `json:"problem"`
	Cause    string  `json:"cause,omitzero"` // CauseDisk or CauseMemory, where that is known
	Expected string  `json:"expected,omitzero"`
	Found    string  `json:"found,omitzero"`
	Ranges   []Range `json:"ranges,omitzero"` // of a blob that are bad, where that is known
	Remedy   string  `json:"remedy,omitzero"` // what to do about it
}

// Causes of a finding.
const (
	CauseDisk   = "disk"   // the disk returns other bytes than were written
	CauseMemory = "memory" // the disk is good; what was read was not
)

// Verify hashes blobs with SHA-256 and reports those that are missing or bad.
// A bad one becomes suspect; a suspect one that is good after all is trusted
// again. A good one whose chunk map is missing or damaged gets a new one. An error other than the context's means that a blob could not be
// looked at.
func (s *Store) Verify(ctx context.Context, ds []digest.Digest, o VerifyOptions) ([]Finding, error) {
	keys, err := keysOf(ds)
	if err != nil {
		return nil, err
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	var (
		mu       sync.Mutex
		findings []Finding
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Parallel)
	for _, k := range keys {
		g.Go(func() error {
			f, err := s.verify(ctx, k, o.OnProgress)
			if f != nil {
				mu.Lock()
				defer mu.Unlock()
				findings = append(findings, *f)
			}
			return err
		})
	}
	err = g.Wait()
	slices.SortFunc(findings, func(a, b Finding) int { return strings.Compare(a.Name, b.Name) })
	return findings, err
}

func (s *Store) verify(ctx context.Context, k key, onProgress func(digest.Digest, int64, int64)) (*Finding, error) {
	d := k.digest()
	st, err := s.find(ctx, k)
	if errors.Is(err, ErrNotFound) {
		return &Finding{Kind: "blob", Name: string(d), Problem: "missing", Remedy: "ingest it again"}, nil
	}
	var found digest.Digest
	var size int64
	var fresh *chunkMap
	if err == nil {
		found, size, fresh, err = s.hashAndMap(ctx, k, st, onProgress)
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		f := &Finding{Kind: "blob", Name: string(d), Problem: "not a regular file", Found: err.Error(), Remedy: "ingest it again"}
		return f, s.setSuspect(k, suspicion{Reason: "verify: not a regular file"})
	case errors.Is(err, fs.ErrNotExist):
		return &Finding{Kind: "blob", Name: string(d), Problem: "missing", Remedy: "ingest it again"}, nil
	case errors.Is(err, unix.EIO):
		f := &Finding{Kind: "blob", Name: string(d), Problem: "unreadable", Found: err.Error(), Remedy: "replace the disk, or " + remedyRepair}
		return f, s.setSuspect(k, suspicion{Reason: "verify: " + err.Error()})
	case err != nil:
		return nil, fmt.Errorf("verify %s: %w", d, err)
	case found != d:
		return s.convict(ctx, k, found, size)
	}
	if err := s.acquit(k, st.Suspect); err != nil || fresh == nil || !s.isHome(k) {
		return nil, err
	}
	if err := s.writeMap(k, *fresh); !errors.Is(err, ErrNoSpace) { // a full disk is no fault of the blob
		return nil, err
	}
	return nil, nil
}

// hashAndMap is hashBlob, and in the same pass makes the map of a blob that has
// none, or none of its size, or failed a check: that may have been the map's
// fault.
func (s *Store) hashAndMap(ctx context.Context, k key, st BlobStat, onProgress func(digest.Digest, int64, int64)) (digest.Digest, int64, *chunkMap, error) {
	m, mapped, err := s.readAnyMap(k)
	if err != nil {
		return "", 0, nil, err
	}
	if st.Size <= MapThreshold || mapped && m.size == st.Size && !st.Suspect {
		found, size, err := s.hashBlob(ctx, k, onProgress)
		return found, size, nil, err
	}
	h := newHasher()
	err = s.readBlob(ctx, k, onProgress, func(b []byte) {
		h.sumBytes(b)
		h.mapBytes(b)
		h.advance(len(b))
	})
	if err != nil {
		return "", h.off, nil, err
	}
	fresh := h.finish()
	return h.digest(), h.off, &fresh, nil
}

// acquit gives a blob whose bytes are good the mode and time of one, and the
// trust.
func (s *Store) acquit(k key, suspect bool) error {
	st, err := s.lstat(k)
	if errors.Is(err, ErrNotFound) {
		return nil // collected meanwhile
	}
	if err != nil {
		return err
	}
	if st.Mode&0o7777 != 0o444 || int(st.Uid) != os.Geteuid() || st.Mtim.Sec != Epoch.Unix() || st.Mtim.Nsec != 0 {
		if err := s.settle(k); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
	}
	if suspect {
		return s.clearSuspect(k)
	}
	return nil
}

// convict says what is wrong with a blob whose bytes hash to something else.
// Where its map finds the disk good, it was the page cache that was bad: that
// is dropped, and the blob has a second hearing.
func (s *Store) convict(ctx context.Context, k key, found digest.Digest, size int64) (*Finding, error) {
	f := &Finding{
		Kind: "blob", Name: string(k.digest()), Problem: fmt.Sprintf("its %d bytes hash to another digest", size),
		Expected: string(k.digest()), Found: string(found), Remedy: remedyRepair,
	}
	m, mapped, err := s.readAnyMap(k)
	if err != nil {
		return f, err
	}
	if mapped && m.size == size {
		disk, err := s.openDisk(s.blobPath(k))
		if err != nil {
			return f, err
		}
		defer disk.close()
		bad, err := disk.badRanges(ctx, m)
		if err != nil {
			return f, err
		}
		f.Ranges, f.Cause = bad, CauseDisk
		if len(bad) == 0 && disk.direct != nil {
			f.Cause = CauseMemory
			f.Problem = "the page cache had other bytes than the disk"
			f.Remedy = "test the memory of this machine; restart what has the blob open"
			_ = unix.Fadvise(int(disk.cached.Fd()), 0, 0, unix.FADV_DONTNEED) // the second hash tells
			if again, _, err := s.hashBlob(ctx, k, nil); err != nil || again == k.digest() {
				return f, err
			}
		}
	}
	return f, s.setSuspect(k, suspicion{Reason: "verify: found " + string(found)})
}

// hashBlob is the SHA-256 of what is stored under k, as its readers see it.
func (s *Store) hashBlob(ctx context.Context, k key, onProgress func(digest.Digest, int64, int64)) (digest.Digest, int64, error) {
	sha, size := sha256.New(), int64(0)
	err := s.readBlob(ctx, k, onProgress, func(b []byte) {
		sha.Write(b)
		size += int64(len(b))
	})
	if err != nil {
		return "", size, err
	}
	return digest.NewDigest(digest.SHA256, sha), size, nil
}

// readBlob hands out the bytes of a blob in order.
func (s *Store) readBlob(ctx context.Context, k key, onProgress func(digest.Digest, int64, int64), take func([]byte)) error {
	f, err := s.fs.OpenFile(s.blobPath(k), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // advice only
	buf := make([]byte, min(readBack, st.Size()+1))
	done := int64(0)
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		b, err := readFull(f, buf, done)
		if err != nil || len(b) == 0 {
			return err
		}
		take(b)
		done += int64(len(b))
		if onProgress != nil {
			onProgress(k.digest(), done, st.Size())
		}
	}
}

// Blobs lists the published blobs, in no order.
func (s *Store) Blobs(ctx context.Context) ([]digest.Digest, error) {
	var out []digest.Digest
	dirs, err := s.fanned("blobs")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		names, err := s.readNames(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if k, ok := keyOfHex(name); ok {
				out = append(out, k.digest())
			}
		}
	}
	return out, nil
}
