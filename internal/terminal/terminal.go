// Package terminal keeps text of strangers (registries, models, engines,
// snapshots) from giving orders to the terminal that shows it.
package terminal

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Obeys reports whether terminals act on r instead of showing it: control
// characters of both ranges, those that reverse the direction of text, and
// separators that begin a new line.
func Obeys(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// EscapeJSON writes what terminals obey as \uXXXX. In JSON it stands only
// within strings, and those of ASCII are escaped already.
func EscapeJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for rest := text; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r >= 0x7f && Obeys(r) {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, rest[:n]...)
		}
		rest = rest[n:]
	}
	return out
}
