package cas_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// soakEnv makes the race run until it saw this many pulls (1: 5000).
const soakEnv = "RMODELS_SOAK"

// raceModels is how many models the pullers fight over, and raceBlobs how many
// blobs these share. Those from racePacked on have packed layers.
const (
	raceModels = 10
	racePacked = 6
	raceBlobs  = 8
)

// raceModel is the parts of a model of the race: a manifest of its own, and
// three blobs, or one and two packed layers, that other models have too.
func raceModel(n int) (manifest []byte, blobs []uint64, layers []int) {
	manifest, _ = content(uint64(5000+n), 900)
	blobs = []uint64{uint64(n % raceBlobs), uint64((n + 1) % raceBlobs), uint64((n*3 + 2) % raceBlobs)}
	if n >= racePacked {
		return manifest, blobs[:1], []int{n % raceLayers, (n + 1) % raceLayers}
	}
	return manifest, blobs, nil
}

// raceContent is a blob that models share. One is so large that its writer
// leaves notes, and one is a layer that other models have unpacked.
func raceContent(seed uint64) ([]byte, digest.Digest) {
	switch seed {
	case 3:
		return raceLayer(0)
	case 7:
		return content(9007, 1200<<10)
	}
	sizes := []int{300, 5000, 70 << 10, 130 << 10}
	return content(9000+seed, sizes[seed%4])
}

// workPull pulls models and drops them again, over and over, and says
// "broken" when a blob, tree or ref that it holds is not as it has to be.
// args: seed.
func workPull(ctx context.Context, s *cas.Store, args []string) error {
	fmt.Println("ready")
	seed, _ := strconv.ParseUint(args[0], 10, 64)
	rng := rand.New(rand.NewPCG(seed, 1))
	for {
		n := rng.IntN(raceModels)
		if err := pullModel(ctx, s, rng, n, args[0]); err != nil {
			fmt.Println("broken", n, err)
			continue
		}
		fmt.Println("pulled", n)
	}
}

func pullModel(ctx context.Context, s *cas.Store, rng *rand.Rand, n int, who string) error {
	manifest, seeds, layers := raceModel(n)
	md := digest.FromBytes(manifest)
	l, err := s.Lease(ctx, "pull "+who, md)
	if err != nil {
		return fmt.Errorf("lease: %w", err)
	}
	defer l.Release()
	if err := s.Put(ctx, l, md, manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	var entries []cas.TreeEntry
	blobs := []digest.Digest{md}
	for i, seed := range seeds {
		b, d := raceContent(seed)
		if err := pullBlob(ctx, s, l, d, b); err != nil {
			return fmt.Errorf("blob %d: %w", seed, err)
		}
		entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("part%d", i), Blob: d})
		blobs = append(blobs, d)
	}
	var packed []digest.Digest
	for i, layer := range layers {
		unfolded, err := pullLayer(ctx, s, l, layer)
		if err != nil {
			return fmt.Errorf("layer %d: %w", layer, err)
		}
		for _, e := range unfolded {
			if e.Kind == cas.EntryFile {
				entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("layer%d/%s", i, e.Path), Blob: e.Blob})
			}
		}
		_, d := raceLayer(layer)
		packed = append(packed, d)
	}
	tree, err := s.BuildTree(ctx, l, md, entries)
	if err != nil {
		return err
	}
	ref := fmt.Sprintf("race/%d-%s", n, who)
	if err := s.PutRef(ctx, cas.Ref{Name: ref, Tree: md, Blobs: blobs, Layers: packed, LastUsed: time.Now()}); err != nil {
		return fmt.Errorf("ref: %w", err)
	}
	if err := l.Release(); err != nil {
		return err
	}
	// Only the ref protects from here on.
	if rng.IntN(2) == 0 {
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
	}
	for i, d := range blobs {
		if err := checkBlob(s, d); err != nil {
			return fmt.Errorf("blob %d of the ref: %w", i, err)
		}
	}
	for _, layer := range layers {
		if _, err := checkLayer(ctx, s, layer); err != nil {
			return fmt.Errorf("of the ref: %w", err)
		}
	}
	if err := s.CheckTree(ctx, md); err != nil {
		return err
	}
	for i, e := range entries {
		b, err := os.ReadFile(filepath.Join(tree.Path, e.Path))
		if err != nil || digest.FromBytes(b) != e.Blob {
			return fmt.Errorf("file %d of the tree: %w", i, errors.Join(err, errors.New("wrong bytes")))
		}
	}
	return s.DeleteRef(ctx, ref)
}

func pullBlob(ctx context.Context, s *cas.Store, l *cas.Lease, d digest.Digest, b []byte) error {
	for {
		i, err := s.Ingest(ctx, l, d, int64(len(b)), cas.IngestOptions{CheckpointBytes: 32 << 10})
		if errors.Is(err, cas.ErrExists) {
			return checkBlob(s, d)
		}
		if err != nil {
			return err
		}
		for _, r := range i.Missing() {
			for off := r.Off; off < r.Off+r.Len; off += 16 << 10 {
				if _, err := i.WriteAt(b[off:min(off+16<<10, r.Off+r.Len)], off); err != nil {
					return errors.Join(err, i.Close())
				}
			}
		}
		if err := i.Commit(ctx); err != nil {
			return errors.Join(err, i.Discard())
		}
	}
}

func checkBlob(s *cas.Store, d digest.Digest) error {
	b, err := s.Open(d)
	if err != nil {
		return err
	}
	defer b.Close()
	found, err := digest.SHA256.FromReader(b)
	if err == nil && found != d {
		err = fmt.Errorf("%s has the bytes of %s", d, found)
	}
	return err
}

// workGC collects with zero grace, over and over, and drops the refs that
// killed pullers left.
func workGC(ctx context.Context, s *cas.Store, args []string) error {
	fmt.Println("ready")
	for {
		r, err := s.GC(ctx, cas.GCOptions{Proc: "/proc"})
		if err != nil && !errors.Is(err, cas.ErrBusy) {
			fmt.Println("broken gc", err)
			continue
		}
		if err == nil {
			fmt.Println("collected", r.Freed, r.LongestLock.Microseconds())
		}
	}
}

// workScrub scrubs and hashes whatever is there, over and over.
func workScrub(ctx context.Context, s *cas.Store, args []string) error {
	fmt.Println("ready")
	for {
		r, err := s.Scrub(ctx, cas.ScrubOptions{})
		if err != nil {
			fmt.Println("broken scrub", err)
		}
		for _, f := range r.Findings {
			fmt.Println("broken blob", f.Name, f.Problem)
		}
		blobs, err := s.Blobs(ctx)
		if err != nil {
			return err
		}
		findings, err := s.Verify(ctx, blobs, cas.VerifyOptions{})
		if err != nil {
			fmt.Println("broken verify", err)
		}
		for _, f := range findings {
			if f.Problem != "missing" { // collected between the two steps
				fmt.Println("broken blob", f.Name, f.Problem)
			}
		}
		fmt.Println("verified", len(blobs))
	}
}

// TestRace lets pullers, a collector and a scrubber loose on one store, kills
// them at random, and looks for a broken pull, a live blob that was collected,
// or something that a last collection leaves behind.
func TestRace(t *testing.T) {
	root := filepath.Join(fastDir(t), "store")
	s := open(t, root, cas.Options{})
	target, limit := int64(100), 5*time.Minute
	if soak := os.Getenv(soakEnv); soak != "" {
		target, limit = 5000, 50*time.Minute
		if n, _ := strconv.ParseInt(soak, 10, 64); n > 1 {
			target = n
		}
	}
	var pulls, packed, kills, midLayer, collections, checks, longest atomic.Int64
	var mu sync.Mutex
	var broken []string
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var wg sync.WaitGroup
	slot := func(n int, worker string) {
		rng := rand.New(rand.NewPCG(uint64(n), binary.LittleEndian.Uint64([]byte("rmodels!"))))
		for life := 0; ctx.Err() == nil; life++ {
			p := start(t, s, worker, strconv.Itoa(n*1000+life))
			stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
			stopTimer := func() bool { return false }
			unpacking := false
			for p.lines.Scan() {
				word, rest, _ := strings.Cut(p.lines.Text(), " ")
				switch word {
				case "ready":
					life := time.Duration(20+rng.IntN(1500)) * time.Millisecond
					stopTimer = time.AfterFunc(life, func() { p.cmd.Process.Kill() }).Stop
				case "pulled":
					pulls.Add(1)
					if model, _ := strconv.Atoi(rest); model >= racePacked {
						packed.Add(1)
					}
				case "unpacking":
					// Left to chance, few kills come while a layer streams.
					if unpacking = true; rng.IntN(4) == 0 {
						stopTimer()
						stopTimer = time.AfterFunc(time.Duration(rng.IntN(20_000))*time.Microsecond, func() { p.cmd.Process.Kill() }).Stop
					}
				case "unpacked":
					unpacking = false
				case "collected":
					collections.Add(1)
					_, us, _ := strings.Cut(rest, " ")
					v, _ := strconv.ParseInt(us, 10, 64)
					longest.Store(max(longest.Load(), v))
				case "verified":
					checks.Add(1)
				default:
					mu.Lock()
					broken = append(broken, worker+": "+p.lines.Text())
					mu.Unlock()
				}
				if pulls.Load() >= target && collections.Load() >= 10 && checks.Load() >= 3 && kills.Load() >= 20 && midLayer.Load() >= 3 {
					cancel()
				}
			}
			stopTimer()
			stop()
			p.cmd.Wait()
			p.ended = true
			kills.Add(1)
			if unpacking {
				midLayer.Add(1)
			}
			if worker == "pull" {
				dropRefs(t, s, fmt.Sprintf("-%d", n*1000+life))
			}
		}
	}
	for n := range 4 {
		wg.Go(func() { slot(n, "pull") })
	}
	wg.Go(func() { slot(8, "gc") })
	wg.Go(func() { slot(9, "scrub") })
	wg.Wait()
	t.Logf("%d pulls (%d of packed models), %d collections (longest exclusive section %v), %d scrubs, %d kills (%d in the middle of a layer): %d broken",
		pulls.Load(), packed.Load(), collections.Load(), time.Duration(longest.Load())*time.Microsecond, checks.Load(), kills.Load(), midLayer.Load(), len(broken))
	if len(broken) > 0 {
		t.Errorf("broken: %s", strings.Join(broken[:min(len(broken), 20)], "\n"))
	}
	if pulls.Load() < target || collections.Load() == 0 || checks.Load() == 0 || midLayer.Load() == 0 {
		t.Errorf("only %d pulls of %d, with %d kills in the middle of a layer, in %v", pulls.Load(), target, midLayer.Load(), limit)
	}
	gc(t, s, cas.GCOptions{})
	assertNoSpools(t, s)
	s2 := open(t, root, cas.Options{Now: func() time.Time { return time.Now().Add(30 * 24 * time.Hour) }})
	gc(t, s2, cas.GCOptions{})
	gc(t, s2, cas.GCOptions{})
	assertEmpty(t, s2)
}

// dropRefs deletes the refs of a puller that was killed.
func dropRefs(t *testing.T, s *cas.Store, suffix string) {
	refs, err := s.Refs()
	if err != nil {
		t.Error(err)
	}
	for _, r := range refs {
		if strings.HasSuffix(r.Name, suffix) {
			if err := s.DeleteRef(context.Background(), r.Name); err != nil {
				t.Error(err)
			}
		}
	}
}

// assertEmpty says that nothing is left but what a new store has.
func assertEmpty(t *testing.T, s *cas.Store) {
	t.Helper()
	fresh := map[string]bool{}
	walk := func(root string, visit func(string)) {
		filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err == nil {
				rel, _ := filepath.Rel(root, p)
				visit(rel)
			}
			return err
		})
	}
	other := open(t, filepath.Join(t.TempDir(), "fresh"), cas.Options{})
	walk(other.Root(), func(p string) { fresh[p] = true })
	for _, p := range []string{"refs/.lock", "scrub", "scrub.lock", "layers", "layers/sha256", "trash/.spare"} {
		fresh[p] = true // made when first needed
	}
	walk(s.Root(), func(p string) {
		if !fresh[p] && !(len(filepath.Base(p)) == 2 && strings.HasSuffix(filepath.Dir(p), "s/sha256")) {
			t.Errorf("left behind: %s", p)
		}
	})
}

// fastDir is a directory in memory, for tests whose subject is not the disk.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cas-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
