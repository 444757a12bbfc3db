package cas

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
)

// Each parser either refuses a record, or gives back one that encodes to the
// same bytes: nothing is read into a record that is not in it.

func FuzzProgress(f *testing.F) {
	state, _ := sha256.New().(encoding.BinaryMarshaler).MarshalBinary()
	f.Add(progress{size: 100, extents: rangeSet{{0, 10}, {20, 5}}}.encode())
	f.Add(progress{size: 9 << 20, offset: ChunkSize, state: state, sums: make([]chunkSum, 1), extents: rangeSet{{5 << 20, 1}}}.encode())
	f.Add([]byte(progressMagic))
	f.Add(appendTrailer([]byte(progressMagic + strings.Repeat("\xff", 22))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendTrailer(bytes.Clone(b))} { // also past the checksum
			p, err := parseProgress(b)
			if err != nil {
				continue
			}
			if !bytes.Equal(p.encode(), b) {
				t.Errorf("%x is read as %+v", b, p)
			}
			if total := p.present().total(); total > p.size {
				t.Errorf("%d bytes of %d are present", total, p.size)
			}
			newHasher().resume(p)
		}
	})
}

func FuzzNote(f *testing.F) {
	place := sha256.Sum256([]byte("here"))
	f.Add(encodeNote(100, rangeSet{{0, 10}, {20, 5}}, place))
	f.Add(append(encodeNote(100, rangeSet{{0, 100}}, place), "what a longer one left"...))
	f.Add(encodeNote(100, rangeSet{{0, 100}}, [32]byte{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		set := parseNote(b, 100, place)
		if len(set) == 0 {
			return
		}
		if again := encodeNote(100, set, place); !bytes.HasPrefix(b, again) {
			t.Errorf("%x is read as %v", b, set)
		}
		if set[0].Off < 0 || set[len(set)-1].end() > 100 {
			t.Errorf("%v leaves a blob of 100 bytes", set)
		}
	})
}

func FuzzChunkMap(f *testing.F) {
	f.Add(newChunkMap(5<<20, make([]chunkSum, 2)).encode())
	f.Add(newChunkMap(0, nil).encode())
	f.Add(appendTrailer([]byte(mapMagic + strings.Repeat("\xff", 12))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendTrailer(bytes.Clone(b))} {
			m, err := parseChunkMap(b)
			if err == nil && !bytes.Equal(m.encode(), b) {
				t.Errorf("%x is read as %+v", b, m)
			}
		}
	})
}

func FuzzLease(f *testing.F) {
	first, _ := seal(leaseLine{Purpose: "pull", PID: 1, Created: time.Unix(1, 0).UTC(), Digests: []digest.Digest{digest.FromString("a")}})
	second, _ := seal(leaseLine{Digests: []digest.Digest{digest.FromString("b")}})
	f.Add(first)
	f.Add(append(bytes.Clone(first), second...))
	f.Add(append(bytes.Clone(first), second[:len(second)/2]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		strict, err := parseLease(b, false)
		if err != nil {
			parseLease(b, true)
			return
		}
		if len(b) > 0 && b[len(b)-1] == '\n' {
			torn, err := parseLease(b, true)
			if err != nil || !reflect.DeepEqual(strict, torn) {
				t.Errorf("%q is read as %+v and %+v, %v", b, strict, torn, err)
			}
		}
	})
}

// fuzzRecord is for the sealed JSON records: what is read, sealed again, is
// read as the same; and an envelope is, whether it was cut or parsed.
func fuzzRecord[T any](f *testing.F, check func(T) error, seeds ...T) {
	for _, s := range seeds {
		b, err := seal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":1,"sum":"0","body":{}}`))
	read := func(b []byte) (x T, err error) {
		if err = unseal(b, &x); err == nil {
			err = check(x)
		}
		return x, err
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		forms := [][]byte{b}
		if b := bytes.TrimRight(b, " \t\r\n"); bytes.HasPrefix(b, []byte("{")) { // as a body, under the right sum
			forms = append(forms, []byte(`{"version":1,"sum":"`+sum(b)+`","body":`+string(b)+"}\n"))
		}
		for _, b := range forms {
			first, err := read(b)
			parsed, err2 := read(slices.Concat([]byte(" "), b))
			if (err == nil) != (err2 == nil) || !reflect.DeepEqual(first, parsed) && err == nil {
				t.Errorf("%q is read as %+v, %v, and parsed as %+v, %v", b, first, err, parsed, err2)
			}
			if err != nil {
				continue
			}
			again, err := seal(first)
			if err != nil {
				t.Fatalf("%q cannot be sealed again: %v", b, err)
			}
			second, err := read(again)
			if err != nil {
				t.Fatalf("%q, sealed again as %q: %v", b, again, err)
			}
			if third, err := seal(second); err != nil || !bytes.Equal(third, again) {
				t.Errorf("%q is sealed as %q, then as %q, %v", b, again, third, err)
			}
		}
	})
}

func FuzzRef(f *testing.F) {
	fuzzRecord(f, func(r Ref) error {
		file, err := refFile(r.Name)
		if err == nil {
			if strings.ContainsAny(file, "/\x00") || file[0] == '.' || len(file) > 255 {
				panic("a ref may not be named " + file)
			}
			err = r.check(file)
		}
		return err
	}, Ref{Name: "net/a@v1", Tree: digest.FromString("t"), Blobs: []digest.Digest{digest.FromString("b")}, LastUsed: time.Unix(1, 0).UTC()})
}

func FuzzToken(f *testing.F) {
	fuzzRecord(f, func(r tokenRecord) error {
		_, err := keysOf(r.Digests)
		return err
	}, tokenRecord{Purpose: "job", NotAfter: time.Unix(1, 0).UTC(), Digests: []digest.Digest{digest.FromString("b")}})
}

func FuzzTreeIndex(f *testing.F) {
	name := digest.FromString("t")
	k, _ := keyOf(name)
	fuzzRecord(f, func(x treeIndex) error { return x.check(k) },
		treeIndex{Name: name, Entries: []indexEntry{{Path: "a/b", Blob: digest.FromString("b"), Size: 1}}},
		treeIndex{Name: name, Entries: []indexEntry{{Path: "../b", Blob: digest.FromString("b")}}})
}

func FuzzSuspect(f *testing.F) {
	fuzzRecord(f, func(suspicion) error { return nil }, suspicion{Reason: "rot", Since: time.Unix(1, 0).UTC()})
}

func FuzzVersion(f *testing.F) {
	f.Add([]byte(version))
	f.Add([]byte("rmodels store 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if parseVersion(b) == nil && string(b) != version {
			t.Errorf("%q is a version", b)
		}
	})
}

func FuzzMountTable(f *testing.F) {
	f.Add("36 35 98:0 /store/trees/sha256/" + strings.Repeat("a", 64) + "/tree /mnt rw - ext4 /dev/x rw\n")
	f.Add("36 35 98:0 /trash/r-1-2/t-" + strings.Repeat("b", 64) + "//deleted /mnt rw - ext4 /dev/x rw\n")
	f.Add("36 35 0:52 / /mnt ro shared:1 - overlay overlay ro,lowerdir=/s/trees/sha256/" + strings.Repeat("c", 64) + "/tree:/s/trees/sha256/" + strings.Repeat("d", 64) + "/tree,redirect_dir=on\n")
	f.Fuzz(func(t *testing.T, table string) {
		// Read in pieces of any size, a table says the same.
		whole, _, err := findDigests(strings.NewReader(table), 1<<20, time.Now().Add(time.Hour))
		pieces, _, err2 := findDigests(iotest.OneByteReader(strings.NewReader(table)), 1<<20, time.Now().Add(time.Hour))
		if err != nil || err2 != nil || !slices.Equal(whole, pieces) {
			t.Errorf("%v and %v of %q; %v, %v", whole, pieces, table, err, err2)
		}
		for _, k := range whole {
			if !strings.Contains(table, k.hex()) {
				t.Errorf("%s is not in %q", k.hex(), table)
			}
		}
	})
}

func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("a", 64))
	f.Add("sha256:" + strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, s string) {
		k, err := keyOf(digest.Digest(s))
		if err == nil && string(k.digest()) != s {
			t.Errorf("%q is read as %s", s, k.digest())
		}
	})
}

func FuzzLayer(f *testing.F) {
	k := key(sha256.Sum256([]byte("layer")))
	record, _ := seal(layer{Name: k.digest(), Reading: "tar+zstd", Entries: []LayerEntry{
		{Path: "a", Kind: EntryDir, Mode: 0o755},
		{Path: "a/f", Kind: EntryFile, Mode: 0o644, Size: 3, Blob: digest.FromString("abc")},
		{Path: "s", Kind: EntrySymlink, Target: "a/f"},
		{Path: "l", Kind: EntryLink, Target: "a/f"},
	}})
	empty, _ := seal(layer{Name: k.digest(), Reading: "tar", Entries: []LayerEntry{}})
	f.Add(record)
	f.Add(empty)
	f.Add([]byte(`{"version":1,"sum":"0","body":{"name":"","reading":"","entries":null}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseLayer(b, k)
		if err != nil {
			return
		}
		again, err := seal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseLayer(again, k); err != nil || !reflect.DeepEqual(back, rec) {
			t.Errorf("%q is read as %+v, and again as %+v, %v", b, rec, back, err)
		}
	})
}
