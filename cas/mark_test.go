package cas

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A record that got the inode of the one before it is another record: the file
// system gives the number of a deleted file to the next.
func TestRecordInTheSameInode(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"), Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k, first, second := key{1}, key{2}, key{3}
	path := s.layerPath(k)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(file key) {
		t.Helper()
		record, err := seal(layer{Name: k.digest(), Reading: "tar", Entries: []LayerEntry{{Path: "a", Kind: EntryFile, Size: 1, Blob: file.digest()}}})
		if err != nil {
			t.Fatal(err)
		}
		var before, after unix.Stat_t
		_ = unix.Lstat(path, &before)
		for after = before; after.Ctim == before.Ctim; { // until the file system's clock has moved on
			if err := os.WriteFile(path, record, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := unix.Lstat(path, &after); err != nil {
				t.Fatal(err)
			}
		}
		if before.Ino != 0 && after.Ino != before.Ino {
			t.Fatal("the record has another inode")
		}
	}
	m := s.newMarks()
	m.layer(k, m.reason("a ref"))
	for _, file := range []key{first, second} {
		write(file)
		if err := m.openLayers(nil); err != nil {
			t.Fatal(err)
		}
		if _, live := m.whyBlob(file); !live {
			t.Errorf("the file %s of the record is not kept", file.digest())
		}
	}
}
