package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/resultity/rmodels/policy"
)

func TestSafePath(t *testing.T) {
	for _, c := range []struct{ name, path string }{
		{"plain", "model.gguf"},
		{"directory", "onnx/decoder/model.json"},
		{"hidden", ".gitattributes"},
		{"three dots", "a.../b"},
		{"blank inside", "my model.gguf"},
		{"unicode", "模型/重み.safetensors"},
		{"combining mark", "re\u0301sume\u0301.md"},
		{"colon later", "abc:d"},
		{"part of 255 bytes", strings.Repeat("a", 255)},
		{"503 bytes in 32 parts", strings.Repeat("abcdefg/", 31) + strings.Repeat("b", 255)},
		{"32 parts", strings.Repeat("a/", 31) + "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := policy.SafePath(c.path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSafePathRefuses(t *testing.T) {
	for _, c := range []struct{ name, path, says string }{
		{"empty", "", "is empty"},
		{"absolute", "/etc/passwd", "is absolute"},
		{"parent", "../x", `part ".."`},
		{"parent inside", "a/../../x", `part ".."`},
		{"parent at the end", "a/..", `part ".."`},
		{"dot", ".", `part "."`},
		{"dot inside", "a/./b", `part "."`},
		{"leading dot", "./a", `part "."`},
		{"double slash", "a//b", "empty part"},
		{"final slash", "a/", "empty part"},
		{"NUL", "a\x00.gguf", "control character"},
		{"line end", "a\nb", "control character"},
		{"escape", "a\x1b[2J", "control character"},
		{"C1 control", "a\u0085b", "control character"},
		{"right-to-left override", "a\u202efugg.exe", "invisible character"},
		{"zero width space", "a\u200bb", "invisible character"},
		{"byte order mark", "\ufeffa", "invisible character"},
		{"line separator", "a\u2028b", "invisible character"},
		{"backslash", `..\..\x`, "backslash"},
		{"UNC", `\\host\share`, "backslash"},
		{"drive", "C:/x", "drive letter"},
		{"drive relative", "c:x", "drive letter"},
		{"not UTF-8", "a\xff", "not UTF-8"},
		{"overlong dot", "\xc0\xae\xc0\xae/x", "not UTF-8"},
		{"part of 256 bytes", "a/" + strings.Repeat("b", 256), "part of more than 255"},
		{"1025 bytes", strings.Repeat("abcd/", 205), "1025 bytes"},
		{"33 parts", strings.Repeat("a/", 32) + "b", "more than 32 parts"},
		{"reserved", ".rmodels", "belongs to the node"},
		{"reserved prefix", "a/.rmodels-tree/b", "belongs to the node"},
		{"reserved in capitals", ".RModels", "belongs to the node"},
		{"reserved with a long s", ".rmodel\u017f", "belongs to the node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := policy.SafePath(c.path)
			if !errors.Is(err, policy.ErrPath) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want ErrPath that says %q", err, c.says)
			}
			if err := policy.SafePaths([]string{"ok", c.path}); !errors.Is(err, policy.ErrPath) {
				t.Errorf("SafePaths: got %v, want ErrPath", err)
			}
			if err != nil && len(err.Error()) > 400 {
				t.Errorf("message of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestSafePathsCollisions(t *testing.T) {
	for _, c := range []struct {
		name  string
		paths []string
		says  string // "" is no collision
	}{
		{"none", nil, ""},
		{"tree", []string{"a", "b/c", "b/d", "b/e/f"}, ""},
		{"prefix of a name", []string{"a", "ab", "a.b"}, ""},
		{"same", []string{"a/b", "a/b"}, "same path"},
		{"case", []string{"README.md", "readme.MD"}, "differ in case"},
		{"case of a directory", []string{"Docs/a", "docs/b"}, "differ in case"},
		{"full folding", []string{"stra\u00dfe", "STRASSE"}, "differ in case"},
		{"Kelvin sign", []string{"\u212a", "k"}, "differ in case"},
		{"NFC", []string{"\u00e9", "e\u0301"}, "differ in case or Unicode form"},
		{"NFC of a directory", []string{"\u00e9/a", "e\u0301/b"}, "differ in case or Unicode form"},
		{"file then directory", []string{"a", "a/b"}, "as a directory and as a file"},
		{"directory then file", []string{"a/b", "a"}, "as a file and as a directory"},
		{"deep directory then file", []string{"a/b/c/d", "a/b"}, "as a file and as a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := policy.SafePaths(c.paths)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, policy.ErrPath) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want ErrPath that says %q", err, c.says)
			}
		})
	}
}
