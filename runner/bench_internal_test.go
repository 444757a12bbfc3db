package runner

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkDial prints how long it takes to connect through another network
// namespace.
func BenchmarkDial(b *testing.B) {
	ns := otherNamespace(b)
	const bound = 20 * time.Millisecond
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		c, err := dialInside(b.Context(), ns, "tcp4", "127.0.0.1:8080")
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		c.Close()
	}
	slices.Sort(took)
	n := len(took)
	fmt.Printf("{\"bench\":\"namespace dial, median of %d\",\"vs\":\"%s\",\"ratio\":%.3f,\"value\":%.3f,\"unit\":\"ms\",\"p99\":%.3f,\"max\":%.3f}\n",
		n, bound, float64(took[n/2])/float64(bound), ms(took[n/2]), ms(took[n*99/100]), ms(took[n-1]))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkLog prints what is kept of a flood.
func BenchmarkLog(b *testing.B) {
	const flood = 16 << 20
	b.SetBytes(flood)
	kept, room := 0, 0
	for b.Loop() {
		kept, room = flooded(b, flood)
	}
	fmt.Printf("{\"bench\":\"log kept of 16 MiB printed\",\"vs\":\"1 MiB\",\"ratio\":%.3f,\"value\":%d,\"unit\":\"bytes\",\"buffer\":%d}\n", float64(kept)/(1<<20), kept, room)
}

// flooded prints n bytes into a box's log; it returns how many are kept, and
// the room that they take.
func flooded(t testing.TB, n int) (kept, room int) {
	t.Helper()
	l, err := newFifoLog(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	w, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for sent := 0; sent < n; sent += len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	l.settle(10 * time.Second)
	text, _ := l.text()
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(text), cap(l.tail.b)
}

func TestLogIsBounded(t *testing.T) {
	if kept, room := flooded(t, 8<<20); kept != logLimit || room > 4*logLimit {
		t.Errorf("%d bytes kept in a buffer of %d", kept, room)
	}
	if kept, _ := flooded(t, 128<<10); kept != 128<<10 {
		t.Errorf("%d bytes kept of a short log", kept)
	}
}
