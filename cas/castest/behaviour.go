package castest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// Behaviour holds a store to what every store has to do, each rule in a fresh
// store below dir.
func Behaviour(t *testing.T, open Open, dir string) {
	for name, rule := range map[string]func(st Store, m model) error{
		"an unfinished blob is not there": unfinishedIsHidden,
		"wrong bytes are refused":         wrongBytesRefused,
		"a second ingest finds the first": secondIngestExists,
		"a layer is published whole or not at all": func(st Store, _ model) error {
			return unpack(st, models()[1], func(mark) {})
		},
		"an ingest goes on where one was closed": closedIngestResumes,
		"a tree shows the files":                 treeShowsFiles,
		"a root names what is there":             rootNamesWhatIsThere,
		"a collection frees the rest":            collectionFreesRest,
		"a lease keeps, and the trash gives back": func(st Store, m model) error {
			return errors.Join(leaseKeeps(st, m), trashGivesBack(st, m))
		},
		"a bad blob is suspect until its repair": badIsSuspect,
	} {
		t.Run(name, func(t *testing.T) {
			st, err := open(filepath.Join(dir, digest.FromString(name).Encoded()[:16]), durable.OS)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			m := models()[0]
			if err := protect(st, m); err != nil {
				t.Fatal(err)
			}
			if err := rule(st, m); err != nil {
				t.Error(err)
			}
			if problems, err := st.Problems(); err != nil || len(problems) > 0 {
				t.Errorf("the store finds %q in itself: %v", problems, err)
			}
		})
	}
}

func want(err, class error) error {
	if errors.Is(err, class) {
		return nil
	}
	return fmt.Errorf("want %v, error %w", class, err)
}

func unfinishedIsHidden(st Store, m model) error {
	b := m.files["model.gguf"]
	i, err := st.Ingest(b.d, int64(len(b.b)))
	if err != nil {
		return err
	}
	defer i.Close()
	if err := write(i, b.b, 0, 1<<20); err != nil {
		return err
	}
	if err := want(i.Commit(), cas.ErrIncomplete); err != nil {
		return err
	}
	return want(st.Has(b.d), cas.ErrNotFound)
}

func wrongBytesRefused(st Store, m model) error {
	b := m.files["sub/tokenizer"]
	i, err := st.Ingest(b.d, int64(len(b.b)))
	if err != nil {
		return err
	}
	defer i.Close()
	bad := bytes.Clone(b.b)
	bad[100] ^= 1
	if err := write(i, bad, 0, int64(len(bad))); err != nil {
		return err
	}
	if err := errors.Join(want(i.Commit(), cas.ErrDigestMismatch), want(st.Has(b.d), cas.ErrNotFound)); err != nil {
		return err
	}
	// The same writer may put it right.
	if err := write(i, b.b, 0, 4096); err != nil {
		return err
	}
	return errors.Join(i.Commit(), st.Has(b.d))
}

func secondIngestExists(st Store, m model) error {
	if err := pullPlainly(st, m, func(mark) {}); err != nil {
		return err
	}
	for _, b := range m.blobs() {
		_, err := st.Ingest(b.d, int64(len(b.b)))
		if err := want(err, cas.ErrExists); err != nil {
			return err
		}
		if got, err := st.Read(b.d); err != nil || !bytes.Equal(got, b.b) {
			return fmt.Errorf("%s has %d bytes: %w", b.d, len(got), err)
		}
	}
	return nil
}

func closedIngestResumes(st Store, m model) error { return pullInPieces(st, m, func(mark) {}) }

func treeShowsFiles(st Store, m model) error {
	if err := pullPlainly(st, m, func(mark) {}); err != nil {
		return err
	}
	dir, err := st.Build(m.digest(), m.entries())
	if err != nil {
		return err
	}
	for path, b := range m.files {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, b.b) {
			return fmt.Errorf("%s has %d bytes: %w", path, len(got), err)
		}
	}
	_, err = st.Build(digest.FromString("outside"), map[string]digest.Digest{"../outside": m.manifest.d})
	return errors.Join(want(err, cas.ErrInvalid), st.Check(m.digest()))
}

func rootNamesWhatIsThere(st Store, m model) error {
	r := m.root()
	if err := want(st.Root(m.name, r), cas.ErrNotFound); err != nil {
		return err
	}
	if err := errors.Join(pullPlainly(st, m, func(mark) {}), install(st, m, func(mark) {})); err != nil {
		return err
	}
	return errors.Join(st.Unroot(m.name), want(st.Unroot(m.name), cas.ErrNotFound))
}

func collectionFreesRest(st Store, m model) error {
	other := models()[1]
	for _, m := range []model{m, other} {
		if err := errors.Join(pullPlainly(st, m, func(mark) {}), install(st, m, func(mark) {})); err != nil {
			return err
		}
	}
	if err := errors.Join(st.Unroot(other.name), st.Unprotect(), st.Collect(true)); err != nil {
		return err
	}
	for _, b := range m.blobs() { // one of which the other had too
		if err := st.Has(b.d); err != nil {
			return err
		}
	}
	return errors.Join(st.Check(m.digest()), want(st.Has(other.digest()), cas.ErrNotFound), want(st.HasLayer(other.packed.d), cas.ErrNotFound))
}

func leaseKeeps(st Store, m model) error {
	if err := errors.Join(pullPlainly(st, m, func(mark) {}), st.Collect(true)); err != nil {
		return err
	}
	return st.Has(m.digest())
}

func trashGivesBack(st Store, m model) error {
	if err := errors.Join(st.Unprotect(), st.Collect(false)); err != nil {
		return err
	}
	if err := protect(st, m); err != nil {
		return err
	}
	for _, b := range m.blobs() {
		if err := st.Has(b.d); err != nil {
			return err
		}
	}
	return nil
}

func badIsSuspect(st Store, m model) error {
	if err := pullPlainly(st, m, func(mark) {}); err != nil {
		return err
	}
	b := m.files["model.gguf"]
	if err := harm(st, b.d, durable.OS, func(mark) {}); err != nil {
		return err
	}
	if err := want(st.Has(b.d), cas.ErrSuspect); err != nil {
		return err
	}
	var fetched int64
	err := st.Repair(b.d, func(_ context.Context, off, n int64, w io.WriterAt) error {
		fetched += n
		_, err := w.WriteAt(b.b[off:off+n], off)
		return err
	})
	if err != nil {
		return err
	}
	if fetched > cas.ChunkSize {
		return fmt.Errorf("a repair of one bad chunk fetched %d bytes", fetched)
	}
	return st.Has(b.d)
}
