package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Version is a semantic version: one to three numbers (what is missing counts
// as zero), perhaps a pre-release; build metadata is not kept.
type Version struct {
	numbers [3]int
	given   int // how many numbers were written
	pre     []string
}

// ParseVersion reads a version like 1.2.3, 1.2 or v1.2.3-rc.1+build. Leading
// zeros are taken: GPU drivers have them.
func ParseVersion(s string) (Version, error) {
	bad := fmt.Errorf("%q is not a version like 1.2.3", clip(s))
	if len(s) > maxVersion {
		return Version{}, bad
	}
	core, build, built := strings.Cut(strings.TrimPrefix(s, "v"), "+")
	core, pre, early := strings.Cut(core, "-")
	if early && !words(pre) || built && !words(build) {
		return Version{}, bad
	}
	var v Version
	for n := range strings.SplitSeq(core, ".") {
		if v.given == len(v.numbers) || len(n) > 9 || !digits(n) {
			return Version{}, bad
		}
		v.numbers[v.given], _ = strconv.Atoi(n) // at most nine digits
		v.given++
	}
	if early {
		v.pre = strings.Split(pre, ".")
	}
	return v, nil
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-"

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// words tells whether s is one or more words with dots between them.
func words(s string) bool {
	for word := range strings.SplitSeq(s, ".") {
		if word == "" || strings.Trim(word, letters) != "" {
			return false
		}
	}
	return true
}

// Prerelease tells whether the version comes before the one of its numbers.
func (v Version) Prerelease() bool { return v.pre != nil }

// compare orders by the first n numbers; where all three count, by the
// pre-release too (semver.org, section 11).
func (v Version) compare(w Version, n int) int {
	if c := slices.Compare(v.numbers[:n], w.numbers[:n]); c != 0 || n < len(v.numbers) {
		return c
	}
	switch {
	case v.pre == nil || w.pre == nil:
		return cmp.Compare(len(w.pre), len(v.pre)) // a release comes after its pre-releases
	default:
		return slices.CompareFunc(v.pre, w.pre, compareWords)
	}
}

// compareWords: numbers by value and before words.
func compareWords(a, b string) int {
	if digits(a) != digits(b) {
		if digits(a) {
			return -1
		}
		return 1
	}
	if digits(a) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if c := cmp.Compare(len(a), len(b)); c != 0 {
			return c
		}
	}
	return strings.Compare(a, b)
}

// Range is a set of versions: alternatives (||) of comparisons that all hold.
type Range [][]comparison

type comparison struct {
	operator string
	version  Version
}

// operators, the longer first, so that >= is not read as >.
var operators = []string{">=", "<=", "!=", ">", "<", "=", "^", "~"}

// ParseRange reads a range like ">=0.10 <0.13", "^1.2 || ~2.0.1" or "1.2".
// Comparisons stand side by side, with spaces or commas; without an operator
// it is =. Only the numbers that are written are compared: 1.2 is every 1.2.x.
func ParseRange(s string) (Range, error) {
	if len(s) > maxName {
		return nil, fmt.Errorf("range of %d bytes, at most %d", len(s), maxName)
	}
	var r Range
	for alternative := range strings.SplitSeq(s, "||") {
		var all []comparison
		operator := ""
		for word := range strings.FieldsFuncSeq(alternative, func(c rune) bool { return c == ' ' || c == ',' }) {
			if operator == "" {
				for _, op := range operators {
					if rest, ok := strings.CutPrefix(word, op); ok {
						operator, word = op, rest
						break
					}
				}
			}
			if word == "" { // the version stands apart from its operator
				continue
			}
			v, err := ParseVersion(word)
			if err != nil {
				return nil, err
			}
			all = append(all, comparison{operator, v})
			operator = ""
		}
		if len(all) == 0 || operator != "" {
			return nil, fmt.Errorf("%q is not a range like >=1.2 <2", clip(s))
		}
		r = append(r, all)
	}
	return r, nil
}

// Holds tells whether v lies in the range. A pre-release lies in no range that
// does not name one of the same three numbers: >=1.0 does not ask for 2.0-rc1.
func (r Range) Holds(v Version) bool {
	return slices.ContainsFunc(r, func(all []comparison) bool {
		named := !v.Prerelease()
		for _, c := range all {
			if !c.holds(v) {
				return false
			}
			named = named || c.version.Prerelease() && c.version.numbers == v.numbers
		}
		return named
	})
}

func (c comparison) holds(v Version) bool {
	n := c.version.given
	if c.version.Prerelease() {
		n = len(v.numbers)
	}
	order := v.compare(c.version, n)
	switch c.operator {
	case "!=":
		return order != 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case "^": // nothing changes up to the first number that is not zero
		fixed := 1
		for fixed < c.version.given && c.version.numbers[fixed-1] == 0 {
			fixed++
		}
		return order >= 0 && slices.Equal(v.numbers[:fixed], c.version.numbers[:fixed])
	case "~": // nothing changes but the last number
		fixed := min(c.version.given, 2)
		return order >= 0 && slices.Equal(v.numbers[:fixed], c.version.numbers[:fixed])
	}
	return order == 0
}

// InRange tells whether version lies in the range; why is empty or explains
// what the comparison could not take.
func InRange(constraint, version string) (ok bool, why string) {
	r, err := ParseRange(constraint)
	if err != nil {
		return false, " (the range does not parse)"
	}
	v, err := ParseVersion(threeParts(version))
	if err != nil {
		return false, " (not a version that can be compared)"
	}
	if r.Holds(v) {
		return true, ""
	}
	if v.Prerelease() {
		return false, " (a pre-release is outside every range that does not name one)"
	}
	return false, ""
}

// threeParts cuts a version of four numbers, which some drivers have.
func threeParts(v string) string {
	parts := strings.SplitN(v, ".", 4)
	if len(parts) == 4 {
		return strings.Join(parts[:3], ".")
	}
	return v
}

// Empty tells that no version lies in the range. The least version of a set of
// releases is nought, or a version that is written, or the next one after it.
// Between pre-releases there are words without an end: a range that names one
// is not called empty.
func (r Range) Empty() bool {
	candidates := []Version{{given: len(Version{}.numbers)}}
	for _, all := range r {
		for _, c := range all {
			if c.version.Prerelease() {
				return false
			}
			next := c.version
			next.numbers[next.given-1]++
			candidates = append(candidates, c.version, next)
		}
	}
	return !slices.ContainsFunc(candidates, r.Holds)
}
