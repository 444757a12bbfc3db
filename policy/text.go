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
	buf := make([]byte, min(size, 64<<10))
	for at, kept := int64(0), 0; at < size; {
		n := int(min(int64(len(buf)-kept), size-at))
		if k, err := r.ReadAt(buf[kept:kept+n], at); k < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read %d bytes at %d: %w", n, at, err)
		}
		at += int64(n)
		chunk := buf[:kept+n]
		rest, err := plainText(chunk, at == size)
		if err != nil {
			return err
		}
		kept = copy(buf, rest)
	}
	return nil
}

// plainText checks b and gives the start of a rune that may go on in the next
// chunk.
func plainText(b []byte, last bool) (rest []byte, err error) {
	for len(b) > 0 {
		c := b[0]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\v' || c == 0x7f {
				return nil, malformed(formatText, "text without control characters", "the byte %#02x", c)
			}
			b = b[1:]
			continue
		}
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			b = b[n:]
			continue
		}
		if !last && !utf8.FullRune(b) {
			return b, nil
		}
		return nil, malformed(formatText, "UTF-8", "the byte %#02x out of place", c)
	}
	return nil, nil
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
