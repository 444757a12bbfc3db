package tinygguf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/resultity/rmodels/internal/tinygguf"
)

func digest(t *testing.T, o tinygguf.Options) (string, int64) {
	t.Helper()
	h := sha256.New()
	var n counter
	if err := tinygguf.Write(io.MultiWriter(h, &n), o); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil)), int64(n)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// The bytes are an interface: digests in documents, tests and recorded
// sessions depend on them (invariant 1).
func TestBytesArePinned(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      tinygguf.Options
		digest string
		size   int64
	}{
		{"chain", tinygguf.Options{}, "4c56503b3691a5aa51bf4065dddaeb4316207a597e3ec56a9057f7795df46f0a", 5224544},
		{"chain, other words", tinygguf.Options{Words: []string{"second", "version"}, Seed: 2}, "6ef8a30c3428ddb770cd3257c668eadce0e94c3a4b85bf32896b37cd813d013c", 5168864},
		{"random", tinygguf.Options{Mode: tinygguf.Random}, "d172b8ab3cc7e88aac34668d1c9ae5827758a739f4618515a55e980bce219046", 387424},
		{"random, seed", tinygguf.Options{Mode: tinygguf.Random, Seed: 7}, "faa56b9eb961e86c88e80b7cc605a48db26f4fb0e09544b7a519c195ce34d212", 387424},
		{"chain, padded", tinygguf.Options{MinSize: 8 << 20}, "6b310428a9b43f4454c1ef8f426039936dbe54e4343d5bce7d362a266a96fa95", 8468576},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, size := digest(t, c.o)
			if d != c.digest || size != c.size {
				t.Errorf("got %s, %d bytes; want %s, %d bytes", d, size, c.digest, c.size)
			}
		})
	}
}

// Invariant 2, and the reason the options exist.
func TestEveryOptionChangesTheBytes(t *testing.T) {
	seen := map[string]string{}
	for name, o := range map[string]tinygguf.Options{
		"default": {},
		"name":    {Name: "other"},
		"prompt":  {Prompt: "hello"},
		"words":   {Words: []string{"no"}},
		"seed":    {Seed: 1},
		"size":    {MinSize: 6 << 20},
		"random":  {Mode: tinygguf.Random},
	} {
		d, _ := digest(t, o)
		if other, ok := seen[d]; ok {
			t.Errorf("%s and %s give the same bytes", name, other)
		}
		seen[d] = name
	}
}

func TestMinSize(t *testing.T) {
	for _, size := range []int64{1, 5 << 20, 6<<20 + 1, 64 << 20} {
		_, got := digest(t, tinygguf.Options{MinSize: size})
		if got < size || size > 6<<20 && got > size+(1<<20) {
			t.Errorf("asked for %d bytes, got %d", size, got)
		}
	}
}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		o    tinygguf.Options
		want string
	}{
		{tinygguf.Options{}, " the model files answer from a sealed box."},
		{tinygguf.Options{Words: []string{"version", "two", "speaks"}}, " version two speaks."},
	} {
		got, err := tinygguf.Answer(c.o)
		if err != nil || got != c.want {
			t.Errorf("Answer(%v) = %q, %v; want %q", c.o.Words, got, err, c.want)
		}
	}
}

func TestRefusedOptions(t *testing.T) {
	for name, o := range map[string]tinygguf.Options{
		"word twice":       {Words: []string{"a", "b", "a"}},
		"word is prompt":   {Words: []string{"ping"}},
		"digit":            {Words: []string{"v2"}},
		"empty word":       {Words: []string{""}},
		"space in prompt":  {Prompt: "two words"},
		"negative size":    {MinSize: -1},
		"size over 64 GiB": {MinSize: 64<<30 + 1},
		"unknown mode":     {Mode: 2},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tinygguf.Write(io.Discard, o); !errors.Is(err, tinygguf.ErrOptions) {
				t.Errorf("got %v, want ErrOptions", err)
			}
		})
	}
	if _, err := tinygguf.Answer(tinygguf.Options{Mode: tinygguf.Random}); !errors.Is(err, tinygguf.ErrOptions) {
		t.Errorf("answer of a random model: got %v, want ErrOptions", err)
	}
}

func TestWriteErrorIsReported(t *testing.T) {
	full := errors.New("disk full")
	for _, limit := range []int{0, 4 << 20} {
		if err := tinygguf.Write(&failing{after: limit, err: full}, tinygguf.Options{}); !errors.Is(err, full) {
			t.Errorf("write that fails after %d bytes: got %v", limit, err)
		}
	}
}

type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func TestHeader(t *testing.T) {
	var b bytes.Buffer
	if err := tinygguf.Write(&b, tinygguf.Options{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b.Bytes(), []byte("GGUF\x03\x00\x00\x00")) {
		t.Errorf("file starts with %q", b.Bytes()[:8])
	}
	if b.Len()%32 != 0 {
		t.Errorf("length %d is not aligned to 32", b.Len())
	}
}
