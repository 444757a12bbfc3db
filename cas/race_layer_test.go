package cas_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// raceLayers is how many packed layers the models of the race share.
const raceLayers = 3

// raceReading is how the race understands packed bytes.
const raceReading = "race"

// raceLayer is the packed bytes of a layer of the race.
func raceLayer(n int) ([]byte, digest.Digest) { return content(uint64(9500+n), 240<<10) }

// raceFiles is what a layer unfolds to: a file of its own, and three that are
// blobs of raw models and files of other layers too.
func raceFiles(n int) [][]byte {
	own, _ := content(uint64(9600+n), 300<<10)
	files := [][]byte{own}
	for i := range 3 {
		shared, _ := raceContent(uint64((n + 2*i) % raceBlobs))
		files = append(files, shared)
	}
	return files
}

// pullLayer unpacks a layer unless it is unpacked already. In mid-stream it
// says so: whoever kills this process counts that.
func pullLayer(ctx context.Context, s *cas.Store, l *cas.Lease, n int) ([]cas.LayerEntry, error) {
	packed, d := raceLayer(n)
	u, err := s.Unpack(ctx, l, d, int64(len(packed)), raceReading, nil)
	if errors.Is(err, cas.ErrExists) {
		return checkLayer(ctx, s, n)
	}
	if err != nil {
		return nil, err
	}
	fmt.Println("unpacking", n)
	entries, err := streamLayer(ctx, u, packed, raceFiles(n))
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	if err := u.Commit(ctx, entries); err != nil {
		return nil, err
	}
	fmt.Println("unpacked", n)
	return checkLayer(ctx, s, n)
}

// streamLayer spools the files one after the other, with the packed bytes in
// small pieces between theirs, as they come when a layer is fetched.
func streamLayer(ctx context.Context, u *cas.Unpacking, packed []byte, files [][]byte) ([]cas.LayerEntry, error) {
	const piece = 8 << 10
	entries := []cas.LayerEntry{{Path: "dir", Kind: cas.EntryDir, Mode: 0o755}}
	for n, b := range files {
		p, err := u.Spool(ctx, int64(len(b)))
		if err != nil {
			return nil, err
		}
		for off := 0; off < len(b); off += piece {
			_, err := p.Write(b[off:min(off+piece, len(b))])
			if err == nil {
				now := min(piece, len(packed))
				_, err = u.Write(packed[:now])
				packed = packed[now:]
			}
			if err != nil {
				return nil, errors.Join(err, p.Close())
			}
		}
		d, size, err := p.Seal()
		if err != nil {
			return nil, err
		}
		entries = append(entries, cas.LayerEntry{Path: fmt.Sprintf("dir/%d", n), Kind: cas.EntryFile, Mode: 0o644, Size: size, Blob: d})
	}
	_, err := u.Write(packed)
	return entries, err
}

// checkLayer says what is wrong with a layer that something holds: its record,
// and every byte that it names, have to be there.
func checkLayer(ctx context.Context, s *cas.Store, n int) ([]cas.LayerEntry, error) {
	_, d := raceLayer(n)
	files := raceFiles(n)
	entries, err := s.Layer(ctx, d, raceReading)
	if err != nil {
		return nil, err
	}
	if len(entries) != 1+len(files) {
		return nil, fmt.Errorf("layer %d has %d entries", n, len(entries))
	}
	for i, b := range files {
		if e := entries[1+i]; e.Blob != digest.FromBytes(b) {
			return nil, fmt.Errorf("file %d of layer %d is %s", i, n, e.Blob)
		}
		if err := checkBlob(s, entries[1+i].Blob); err != nil {
			return nil, fmt.Errorf("file %d of layer %d: %w", i, n, err)
		}
	}
	return entries, nil
}

// assertNoSpools says that nothing is left of layers whose unpackers are dead:
// what they spooled has no name to resume it by, and waits for no age.
func assertNoSpools(t *testing.T, s *cas.Store) {
	t.Helper()
	names, err := os.ReadDir(filepath.Join(s.Root(), "ingest"))
	must(t, err)
	for _, e := range names {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}
