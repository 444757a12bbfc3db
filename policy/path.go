package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/resultity/rmodels/internal/terminal"
)

// ErrPath: a path that may not become a file name on a node.
var ErrPath = errors.New("unsafe path")

// Bounds on paths. PATH_MAX is 4096 bytes and NAME_MAX 255 on Linux; a tree's
// root and a container's mount point need room in front of a model's paths.
const (
	pathBytesMax = 1024
	pathPartMax  = 255
	pathDepthMax = 32
	pathsMax     = 1 << 20
)

// reservedPrefix starts the names that a node's own files have in a tree.
const reservedPrefix = ".rmodels"

// SafePath refuses a path that is not a plain relative one: slash-separated
// parts that name the same file under every root, on every system. The error
// wraps [ErrPath].
//
// filepath.IsLocal is not enough: on Linux it lets NUL, backslashes, control
// characters and "." pass.
func SafePath(path string) error {
	refuse := func(why string) error { return fmt.Errorf("%w: %s %s", ErrPath, quoted(path), why) }
	switch {
	case path == "":
		return refuse("is empty")
	case len(path) > pathBytesMax:
		return refuse(fmt.Sprintf("has %d bytes, at most %d", len(path), pathBytesMax))
	case !utf8.ValidString(path):
		return refuse("is not UTF-8")
	case path[0] == '/':
		return refuse("is absolute")
	case strings.Contains(path, `\`):
		return refuse("has a backslash")
	case len(path) > 1 && path[1] == ':':
		return refuse("has a drive letter")
	}
	for _, r := range path {
		switch {
		case unicode.IsControl(r):
			return refuse(fmt.Sprintf("has the control character %U", r))
		case unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
			// Bidirectional overrides and their like make a name show as another.
			return refuse(fmt.Sprintf("has the invisible character %U", r))
		}
	}
	depth := 0
	for part := range strings.SplitSeq(path, "/") {
		if depth++; depth > pathDepthMax {
			return refuse(fmt.Sprintf("has more than %d parts", pathDepthMax))
		}
		switch {
		case part == "":
			return refuse("has an empty part")
		case part == "." || part == "..":
			return refuse(fmt.Sprintf("has the part %q", part))
		case len(part) > pathPartMax:
			return refuse(fmt.Sprintf("has a part of more than %d bytes", pathPartMax))
		case strings.HasPrefix(foldPart(part), reservedPrefix):
			return refuse("has a part that starts with " + reservedPrefix + ", which belongs to the node")
		}
	}
	return nil
}

// SafePaths checks each path and that no two of them collide: equal names,
// names that a system which folds case or normalises Unicode takes for equal
// (also of directories on the way), and a file where another path needs a
// directory.
func SafePaths(paths []string) error {
	if len(paths) > pathsMax {
		return fmt.Errorf("%w: %d paths, at most %d", ErrPath, len(paths), pathsMax)
	}
	root := &pathNode{}
	for _, p := range paths {
		if err := SafePath(p); err != nil {
			return err
		}
		if err := root.add(p); err != nil {
			return err
		}
	}
	return nil
}

// pathNode is a directory, or a file if it has no children.
type pathNode struct {
	name     string // of the part as first spelled
	path     string // the first path that came by, for messages
	file     bool
	children map[string]*pathNode // by folded name
}

func (n *pathNode) add(path string) error {
	collide := func(with, why string) error {
		return fmt.Errorf("%w: %s and %s %s", ErrPath, quoted(path), quoted(with), why)
	}
	for part := range strings.SplitSeq(path, "/") {
		if n.file {
			return collide(n.path, "need one name as a directory and as a file")
		}
		key := foldPart(part)
		next := n.children[key]
		if next == nil {
			if n.children == nil {
				n.children = map[string]*pathNode{}
			}
			next = &pathNode{name: part, path: path}
			n.children[key] = next
		} else if next.name != part {
			return collide(next.path, "differ in case or Unicode form alone")
		}
		n = next
	}
	switch {
	case n.file:
		return collide(n.path, "are the same path")
	case n.children != nil:
		return collide(n.path, "need one name as a file and as a directory")
	}
	n.file = true
	return nil
}

// foldPart maps names that some file system takes for equal to one string:
// canonical caseless matching (Unicode 3.13, D145).
func foldPart(part string) string {
	ascii := true
	for i := range len(part) {
		ascii = ascii && part[i] < utf8.RuneSelf
	}
	if ascii {
		return strings.ToLower(part)
	}
	return norm.NFC.String(cases.Fold().String(norm.NFD.String(part)))
}

// quoted makes text from outside fit for one line of a message.
func quoted(s string) string {
	const most = 120 // bytes
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(terminal.Clip(s, most))
}
