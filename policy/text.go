package policy

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// textMax bounds a text or JSON file in bytes: tokenizers of 256k tokens with
// their merges take some 35 MB.
const textMax = 64 << 20

// text requires UTF-8 without control characters other than blanks and line
// ends. Protocols 2 and up of pickle, executables and archives all fail it.
func (g *gate) text(r io.ReaderAt, size int64) error {
	if err := textSize(formatText, size, textMax); err != nil {
		return err
	}
	w := &window{src: r, size: size}
	for w.left() > 0 {
		n := min(w.left(), windowBytes)
		b, err := w.take(n)
		if err != nil {
			return err
		}
		rest, err := plainText(b, w.left() == 0)
		if err != nil {
			return err
		}
		w.at -= int64(rest) // a rune across the border is read again
	}
	return nil
}

// plainText checks b and gives the number of bytes at its end that start a
// rune which goes on behind b.
func plainText(b []byte, last bool) (rest int, err error) {
	for len(b) > 0 {
		c := b[0]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\v' || c == 0x7f {
				return 0, malformed(formatText, "text without control characters", "the byte %#02x", c)
			}
			b = b[1:]
			continue
		}
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			b = b[n:]
			continue
		}
		if !last && !utf8.FullRune(b) {
			return len(b), nil
		}
		return 0, malformed(formatText, "UTF-8", "the byte %#02x out of place", c)
	}
	return 0, nil
}

func textSize(format string, size, most int64) error {
	if size > most {
		return &breach{
			rule: "content.formats." + format, reason: "is too large to be " + format,
			expected: fmt.Sprintf("at most %d bytes", most), found: fmt.Sprintf("%d bytes", size),
		}
	}
	return nil
}

// templateFile is a file that is one chat template as a whole.
func (g *gate) templateFile(r io.ReaderAt, size int64) error {
	if err := textSize(formatText, size, chatTemplateMax); err != nil {
		return err
	}
	if err := g.text(r, size); err != nil {
		return err
	}
	text, err := readSpan(r, 0, size)
	if err != nil {
		return err
	}
	return g.template("the whole file", text)
}
