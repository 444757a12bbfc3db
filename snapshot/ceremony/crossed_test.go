package ceremony

import (
	"strings"
	"testing"
)

// TestRenewedMeanwhile: cron renews at the office while the folder is with the
// holders. What comes back is published as it is where the online key knows
// what it signed, and after an update where another copy of the key renewed;
// it is another ceremony's line in neither case.
func TestRenewedMeanwhile(t *testing.T) {
	for name, knows := range map[string]bool{"by the same key file": true, "by a copy of the key": false} {
		t.Run(name, func(t *testing.T) {
			w := found(t, 1)
			w.observe()
			folder, copied := w.folder.clone(), *w.keys["online"]
			w.must(w.open().Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site)))
			w.observe()
			w.folder = folder
			if !knows {
				w.keys["online"] = &copied
			}
			w.must(w.open().Revoke(stolen))
			for _, holder := range []string{"targets-1", "targets-2", "online"} {
				w.must(w.sign(holder, false))
			}
			if err := w.publish(); !knows {
				wantErr(t, err, ErrBehind, "update", "sign again with the online key")
				if strings.Contains(err.Error(), "replace") {
					t.Errorf("%v", err)
				}
				w.must(w.open().Update(t.Context(), newSite(w.site), UpdateOptions{}))
				w.must(w.sign("online", false))
				w.must(w.publish())
			} else {
				w.must(err)
			}
			w.observe()
			if w.seen.Sequence != 2 {
				t.Errorf("the node has %d", w.seen.Sequence)
			}
		})
	}
}

// TestRenewedTwice: two folders renewed the same targets under one number. The
// site's, which nodes have, is taken over; other targets are another line.
func TestRenewedTwice(t *testing.T) {
	w := found(t, 1)
	folder, copied := w.folder.clone(), *w.keys["online"]
	w.must(w.open().Renew(t.Context(), []*Key{w.keys["online"]}, PublishOptions{}, newSite(w.site)))
	w.observe()
	w.folder, w.now = folder, w.now.Add(1e9)
	w.must(w.open().Renew(t.Context(), []*Key{&copied}, PublishOptions{}))
	wantErr(t, w.publish(), ErrBehind)
	w.must(w.open().Renew(t.Context(), []*Key{&copied}, PublishOptions{}, newSite(w.site)))
	w.observe()
}
