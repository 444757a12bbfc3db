package runner

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/runner/probe"
	"github.com/resultity/rmodels/snapshot"
)

// The inside proof runs the probe as the box's only program, under the flags
// that the engine will get. It is kept for identical flags, image, engine
// version and boot.

const (
	probeTarget  = "/rmodels-probe" // where the probe's binary is mounted in the box
	probeTimeout = 60 * time.Second
	probeReport  = 256 << 10 // bytes
	maxProofs    = 64
)

// proof is an inside proof as it is kept. Only closed boxes are kept.
type proof struct {
	Key    string    `json:"key"`
	Made   time.Time `json:"made"`
	Checks []Check   `json:"checks"`
}

// selfProbe says that this process's binary can serve as the probe.
var selfProbe atomic.Bool

// Main must be called first in the main function of a program that runs
// models: started under the probe's name, the program is the probe and Main
// does not return. A static rmodels binary needs no other probe.
func Main() {
	if len(os.Args) > 1 && os.Args[1] == probe.Arg {
		os.Exit(probe.Main(os.Args[2:], os.Stdout))
	}
	selfProbe.Store(true)
}

// findProbe finds the probe's static binary: the one that was configured,
// rmodels-probe beside this program, or this program itself.
func findProbe(configured string) (string, error) {
	var candidates []string
	self, err := os.Executable()
	if configured != "" {
		candidates = []string{configured}
	} else if err == nil {
		candidates = append(candidates, filepath.Join(filepath.Dir(self), "rmodels-probe"))
		if selfProbe.Load() {
			candidates = append(candidates, self)
		}
	}
	var why []string
	for _, c := range candidates {
		if err := checkProbe(c); err != nil {
			why = append(why, err.Error())
			continue
		}
		return c, nil
	}
	return "", fmt.Errorf("%w: there is no static probe to look at the container from within (%s); build rmodels with CGO_ENABLED=0, or put rmodels-probe beside it",
		ErrProbe, strings.Join(why, "; "))
}

// checkProbe wants a static program that everyone may execute and that can be
// named in --mount.
func checkProbe(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsAny(path, ",\"\n\r") {
		return fmt.Errorf("%q cannot be mounted", path)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := durable.CheckProgram(path); err != nil {
		return err
	}
	if fi.Mode().Perm()&0o001 == 0 {
		return fmt.Errorf("%s may not be executed by everyone", path)
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static", path)
		}
	}
	return nil
}

// proofKey is what a proof holds for.
func (r *run) proofKey(probePath string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(probePath)
	if err != nil {
		return "", err
	}
	l := *r.launch
	// Another model in the same box is the same box; what is mounted and how is
	// looked at from outside on each run. So is the program that runs in it.
	l.modelDir, l.seccomp, l.entrypoint, l.binds = snapshot.ModelTarget, seccompDigest.String(), "", nil
	key, err := json.Marshal([]any{
		l.flags(r.engine.traits), r.image.id, r.engine.name, r.engine.version, r.engine.args, string(boot),
		fi.Size(), fi.ModTime().UnixNano(),
	})
	if err != nil {
		return "", err
	}
	return digest.FromBytes(key).Encoded(), nil
}

// proveInside returns the inside checks, from a kept proof or a new one.
func (r *run) proveInside(ctx context.Context) ([]Check, string, error) {
	path, err := findProbe(r.engine.probe)
	if err != nil {
		return nil, "", err
	}
	key, err := r.proofKey(path)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrIsolation, err)
	}
	file := filepath.Join(r.job.StateDir, "proof-"+key[:32]+".json")
	if p, err := readProof(file, key); err == nil {
		return p.Checks, "cache", nil
	}
	r.note("proving from within that the container is sealed")
	report, err := r.probe(ctx, path)
	if err != nil {
		return nil, "", err
	}
	checks := make([]Check, 0, len(report.Tries))
	for _, t := range report.Tries {
		checks = append(checks, Check{Name: terminal.Clip(oneLine(t.Name), 128), Where: "inside", Passed: t.Closed, Found: terminal.Clip(oneLine(t.Found), 512)})
	}
	if allPassed(checks) {
		if err := writeProof(file, proof{Key: key, Made: time.Now(), Checks: checks}); err != nil {
			return nil, "", err
		}
	}
	return checks, "run", nil
}

// probe runs the probe in a box of the engine's flags.
func (r *run) probe(ctx context.Context, path string) (*probe.Report, error) {
	b, err := layBait(r.job.StateDir)
	if err != nil {
		return nil, fmt.Errorf("%w: the probe's bait: %w", ErrIsolation, err)
	}
	defer b.remove()
	l := *r.launch
	known, err := r.engine.cdiVariables(l.devices)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevice, err)
	}
	plan, err := json.Marshal(r.probePlan(b, known))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIsolation, err)
	}
	l.entrypoint, l.args = probeTarget, []string{probe.Arg, "try", string(plan)}
	l.binds = append(slices.Clone(l.binds), bind{source: path, target: probeTarget})
	began := time.Now()
	box, err := r.engine.start(ctx, r.job, &l, r.image, "probe", false)
	if err != nil {
		return nil, err
	}
	out, err := box.await(ctx, probeTimeout)
	if cerr := box.close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the probe: %w", ErrIsolation, err)
	}
	report, err := parseReport(out)
	if err != nil {
		return nil, fmt.Errorf("%w: the probe after %s: %w: %s", ErrIsolation, time.Since(began).Round(time.Millisecond), err, terminal.ClipTail(oneLine(string(out)), 512))
	}
	return report, nil
}

func (r *run) probePlan(b *bait, known []string) probe.Plan {
	plan := probe.Plan{
		Model: snapshot.ModelTarget, TCP: b.tcp, Nowhere: b.nowhere, Socket: b.socket, VSock: b.vsock,
		Files:   []string{b.file, r.job.StateDir, "/run/containerd/containerd.sock", "/var/run/docker.sock", "/run/podman/podman.sock"},
		Env:     append([]string{"PATH", "HOME", "HOSTNAME", "TERM", "container"}, known...),
		Devices: len(r.launch.devices) > 0, Pids: r.launch.pids, Memory: r.launch.memory,
	}
	plan.Env = append(plan.Env, slices.Collect(maps.Keys(r.image.env))...)
	for _, kv := range r.launch.env {
		name, _, _ := strings.Cut(kv, "=")
		plan.Env = append(plan.Env, name)
	}
	for _, t := range r.launch.tmpfs {
		plan.Tmpfs = append(plan.Tmpfs, probe.Tmpfs{Path: t.path, Size: t.size, Exec: t.exec})
	}
	plan.Tmpfs = append(plan.Tmpfs, probe.Tmpfs{Path: "/dev/shm", Size: r.launch.shm})
	return plan
}

// parseReport wants one whole report. Anything less is no proof.
func parseReport(out []byte) (*probe.Report, error) {
	r, err := probe.ReadReport(out)
	if err != nil {
		return nil, err
	}
	if len(r.Tries) < minTries {
		return nil, fmt.Errorf("its report of %d attempts is not whole", len(r.Tries))
	}
	return r, nil
}

// minTries is fewer than any probe makes; a report of less is not one.
const minTries = 60

// await reads the probe's report: all that the box prints until the report's
// last line.
func (b *box) await(ctx context.Context, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	every := 5 * time.Millisecond
	if b.log == nil {
		// Not by the engine's wait: podman's takes 20 s longer where its monitor
		// could not note the end.
		every = 50 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		text, total, err := b.printed(ctx)
		if err != nil {
			return nil, err
		}
		if total > probeReport {
			return nil, errTooLong
		}
		if probe.Whole([]byte(text)) {
			return []byte(text), nil
		}
		select {
		case <-ctx.Done():
			return []byte(text), context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// printed is what the box has printed so far.
func (b *box) printed(ctx context.Context) (text string, total int64, err error) {
	if b.log != nil {
		text, total = b.log.text()
		return text, total, nil
	}
	out, errs, total, err := b.engine.readLogs(ctx, b.record.Container)
	if out == "" {
		out = errs
	}
	return out, total, err
}

func readProof(path, key string) (*proof, error) {
	b, err := durable.ReadFile(path, probeReport)
	if err != nil {
		return nil, err
	}
	var p proof
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return nil, err
	}
	if p.Key != key || len(p.Checks) < minTries || !allPassed(p.Checks) {
		return nil, errors.New("it is another box's proof")
	}
	return &p, nil
}

// writeProof keeps a proof and drops the oldest ones.
func writeProof(path string, p proof) error {
	b, err := json.Marshal(p)
	if err == nil {
		err = durable.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStateDir, err)
	}
	old, err := filepath.Glob(filepath.Join(filepath.Dir(path), "proof-*.json"))
	if err != nil || len(old) <= maxProofs {
		return nil
	}
	age := func(path string) time.Time {
		fi, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return fi.ModTime()
	}
	slices.SortFunc(old, func(a, b string) int { return age(a).Compare(age(b)) })
	for _, path := range old[:len(old)-maxProofs] {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrStateDir, err)
		}
	}
	return nil
}
