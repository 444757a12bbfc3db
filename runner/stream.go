package runner

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

func newBody(b []byte) io.Reader { return bytes.NewReader(b) }

// lines yields r's lines without their ends, each at most lineLimit bytes,
// all together at most bodyLimit.
func lines(r io.Reader, yield func([]byte) error) error {
	sc := bufio.NewScanner(io.LimitReader(r, bodyLimit+1))
	sc.Buffer(make([]byte, 0, 64<<10), lineLimit)
	total := 0
	for sc.Scan() {
		if total += len(sc.Bytes()) + 1; total > bodyLimit {
			return fmt.Errorf("%w: more than %d bytes", errTooLong, bodyLimit)
		}
		if err := yield(sc.Bytes()); err != nil {
			return err
		}
	}
	if errors.Is(sc.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("%w: an event of more than %d bytes", errTooLong, lineLimit)
	}
	return sc.Err()
}

// errStop ends the reading of a stream that said its own end.
var errStop = errors.New("end of stream")

// readSSE reads server-sent events (HTML standard, section 9.2) as the OpenAI
// protocol uses them: data lines, and [DONE] at the end.
func readSSE(r io.Reader, event func([]byte) error, a *answer) error {
	var data []byte
	have := false
	dispatch := func() error {
		if !have {
			return nil
		}
		text := data
		data, have = data[:0], false
		if string(bytes.TrimSpace(text)) == "[DONE]" {
			a.ended = true
			return errStop
		}
		return event(text)
	}
	err := lines(r, func(line []byte) error {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return dispatch()
		}
		v, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			return nil // a comment, an id, an event's name: nothing we ask for
		}
		v = bytes.TrimPrefix(v, []byte(" "))
		if have {
			data = append(data, '\n')
		}
		if len(data)+len(v) > lineLimit {
			return fmt.Errorf("%w: an event of more than %d bytes", errTooLong, lineLimit)
		}
		data, have = append(data, v...), true
		return nil
	})
	if err == nil {
		err = dispatch()
	}
	return endOfStream(err, a)
}

// readLines reads one JSON value per line.
func readLines(r io.Reader, event func([]byte) error, a *answer) error {
	err := lines(r, func(line []byte) error {
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
		if err := event(line); err != nil {
			return err
		}
		if a.ended {
			return errStop
		}
		return nil
	})
	return endOfStream(err, a)
}

func endOfStream(err error, a *answer) error {
	switch {
	case err != nil && !errors.Is(err, errStop):
		return err
	case !a.ended:
		return fmt.Errorf("%w: the stream broke off after %d pieces", errProtocol, a.pieces)
	}
	return nil
}
