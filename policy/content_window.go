package policy

import (
	"fmt"
	"io"
)

// windowBytes is what a window reads at once.
const windowBytes = 64 << 10

// window reads a file front to back through one buffer, so that memory does
// not grow with what the file claims. Callers check lengths before they take
// or skip: the window itself only keeps inside the file.
type window struct {
	src  io.ReaderAt
	size int64 // of the file
	at   int64 // next byte

	buf  []byte
	base int64 // offset of buf in the file
}

// left is the number of bytes up to the end of the file.
func (w *window) left() int64 { return w.size - w.at }

// take gives the next n bytes, valid until the next call.
func (w *window) take(n int64) ([]byte, error) {
	if n > w.left() {
		return nil, fmt.Errorf("read %d bytes at %d of %d: %w", n, w.at, w.size, io.ErrUnexpectedEOF)
	}
	if from := w.at - w.base; from < 0 || from+n > int64(len(w.buf)) {
		want := min(max(n, windowBytes), w.left())
		if int64(cap(w.buf)) < want {
			w.buf = make([]byte, want)
		}
		w.buf, w.base = w.buf[:want], w.at
		if err := readFull(w.src, w.buf, w.at); err != nil {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	from := w.at - w.base
	w.at += n
	return w.buf[from : from+n], nil
}

// ahead is what the window holds of the bytes that come next.
func (w *window) ahead() []byte {
	from := w.at - w.base
	if from < 0 || from > int64(len(w.buf)) {
		return nil
	}
	return w.buf[from:]
}

// readSpan reads n bytes at off; the caller bounds n.
func readSpan(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	return b, readFull(r, b, off)
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), off, err)
}
