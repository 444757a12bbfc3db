package runner

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dialInside connects to a literal address from within the network namespace
// that ns refers to. The socket belongs to that namespace for its whole life;
// this process stays in its own.
//
// The work is done on a thread that joins the namespace and is never given
// back: the Go runtime destroys a locked thread when its goroutine ends, so
// no other goroutine can run in the box's namespace. The main thread is the
// exception. It cannot end; Go would park it for ever in the box's namespace
// and /proc/self/ns/net would show that one. A goroutine that lands on it
// holds it while another one, so on another thread, does the work.
func dialInside(ctx context.Context, ns *os.File, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	var work func()
	work = func() {
		runtime.LockOSThread() // not unlocked on the path that joins the namespace
		if unix.Gettid() == unix.Getpid() {
			finished := make(chan struct{})
			go func() { defer close(finished); work() }()
			<-finished
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, fmt.Errorf("joining the container's network namespace: %w", err)}
			return
		}
		// One literal address and no fallback: the dialer starts no goroutine
		// of its own, which would connect from another thread.
		d := net.Dialer{FallbackDelay: -1}
		conn, err := d.DialContext(ctx, network, address)
		done <- result{conn, err}
	}
	go work()
	r := <-done
	return r.conn, r.err
}
