// Bench measures the store against what it is made of, and prints one JSON
// object a line: the value, and its ratio to the thing that it is compared
// with.
//
//	go run ./cas/bench [-dir DIR] [-size BYTES] [-blobs N] [-models N] [-run REGEXP]
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// figure is one line of output.
type figure struct {
	Bench string  `json:"bench"`
	VS    string  `json:"vs,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

func report(f figure) {
	b, _ := json.Marshal(f)
	fmt.Println(string(b))
}

var (
	dir    = flag.String("dir", "", "where to work; default: a temporary directory")
	size   = flag.Int64("size", 4<<30, "bytes of the large blob")
	blobs  = flag.Int("blobs", 200_000, "blobs of the large store")
	models = flag.Int("models", 1000, "models of the large store")
	run    = flag.String("run", "", "only benchmarks whose name matches")
	child  = flag.String("child", "", "")
)

func main() {
	flag.Parse()
	if err := benchmarks(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func benchmarks(ctx context.Context) (err error) {
	if *child != "" {
		return collectIn(ctx, *child)
	}
	pattern, err := regexp.Compile(*run)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(*dir, "cas-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	for _, b := range []struct {
		name string
		run  func(context.Context, string) error
	}{{"ingest", ingest}, {"scrub", scrub}, {"disk", diskUse}, {"gc", gc}} {
		if !pattern.MatchString(b.name) {
			continue
		}
		sub := filepath.Join(work, b.name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		if err := b.run(ctx, sub); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		if err := os.RemoveAll(sub); err != nil {
			return err
		}
	}
	return nil
}

// block is the memory that a large blob is made of; its bytes repeat, which
// neither a hash nor a disk minds.
func block() []byte {
	b := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func each(b []byte, piece int64, do func(p []byte, off int64) error) error {
	for off := int64(0); off < *size; off += piece {
		n := min(piece, *size-off)
		at := off % int64(len(b))
		if err := do(b[at:at+n], off); err != nil {
			return err
		}
	}
	return nil
}

func seconds(do func() error) (float64, error) {
	began := time.Now()
	err := do()
	return time.Since(began).Seconds(), err
}

// ingest compares an ingest with the slower of its two parts.
func ingest(ctx context.Context, dir string) error {
	b := block()
	const piece = 1 << 20
	sha := sha256.New()
	hashing, err := seconds(func() error {
		return each(b, piece, func(p []byte, _ int64) error { sha.Write(p); return nil })
	})
	if err != nil {
		return err
	}
	d := digest.NewDigest(digest.SHA256, sha)
	s, err := cas.Open(filepath.Join(dir, "store"), cas.Options{Create: true})
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	writing, ingesting := 1e9, 1e9
	for range 2 { // the better of two each, in turns, since disks have moods
		w, err := seconds(func() error { return plainWrite(filepath.Join(dir, "plain"), b, piece) })
		if err != nil {
			return err
		}
		writing = min(writing, w)
		n, err := seconds(func() error { return oneIngest(ctx, s, l, d, b, piece) })
		if err != nil {
			return err
		}
		ingesting = min(ingesting, n)
		if err := s.Discard(ctx, d, "bench"); err != nil {
			return err
		}
		syscall.Sync()
	}
	gb := float64(*size) / 1e9
	report(figure{Bench: "sha256", Value: gb / hashing, Unit: "GB/s"})
	report(figure{Bench: "write+fsync", Value: gb / writing, Unit: "GB/s"})
	report(figure{"ingest", "slower of sha256 and write+fsync", ingesting / max(hashing, writing), gb / ingesting, "GB/s"})
	return nil
}

func plainWrite(path string, b []byte, piece int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = each(b, piece, func(p []byte, off int64) error { _, err := f.WriteAt(p, off); return err })
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}

func oneIngest(ctx context.Context, s *cas.Store, l *cas.Lease, d digest.Digest, b []byte, piece int64) error {
	i, err := s.Ingest(ctx, l, d, *size, cas.IngestOptions{})
	if err != nil {
		return err
	}
	defer i.Close()
	if err := each(b, piece, func(p []byte, off int64) error { _, err := i.WriteAt(p, off); return err }); err != nil {
		return err
	}
	return i.Commit(ctx)
}

// scrub compares a scrub with cat of the same file, both from a cold cache,
// and its processor time with that of a verification.
func scrub(ctx context.Context, dir string) error {
	b := block()
	sha := sha256.New()
	each(b, 1<<20, func(p []byte, _ int64) error { sha.Write(p); return nil })
	d := digest.NewDigest(digest.SHA256, sha)
	s, err := cas.Open(filepath.Join(dir, "store"), cas.Options{Create: true})
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	if err := oneIngest(ctx, s, l, d, b, 1<<20); err != nil {
		return err
	}
	path := filepath.Join(s.Root(), "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	catting, scrubbing, verifyCPU, scrubCPU := 1e9, 1e9, 1e9, 1e9
	for range 3 {
		if err := evict(path); err != nil {
			return err
		}
		c, err := seconds(func() error { return cat(path) })
		if err != nil {
			return err
		}
		catting = min(catting, c)
		if err := evict(path); err != nil {
			return err
		}
		cpu := processorTime()
		n, err := seconds(func() error {
			r, err := s.Scrub(ctx, cas.ScrubOptions{})
			if err == nil && (len(r.Findings) > 0 || r.Bytes != *size) {
				err = fmt.Errorf("scrub: %+v", r)
			}
			return err
		})
		if err != nil {
			return err
		}
		scrubbing, scrubCPU = min(scrubbing, n), min(scrubCPU, processorTime()-cpu)
		cpu = processorTime()
		if _, err := s.Verify(ctx, []digest.Digest{d}, cas.VerifyOptions{}); err != nil {
			return err
		}
		verifyCPU = min(verifyCPU, processorTime()-cpu)
	}
	gb := float64(*size) / 1e9
	report(figure{"scrub", "cat, cold cache", scrubbing / catting, gb / scrubbing, "GB/s"})
	report(figure{"scrub processor time", "sha256 verify", scrubCPU / verifyCPU, scrubCPU / gb, "s/GB"})
	return nil
}

func cat(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 128<<10) // as cat(1)
	for {
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

func processorTime() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// diskUse compares the blocks of an installed model with its bytes.
func diskUse(ctx context.Context, dir string) error {
	s, err := cas.Open(filepath.Join(dir, "store"), cas.Options{Create: true})
	if err != nil {
		return err
	}
	before, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	l, err := s.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	b := block()
	var total int64
	var entries []cas.TreeEntry
	for n := range 4 {
		part := b[n<<20:]
		d := digest.FromBytes(part)
		if err := s.Put(ctx, l, d, part); err != nil {
			return err
		}
		total += int64(len(part))
		entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("part-%d.safetensors", n), Blob: d})
	}
	if _, err := s.BuildTree(ctx, l, digest.FromString("bench"), entries); err != nil {
		return err
	}
	after, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	used := after.Total - before.Total
	report(figure{"disk use of an installed model", "its bytes", float64(used) / float64(total), float64(used), "bytes"})
	return nil
}

// gc measures collections of a large store, each in a process of its own for
// the memory.
func gc(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "store")
	s, err := cas.Open(root, cas.Options{Create: true})
	if err != nil {
		return err
	}
	if err := populate(ctx, s); err != nil {
		return err
	}
	// As the blobs of a store are: to unlink a file that never reached the
	// disk costs a fraction.
	syscall.Sync()
	best := 1e9
	for range 5 {
		n, err := seconds(func() error {
			refs, err := s.Refs()
			if err == nil && len(refs) != *models {
				err = fmt.Errorf("%d refs", len(refs))
			}
			return err
		})
		if err != nil {
			return err
		}
		best = min(best, n)
	}
	report(figure{Bench: fmt.Sprintf("list %d refs", *models), Value: best * 1000, Unit: "ms"})
	if err := collect("mark, nothing dead", root); err != nil {
		return err
	}
	for n := range *models / 10 {
		if err := s.DeleteRef(ctx, refName(n)); err != nil {
			return err
		}
	}
	if err := collect("mark and sweep, a tenth dead", root); err != nil {
		return err
	}
	return plainUnlink(filepath.Join(dir, "plain"), *blobs/10)
}

// plainUnlink measures what the file system alone takes to free as many files
// as the collection did. One that is mounted with discard and has no journal
// waits for the device at each.
func plainUnlink(dir string, n int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	path := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
	for n := range n {
		if err := os.WriteFile(path(n), make([]byte, 4096), 0o444); err != nil {
			return err
		}
	}
	syscall.Sync()
	took, err := seconds(func() error {
		for n := range n {
			if err := os.Remove(path(n)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	report(figure{Bench: fmt.Sprintf("unlink of %d files, one after the other, on this file system", n), Value: took, Unit: "s"})
	return nil
}

func refName(n int) string { return fmt.Sprintf("net/model-%d@v1", n) }

// populate makes blobs, trees and refs. The blobs are written past the API:
// a collection does not look into them.
func populate(ctx context.Context, s *cas.Store) error {
	l, err := s.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	defer l.Release()
	each := *blobs / *models
	content := make([]byte, 4096)
	for m := range *models {
		r := cas.Ref{Name: refName(m), Tree: digest.FromString(refName(m)), LastUsed: time.Now()}
		var entries []cas.TreeEntry
		for n := range each {
			copy(content, fmt.Sprintf("%d/%d", m, n))
			d := digest.FromBytes(content)
			path := filepath.Join(s.Root(), "blobs", "sha256", d.Encoded()[:2], d.Encoded())
			err := os.WriteFile(path, content, 0o444)
			if errors.Is(err, os.ErrNotExist) {
				if err = os.Mkdir(filepath.Dir(path), 0o755); err == nil {
					err = os.WriteFile(path, content, 0o444)
				}
			}
			if err != nil {
				return err
			}
			r.Blobs = append(r.Blobs, d)
			entries = append(entries, cas.TreeEntry{Path: fmt.Sprintf("part-%d", n), Blob: d})
		}
		if _, err := s.BuildTree(ctx, l, r.Tree, entries); err != nil {
			return err
		}
		if err := s.PutRef(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func collect(what, root string) error {
	cmd := exec.Command("/proc/self/exe", "-child", root)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var r childResult
	if err := json.Unmarshal(out, &r); err != nil {
		return err
	}
	prefix := fmt.Sprintf("gc of %d blobs, %d models (%s)", *blobs, *models, what)
	report(figure{Bench: prefix, Value: r.Seconds, Unit: "s"})
	report(figure{Bench: prefix + ": processor time", Value: r.CPU, Unit: "s"})
	report(figure{Bench: prefix + ": longest exclusive section", Value: r.LongestLock, Unit: "ms"})
	report(figure{Bench: prefix + ": peak memory", Value: r.PeakMiB, Unit: "MiB"})
	report(figure{Bench: prefix + ": items dropped", Value: float64(r.Dropped), Unit: "items"})
	return nil
}

type childResult struct {
	Seconds, CPU, LongestLock, PeakMiB float64
	Dropped                            int
}

func collectIn(ctx context.Context, root string) error {
	s, err := cas.Open(root, cas.Options{})
	if err != nil {
		return err
	}
	var r *cas.GCResult
	cpu := processorTime()
	took, err := seconds(func() (err error) {
		r, err = s.GC(ctx, cas.GCOptions{Proc: "/proc"})
		return err
	})
	if err != nil {
		return err
	}
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(childResult{took, processorTime() - cpu, r.LongestLock.Seconds() * 1000, peak, r.Dropped})
}

func peakMemory() (float64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kb, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(kb, "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}
