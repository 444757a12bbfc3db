package runner

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// otherNamespace makes a network namespace with loopback up and an HTTP
// server on 127.0.0.1:8080 in it.
func otherNamespace(t testing.TB) *os.File {
	t.Helper()
	type made struct {
		ns  *os.File
		l   net.Listener
		err error
	}
	done := make(chan made)
	var work func()
	work = func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			finished := make(chan struct{})
			go func() { defer close(finished); work() }()
			<-finished
			runtime.UnlockOSThread()
			return
		}
		var m made
		if m.err = unix.Unshare(unix.CLONE_NEWNET); m.err == nil {
			m.err = loopbackUp()
		}
		if m.err == nil {
			m.ns, m.err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		if m.err == nil {
			m.l, m.err = net.Listen("tcp4", "127.0.0.1:8080")
		}
		done <- m
	}
	go work()
	m := <-done
	if m.err != nil {
		t.Fatal(m.err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "inside") })}
	go s.Serve(m.l)
	t.Cleanup(func() { s.Close(); m.ns.Close() })
	return m.ns
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// TestDialInside reaches the other namespace and leaves no thread in it.
func TestDialInside(t *testing.T) {
	ns := otherNamespace(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	client := insideClient(ns)
	for range 200 {
		res, err := client.Get("http://127.0.0.1:8080/")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(b) != "inside" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if now, _ := os.Readlink("/proc/self/ns/net"); now != home {
		t.Errorf("the process is in %s, was in %s", now, home)
	}
	for range 200 { // no goroutine lands on a thread that joined
		done := make(chan string)
		go func() {
			ns, _ := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
			done <- ns
		}()
		if in := <-done; in != home {
			t.Fatalf("a goroutine ran in %s", in)
		}
	}
	// Threads that joined end; the one that made the namespace has ended too.
	var strays []string
	for deadline := time.Now().Add(5 * time.Second); ; {
		strays = nil
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if in, err := os.Readlink(task); err == nil && in != home {
				strays = append(strays, task+" in "+in)
			}
		}
		if len(strays) == 0 || time.Now().After(deadline) {
			break
		}
		runtime.Gosched()
	}
	if len(strays) > 0 {
		t.Errorf("threads left behind: %q", strays)
	}
}

// TestDialInsideEnds: a server that accepts and says nothing, and a context
// that ends.
func TestDialInsideEnds(t *testing.T) {
	ns := otherNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	conn, err := dialInside(ctx, ns, "tcp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadByte(); err == nil {
		t.Error("read something from a silent server")
	}
	if _, err := dialInside(ctx, ns, "tcp4", "127.0.0.1:81"); err == nil {
		t.Error("connected to a port that nobody listens on")
	}
	cancel()
	if _, err := dialInside(ctx, ns, "tcp4", "127.0.0.1:8080"); err == nil {
		t.Error("connected after the context ended")
	}
}
