package ceremony

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// TestChangedMeanwhile: who can write to the folder changes the draft while a
// holder reads what is shown. What was shown is what is signed, or nothing is.
func TestChangedMeanwhile(t *testing.T) {
	for _, root := range []bool{false, true} {
		w := found(t, 1)
		w.must(w.open().AddModel(model("good")))
		w.must(w.open().RenewRoot())
		_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["root-1"], w.keys["targets-1"]}, Root: root, Confirm: func(*Pending) error {
			d, err := parseDraft(w.folder.files[draftFile], "testnet")
			w.must(err)
			d.Models = append(d.Models, model("evil"))
			return writeJSON(w.folder, draftFile, d)
		}})
		if root {
			wantErr(t, err, ErrUnconfirmed, "changed while it was signed")
		} else {
			w.must(err)
		}
		if b := w.folder.files[stagedDocument]; strings.Contains(string(b), "evil") {
			t.Error("something else than what was shown was signed")
		}
	}
}

// TestLinks: a link in place of a folder is not followed: nothing outside is
// read, written or removed. One in place of a file is replaced, not followed.
func TestLinks(t *testing.T) {
	for _, dir := range []string{draftFolder, stagedFolder, metadataFolder} {
		t.Run(dir, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			here, outside := filepath.Join(t.TempDir(), "ceremony"), t.TempDir()
			w.must(unload(w.folder, here))
			w.must(os.MkdirAll(filepath.Join(here, dir), 0o755))
			w.must(os.CopyFS(outside, os.DirFS(filepath.Join(here, dir))))
			w.must(os.WriteFile(filepath.Join(outside, "targets.json"), []byte("kept"), 0o600))
			before := load(t, outside)
			w.must(os.RemoveAll(filepath.Join(here, dir)))
			w.must(os.Symlink(outside, filepath.Join(here, dir)))
			site := t.TempDir()
			for verb, do := range map[string]func(*Repository) error{
				"status": func(r *Repository) error { _, err := r.Status(); return err },
				"sign": func(r *Repository) error {
					_, err := r.Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
					return err
				},
				"publish": func(r *Repository) error { return r.Publish(t.Context(), PublishOptions{NewSite: true}, DirSite(site)) },
				"renew": func(r *Repository) error {
					return r.Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{NewSite: true}, DirSite(site))
				},
				"reset":  func(r *Repository) error { return r.Reset(true) },
				"edit":   func(r *Repository) error { return r.AddModel(model("more")) },
				"rotate": func(r *Repository) error { return r.RenewRoot() },
			} {
				r, err := Open(here)
				if err == nil {
					r.Now = func() time.Time { return w.now }
					err = do(r)
				}
				if !errors.Is(err, ErrHostile) {
					t.Errorf("%s: %v", verb, err)
				}
				if after := load(t, outside); !maps.EqualFunc(before.files, after.files, func(a, b []byte) bool { return string(a) == string(b) }) {
					t.Fatalf("%s changed what lies outside", verb)
				}
			}
		})
	}
	t.Run("a file", func(t *testing.T) {
		w := found(t, 1)
		here, outside := filepath.Join(t.TempDir(), "ceremony"), filepath.Join(t.TempDir(), "file")
		w.must(unload(w.folder, here))
		w.must(os.WriteFile(outside, w.folder.files[draftFile], 0o600))
		w.must(os.MkdirAll(filepath.Join(here, stagedFolder), 0o755))
		for _, name := range []string{stagedTargets, stagedDocument, stagedSnapshot, stagedStamp} {
			w.must(os.Symlink(outside, filepath.Join(here, name)))
		}
		r := must1(Open(here))(t)
		r.Now = func() time.Time { return w.now }
		_, err := r.Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
		w.must(err)
		w.must(r.Publish(t.Context(), PublishOptions{NewSite: true}, DirSite(t.TempDir())))
		if b := must1(os.ReadFile(outside))(t); string(b) != string(w.folder.files[draftFile]) {
			t.Error("a link was followed")
		}
	})
}

func unload(m *memFolder, dir string) error {
	for name, b := range m.files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// TestCrashPoints: each verb ends at each of its steps. Everything that nodes
// see is whole, and the same verb, or the next signer, goes on.
func TestCrashPoints(t *testing.T) {
	base := waits(t)
	ctx := context.Background()
	signed := base.fork(1)
	for _, holder := range []string{"targets-2", "root-2", "online"} {
		signed.must(signed.sign(holder, true))
	}
	behind := signed.fork(1)
	behind.must(behind.publish())
	behind.folder.files = maps.Clone(base.old[0].files)
	for name, c := range map[string]struct {
		from *world
		do   func(*world) error
	}{
		"edit":       {base, func(w *world) error { return w.open().AddModel(model("more")) }},
		"trust root": {base, func(w *world) error { return w.open().AddTrustRoot("net", []byte(`{"n":2}`)) }},
		"revoke --only": {base, func(w *world) error {
			return w.open().Revoke(snapshot.Revocation{Digest: digest.FromString("x")}, Only, Unlisted)
		}},
		"rotate":       {base, func(w *world) error { return w.open().RenewRoot() }},
		"sign targets": {base, func(w *world) error { return w.sign("targets-2", false) }},
		"sign root":    {base, func(w *world) error { return w.sign("root-2", true) }},
		"sign online":  {signed, func(w *world) error { return w.sign("online", false) }},
		"publish":      {signed, func(w *world) error { return w.publish() }},
		"renew": {base, func(w *world) error {
			return w.open().Renew(ctx, []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site))
		}},
		"update": {behind, func(w *world) error { return w.open().Update(ctx, newSite(w.site), UpdateOptions{}) }},
		"reset":  {base, func(w *world) error { return w.open().Reset(true) }},
	} {
		t.Run(name, func(t *testing.T) {
			points := 0
			for n := 1; ; n++ {
				w := c.from.fork(1)
				w.t = t
				w.observe()
				w.folder.crash, w.site.crash = w.folder.steps+n, w.site.steps+n
				err := c.do(w)
				w.folder.crash, w.site.crash = 0, 0
				w.observe()
				if err == nil {
					break
				}
				if !errors.Is(err, errCrash) {
					t.Fatalf("step %d: %v", n, err)
				}
				points++
				again := w.fork(1)
				again.t = t
				if err := c.do(again); err != nil {
					t.Errorf("after a crash at step %d the same command says: %v", n, err)
				}
				again.observe()
				w.emergency()
			}
			if points == 0 {
				t.Error("no step was taken")
			}
		})
	}
}

// TestOneFolder: two holders, an editor and a cron job work on one folder and
// one site at the same time, on disk. No command sees half of another's work.
func TestOneFolder(t *testing.T) {
	w := found(t, 1)
	here, site := filepath.Join(t.TempDir(), "ceremony"), t.TempDir()
	w.must(unload(w.folder, here))
	w.must(unload(w.site, site))
	open := func() *Repository {
		r, err := Open(here)
		if err != nil {
			t.Error(err)
			return nil
		}
		r.Now = func() time.Time { return w.now }
		return r
	}
	ctx := t.Context()
	expected := func(err error) bool {
		return err == nil || errors.Is(err, ErrIncomplete) || errors.Is(err, ErrUnsigned) || errors.Is(err, ErrUnconfirmed)
	}
	var wg sync.WaitGroup
	for name, do := range map[string]func(i int) error{
		"editor":         func(i int) error { return open().AddModel(model(fmt.Sprintf("m%d", i))) },
		"another editor": func(i int) error { return open().AddModel(model(fmt.Sprintf("n%d", i))) },
		"holder 1": func(int) error {
			_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}, Confirm: (&anyone{}).confirm})
			return err
		},
		"holder 2": func(int) error {
			_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-2"]}, Confirm: (&anyone{}).confirm})
			return err
		},
		"cron": func(int) error { return open().Renew(ctx, []*Key{seededKey(t, 21)}, PublishOptions{}, DirSite(site)) },
		"office": func(int) error {
			if _, err := open().Sign(SignOptions{Keys: []*Key{seededKey(t, 21)}}); err != nil {
				return err
			}
			return open().Publish(ctx, PublishOptions{}, DirSite(site))
		},
	} {
		wg.Go(func() {
			for i := range 12 {
				if err := do(i); !expected(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	// A node reads all the while and never sees anything but a whole set that
	// is not older.
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		seen := snapshot.Seen{}
		for {
			l, chain, err := readRoots(ctx, DirSite(site))
			if err != nil {
				t.Errorf("a node reads: %v", err)
				return
			}
			acc, files, err := chain.Accept(ctx, DirSite(site), "testnet", time.Time{}, seen)
			if err != nil {
				t.Errorf("a node reads: %v", err)
				return
			}
			seen = snapshot.Seen{Files: files, RootVersion: l.root.Signed.Version, Sequence: acc.Document.Sequence, Digest: acc.Digest}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(done)
	reader.Wait()
	// And it can be brought to an end.
	_, err := open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"], w.keys["targets-2"], w.keys["online"]}, Confirm: (&anyone{}).confirm})
	w.must(err)
	w.must(open().Publish(ctx, PublishOptions{}, DirSite(site)))
	doc := must1(open().published(ctx))(t).acc.Document
	for i := range 12 {
		for _, editor := range []string{"m", "n"} {
			if _, ok := doc.Model(fmt.Sprint(editor, i), "v1"); !ok {
				t.Errorf("an edit was lost: %s%d", editor, i)
			}
		}
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErr(t testing.TB, err, class error, words ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v is not of class %q", err, class)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}
