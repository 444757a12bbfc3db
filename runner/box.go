package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

// box is one container of ours, from the moment its record is written until
// it is removed.
type box struct {
	engine *Engine
	launch *launch
	record *record
	log    *fifoLog // nil where the engine keeps the log
	id     string

	proc   *process
	netns  *os.File
	cgroup cgroup
	began  time.Time // when the engine's own time began

	stopSampling func()
	peak         int64 // bytes
	peakGPU      int64 // bytes
	peakMu       sync.Mutex
}

// boxState is what the engine says of a container.
type boxState struct {
	Pid       int
	Running   bool
	ExitCode  int
	OOMKilled bool
}

var errNotRunning = errors.New("the engine exited as soon as it was started")

// start makes the box and, if hold is set, holds its first process. On an
// error nothing is left of it, save for errNotRunning: the image's program
// was over before it could be held, and the box is returned for its log.
func (e *Engine) start(ctx context.Context, j Job, l *launch, img imageFacts, name string, hold bool) (_ *box, err error) {
	r, err := newRecord(j.StateDir, e.name, j.Name+"@"+j.Version)
	if err != nil {
		return nil, err
	}
	b := &box{engine: e, launch: l, record: r}
	defer func() {
		if err != nil && !errors.Is(err, errNotRunning) {
			err = errors.Join(err, b.close(ctx))
		}
	}()
	args := []string{"run", "--detach", "--name", r.Container, "--label", labelOf(j.StateDir), "--label", "rmodels.for=" + name}
	args = append(args, l.flags(e.traits)...)
	if e.fifoLog {
		if b.log, err = newFifoLog(r.fifoPath()); err != nil {
			return nil, err
		}
		args = append(args, "--log-driver", b.log.logURI())
	}
	args = append(args, img.id.String())
	args = append(args, l.args...)
	// Not ended by the caller's context: a half-made container leaves more
	// behind than a whole one. It takes less than a second.
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTimeout)
	defer cancel()
	var held *os.File
	if e.holdsRecord {
		held = r.f
	}
	out, err := e.callWith(cctx, nil, held, args...)
	// The image's program was started just now. The kernel's start time of its
	// process would count the container's making as the engine's loading.
	b.began = time.Now()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEngine, err)
	}
	words := strings.Fields(string(out))
	if len(words) == 0 || len(words[len(words)-1]) != 64 {
		return nil, fmt.Errorf("%w: %s run: no container id in its answer", ErrEngine, e.name)
	}
	b.id = words[len(words)-1]
	if hold {
		if err := b.hold(cctx); err != nil {
			return b, err
		}
	}
	return b, ctx.Err()
}

// hold opens the box's first process and makes sure that it is the box's: a
// number that was given to another process meanwhile would send the requests
// to the host.
func (b *box) hold(ctx context.Context) error {
	state, err := b.state(ctx)
	if err != nil {
		return err
	}
	if !state.Running || state.Pid <= 1 {
		return errNotRunning
	}
	p, err := openProcess(state.Pid)
	if err != nil {
		return errNotRunning
	}
	b.proc = p
	cg, paths, err := findCgroup(p)
	if err == nil && !slices.ContainsFunc(paths, func(s string) bool { return strings.Contains(s, b.id) }) {
		err = fmt.Errorf("process %d is in no cgroup of container %s", p.pid, b.id[:12])
	}
	if err == nil {
		b.cgroup = cg
		b.netns, err = os.Open(path.Join("/proc", strconv.Itoa(p.pid), "ns/net"))
	}
	if !p.alive() {
		return errNotRunning
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIsolation, err)
	}
	b.sample()
	return nil
}

func (b *box) state(ctx context.Context) (boxState, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := b.engine.call(ctx, "inspect", "--format", "{{json .State}}", b.record.Container)
	if err != nil {
		return boxState{}, fmt.Errorf("%w: %w", ErrEngine, err)
	}
	s, err := parseState(out)
	if err != nil {
		return s, fmt.Errorf("%w: inspect: %w", ErrEngine, err)
	}
	return s, nil
}

func parseState(out []byte) (boxState, error) {
	var s boxState
	if err := json.Unmarshal(out, &s); err != nil {
		return s, err
	}
	if s.Pid < 0 {
		return s, fmt.Errorf("pid %d", s.Pid)
	}
	return s, nil
}

// sample follows the box's memory until close.
func (b *box) sample() {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if n, err := b.cgroup.used(); err == nil {
				b.peakMu.Lock()
				b.peak = max(b.peak, n)
				b.peakMu.Unlock()
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	gpuDone := b.sampleGPU(stop)
	b.stopSampling = sync.OnceFunc(func() { close(stop); <-done; <-gpuDone })
}

// sampleGPU follows the GPU memory of the box's processes, where the run has
// devices and the driver tells.
func (b *box) sampleGPU(stop <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	if len(b.launch.devices) == 0 {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			members, err := b.cgroup.members()
			if err == nil {
				n, ok := gpuMemory(ctx, func(pid int) bool { return slices.Contains(members, pid) })
				if !ok {
					return
				}
				b.peakMu.Lock()
				b.peakGPU = max(b.peakGPU, n)
				b.peakMu.Unlock()
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return done
}

func (b *box) peakGPUMemory() int64 {
	b.peakMu.Lock()
	defer b.peakMu.Unlock()
	return b.peakGPU
}

func (b *box) peakMemory() int64 {
	b.peakMu.Lock()
	defer b.peakMu.Unlock()
	return b.peak
}

// age is how long the engine runs.
func (b *box) age() time.Duration { return time.Since(b.began) }

// output is what the box printed, its last bytes: stdout and stderr together.
func (b *box) output(ctx context.Context) (text string, total int64) {
	if b.log != nil {
		b.log.settle(100 * time.Millisecond)
		return b.log.text()
	}
	out, errs, total, err := b.engine.readLogs(ctx, b.record.Container)
	if err != nil {
		return "", 0
	}
	return out + errs, total
}

// close removes the container and every trace of it, whatever became of ctx.
// When that fails the record stays, for RemoveOrphans.
func (b *box) close(ctx context.Context) error {
	if b == nil || b.record == nil {
		return nil
	}
	if b.stopSampling != nil {
		b.stopSampling()
	}
	err := b.engine.remove(context.WithoutCancel(ctx), b.record.Container)
	if b.proc != nil {
		// rm -f returns when the container is gone from the engine's books; the
		// kernel may still be freeing a large process.
		if !b.proc.wait(stopTimeout) && err == nil {
			err = fmt.Errorf("%w: process %d of %s does not end", ErrEngine, b.proc.pid, b.record.Container)
		}
		b.proc.close()
	}
	if b.netns != nil {
		b.netns.Close()
	}
	if b.log != nil {
		b.log.close()
	}
	if err != nil {
		b.record.keep()
	} else {
		b.record.remove()
	}
	b.record = nil
	return err
}

// remove ends and removes a container by name and makes sure of it. A
// container that does not exist is a success.
func (e *Engine) remove(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	var last error
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		var out []byte
		out, last = e.call(ctx, slices.Concat([]string{"rm", "-f", "-v"}, e.rmFlags, []string{name})...)
		gone := last == nil && slices.Contains(strings.Fields(string(out)), name)
		if !gone {
			// nerdctl's exit code is 0 for an unknown container and for one that
			// it could not remove; only a removed one's name is printed. The list
			// says the truth.
			out, err := e.call(ctx, "ps", "-a", "--filter", "name="+name, "--format", "{{.Names}}")
			gone = err == nil && !slices.Contains(strings.Fields(string(out)), name)
		}
		if gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s cannot be removed; try: %s rm -f -v %s: %w", ErrEngine, name, e.name, name, errors.Join(last, context.Cause(ctx)))
		case <-time.After(wait):
		}
	}
}
