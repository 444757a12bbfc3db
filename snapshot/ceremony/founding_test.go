package ceremony

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestFoundingSwap: a carrier brings a network of their own to the office,
// founded for the office's online key. That key signs it with a confirmation
// alone, before its root was published and after, and renews nothing of it.
func TestFoundingSwap(t *testing.T) {
	theirs, online := seededKey(t, 900), seededKey(t, 901)
	dir := filepath.Join(t.TempDir(), "ceremony")
	w := &world{t: t, now: worldStart, keys: map[string]*Key{}, memo: &memo{map[string][]reading{}}, site: &memFolder{files: map[string][]byte{}}}
	_, err := Init(dir, InitOptions{
		Network: "testnet", RootPublicKeys: []string{theirs.pem(t)}, RootThreshold: 1, OnlinePublicKey: online.pem(t),
		TargetsPublicKeys: []string{theirs.pem(t)}, TargetsThreshold: 1, Now: func() time.Time { return w.now },
	})
	w.must(err)
	w.folder = load(t, dir)
	_, err = w.open().Sign(SignOptions{Keys: []*Key{theirs}, Root: true, Confirm: (&anyone{}).confirm})
	w.must(err)
	sign := func(confirmed bool) {
		t.Helper()
		_, err := w.open().Sign(SignOptions{Keys: []*Key{online}})
		wantErr(t, err, ErrUnconfirmed, "first root", "compare the digest")
		var u *UnconfirmedError
		if !errors.As(err, &u) {
			t.Fatal(err)
		}
		if !confirmed {
			return
		}
		st, err := w.open().Sign(SignOptions{Keys: []*Key{online}, Confirmed: u.Pending.Digest})
		w.must(err)
		if !slices.Contains(st.Signed, metadata.TIMESTAMP) {
			t.Errorf("confirmed, and signed %q", st.Signed)
		}
	}
	sign(true)
	w.must(w.publish())
	known := *online
	online.memory = memory{} // of a holder who has met none of it
	wantErr(t, w.open().Renew(t.Context(), []*Key{online}, PublishOptions{}, newSite(w.site)), ErrUnconfirmed, "snapshot sign")
	sign(false)
	// What it has signed under goes on unasked.
	w.must(w.open().Renew(t.Context(), []*Key{&known}, PublishOptions{}, newSite(w.site)))
	_, err = w.open().Sign(SignOptions{Keys: []*Key{&known}})
	w.must(err)
}
