package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// packed stands for the packed bytes of a layer: the store does not unfold.
func packed() ([]byte, digest.Digest) { return content(7100, 3000) }

// spool writes one file of a layer.
func spool(u *cas.Unpacking, path string, b []byte) (cas.LayerEntry, error) {
	p, err := u.Spool(context.Background(), int64(len(b)))
	if err != nil {
		return cas.LayerEntry{}, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{p}, struct{ io.Reader }{bytes.NewReader(b)}, make([]byte, 100<<10)); err != nil {
		return cas.LayerEntry{}, errors.Join(err, p.Close())
	}
	d, n, err := p.Seal()
	return cas.LayerEntry{Path: path, Kind: cas.EntryFile, Mode: 0o644, Size: n, Blob: d}, err
}

// unpack publishes a layer of these files.
func unpack(s *cas.Store, l *cas.Lease, files ...[]byte) ([]cas.LayerEntry, error) {
	b, d := packed()
	u, err := s.Unpack(context.Background(), l, d, int64(len(b)), "test", nil)
	if err != nil {
		return nil, err
	}
	entries := []cas.LayerEntry{{Path: "dir", Kind: cas.EntryDir}}
	for n, f := range files {
		e, err := spool(u, fmt.Sprintf("dir/%d", n), f)
		if err != nil {
			return nil, errors.Join(err, u.Close())
		}
		entries = append(entries, e)
	}
	if _, err := u.Write(b); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return entries, u.Commit(context.Background(), entries)
}

func TestUnpack(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	var files [][]byte
	for _, n := range []int{0, 1, 70 << 10, 5 << 20, 1} { // the last has the bytes of the second
		b, _ := content(uint64(300+n), n)
		files = append(files, b)
	}
	_, d := packed()
	_, err := s.Layer(t.Context(), d, "")
	wantError(t, err, cas.ErrNotFound)
	entries, err := unpack(s, l, files...)
	must(t, err)
	got, err := s.Layer(t.Context(), d, "test")
	if err != nil || !slices.Equal(got, entries) {
		t.Errorf("recorded %v, %v; want %v", got, err, entries)
	}
	_, err = s.Layer(t.Context(), d, "in another way")
	wantError(t, err, cas.ErrNotFound)
	for n, b := range files {
		bd := digest.FromBytes(b)
		if !bytes.Equal(read(t, s, bd), b) {
			t.Errorf("file %d: published something else", n)
		}
		// It has the chunk map of any other blob.
		if _, err := os.Stat(mapPath(s, bd)); (err == nil) != (len(b) > cas.MapThreshold) {
			t.Errorf("file %d: chunk map: %v", n, err)
		}
	}
	_, err = s.Stat(d)
	wantError(t, err, cas.ErrNotFound) // the packed bytes are not kept
	_, err = unpack(s, l, files...)
	wantError(t, err, cas.ErrExists)
	findings, err := s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
	if err != nil || len(findings) > 0 {
		t.Error(findings, err)
	}
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}

	// A lease on the layer keeps its files, and so does a ref.
	must(t, l.Release())
	l2, err := s.Lease(t.Context(), "layer alone", d)
	must(t, err)
	gc(t, s, cas.GCOptions{})
	_, err = s.Layer(t.Context(), d, "test")
	must(t, err)
	must(t, s.PutRef(t.Context(), cas.Ref{Name: "m", Layers: []digest.Digest{d}}))
	must(t, l2.Release())
	gc(t, s, cas.GCOptions{})
	_, err = s.Layer(t.Context(), d, "test")
	must(t, err)

	// What the collector took comes back whole, and goes whole.
	must(t, s.DeleteRef(t.Context(), "m"))
	gc(t, s, cas.GCOptions{Grace: time.Hour})
	l3, err := s.Lease(t.Context(), "again", d)
	must(t, err)
	if got, err := s.Layer(t.Context(), d, "test"); err != nil || !slices.Equal(got, entries) {
		t.Errorf("out of the trash: %v, %v", got, err)
	}
	gc(t, s, cas.GCOptions{})
	_, err = s.Layer(t.Context(), d, "test")
	must(t, err)
	must(t, l3.Release())
	gc(t, s, cas.GCOptions{})
	_, err = s.Layer(t.Context(), d, "test")
	wantError(t, err, cas.ErrNotFound)
	if blobs, err := s.Blobs(t.Context()); err != nil || len(blobs) > 0 {
		t.Errorf("kept without a root: %v, %v", blobs, err)
	}
	wantError(t, s.PutRef(t.Context(), cas.Ref{Name: "m", Layers: []digest.Digest{d}}), cas.ErrNotFound)
}

// Whatever goes wrong, nothing of a layer is published.
func TestUnpackRefuses(t *testing.T) {
	ctx := context.Background()
	b, d := packed()
	file, fd := content(7101, 5000)
	bad := bytes.Clone(b)
	bad[100] ^= 1
	entry := cas.LayerEntry{Path: "f", Kind: cas.EntryFile, Size: 5000, Blob: fd}
	for name, tc := range map[string]struct {
		arrived []byte
		entries []cas.LayerEntry
		want    error
	}{
		"a wrong byte":           {bad, []cas.LayerEntry{entry}, cas.ErrDigestMismatch},
		"a missing byte":         {b[1:], []cas.LayerEntry{entry}, cas.ErrIncomplete},
		"a file of another size": {b, []cas.LayerEntry{{Path: "f", Kind: cas.EntryFile, Size: 4999, Blob: fd}}, cas.ErrInvalid},
		"a file not spooled":     {b, []cas.LayerEntry{{Path: "f", Kind: cas.EntryFile, Size: 1, Blob: digest.FromString("x")}}, cas.ErrInvalid},
		"no kind":                {b, []cas.LayerEntry{{Path: "f"}}, cas.ErrInvalid},
		"a path that leaves":     {b, []cas.LayerEntry{{Path: "../f", Kind: cas.EntryDir}}, cas.ErrInvalid},
		"a file with a target":   {b, []cas.LayerEntry{{Path: "f", Kind: cas.EntryFile, Size: 5000, Blob: fd, Target: "x"}}, cas.ErrInvalid},
		"a link with bytes":      {b, []cas.LayerEntry{{Path: "f", Kind: cas.EntryLink, Size: 5000, Blob: fd}}, cas.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			u, err := s.Unpack(ctx, lease(t, s), d, int64(len(b)), "test", nil)
			must(t, err)
			_, err = spool(u, "f", file)
			must(t, err)
			_, err = u.Write(tc.arrived)
			must(t, err)
			wantError(t, u.Commit(ctx, tc.entries), tc.want)
			wantError(t, u.Commit(ctx, tc.entries), cas.ErrClosed)
			_, err = s.Stat(fd)
			wantError(t, err, cas.ErrNotFound)
			_, err = s.Layer(ctx, d, "")
			wantError(t, err, cas.ErrNotFound)
			if left := list(t, s, "ingest"); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
	s := newStore(t)
	_, err := s.Unpack(ctx, nil, d, 1, "test", nil)
	wantError(t, err, cas.ErrInvalid)
	_, err = s.Unpack(ctx, lease(t, s), d, -1, "test", nil)
	wantError(t, err, cas.ErrInvalid)
	_, err = s.Unpack(ctx, lease(t, s), d, 1, "", nil)
	wantError(t, err, cas.ErrInvalid)
	u, err := s.Unpack(ctx, lease(t, s), d, 2, "test", nil)
	must(t, err)
	_, err = u.Write([]byte("abc"))
	wantError(t, err, cas.ErrInvalid)
	p, err := u.Spool(ctx, 10)
	must(t, err)
	_, err = p.Write(make([]byte, 10))
	must(t, err)
	_, err = p.Write([]byte{1})
	wantError(t, err, cas.ErrInvalid)
	_, _, err = p.Seal()
	wantError(t, err, cas.ErrInvalid)
	_, err = p.Write(nil)
	wantError(t, err, cas.ErrClosed)
	must(t, u.Close())
	must(t, u.Close())
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// Packed bytes that unfold to themselves are refused, and nothing waits for
// the writer of a digest that is this one.
func TestUnpackRefusesItself(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := newStore(t)
	b, d := packed()
	u, err := s.Unpack(ctx, lease(t, s), d, int64(len(b)), "test", nil)
	must(t, err)
	e, err := spool(u, "itself", b)
	must(t, err)
	_, err = u.Write(b)
	must(t, err)
	wantError(t, u.Commit(ctx, []cas.LayerEntry{e}), cas.ErrInvalid)
	_, err = s.Stat(d)
	wantError(t, err, cas.ErrNotFound)
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// What a process left that was killed while it unpacked is gone with the next
// collection; before, while it lives, it is left alone.
// What has to stay free does, however small the files of a layer are.
func TestUnpackNoSpace(t *testing.T) {
	mnt := t.TempDir()
	mount(t, "tmpfs", mnt, "size=200m")
	free := func() int64 {
		var st unix.Statfs_t
		must(t, unix.Statfs(mnt, &st))
		return int64(st.Bavail) * st.Bsize
	}
	const step = 64 << 20 // bytes between two looks
	s := open(t, filepath.Join(mnt, "store"), cas.Options{MinFree: 100 << 20})
	l := lease(t, s)
	_, d := packed()
	u, err := s.Unpack(t.Context(), l, d, 3000, "test", nil)
	must(t, err)
	for seed := uint64(1); err == nil && seed < 60; seed++ {
		b, _ := content(seed, 4<<20)
		_, err = spool(u, "file", b)
	}
	wantError(t, err, cas.ErrNoSpace)
	if left := free(); left < 100<<20-step {
		t.Errorf("%d bytes are left", left)
	}
	must(t, u.Close())

	s = open(t, filepath.Join(mnt, "store"), cas.Options{MinFree: 201 << 20})
	u, err = s.Unpack(t.Context(), l, d, 3000, "test", nil)
	must(t, err)
	_, err = spool(u, "file", []byte("x"))
	wantError(t, err, cas.ErrNoSpace)
	must(t, u.Close())
}

// Whoever was told that a layer is there keeps its files, also when someone
// reads it otherwise later.
func TestUnpackKeepsWhatItFound(t *testing.T) {
	s := newStore(t)
	file, _ := content(1, 300)
	l := lease(t, s)
	entries, err := unpack(s, l, file)
	must(t, err)
	second := lease(t, s)
	b, d := packed()
	_, err = s.Unpack(t.Context(), second, d, int64(len(b)), "test", nil)
	wantError(t, err, cas.ErrExists)

	u, err := s.Unpack(t.Context(), l, d, int64(len(b)), "other", nil)
	must(t, err)
	_, err = u.Write(b)
	must(t, err)
	must(t, u.Commit(t.Context(), nil))
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	if f := entries[1].Blob; !has(t, s, f) {
		t.Errorf("%s is gone", f)
	}
	must(t, second.Release())
	gc(t, s, cas.GCOptions{})
	if f := entries[1].Blob; has(t, s, f) {
		t.Errorf("%s is kept for nobody", f)
	}
}

func TestUnpackAbandoned(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	b, d := packed()
	u, err := s.Unpack(t.Context(), l, d, int64(len(b)), "test", nil)
	must(t, err)
	file, _ := content(7102, 9000)
	e, err := spool(u, "f", file)
	must(t, err)
	gc(t, s, cas.GCOptions{})
	_, err = u.Write(b)
	must(t, err)
	must(t, u.Commit(t.Context(), []cas.LayerEntry{e}))

	// As kill -9 leaves it: no lock is held any more.
	must(t, os.Mkdir(filepath.Join(s.Root(), "ingest", "sha256-"+digest.FromString("killed").Encoded()), 0o755))
	must(t, os.WriteFile(filepath.Join(s.Root(), "ingest", ".spool-p-0123-4567"), file, 0o644))
	gc(t, s, cas.GCOptions{})
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// Two processes that want one layer: the second waits, and finds it.
func TestUnpackTwice(t *testing.T) {
	s := newStore(t)
	b, d := packed()
	file, fd := content(7103, 9000)
	for _, finish := range []bool{false, true} {
		u, err := s.Unpack(t.Context(), lease(t, s), d, int64(len(b)), "test", nil)
		must(t, err)
		e, err := spool(u, "f", file)
		must(t, err)
		waits, ended := make(chan bool), make(chan error)
		go func() {
			told := false
			second, err := s.Unpack(context.Background(), lease(t, s), d, int64(len(b)), "test", func() {
				if !told {
					told = true
					close(waits)
				}
			})
			if err == nil {
				err = second.Close()
			}
			ended <- err
		}()
		<-waits
		if finish {
			_, err = u.Write(b)
			must(t, err)
			must(t, u.Commit(t.Context(), []cas.LayerEntry{e}))
			wantError(t, <-ended, cas.ErrExists)
		} else {
			must(t, u.Close())
			must(t, <-ended)
		}
	}
	if !bytes.Equal(read(t, s, fd), file) {
		t.Error("published something else")
	}
}

// A layer of which one file rotted is unpacked again, and heals that file
// where it is: trees and readers see the good bytes.
func TestUnpackMends(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	small, sd := content(7104, 9000)
	large, ld := content(7105, cas.MapThreshold+9000)
	entries, err := unpack(s, l, small, large)
	must(t, err)
	_, d := packed()
	name := digest.FromString("manifest")
	tree, err := s.BuildTree(t.Context(), l, name, []cas.TreeEntry{{Path: "small", Blob: sd}, {Path: "large", Blob: ld}})
	must(t, err)
	open, err := os.Open(filepath.Join(tree.Path, "large"))
	must(t, err)
	defer open.Close()
	for _, bd := range []digest.Digest{sd, ld} {
		f, err := os.OpenFile(blobPath(s, bd), os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("rot"), 4000)
		must(t, errors.Join(err, f.Close()))
	}
	findings, err := s.Verify(t.Context(), []digest.Digest{sd, ld}, cas.VerifyOptions{})
	if err != nil || len(findings) != 2 {
		t.Fatal(findings, err)
	}
	_, err = s.Layer(t.Context(), d, "test")
	wantError(t, err, cas.ErrSuspect)
	_, err = unpack(s, l, small, large)
	must(t, err)
	if got, err := s.Layer(t.Context(), d, "test"); err != nil || !slices.Equal(got, entries) {
		t.Errorf("recorded %v, %v", got, err)
	}
	must(t, s.CheckTree(t.Context(), name))
	got, err := io.ReadAll(open)
	must(t, err)
	if !bytes.Equal(got, large) || !bytes.Equal(read(t, s, sd), small) {
		t.Error("not the good bytes")
	}
	findings, err = s.Fsck(t.Context(), cas.FsckOptions{Hash: true})
	if err != nil || len(findings) > 0 {
		t.Error(findings, err)
	}
}

// A record that cannot be read, or whose files are gone, is no layer; a
// collection names one that is in use, and takes no blob (invariant 5).
func TestLayerDamaged(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	file, fd := content(7106, 9000)
	_, err := unpack(s, l, file)
	must(t, err)
	_, d := packed()
	record := filepath.Join(s.Root(), "layers", "sha256", d.Encoded())
	must(t, os.Rename(blobPath(s, fd), blobPath(s, fd)+"x"))
	_, err = s.Layer(t.Context(), d, "")
	wantError(t, err, cas.ErrNotFound)
	must(t, os.Rename(blobPath(s, fd)+"x", blobPath(s, fd)))
	must(t, os.Chmod(record, 0o644))
	good, err := os.ReadFile(record)
	must(t, err)
	must(t, os.WriteFile(record, bytes.Replace(good, []byte("dir/0"), []byte("dir/1"), 1), 0o644))
	_, err = s.Layer(t.Context(), d, "")
	wantError(t, err, cas.ErrCorrupt)
	r, err := s.GC(t.Context(), cas.GCOptions{Proc: quietProc(t)})
	must(t, err)
	if len(r.Damaged) != 1 {
		t.Errorf("damaged: %+v", r.Damaged)
	}
	findings, err := s.Fsck(t.Context(), cas.FsckOptions{})
	if err != nil || len(findings) != 1 || findings[0].Kind != "layer" {
		t.Error(findings, err)
	}
	_, err = unpack(s, l, file) // writes it anew
	must(t, err)
	_, err = s.Layer(t.Context(), d, "test")
	must(t, err)
}

// unpackSmall unpacks a layer if need be, and what a caller relies on at its
// end.
func unpackSmall(s *cas.Store, name string) error {
	_, d := packed()
	l, err := s.Lease(context.Background(), "unpack", d)
	if err != nil {
		return err
	}
	if _, err = unpack(s, l, smallPart(), smallManifest()); errors.Is(err, cas.ErrExists) {
		err = nil
	}
	if err == nil {
		err = s.PutRef(context.Background(), cas.Ref{Name: name, Layers: []digest.Digest{d}})
	}
	return errors.Join(err, l.Release())
}
