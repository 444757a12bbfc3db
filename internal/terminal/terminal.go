// Package terminal cleans text of strangers (registries, models, engines,
// snapshots, file names) before it reaches a terminal, a log, a record or
// JSON: it becomes valid UTF-8 that gives no orders and has a bounded length.
package terminal

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Obeys reports whether terminals act on r, or hide it, instead of showing it:
// control characters of both ranges, format characters (those that reverse the
// direction of text among them), private ones, and separators that begin a new
// line. The two joiners stay: Persian, Indic scripts and emoji need them.
func Obeys(r rune) bool {
	switch r {
	case '\u200c', '\u200d':
		return false
	case '\u2028', '\u2029':
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Co, r)
}

// Clean replaces by U+FFFD what is not UTF-8 and what a terminal obeys, but for
// line ends and tabs.
func Clean(s string) string {
	return strings.Map(func(r rune) rune { // an invalid byte is mapped as U+FFFD
		if r == '\n' || r == '\t' || !Obeys(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// OneLine is [Clean] for what may not begin a line of its own.
func OneLine(s string) string { return strings.NewReplacer("\n", " ", "\t", " ").Replace(Clean(s)) }

// Clip cuts s to at most limit bytes between two runes and marks the cut. What
// it returns is valid UTF-8; see [Clean] for the rest.
func Clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= limit {
		return s
	}
	if limit < len(ellipsis) {
		return ""
	}
	cut := limit - len(ellipsis)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

// ClipTail is [Clip] that keeps the end.
func ClipTail(s string, limit int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= limit {
		return s
	}
	if limit < len(ellipsis) {
		return ""
	}
	cut := len(s) - limit + len(ellipsis)
	for cut < len(s) && !utf8.RuneStart(s[cut]) {
		cut++
	}
	return ellipsis + s[cut:]
}

const ellipsis = "…"

// MarshalJSON encodes a record or a result that may hold text of strangers: it
// does not fail on what is not UTF-8, which becomes U+FFFD, and holds nothing
// that a terminal obeys.
func MarshalJSON(v any, options ...json.Options) ([]byte, error) {
	b, err := json.Marshal(v, append([]json.Options{jsontext.AllowInvalidUTF8(true)}, options...)...)
	if err != nil {
		return nil, err
	}
	return EscapeJSON(b), nil
}

// EscapeJSON writes what terminals obey as \uXXXX. In JSON it stands only
// within strings, and those of ASCII are escaped already.
func EscapeJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for rest := text; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case r < 0x7f || !Obeys(r):
			out = append(out, rest[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		rest = rest[n:]
	}
	return out
}
