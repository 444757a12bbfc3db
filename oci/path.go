package oci

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/resultity/rmodels/internal/terminal"
)

// CheckPath accepts a relative, clean, slash-separated path that stays inside
// the directory it is joined to, on any system (invariant 5). It refuses what
// filepath.IsLocal lets pass: NUL and control characters, backslashes, ".",
// drive letters, and parts that no file system stores. Collisions between
// paths are the business of package policy.
func CheckPath(path string) error {
	bad := func(why string) error { return fmt.Errorf("%w: %q %s", ErrPath, terminal.Clip(path, 200), why) }
	switch {
	case path == "":
		return bad("is empty")
	case len(path) > 1024:
		return bad("is longer than 1024 bytes")
	case !utf8.ValidString(path):
		return bad("is not UTF-8")
	case strings.HasPrefix(path, "/"):
		return bad("is absolute")
	case strings.Contains(path, `\`):
		return bad("has a backslash")
	case len(path) > 1 && path[1] == ':':
		return bad("has a drive letter")
	}
	for _, r := range path {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return bad("has a control character")
		}
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "":
			return bad("has an empty part")
		case part == "." || part == "..":
			return bad(fmt.Sprintf("has the part %q", part))
		case len(part) > 255:
			return bad("has a part of more than 255 bytes")
		case strings.HasPrefix(strings.ToLower(part), ".rmodels"):
			return bad("has a part reserved for the store")
		}
	}
	return nil
}

// cleanPath drops the "./" that archivers and publishers put in front; nothing
// else is repaired.
func cleanPath(path string) string {
	for strings.HasPrefix(path, "./") {
		path = strings.TrimLeft(path[2:], "/")
	}
	return path
}
