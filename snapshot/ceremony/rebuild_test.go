package ceremony

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// TestRebuild: a folder that is gone, or empty, is rebuilt from what was
// published and a root that was kept; another directory is left alone, and a
// revocation goes out from what was rebuilt.
func TestRebuild(t *testing.T) {
	w := found(t, 1)
	w.observe()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	w.must(os.MkdirAll(filepath.Join(empty, keysFolder), 0o700))
	for _, at := range []string{filepath.Join(dir, "gone"), empty} {
		r := must1(Rebuild(t.Context(), at, newSite(w.site)))(t)
		wantErr(t, r.Update(t.Context(), newSite(w.site), UpdateOptions{Pinned: stranger(t).files["metadata/1.root.json"]}), ErrForeign)
		w.must(r.Update(t.Context(), newSite(w.site), UpdateOptions{Pinned: w.pinned}))
		w.must(r.Reset(false))
		r = must1(Open(at))(t)
		if st := must1(r.Status())(t); st.Sequence != 1 || r.lost != "" {
			t.Errorf("%+v, %s", st, r.lost)
		}
		w.folder = load(t, at)
		w.fork(1).emergency()
	}
	other := filepath.Join(dir, "other")
	w.must(os.MkdirAll(filepath.Join(other, "photographs"), 0o700))
	if _, err := Rebuild(t.Context(), other, newSite(w.site)); err == nil {
		t.Error("a directory of something else became a ceremony")
	}
}

// TestSiteIsThere: a place where nothing was published, misspelt or not
// mounted, is refused and stays as it is, and the other sites get nothing; a
// new one is made when that is said.
func TestSiteIsThere(t *testing.T) {
	w := found(t, 1)
	at := filepath.Join(t.TempDir(), "siet")
	renew := func(o PublishOptions, sites ...Site) error {
		return w.open().Renew(t.Context(), []*Key{w.keys["online"]}, o, sites...)
	}
	before := w.site.steps
	wantErr(t, renew(PublishOptions{}, newSite(w.site), DirSite(at)), ErrNoSite, "--new-site")
	wantErr(t, w.open().Publish(t.Context(), PublishOptions{}, newSite(w.site), DirSite(at)), ErrNoSite, "--new-site")
	if _, err := os.Stat(at); err == nil || w.site.steps != before {
		t.Errorf("something was written: %v", err)
	}
	w.must(w.open().Publish(t.Context(), PublishOptions{NewSite: true}, DirSite(at)))
	w.must(renew(PublishOptions{}, DirSite(at)))
	push := filepath.Join(t.TempDir(), "push.json")
	w.must(renew(PublishOptions{}, BundleSite(push)))
	if b, err := snapshot.ReadBundle(push); err != nil || len(b) == 0 {
		t.Error(err)
	}
}
