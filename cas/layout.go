package cas

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Epoch is the modification time of every blob. A time that differs says that
// someone wrote to the file, and trees of the same blobs look the same on all
// nodes.
var Epoch = time.Unix(1, 0)

// MaxSize is the largest blob that the store takes, in bytes. It bounds what
// a progress record or chunk map can make a reader allocate.
const MaxSize = 4 << 40

const version = "rmodels store 1\n"

// key is a digest in the form that sets of hundreds of thousands hold.
type key [32]byte

func keyOf(d digest.Digest) (key, error) {
	if h, ok := strings.CutPrefix(string(d), "sha256:"); ok {
		if k, ok := keyOfHex(h); ok {
			return k, nil
		}
	}
	return key{}, fmt.Errorf("%w: %q is not a sha256 digest", ErrInvalid, d)
}

// keyOfHex is the key of a file's name; false for a name that is none. Upper
// case is none: a blob has one name.
func keyOfHex(h string) (k key, ok bool) {
	if len(h) != 2*len(k) {
		return key{}, false
	}
	for n := range k {
		high, low := nibbles[h[2*n]], nibbles[h[2*n+1]]
		if high|low > 0xf {
			return key{}, false
		}
		k[n] = high<<4 | low
	}
	return k, true
}

// nibbles is what each byte stands for; a table, since no processor foresees
// whether the next is a letter.
var nibbles = func() (t [256]byte) {
	for c := range t {
		t[c] = 0xff
	}
	for n, c := range []byte("0123456789abcdef") {
		t[c] = byte(n)
	}
	return t
}()

func (k key) hex() string { return hex.EncodeToString(k[:]) }

func (k key) digest() digest.Digest {
	const prefix = "sha256:"
	b := make([]byte, 0, len(prefix)+2*len(k))
	return digest.Digest(hex.AppendEncode(append(b, prefix...), k[:]))
}

func fan(root, kind string, k key) string {
	h := k.hex()
	return filepath.Join(root, kind, "sha256", h[:2], h)
}

func (s *Store) blobPath(k key) string    { return fan(s.root, "blobs", k) }
func (s *Store) mapPath(k key) string     { return fan(s.root, "maps", k) }
func (s *Store) suspectPath(k key) string { return filepath.Join(s.root, "suspect", "sha256-"+k.hex()) }

func (s *Store) ingestPath(k key) string { return filepath.Join(s.root, "ingest", "sha256-"+k.hex()) }

func (s *Store) treePath(k key) string { return filepath.Join(s.root, "trees", "sha256", k.hex()) }
func (s *Store) trashPath() string     { return filepath.Join(s.root, "trash") }
func (s *Store) leasePath(id string) string {
	return filepath.Join(s.root, "leases", id)
}

// directories are made with the store; those that fan blobs and maps out by
// their first byte, and that of layers, are made when they are needed.
func directories() []string {
	return []string{
		"blobs", "blobs/sha256", "maps", "maps/sha256", "ingest", "suspect",
		"trees", "trees/sha256", "refs", "leases", "trash",
	}
}

// makeFan makes the directory of a blob or map, durably: something that is
// renamed into a directory without a name is lost with it. Another process may
// have made it a moment ago, so its name is synced once in any case.
func (s *Store) makeFan(path string) error {
	dir := filepath.Dir(path)
	if _, durable := s.fans.Load(dir); durable {
		return nil
	}
	if err := s.fs.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return noSpace(err)
	}
	if err := s.fs.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	s.fans.Store(dir, true)
	return nil
}

// fanned lists the directories that there are of a kind.
func (s *Store) fanned(kind string) ([]string, error) {
	top := filepath.Join(s.root, kind, "sha256")
	names, _, err := s.split(top, isFan)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !isFan(name) }) // a stray
	slices.Sort(names)
	for n, name := range names {
		names[n] = filepath.Join(top, name)
	}
	return names, nil
}
