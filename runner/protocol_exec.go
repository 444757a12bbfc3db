package runner

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
)

// The exec protocol is one shot: the program is started with the request's
// arguments after its own, and what it prints is the answer. The request is
// {"args": ["…"]}.
func (r *run) setExecArgs(raw jsontext.Value) error {
	var v struct {
		Args []string `json:"args"`
	}
	if err := json.Unmarshal(raw, &v, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%w: an exec request is {\"args\": [\"…\"]}: %w", ErrTest, err)
	}
	if len(r.launch.args)+len(v.Args) > maxArgs {
		return fmt.Errorf("%w: more than %d arguments", ErrTest, maxArgs)
	}
	for _, a := range v.Args {
		if len(a) > maxArgLen || strings.ContainsRune(a, 0) {
			return fmt.Errorf("%w: an argument is too long or holds a NUL", ErrTest)
		}
	}
	r.launch.args = append(r.launch.args, v.Args...)
	return nil
}

// readExec waits for the program's end and takes its output as the answer.
func (r *run) readExec(ctx context.Context) error {
	limit := r.job.Validation.Timeout.Std()
	if limit <= 0 {
		limit = defaultAskTimeout
	}
	a := &answer{start: time.Now(), onText: r.onText}
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.box.waitEnd(wctx)
	a.took = r.box.age()
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
	if state.ExitCode != 0 {
		r.explainExit(ctx, "the program failed")
		return nil
	}
	text, _ := r.box.output(ctx)
	if err := a.add(text); err != nil {
		r.judge(ctx, a, err, limit, false)
		return nil
	}
	a.first = 0
	r.judge(ctx, a, nil, limit, false)
	return nil
}

// embeddingDigest names a vector by its little-endian float32 values.
func embeddingDigest(v []float64) digest.Digest {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	}
	return digest.FromBytes(b)
}
