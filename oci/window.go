package oci

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/resultity/rmodels/cas"
)

// window holds the bytes of a packed layer on their way from the connections,
// which bring them in any order, to its two readers, which take them in order:
// one hashes them, the other unfolds them. What has no place in it is not read
// from a connection, so its size bounds the memory that a layer takes
// (invariant 6).
type window struct {
	size  int64
	buf   []byte
	room  func() // called when there is more room
	least int64  // worth a request of its own: registries read ahead for each, distribution 4 MiB

	mu      sync.Mutex
	changed *sync.Cond
	ring    int64         // byte n of the layer lies at n % ring of buf
	base    int64         // both readers are done with what lies before
	front   int64         // all that lies before has arrived
	ahead   []cas.Range   // what arrived behind front, ascending
	at      [2]int64      // the readers; one that left is at the end
	told    int64         // base when room was last called
	clock   time.Time     // starved and busy have been counted until then
	starved time.Duration // nothing lay there to be read
	busy    time.Duration
	err     error // why no more will come
}

// windowBytes keeps eight connections busy.
const windowBytes = 16 << 20

// narrow is the room that a layer begins with, in a window of wide bytes. It
// keeps to it if its decoder needs much memory itself.
func narrow(wide int64) int64 { return wide / 2 }

func newWindow(size, wide int64, room func()) *window {
	w := &window{size: size, buf: make([]byte, min(size, wide)), least: wide / 8, room: room, clock: time.Now()}
	w.ring = min(narrow(wide), int64(len(w.buf)))
	w.changed = sync.NewCond(&w.mu)
	return w
}

// Missing is what is to arrive.
func (w *window) Missing() []cas.Range {
	if w.size == 0 {
		return nil
	}
	return []cas.Range{{Len: w.size}}
}

// width is how many bytes have room at once.
func (w *window) width() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ring
}

// limit is the end of what has a place now.
func (w *window) limit() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return min(w.size, w.base+w.ring)
}

// widen makes all of the memory room, of the only window there is. No reader has
// passed a byte yet: until then each lies at the same place either way.
func (w *window) widen() {
	w.mu.Lock()
	w.ring = int64(len(w.buf))
	w.changed.Broadcast()
	w.mu.Unlock()
	w.room()
}

// count is called before base or front move.
func (w *window) count() {
	now := time.Now()
	d := now.Sub(w.clock)
	w.clock = now
	if w.base == w.front {
		w.starved += d
	} else {
		w.busy += d
	}
}

// times are how long there was nothing to read, and something, since they were
// last asked for.
func (w *window) times() (starved, busy time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count()
	starved, busy = w.starved, w.busy
	w.starved, w.busy = 0, 0
	return starved, busy
}

// await waits until the bytes before end have a place.
func (w *window) await(ctx context.Context, end int64) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changed.Broadcast()
	})
	defer stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for end > w.base+w.ring {
		if w.err != nil {
			return w.err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.changed.Wait()
	}
	return nil
}

// WriteAt takes bytes that have a place, and each byte once.
func (w *window) WriteAt(b []byte, off int64) (int, error) {
	w.mu.Lock()
	ring := w.ring
	w.mu.Unlock()
	// No reader looks at a place whose bytes have not arrived.
	for n := 0; n < len(b); {
		at := (off + int64(n)) % ring
		n += copy(w.buf[at:ring], b[n:])
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.ahead, off, func(r cas.Range, off int64) int { return int(min(1, max(-1, r.Off-off))) })
	w.ahead = slices.Insert(w.ahead, i, cas.Range{Off: off, Len: int64(len(b))})
	if i > 0 && w.ahead[i-1].Off+w.ahead[i-1].Len == off {
		i--
		w.ahead[i].Len += w.ahead[i+1].Len
		w.ahead = slices.Delete(w.ahead, i+1, i+2)
	}
	w.count()
	moved := false
	for len(w.ahead) > 0 && w.ahead[0].Off == w.front {
		w.front += w.ahead[0].Len
		w.ahead = w.ahead[1:]
		moved = true
	}
	if moved {
		w.changed.Broadcast()
	}
	return len(b), nil
}

// fail ends the readers: no more will come.
func (w *window) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.changed.Broadcast()
}

// windowReader is one of the two.
type windowReader struct {
	*window
	n int
}

// next returns bytes that have arrived, at least one; they stay until advance.
func (r windowReader) next() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.at[r.n] == r.front && r.front < r.size && r.err == nil {
		r.changed.Wait()
	}
	at := r.at[r.n]
	if at == r.size {
		return nil, io.EOF
	}
	if at == r.front {
		return nil, r.err
	}
	from := at % r.ring
	return r.buf[from:min(r.ring, from+r.front-at, from+bufferSize)], nil
}

// head waits for the first n bytes, or all there are, and takes none.
func (r windowReader) head(n int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n = min(n, r.size); r.front < n; {
		if r.err != nil {
			return nil, r.err
		}
		r.changed.Wait()
	}
	return r.buf[:n], nil
}

// advance is done with n bytes.
func (r windowReader) advance(n int64) {
	r.mu.Lock()
	r.count()
	r.at[r.n] = min(r.size, r.at[r.n]+n)
	base := min(r.at[0], r.at[1])
	moved := base > r.base
	r.base = base
	more := base-r.told >= r.least/2 || base == r.size
	if moved && more {
		r.told = base
	}
	if moved {
		r.changed.Broadcast()
	}
	r.mu.Unlock()
	if moved && more {
		r.room()
	}
}

func (r windowReader) Read(b []byte) (int, error) {
	next, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(b, next)
	r.advance(int64(n))
	return n, nil
}

// Close lets the rest pass unread. A reader that waits for bytes returns.
func (r windowReader) Close() error {
	r.advance(r.size)
	return nil
}
