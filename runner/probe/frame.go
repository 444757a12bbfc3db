package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// Streams of a held program's output.
const (
	Ready  byte = 'r' // the program is held and can be released
	Stdout byte = 'o'
	Stderr byte = 'e'
)

const frameHead = 5

// Frame is one piece of output: the stream, the length, the bytes.
func Frame(stream byte, p []byte) []byte {
	b := make([]byte, frameHead, frameHead+len(p))
	b[0] = stream
	binary.BigEndian.PutUint32(b[1:], uint32(len(p)))
	return append(b, p...)
}

// Unframe takes framed output apart. A last frame that is cut short is an error.
func Unframe(b []byte) (stdout, stderr []byte, err error) {
	for len(b) > 0 {
		if len(b) < frameHead {
			return stdout, stderr, errShort
		}
		n := binary.BigEndian.Uint32(b[1:frameHead])
		if uint64(n) > uint64(len(b)-frameHead) {
			return stdout, stderr, errShort
		}
		p := b[frameHead : frameHead+int(n)]
		switch b[0] {
		case Stdout:
			stdout = append(stdout, p...)
		case Stderr:
			stderr = append(stderr, p...)
		case Ready:
		default:
			return stdout, stderr, fmt.Errorf("frame of an unknown stream %q", b[0])
		}
		b = b[frameHead+int(n):]
	}
	return stdout, stderr, nil
}

// framer writes one stream's frames; both streams share the lock.
type framer struct {
	stream byte
	mu     *sync.Mutex
	out    io.Writer
}

func (f framer) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.out.Write(Frame(f.stream, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func runFramed(args []string, out io.Writer) int {
	var mu sync.Mutex
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = framer{Stdout, &mu, out}, framer{Stderr, &mu, out}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return 128 + int(s.Signal())
		}
		return exit.ExitCode()
	}
	framer{Stderr, &mu, out}.Write([]byte(err.Error() + "\n"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return 127
	}
	return 126
}
