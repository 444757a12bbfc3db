package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on what an engine may print.
const (
	logLimit    = 1 << 20  // bytes kept, the last ones
	logBurst    = 16 << 20 // bytes read as fast as they come
	logRate     = 4 << 20  // bytes per second after that; the pipe's back pressure slows the engine
	logTail     = 4 << 10  // bytes in a verdict
	answerLimit = 1 << 20  // bytes of an answer's text
)

// fifoLog reads a box's output from a FIFO. It is opened for reading and
// writing, so there is always a reader (containerd's shim would wait for one)
// and never an end of file before close.
type fifoLog struct {
	path string
	f    *os.File
	done chan struct{}

	mu   sync.Mutex
	tail tailBuffer
}

func newFifoLog(path string) (*fifoLog, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrStateDir, path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	l := &fifoLog{path: path, f: f, done: make(chan struct{}), tail: tailBuffer{max: logLimit}}
	go l.drain()
	return l, nil
}

func (l *fifoLog) drain() {
	defer close(l.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := l.f.Read(buf)
		l.mu.Lock()
		l.tail.Write(buf[:n])
		total := l.tail.total
		l.mu.Unlock()
		if err != nil {
			return
		}
		if total > logBurst {
			time.Sleep(time.Duration(n) * time.Second / logRate)
		}
	}
}

// settle waits until the pipe is empty: what was printed before is in tail.
func (l *fifoLog) settle(d time.Duration) {
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		// Not Fd(): that would make the descriptor blocking, and close hang.
		n := 0
		raw, err := l.f.SyscallConn()
		if err != nil || raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) != nil || n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (l *fifoLog) text() (string, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.String(), l.tail.total
}

func (l *fifoLog) close() {
	l.f.Close()
	<-l.done
	os.Remove(l.path)
}

// logURI is how containerd is told of the FIFO.
func (l *fifoLog) logURI() string { return "file://" + filepath.ToSlash(l.path) }

// readLogs asks the engine for a box's output, stdout and stderr apart, the
// last bytes of each.
func (e *Engine) readLogs(ctx context.Context, name string) (stdout, stderr string, total int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, errs := &tailBuffer{max: logLimit}, &tailBuffer{max: logLimit}
	// No --tail: podman 4.3 glues lines together with it. The engine's file is
	// bounded by runFlags.
	cmd := e.command(ctx, "logs", name)
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		return "", "", 0, fmt.Errorf("%w: logs: %w", ErrEngine, errors.Join(err, ctx.Err()))
	}
	return out.String(), errs.String(), out.total + errs.total, nil
}

// readBounded reads all of r and refuses more than max bytes.
func readBounded(r io.Reader, max int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLong, max)
	}
	return b, nil
}

var errTooLong = errors.New("answer is too long")
