package runner

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/resultity/rmodels/internal/terminal"
)

// oneLine cleans text on a single line, without runs of blanks.
func oneLine(s string) string {
	return strings.Join(strings.Fields(terminal.OneLine(s)), " ")
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
		_, t.err = io.WriteString(t.w, terminal.Clean(string(t.rest[:n])))
	}
	t.rest = append(t.rest[:0], t.rest[n:]...)
}
