package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
	Kind     string  `json:"kind"` // blob, map, tree, ref, lease, flag, partial, trash, store
	Name     string  `json:"name"`
	Problem  string  `json:"problem"`
	Expected string  `json:"expected,omitzero"`
	Found    string  `json:"found,omitzero"`
	Ranges   []Range `json:"ranges,omitzero"` // of a blob that are bad, where that is known
	Remedy   string  `json:"remedy,omitzero"` // what to do about it
}

// Verify hashes blobs with SHA-256 and reports those that are missing or bad.
// A bad one becomes suspect; a suspect one that is good after all is trusted
// again. An error other than the context's means that a blob could not be
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
	if err == nil {
		found, size, err = s.hashBlob(ctx, k, onProgress)
	}
	switch {
	case errors.Is(err, ErrCorrupt):
		f := &Finding{Kind: "blob", Name: string(d), Problem: "not a regular file", Found: err.Error(), Remedy: "ingest it again"}
		return f, s.setSuspect(k, suspicion{Reason: "verify: not a regular file"})
	case errors.Is(err, unix.EIO):
		f := &Finding{Kind: "blob", Name: string(d), Problem: "unreadable", Found: err.Error(), Remedy: "replace the disk, or repair the blob from a source"}
		return f, s.setSuspect(k, suspicion{Reason: "verify: " + err.Error()})
	case err != nil:
		return nil, fmt.Errorf("verify %s: %w", d, err)
	case found != d:
		f := &Finding{
			Kind: "blob", Name: string(d), Problem: fmt.Sprintf("its %d bytes hash to another digest", size),
			Expected: string(d), Found: string(found), Remedy: "repair the blob from a source",
		}
		return f, s.setSuspect(k, suspicion{Reason: "verify: found " + string(found)})
	case st.Suspect:
		return nil, s.clearSuspect(k)
	}
	return nil, nil
}

// hashBlob is the SHA-256 of what is stored under k.
func (s *Store) hashBlob(ctx context.Context, k key, onProgress func(digest.Digest, int64, int64)) (digest.Digest, int64, error) {
	b, err := s.openBlob(k)
	if err != nil {
		return "", 0, err
	}
	defer b.Close()
	_ = unix.Fadvise(int(b.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // advice only
	sha := sha256.New()
	buf := make([]byte, min(1<<20, b.Size()+1))
	done := int64(0)
	for {
		if err := context.Cause(ctx); err != nil {
			return "", 0, err
		}
		n, err := b.Read(buf)
		sha.Write(buf[:n])
		done += int64(n)
		if onProgress != nil && n > 0 {
			onProgress(k.digest(), done, b.Size())
		}
		if err == io.EOF {
			return digest.NewDigest(digest.SHA256, sha), done, nil
		}
		if err != nil {
			return "", done, err
		}
	}
}

// Blobs lists the published blobs, in no order.
func (s *Store) Blobs(ctx context.Context) ([]digest.Digest, error) {
	var out []digest.Digest
	for b := range 256 {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		names, err := readNames(s.path(fmt.Sprintf("blobs/sha256/%02x", b)))
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
