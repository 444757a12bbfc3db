package ceremony

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/snapshot"
)

// stretch makes one of the folder's terms five years, as a carrier can.
func (w *world) stretch(term, was string) {
	w.t.Helper()
	w.setTerm(term, was, "43800h0m0s")
}

func (w *world) setTerm(term, was, is string) {
	w.t.Helper()
	b := w.folder.files[repositoryFile]
	now := bytes.Replace(b, []byte(`"`+term+`": "`+was+`"`), []byte(`"`+term+`": "`+is+`"`), 1)
	if bytes.Equal(b, now) {
		w.t.Fatalf("no %s of %s in %s", term, was, b)
	}
	w.folder.files[repositoryFile] = now
}

// TestTermsAreConfirmed: for how long a signature is valid stands in a file
// that travels. A digest that was looked at is for the terms, too, and the
// terms are shown, also of the first snapshot.
func TestTermsAreConfirmed(t *testing.T) {
	for term, was := range map[string]string{"targets": "720h0m0s", "document": "720h0m0s", "online": "168h0m0s", "root": "8760h0m0s"} {
		t.Run(term, func(t *testing.T) {
			w := found(t, 1)
			w.must(w.open().AddModel(model("good")))
			honest := must1(w.open().Status())(t).Pending
			w.stretch(term, was)
			before := w.folder.clone()
			for _, holder := range []string{"targets-1", "online"} {
				_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirmed: honest.Digest})
				u, ok := errors.AsType[*UnconfirmedError](err)
				if !ok {
					t.Fatalf("%s signed for another term than was confirmed: %v", holder, err)
				}
				shown := map[string]snapshot.Duration{"targets": u.Pending.Terms.Targets, "document": u.Pending.Terms.Document, "online": u.Pending.Terms.Online, "root": u.Pending.Terms.Root}
				if shown[term].Std() != 43800*time.Hour {
					t.Errorf("the term is not shown: %+v", u.Pending.Terms)
				}
			}
			if len(w.folder.files) != len(before.files) {
				t.Error("something was written before it was confirmed")
			}
			if p := must1(w.open().Status())(t).Pending; (term == "targets" || term == "document") && !strings.Contains(strings.Join(p.Risks, "; "), "43800h") {
				t.Errorf("a longer term is no risk: %q", p.Risks)
			}
		})
	}
}

// TestNothingIsSignedUnnamed: without somebody to ask, root and targets keys
// sign what was named by its digest alone, and the online key what has no risks.
func TestNothingIsSignedUnnamed(t *testing.T) {
	w := found(t, 1)
	w.must(w.open().AddModel(model("good")))
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["targets-1"]}})
	u, ok := errors.AsType[*UnconfirmedError](err)
	if !ok {
		t.Fatalf("signed without a look: %v", err)
	}
	for _, holder := range []string{"targets-1", "targets-2"} {
		_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys[holder]}, Confirmed: u.Pending.Digest})
		w.must(err)
	}
	_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["online"]}})
	w.must(err)
	w.stretch("online", "168h0m0s")
	if _, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["online"]}}); !errors.Is(err, ErrUnconfirmed) {
		t.Fatalf("the online key signed what has risks: %v", err)
	}
	_, err = w.open().Sign(SignOptions{Keys: []*Key{w.keys["online"]}, Confirmed: digest.FromString("another")})
	if !errors.Is(err, ErrUnconfirmed) {
		t.Fatalf("the online key signed another digest: %v", err)
	}
}

// TestRenewKeepsItsTerm: cron is asked nothing, so it obeys no longer term than
// its key was confirmed for, says so, and keeps the network fresh all the same.
func TestRenewKeepsItsTerm(t *testing.T) {
	w := found(t, 1)
	renewed := func(keys ...*Key) (until time.Time, warned string) {
		t.Helper()
		w.now = w.now.Add(time.Hour)
		o := PublishOptions{Warn: func(why string) { warned += why }}
		w.must(w.open().Renew(context.Background(), keys, o, newSite(w.site)))
		return must1(w.open().published(context.Background()))(t).acc.TimestampExpires, warned
	}
	week := 168 * time.Hour
	if until, warned := renewed(w.keys["online"]); !until.Equal(w.now.Add(week)) || warned != "" {
		t.Errorf("valid until %s: %s", until, warned)
	}
	w.stretch("online", "168h0m0s")
	if until, warned := renewed(w.keys["online"]); !until.Equal(w.now.Add(week)) || !strings.Contains(warned, "43800h") {
		t.Errorf("valid until %s: %q", until, warned)
	}
	// A key that remembers no term is held to the default.
	w.keys["online"].memory.Online = 0
	if until, warned := renewed(w.keys["online"]); !until.Equal(w.now.Add(week)) || warned == "" {
		t.Errorf("valid until %s: %q", until, warned)
	}
	// Confirmed once it holds, and not beyond.
	p := must1(w.open().Status())(t).Pending
	_, err := w.open().Sign(SignOptions{Keys: []*Key{w.keys["online"]}, Confirmed: p.Digest})
	w.must(err)
	w.must(w.publish())
	if until, warned := renewed(w.keys["online"]); !until.Equal(w.now.Add(43800*time.Hour)) || warned != "" {
		t.Errorf("valid until %s: %q", until, warned)
	}
}

// TestKeyByEveryName: a key is named by its key ID, by its digest, or by the
// beginning of one of them that no other key has.
func TestKeyByEveryName(t *testing.T) {
	w := found(t, 1)
	k := w.keys["targets-3"]
	id := must1(KeyID(k.pem(t)))(t)
	if id != k.id {
		t.Fatalf("key ID %s, want %s", id, k.id)
	}
	sum := must1(w.open().Status())(t).Pending.Keys[id]
	for _, name := range []string{id, id[:12], sum.String(), sum.String()[:19], sum.Encoded()[:12]} {
		before := w.folder.clone()
		w.must(w.open().RotateKey("targets", name, ""))
		c := must1(w.open().Status())(t).Pending
		if got := c.Root.Roles[1].Removed; len(got) != 1 || got[0] != id {
			t.Errorf("%s: removed %q", name, got)
		}
		w.folder = before
	}
	if err := w.open().RotateKey("targets", "sha256:", ""); !errors.Is(err, snapshot.ErrKey) {
		t.Errorf("a name of all keys: %v", err)
	}
}

// TestShortTerms: a term of a moment freezes the network as surely as one of
// years blinds it. Less than a third of the one before is a risk, less than
// before is told.
func TestShortTerms(t *testing.T) {
	for term, was := range map[string]string{"targets": "720h0m0s", "document": "720h0m0s"} {
		w := found(t, 1)
		w.must(w.open().AddModel(model("good")))
		w.setTerm(term, was, "700h0m0s")
		p := must1(w.open().Status())(t).Pending
		if len(p.Risks) != 0 || !strings.Contains(strings.Join(p.Warnings, "; "), "valid for 700h0m0s, the published one is for 720h0m0s") {
			t.Errorf("%s: risks %q, warnings %q", term, p.Risks, p.Warnings)
		}
		w.setTerm(term, "700h0m0s", "12s")
		if p := must1(w.open().Status())(t).Pending; len(p.Risks) != 1 || !strings.Contains(p.Risks[0], "valid for 12s, the published one is for 720h0m0s") {
			t.Errorf("%s: risks %q", term, p.Risks)
		}
	}
	// The online key: neither at once nor by steps.
	w := found(t, 1)
	online := w.keys["online"]
	w.setTerm("online", "168h0m0s", "2s")
	_, err := w.open().Sign(SignOptions{Keys: []*Key{online}})
	wantErr(t, err, ErrUnconfirmed)
	if until := w.renewed(online); until != 168*time.Hour {
		t.Errorf("renewed for %s", until)
	}
	w.setTerm("online", "2s", "60h0m0s")
	for range 2 {
		_, err = w.open().Sign(SignOptions{Keys: []*Key{online}})
		w.must(err)
	}
	w.setTerm("online", "60h0m0s", "21h0m0s")
	_, err = w.open().Sign(SignOptions{Keys: []*Key{online}})
	u, ok := errors.AsType[*UnconfirmedError](err)
	if !ok || !strings.Contains(strings.Join(u.Pending.Risks, "; "), "valid for 21h0m0s, this key has signed for 168h0m0s") {
		t.Fatalf("%v", err)
	}
	// What was confirmed holds.
	_, err = w.open().Sign(SignOptions{Keys: []*Key{online}, Confirmed: u.Pending.Digest})
	w.must(err)
	w.must(w.publish())
	if until := w.renewed(online); until != 21*time.Hour {
		t.Errorf("renewed for %s", until)
	}
}

// renewed says for how long a renewal is.
func (w *world) renewed(k *Key) time.Duration {
	w.t.Helper()
	w.must(w.open().Renew(context.Background(), []*Key{k}, PublishOptions{}, newSite(w.site)))
	return must1(w.open().published(context.Background()))(w.t).acc.TimestampExpires.Sub(w.now)
}
