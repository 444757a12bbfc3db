package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/resultity/rmodels/snapshot"
)

// editPublished makes a change to the published document alone.
func (r *Repository) editPublished(st *state, change func(*state, *snapshot.Snapshot) error) error {
	if st.publishedErr != nil {
		return st.publishedErr
	}
	base := st.document()
	if base == nil {
		return fmt.Errorf("%w: nothing was published yet: edit the draft itself", ErrIncomplete)
	}
	next, err := clone(base)
	if err != nil {
		return err
	}
	edits := true
	if st.draft != nil && st.draftErr == nil {
		changes, err := snapshot.Compare(base, st.draft)
		if err != nil {
			return err
		}
		if edits = len(changes) > 0; edits && withdrawsOnly(changes, base, st.draft) {
			// What was withdrawn before and is not published yet goes along.
			if next, err = clone(st.draft); err != nil {
				return err
			}
			edits = false
		}
	}
	if err := r.apply(st, next, change); err != nil {
		return err
	}
	if edits {
		if err := r.setAside(st, change); err != nil {
			return err
		}
	}
	next.Sequence = base.Sequence
	return r.storeDraft(next)
}

// setAside keeps the draft's edits for later, with the change where it can be
// made to them too. Bytes that are no draft are kept as they are; what is no
// file at all is not.
func (r *Repository) setAside(st *state, change func(*state, *snapshot.Snapshot) error) error {
	if st.aside() {
		return nil // the first edits that were set aside are the ones that people wait for
	}
	if st.draft != nil {
		if later, err := clone(st.draft); err == nil && change(st, later) == nil && later.Check() == nil {
			return writeJSON(r.files, asideFile, later)
		}
	}
	b, err := r.files.read(draftFile, maxDraft)
	if err != nil {
		return nil //nolint:nilerr // nothing that could be kept
	}
	return r.files.write(asideFile, b)
}

// aside tells whether edits wait beside the draft.
func (st *state) aside() bool {
	_, err := st.r.files.read(asideFile, maxDraft)
	return err == nil
}

// Resume makes the edits that were set aside the draft again.
func (r *Repository) Resume() error {
	ctx := context.Background()
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		b, err := r.files.read(asideFile, maxDraft)
		if errors.Is(err, fs.ErrNotExist) {
			// The file's name is nothing that a person has made.
			return fmt.Errorf("%w in %s: edits that were made elsewhere, or before this folder was replaced by another, are not here", ErrNoneAside, r.dir)
		}
		if err != nil {
			return fmt.Errorf("the edits that were set aside: %w", err)
		}
		later, err := parseDraft(b, r.config.Network)
		if err != nil {
			return fmt.Errorf("the edits that were set aside: %w", err)
		}
		base := st.document()
		if base == nil {
			return r.storeDraft(later)
		}
		if st.draft == nil {
			return st.draftErr
		}
		if changes, err := snapshot.Compare(base, st.draft); err != nil || len(changes) > 0 {
			return errors.Join(fmt.Errorf("%w: publish it first, or drop it with: rmodels snapshot reset %s", ErrUnsigned, r.dir), err)
		}
		for _, rev := range base.Revocations {
			later.Revocations = put(later.Revocations, rev, sameRevocation(rev))
		}
		later.Sequence = base.Sequence
		if err := r.storeDraft(later); err != nil {
			return err
		}
		return r.files.remove(asideFile)
	})
}

// Reset drops the draft's edits and what waits for signatures, a root too when
// asked: the draft is what was published last.
func (r *Repository) Reset(root bool) error {
	ctx := context.Background()
	return r.locked(ctx, func() error {
		st, err := r.read(ctx)
		if err != nil {
			return err
		}
		if st.publishedErr != nil {
			return st.publishedErr
		}
		doc := st.document()
		if doc == nil {
			doc = r.emptyDraft(st.now)
		}
		if err := r.storeDraft(doc); err != nil {
			return err
		}
		if err := r.dropStaged(); err != nil {
			return err
		}
		if root && st.published != nil {
			return r.dropRoots(1 << 62)
		}
		return nil
	})
}

// dropStaged removes the staged document and its signatures. The metadata
// first: a document without signatures counts for nothing.
func (r *Repository) dropStaged() error {
	if err := r.dropOnline(); err != nil {
		return err
	}
	if err := r.files.remove(stagedTargets); err != nil {
		return err
	}
	return r.files.remove(stagedDocument)
}

func (r *Repository) dropOnline() error {
	if err := r.files.remove(stagedStamp); err != nil {
		return err
	}
	return r.files.remove(stagedSnapshot)
}

// dropRoots removes staged roots up to a version.
func (r *Repository) dropRoots(upTo int64) error {
	versions, err := r.stagedRoots()
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v <= upTo {
			if err := r.files.remove(path.Join(stagedFolder, rootFile(v))); err != nil {
				return err
			}
		}
	}
	return nil
}
