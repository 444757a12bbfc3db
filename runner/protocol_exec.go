package runner

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/runner/probe"
	"github.com/resultity/rmodels/snapshot"
)

// The exec protocol is one shot: the program is started with the request's
// arguments after its own, and its stdout is the answer. The request is
// {"args": ["…"]}.
func (r *run) setExecArgs(raw jsontext.Value) error {
	args, err := snapshot.Validation{Request: raw}.ExecArgs()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTest, err)
	}
	if len(r.launch.args)+len(args) > maxArgs {
		return fmt.Errorf("%w: more than %d arguments", ErrTest, maxArgs)
	}
	r.launch.args = append(r.launch.args, args...)
	return nil
}

// holdProgram puts the probe in front of the program: it waits in the box
// until the outside proof has passed, then runs the program and keeps its
// stdout and stderr apart.
func (r *run) holdProgram() error {
	path, err := findProbe(r.engine.probe)
	if err != nil {
		return err
	}
	var words []string
	switch {
	case r.launch.entrypoint != "":
		words = append([]string{r.launch.entrypoint}, r.launch.args...)
	case len(r.launch.args) > 0:
		words = append(slices.Clone(r.image.command[:r.image.entries]), r.launch.args...)
	default:
		words = r.image.command
	}
	if len(words) == 0 {
		return fmt.Errorf("%w: neither the runtime nor its image names a program", ErrRuntime)
	}
	r.launch.entrypoint = probeTarget
	r.launch.args = append([]string{probe.Arg, "hold"}, words...)
	r.launch.binds = append(r.launch.binds, bind{source: path, target: probeTarget})
	return nil
}

// readExec releases the program, waits for its end and takes its stdout as
// the answer.
func (r *run) readExec(ctx context.Context) error {
	limit := r.job.Validation.Timeout.Std()
	if limit <= 0 {
		limit = defaultAskTimeout
	}
	a := &answer{start: time.Now(), onText: r.onText}
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := r.box.release(wctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrIsolation, err)
	}
	r.loaded, a.start = r.box.age(), time.Now()
	r.box.waitEnd(wctx)
	a.took = time.Since(a.start)
	r.asked = a.took
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if r.box.proc.alive() {
		r.judge(ctx, a, context.DeadlineExceeded, limit, true)
		return nil
	}
	state, err := r.box.state(ctx)
	if err != nil {
		return err
	}
	framed, total := r.box.output(ctx)
	stdout, stderr, err := probe.Unframe([]byte(framed))
	if total > logLimit {
		err = fmt.Errorf("%w: it printed %d bytes, at most %d", errTooLong, total, logLimit)
	}
	shown := stderr
	if len(shown) == 0 {
		shown = stdout
	}
	r.verdict.LogTail, r.verdict.LogBytes = terminal.ClipTail(terminal.Clean(string(shown)), logTail), total
	if state.ExitCode != 0 {
		r.explainExit(ctx, "the program failed")
		return nil
	}
	if err == nil {
		err = a.add(string(stdout))
	}
	a.first = 0
	r.judge(ctx, a, err, limit, false)
	return nil
}

// release waits until the probe can take the signal, and sends it.
func (b *box) release(ctx context.Context) error {
	for b.log != nil {
		if _, total := b.log.text(); total > 0 {
			break
		}
		if b.proc.wait(5*time.Millisecond) || ctx.Err() != nil {
			return errEnded
		}
	}
	// Without a FIFO the log is not followed. The signal is blocked for the
	// first process of a pid namespace until it asks for it, so it is sent
	// until the program is there.
	for {
		if err := unix.PidfdSendSignal(b.proc.pidfd, unix.SIGUSR1, nil, 0); err != nil {
			return err
		}
		if members, err := b.cgroup.members(); b.log != nil || err != nil || len(members) > 1 {
			return err
		}
		if b.proc.wait(10*time.Millisecond) || ctx.Err() != nil {
			return nil
		}
	}
}

// embeddingDigest names a vector by its little-endian float32 values.
func embeddingDigest(v []float64) digest.Digest {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	}
	return digest.FromBytes(b)
}
