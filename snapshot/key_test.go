package snapshot

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestKeyDigestKnowsEverySpelling(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	text, want := k.Value.PublicKey, keyDigest(k)
	for _, other := range []metadata.Key{
		{Type: metadata.KeyTypeECDSA_SHA2_P256_COMPAT, Value: metadata.KeyVal{PublicKey: text}},
		{Type: k.Type, Value: metadata.KeyVal{PublicKey: strings.ReplaceAll(text, "\n", "\r\n")}},
		{Type: k.Type, Value: metadata.KeyVal{PublicKey: "\n" + text + "\n# mine"}},
	} {
		if got := keyDigest(&other); got != want {
			t.Errorf("%s %q: %s, want %s", other.Type, other.Value.PublicKey, got, want)
		}
	}
	if keyDigest(&metadata.Key{Type: "x"}) == keyDigest(&metadata.Key{Type: "y"}) {
		t.Error("keys that do not parse are all one")
	}
}
