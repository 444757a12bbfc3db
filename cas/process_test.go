package cas_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// The tests run workers in processes of their own: this binary again, with the
// worker's name in the environment.
const workerEnv = "RMODELS_CAS_WORKER"

var workers = map[string]func(ctx context.Context, s *cas.Store, args []string) error{
	"ingest": workIngest,
	"hold":   workHold,
	"pull":   workPull,
	"gc":     workGC,
	"scrub":  workScrub,
	"flock":  flockWorker,
	"deep":   workDeep,
	"blind":  workBlind,
}

func TestMain(m *testing.M) {
	name := os.Getenv(workerEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	s, err := cas.Open(os.Args[1], cas.Options{})
	if err == nil {
		err = workers[name](context.Background(), s, os.Args[2:])
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// process is a worker under way.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
	ended bool
}

func start(t *testing.T, s *cas.Store, worker string, args ...string) *process {
	t.Helper()
	return startAs(t, exec.Command("/proc/self/exe", append([]string{s.Root()}, args...)...), worker)
}

func startAs(t *testing.T, cmd *exec.Cmd, worker string) *process {
	t.Helper()
	cmd.Env = append(os.Environ(), workerEnv+"="+worker)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	p := &process{t: t, cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(p.kill)
	return p
}

// until reads the worker's output up to a line that begins with word, and
// returns the rest of it.
func (p *process) until(word string) string {
	p.t.Helper()
	for p.lines.Scan() {
		if rest, ok := strings.CutPrefix(p.lines.Text(), word); ok {
			return strings.TrimSpace(rest)
		}
		if strings.HasPrefix(p.lines.Text(), "error") {
			p.t.Fatalf("worker: %s", p.lines.Text())
		}
	}
	p.t.Fatalf("the worker ended before it said %q", word)
	return ""
}

// kill ends the worker as a crash would.
func (p *process) kill() {
	if !p.ended {
		p.ended = true
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
}

// workIngest writes the content of a seed in pieces and reports the bytes that
// it had to write; args: seed, size, piece, checkpoint bytes, and how many
// bytes to write before it waits to be killed.
func workIngest(ctx context.Context, s *cas.Store, args []string) error {
	var n [5]int
	for i, a := range args {
		n[i], _ = strconv.Atoi(a)
	}
	b, d := content(uint64(n[0]), n[1])
	l, err := s.Lease(ctx, "worker", d)
	if err != nil {
		return err
	}
	i, err := s.Ingest(ctx, l, d, int64(len(b)), cas.IngestOptions{
		CheckpointBytes: int64(n[3]),
		OnWait:          func(done, total int64) { fmt.Println("waiting", done, total) },
	})
	if errors.Is(err, cas.ErrExists) {
		fmt.Println("exists")
		return l.Release()
	}
	if err != nil {
		return err
	}
	fmt.Println("resumed", i.Done())
	written := 0
	for _, r := range i.Missing() {
		for off := r.Off; off < r.Off+r.Len; {
			piece := min(int64(n[2]), r.Off+r.Len-off)
			if _, err := i.WriteAt(b[off:off+piece], off); err != nil {
				return err
			}
			off += piece
			if written += int(piece); written == n[4] {
				fmt.Println("wrote", written)
				time.Sleep(time.Hour)
			}
		}
	}
	if err := i.Commit(ctx); err != nil {
		return err
	}
	fmt.Println("committed", written)
	return l.Release()
}

// workHold leases what it is told to and waits to be killed.
func workHold(ctx context.Context, s *cas.Store, args []string) error {
	var ds []digest.Digest
	for _, a := range args {
		ds = append(ds, digest.Digest(a))
	}
	if _, err := s.Lease(ctx, "holder", ds...); err != nil {
		return err
	}
	fmt.Println("holding")
	time.Sleep(time.Hour)
	return nil
}

func TestKilledIngestResumes(t *testing.T) {
	s := newStore(t)
	const size, piece, every = 32 << 20, 256 << 10, 1 << 20
	b, d := content(11, size)
	done, fetched := 0, 0
	for crashes := 0; ; crashes++ {
		before := 6 << 20
		if crashes == 4 {
			before = 0
		}
		p := start(t, s, "ingest", "11", strconv.Itoa(size), strconv.Itoa(piece), strconv.Itoa(every), strconv.Itoa(before))
		resumed, _ := strconv.Atoi(p.until("resumed"))
		if resumed < done {
			t.Fatalf("resumed at %d bytes, %d were checkpointed", resumed, done)
		}
		if crashes == 4 {
			last, _ := strconv.Atoi(p.until("committed"))
			fetched += last
			break
		}
		p.until("wrote")
		fetched += before
		untilCheckpointed(t, s, d, size, resumed+before-every)
		p.kill()
		done = checkpointed(t, s, d, size)
	}
	if fetched > size+4*every {
		t.Errorf("wrote %d bytes of a blob of %d through 4 crashes", fetched, size)
	}
	if !bytes.Equal(read(t, s, d), b) {
		t.Error("published something else")
	}
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// untilCheckpointed waits, as another process that wants the blob, until its
// writer has checkpointed want bytes.
func untilCheckpointed(t *testing.T, s *cas.Store, d digest.Digest, size int64, want int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := s.Ingest(ctx, lease(t, s), d, size, cas.IngestOptions{OnWait: func(done, _ int64) {
		if done >= int64(want) {
			cancel()
		}
	}})
	wantError(t, err, context.Canceled)
}

// checkpointed is what the next ingest will not ask for.
func checkpointed(t *testing.T, s *cas.Store, d digest.Digest, size int64) int {
	t.Helper()
	i, err := s.Ingest(t.Context(), lease(t, s), d, size, cas.IngestOptions{})
	must(t, err)
	defer i.Close()
	return int(i.Done())
}

func TestProcessesShareAnIngest(t *testing.T) {
	s := newStore(t)
	args := []string{"12", strconv.Itoa(64 << 20), strconv.Itoa(64 << 10), strconv.Itoa(1 << 20)}
	first := start(t, s, "ingest", append(args, strconv.Itoa(16<<20))...)
	first.until("wrote")
	second := start(t, s, "ingest", args...)
	second.until("waiting")
	first.kill()
	resumed, _ := strconv.Atoi(second.until("resumed"))
	written, _ := strconv.Atoi(second.until("committed"))
	if resumed+written != 64<<20 {
		t.Errorf("resumed at %d, wrote %d", resumed, written)
	}
	start(t, s, "ingest", args...).until("exists")
}

func TestKilledLeaseProtectsNothing(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	p := start(t, s, "hold", string(m.manifest))
	p.until("holding")
	must(t, l.Release())
	gc(t, s, cas.GCOptions{})
	if !m.present(t, s) {
		t.Fatal("another process's lease did not protect")
	}
	p.kill()
	gc(t, s, cas.GCOptions{})
	if m.present(t, s) || len(list(t, s, "leases")) > 0 {
		t.Error("a dead process's lease protects")
	}
}
