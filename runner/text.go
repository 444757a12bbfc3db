package runner

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean makes hostile text fit for a terminal or a log: control characters
// (but newline and tab), bidirectional overrides and other invisible format
// characters become U+FFFD, as does what is not UTF-8.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\u200c', r == '\u200d': // joiners: Persian, Indic scripts, emoji
			return r
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r),
			r == '\u2028', r == '\u2029':
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

// oneLine is clean on a single line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(clean(s)), " ")
}

// clip cuts s to at most max bytes at a rune's border and marks the cut.
func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	cut := max - len("…")
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// clipTail is clip that keeps the end.
func clipTail(s string, max int) string {
	if len(s) <= max {
		return s
	}
	cut := len(s) - max + len("…")
	for cut < len(s) && !utf8.RuneStart(s[cut]) {
		cut++
	}
	return "…" + s[cut:]
}

// terminalWriter writes streamed text clean, holding back a rune whose end
// has not come yet.
type terminalWriter struct {
	w    io.Writer
	rest []byte
	err  error
}

func newTerminalWriter(w io.Writer) *terminalWriter { return &terminalWriter{w: w} }

func (t *terminalWriter) write(p []byte) {
	t.rest = append(t.rest, p...)
	whole := len(t.rest)
	for i := 1; i < utf8.UTFMax && i <= len(t.rest); i++ {
		if b := t.rest[len(t.rest)-i]; utf8.RuneStart(b) {
			if !utf8.FullRune(t.rest[len(t.rest)-i:]) {
				whole = len(t.rest) - i
			}
			break
		}
	}
	t.emit(whole)
}

func (t *terminalWriter) flush() error {
	t.emit(len(t.rest))
	return t.err
}

func (t *terminalWriter) emit(n int) {
	if n > 0 && t.err == nil {
		_, t.err = io.WriteString(t.w, clean(string(t.rest[:n])))
	}
	t.rest = append(t.rest[:0], t.rest[n:]...)
}
