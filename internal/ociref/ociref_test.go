package ociref

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var pin = "@" + digest.FromString("x").String()

// corpus are references and what is wrong with them.
var corpus = map[string]error{
	"registry.example/org/model" + pin:                          nil,
	"localhost/model" + pin:                                     nil,
	"localhost:5000/model" + pin:                                nil,
	"REGISTRY.example/model" + pin:                              nil,
	"127.0.0.1:5000/a/b/c-d_e.f__g---h" + pin:                   nil,
	"[::1]:5000/model" + pin:                                    nil,
	"[fd00:ec2::254]/model" + pin:                               nil,
	"r:5000/model" + pin:                                        nil,
	"registry.example:65535/model" + pin:                        nil,
	"library/model" + pin:                                       ErrUnreachable,
	"r/a/b" + pin:                                               ErrUnreachable,
	"registry.example:0/model" + pin:                            ErrUnreachable,
	"1.2.3.999/model" + pin:                                     ErrUnreachable,
	"1.2.3/model" + pin:                                         ErrUnreachable,
	"010.1.1.1/model" + pin:                                     ErrUnreachable,
	"0.0.0.0:5000/model" + pin:                                  ErrUnreachable,
	"[::]:1/model" + pin:                                        ErrUnreachable,
	strings.Repeat("a.", 126) + "aa/m" + pin:                    ErrUnreachable,
	strings.Repeat("a.", 126) + "a/m" + pin:                     nil,
	"registry.example:99999/model" + pin:                        ErrUnreachable,
	"[::::]/model" + pin:                                        ErrUnreachable,
	"[1.2.3.4]/model" + pin:                                     ErrUnreachable,
	"r.example/" + strings.Repeat("a", 256) + pin:               ErrUnreachable,
	"registry.example/model:v1":                                 ErrTag,
	"registry.example/model:v1" + pin:                           ErrTag,
	"registry.example/model":                                    ErrTag,
	"":                                                          ErrReference,
	"model" + pin:                                               ErrReference,
	"registry.example/" + pin:                                   ErrReference,
	"registry.example/Model" + pin:                              ErrReference,
	"registry.example/../model" + pin:                           ErrReference,
	"registry.example//model" + pin:                             ErrReference,
	"registry.example/a-" + pin:                                 ErrReference,
	"registry.example/a___b" + pin:                              ErrReference,
	"registry.example/a._b" + pin:                               ErrReference,
	"registry.example/mo\xffdel" + pin:                          ErrReference,
	"registry.example/model\n" + pin:                            ErrReference,
	"registry.example:x/model" + pin:                            ErrReference,
	"registry.example:/model" + pin:                             ErrReference,
	"registry.example:123456/model" + pin:                       ErrReference,
	"-registry.example/model" + pin:                             ErrReference,
	strings.Repeat("a", 64) + ".example/m" + pin:                ErrReference,
	"[::1/model" + pin:                                          ErrReference,
	"[::1]x/model" + pin:                                        ErrReference,
	"https://registry.example/model" + pin:                      ErrReference,
	"user@registry.example/model" + pin:                         ErrReference,
	"registry.example/model@sha256:abc":                         ErrReference,
	"registry.example/model@sha512:" + strings.Repeat("0", 128): ErrReference,
	"registry.example/model" + strings.ToUpper(pin):             ErrReference,
	"registry.example/model" + pin + pin:                        ErrReference,
	"registry.example/model" + pin + "\x00":                     ErrReference,
	strings.Repeat("a", Max+1):                                  ErrReference,
}

func TestParse(t *testing.T) {
	for in, want := range corpus {
		ref, err := Parse(in)
		if !errors.Is(err, want) || want == nil && err != nil || want == ErrReference && errors.Is(err, ErrUnreachable) {
			t.Errorf("%q: got %v, want %v", in, err, want)
		}
		if formed := err == nil || errors.Is(err, ErrUnreachable); formed && ref.String() != in || !formed && ref != (Reference{}) {
			t.Errorf("%q reads back as %q", in, ref)
		}
		if errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrReference) {
			t.Errorf("%v is no ErrReference", err)
		}
	}
}

// FuzzParse: what is read is written as it was, and holds nothing that a path,
// a URL or a command line takes for its own.
func FuzzParse(f *testing.F) {
	for in := range corpus {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := Parse(s)
		if err != nil && !errors.Is(err, ErrUnreachable) {
			if !errors.Is(err, ErrTag) && !errors.Is(err, ErrReference) || ref != (Reference{}) {
				t.Fatalf("%q: %q, %v", s, ref, err)
			}
			return
		}
		if ref.String() != s || strings.Contains(s, "..") || strings.ContainsAny(s, " \\\x00\n\r\t?#%") || ref.Digest.Validate() != nil {
			t.Fatalf("%q reads back as %q", s, ref)
		}
	})
}
