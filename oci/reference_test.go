package oci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseReference(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want error
	}{
		{"registry.example/org/model@" + someDigest, nil},
		{"localhost/model@" + someDigest, nil},
		{"127.0.0.1:5000/a/b/c-d_e.f@" + someDigest, nil},
		{"[::1]:5000/model@" + someDigest, nil},
		{"[::1]/model@" + someDigest, nil},
		{"registry.example/model:v1", oci.ErrTag},
		{"registry.example/model:v1@" + someDigest, oci.ErrTag},
		{"registry.example/model", oci.ErrTag},
		{"", oci.ErrReference},
		{"model", oci.ErrReference},
		{"library/model@" + someDigest, oci.ErrReference},
		{"registry.example/Model@" + someDigest, oci.ErrReference},
		{"registry.example/../model@" + someDigest, oci.ErrReference},
		{"registry.example//model@" + someDigest, oci.ErrReference},
		{"registry.example/model@sha256:abc", oci.ErrReference},
		{"registry.example/model@sha512:" + strings.Repeat("0", 128), oci.ErrReference},
		{"registry.example/model@" + strings.ToUpper(someDigest), oci.ErrReference},
		{"registry.example/model@" + someDigest + "@" + someDigest, oci.ErrReference},
		{"registry.example:0/model@" + someDigest, oci.ErrReference},
		{"registry.example:99999/model@" + someDigest, oci.ErrReference},
		{"registry.example:x/model@" + someDigest, oci.ErrReference},
		{"https://registry.example/model@" + someDigest, oci.ErrReference},
		{"user@registry.example/model@" + someDigest, oci.ErrReference},
		{"registry.example/model\n@" + someDigest, oci.ErrReference},
		{"registry.example/" + strings.Repeat("a", 256) + "@" + someDigest, oci.ErrReference},
		{strings.Repeat("a", 600), oci.ErrReference},
	} {
		ref, err := oci.ParseReference(tc.in)
		if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%q: got %v, want %v", tc.in, err, tc.want)
		}
		if err == nil && ref.String() != tc.in {
			t.Errorf("%q reads back as %q", tc.in, ref)
		}
	}
}

func TestCheckPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"model.gguf": true, "a/b/c.json": true, "größe.txt": true, ".gitattributes": true, "a b": true, "...": true,
		"": false, ".": false, "..": false, "../x": false, "a/../b": false, "a/./b": false, "./a": false, "/etc/passwd": false,
		"a//b": false, "a/": false, "a\x00b": false, "a\nb": false, `a\b`: false, `..\b`: false, "C:/x": false, "c:x": false,
		"a\xffb": false, ".rmodels": false, "x/.RModels-tmp": false, strings.Repeat("a", 256): false,
		strings.Repeat("a/", 600) + "a": false, "a\u202eb": false,
	} {
		if err := oci.CheckPath(path); (err == nil) != ok {
			t.Errorf("%q: got %v, want accepted=%v", path, err, ok)
		} else if err != nil && !errors.Is(err, oci.ErrPath) {
			t.Errorf("%q: %v is no ErrPath", path, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("registry.example:5000/org/model@" + someDigest)
	f.Add("registry.example/model:tag@" + someDigest)
	f.Add("[::1]:5000/model@sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := oci.ParseReference(s)
		if err == nil && ref.String() != s {
			t.Fatalf("%q reads back as %q", s, ref)
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	f.Add("a/b")
	f.Add("../a")
	f.Add("a\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if oci.CheckPath(s) == nil && (strings.Contains("/"+s+"/", "/../") || strings.HasPrefix(s, "/") || strings.Contains(s, "\x00")) {
			t.Fatalf("%q was accepted", s)
		}
	})
}
