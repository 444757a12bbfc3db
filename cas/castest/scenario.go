package castest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/durable"
)

// A mark is something that the scenario knows to be true from a moment on.
type mark struct {
	is    fact
	d     digest.Digest
	bytes int64
	name  string
	root  Root
}

type fact string

const (
	checkpointed fact = "checkpointed" // d, up to bytes
	published    fact = "published"    // d
	unpacked     fact = "unpacked"     // d, a layer
	built        fact = "built"        // d, a tree
	rooted       fact = "rooted"       // name
	unrooting    fact = "unrooting"    // name
	collecting   fact = "collecting"   // what is not rooted may go
	damaged      fact = "damaged"      // d
	suspected    fact = "suspected"    // d
	repaired     fact = "repaired"     // d
)

// model is something to pull: a manifest, and files by path, which come in a
// packed layer if there is one.
type model struct {
	name     string
	manifest blob
	files    map[string]blob
	packed   blob
}

// blob is bytes and their digest, hashed once.
type blob struct {
	d digest.Digest
	b []byte
}

func newBlob(b []byte) blob { return blob{digest.FromBytes(b), b} }

func (m model) digest() digest.Digest { return m.manifest.d }

func (m model) root() Root {
	r := Root{Tree: m.digest()}
	for _, b := range m.blobs() {
		r.Blobs = append(r.Blobs, b.d)
	}
	if m.packed.d != "" {
		r.Layers = []digest.Digest{m.packed.d}
	}
	return r
}

func (m model) entries() map[string]digest.Digest {
	out := map[string]digest.Digest{}
	for path, b := range m.files {
		out[path] = b.d
	}
	return out
}

func (m model) blobs() []blob {
	return []blob{m.manifest, m.files["model.gguf"], m.files["sub/tokenizer"], m.files["sub/config.json"]}
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// models are what the scenario works with: the first has a blob of more than
// one chunk, so that its checkpoints have a hash state.
var models = sync.OnceValue(func() [2]model {
	return [2]model{
		{"net/first@v1", newBlob([]byte(`{"first":1}`)), map[string]blob{
			"model.gguf":      newBlob(random(1, cas.ChunkSize+200<<10)),
			"sub/tokenizer":   newBlob(random(2, 80<<10)),
			"sub/config.json": newBlob([]byte(`{"a":1}`)),
		}, blob{}},
		{"net/second@v1", newBlob([]byte(`{"second":2}`)), map[string]blob{
			"model.gguf":      newBlob(random(3, 100<<10)),
			"sub/tokenizer":   newBlob(random(2, 80<<10)), // shared with the first
			"sub/config.json": newBlob(nil),
		}, newBlob(random(4, 70<<10))}, // whatever it unfolds by
	}
})

// scenario lives through a store's life and notes what is true when.
func scenario(open Open, dir string, fsys durable.FS, note func(mark)) error {
	m := models()
	st, err := open(dir, fsys)
	if err != nil {
		return err
	}
	defer st.Close()
	steps := []func() error{
		func() error { return pullInPieces(st, m[0], note) },
		func() error { return install(st, m[0], note) },
		func() error { return unpack(st, m[1], note) },
		func() error { return pullPlainly(st, m[1], note) },
		func() error { return install(st, m[1], note) },
		func() error { return replaceRoot(st, m[1], note) },
		st.Unprotect,
		func() error { return collect(st, true, note) },
		// The second goes, comes back from the trash, and goes for good.
		func() error { return unroot(st, m[1], note) },
		func() error { return collectIntoTrash(st, m[1], note) },
		func() error { return pullPlainly(st, m[1], note) },
		func() error { return install(st, m[1], note) },
		st.Unprotect,
		func() error { return rot(st, m[0], fsys, note) },
		func() error { return ingestOverSuspect(st, m[0], fsys, note) },
		func() error { return unroot(st, m[1], note) },
		func() error { return collect(st, true, note) },
	}
	for n, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
	}
	return nil
}

// pullInPieces ingests the large blob with interruptions, out of order, and
// with a prefix written twice.
func pullInPieces(st Store, m model, note func(mark)) error {
	if err := protect(st, m); err != nil {
		return err
	}
	d, b := m.files["model.gguf"].d, m.files["model.gguf"].b
	i, err := st.Ingest(d, int64(len(b)))
	if err != nil {
		return err
	}
	defer func() { i.Close() }() // after an error; nothing to do otherwise
	if err := write(i, b, 0, 1<<20); err != nil {
		return err
	}
	if err := i.Checkpoint(); err != nil {
		return err
	}
	note(mark{is: checkpointed, d: d, bytes: 1 << 20})
	if err := write(i, b, 1<<20, 3<<20+50<<10); err != nil {
		return err
	}
	if err := i.Close(); err != nil {
		return err
	}
	note(mark{is: checkpointed, d: d, bytes: 4<<20 + 50<<10})
	next, err := st.Ingest(d, int64(len(b)))
	if err != nil {
		return err
	}
	i = next
	if got := missing(i); got != int64(len(b))-4<<20-50<<10 {
		return fmt.Errorf("the next ingest lacks %d bytes", got)
	}
	// Rewriting what a checkpoint vouches for takes the promise back, and
	// the bytes may be wrong in between.
	note(mark{is: checkpointed, d: d, bytes: 0})
	if _, err := i.WriteAt(make([]byte, 64<<10), 1<<20); err != nil {
		return err
	}
	if _, err := i.WriteAt(b[1<<20:1<<20+64<<10], 1<<20); err != nil {
		return err
	}
	if err := i.Checkpoint(); err != nil {
		return err
	}
	note(mark{is: checkpointed, d: d, bytes: 4<<20 + 50<<10})
	if err := write(i, b, int64(len(b))-100<<10, 100<<10); err != nil {
		return err
	}
	for _, r := range i.Missing() {
		if err := write(i, b, r.Off, r.Len); err != nil {
			return err
		}
	}
	if err := i.Commit(); err != nil {
		return err
	}
	note(mark{is: published, d: d})
	return pullPlainly(st, m, note)
}

func protect(st Store, m model) error {
	ds := []digest.Digest{m.digest()}
	for _, b := range m.blobs() {
		ds = append(ds, b.d)
	}
	return st.Protect(ds...)
}

func write(i Ingest, b []byte, off, n int64) error {
	for n > 0 {
		piece := min(n, 512<<10)
		if _, err := i.WriteAt(b[off:off+piece], off); err != nil {
			return err
		}
		off, n = off+piece, n-piece
	}
	return nil
}

func missing(i Ingest) (n int64) {
	for _, r := range i.Missing() {
		n += r.Len
	}
	return n
}

// pullPlainly ingests whatever the store lacks of a model.
func pullPlainly(st Store, m model, note func(mark)) error {
	if err := protect(st, m); err != nil {
		return err
	}
	for _, b := range m.blobs() {
		if _, err := fetch(st, b.d, b.b); err != nil {
			return err
		}
		note(mark{is: published, d: b.d})
	}
	return haveLayer(st, m, note)
}

// unpack gives a layer up in the middle, then at a wrong byte, and then
// publishes it.
func unpack(st Store, m model, note func(mark)) error {
	if err := protect(st, m); err != nil {
		return err
	}
	large := m.files["model.gguf"].d
	if err := want(unpackOnce(st, m, m.packed.b[:1000]), cas.ErrIncomplete); err != nil {
		return err
	}
	if err := errors.Join(want(st.Has(large), cas.ErrNotFound), want(st.HasLayer(m.packed.d), cas.ErrNotFound)); err != nil {
		return err
	}
	bad := bytes.Clone(m.packed.b)
	bad[len(bad)/2] ^= 1
	if err := want(unpackOnce(st, m, bad), cas.ErrDigestMismatch); err != nil {
		return err
	}
	if err := errors.Join(want(st.Has(large), cas.ErrNotFound), want(st.HasLayer(m.packed.d), cas.ErrNotFound)); err != nil {
		return err
	}
	if err := haveLayer(st, m, note); err != nil {
		return err
	}
	return want(unpackOnce(st, m, m.packed.b), cas.ErrExists)
}

// haveLayer unpacks what is not there.
func haveLayer(st Store, m model, note func(mark)) error {
	if m.packed.d == "" {
		return nil
	}
	if err := unpackOnce(st, m, m.packed.b); err != nil && !errors.Is(err, cas.ErrExists) {
		return err
	}
	for _, b := range m.files {
		note(mark{is: published, d: b.d})
	}
	note(mark{is: unpacked, d: m.packed.d})
	return st.HasLayer(m.packed.d)
}

// unpackOnce unpacks a layer of which these bytes arrived.
func unpackOnce(st Store, m model, arrived []byte) (err error) {
	u, err := st.Unpack(m.packed.d, int64(len(m.packed.b)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	var entries []cas.LayerEntry
	for path, f := range m.files {
		p, err := u.Spool(int64(len(f.b)))
		if err != nil {
			return err
		}
		half := len(f.b) / 2
		for _, piece := range [][]byte{f.b[:half], f.b[half:]} {
			if _, err := p.Write(piece); err != nil {
				return errors.Join(err, p.Close())
			}
		}
		d, n, err := p.Seal()
		if err != nil {
			return err
		}
		if d != f.d || n != int64(len(f.b)) {
			return fmt.Errorf("spooled %d bytes of %s, found %d of %s", len(f.b), f.d, n, d)
		}
		entries = append(entries, cas.LayerEntry{Path: path, Kind: cas.EntryFile, Size: n, Blob: d})
	}
	if _, err := u.Write(arrived); err != nil {
		return err
	}
	return u.Commit(entries)
}

// fetch ingests a blob and returns how many bytes it had to write. When the
// bytes that were there already turn out to be wrong, it starts over.
func fetch(st Store, d digest.Digest, b []byte) (fetched int64, err error) {
	i, err := st.Ingest(d, int64(len(b)))
	if errors.Is(err, cas.ErrExists) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	for _, r := range i.Missing() {
		if err := write(i, b, r.Off, r.Len); err != nil {
			return fetched, err
		}
		fetched += r.Len
	}
	err = i.Commit()
	if errors.Is(err, cas.ErrDigestMismatch) {
		fetched += int64(len(b))
		if err := write(i, b, 0, int64(len(b))); err != nil {
			return fetched, err
		}
		err = i.Commit()
	}
	return fetched, err
}

func install(st Store, m model, note func(mark)) error {
	if _, err := st.Build(m.digest(), m.entries()); err != nil {
		return err
	}
	note(mark{is: built, d: m.digest()})
	r := m.root()
	if err := st.Root(m.name, r); err != nil {
		return err
	}
	note(mark{is: rooted, name: m.name, root: r})
	return nil
}

// replaceRoot writes a root again: the old one or the new one is there at any
// moment.
func replaceRoot(st Store, m model, note func(mark)) error {
	r := m.root()
	return st.Root(m.name, r)
}

func unroot(st Store, m model, note func(mark)) error {
	note(mark{is: unrooting, name: m.name})
	return st.Unroot(m.name)
}

// collectIntoTrash takes a model that comes back when it is looked at, also
// after a crash.
func collectIntoTrash(st Store, m model, note func(mark)) error {
	if err := collect(st, false, note); err != nil {
		return err
	}
	for _, b := range m.blobs() {
		note(mark{is: published, d: b.d})
	}
	return nil
}

func collect(st Store, atOnce bool, note func(mark)) error {
	note(mark{is: collecting})
	return st.Collect(atOnce)
}

// rot damages a blob and has it repaired in place.
func rot(st Store, m model, fsys durable.FS, note func(mark)) error {
	d, b := m.files["model.gguf"].d, m.files["model.gguf"].b
	if err := harm(st, d, fsys, note); err != nil {
		return err
	}
	good := func(_ context.Context, off, n int64, w io.WriterAt) error {
		_, err := w.WriteAt(b[off:off+n], off)
		return err
	}
	if err := st.Repair(d, good); err != nil {
		return err
	}
	note(mark{is: repaired, d: d})
	return st.Check(m.digest())
}

// ingestOverSuspect damages a blob and has it fetched anew.
func ingestOverSuspect(st Store, m model, fsys durable.FS, note func(mark)) error {
	d, b := m.files["sub/tokenizer"].d, m.files["sub/tokenizer"].b
	if err := harm(st, d, fsys, note); err != nil {
		return err
	}
	if err := st.Protect(d); err != nil {
		return err
	}
	if _, err := fetch(st, d, b); err != nil {
		return err
	}
	note(mark{is: repaired, d: d})
	if err := st.Check(m.digest()); err != nil {
		return err
	}
	return st.Unprotect()
}

func harm(st Store, d digest.Digest, fsys durable.FS, note func(mark)) error {
	note(mark{is: damaged, d: d})
	f, err := fsys.OpenFile(st.Path(d), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, 5000), 30<<10); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	bad, err := st.Verify(d)
	if err != nil {
		return err
	}
	if len(bad) != 1 {
		return fmt.Errorf("the damage to %s was not found", d)
	}
	note(mark{is: suspected, d: d})
	return nil
}
