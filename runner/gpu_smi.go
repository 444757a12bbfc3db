package runner

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/resultity/rmodels/internal/terminal"
)

const smiTimeout = 10 * time.Second

// smi asks nvidia-smi, which stands beside every NVIDIA driver.
func smi(ctx context.Context, query string) ([]byte, error) {
	path, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, smiTimeout)
	defer cancel()
	out := &boundedBuffer{max: 256 << 10}
	cmd := exec.CommandContext(ctx, path, query, "--format=csv,noheader,nounits")
	cmd.Env, cmd.Stdout, cmd.WaitDelay = callEnvironment(), out, time.Second
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	if out.over {
		return nil, errTooLong
	}
	return out.b, nil
}

func smiGPUs(ctx context.Context) (gpus []GPU, driver string, known bool) {
	out, err := smi(ctx, "--query-gpu=name,uuid,memory.total,compute_cap,driver_version")
	if err != nil {
		return nil, "", false
	}
	gpus, driver, err = parseSMI(out)
	return gpus, driver, err == nil
}

// parseSMI reads lines of "name, uuid, MiB, capability, driver".
func parseSMI(out []byte) (gpus []GPU, driver string, err error) {
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		f := strings.Split(line, ",")
		if len(f) != 5 || len(gpus) == 256 {
			return nil, "", fmt.Errorf("nvidia-smi: unreadable line %q", terminal.Clip(oneLine(line), 128))
		}
		for i := range f {
			f[i] = terminal.Clip(oneLine(f[i]), 128)
		}
		mib, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || mib < 0 || mib > 1<<30 || f[1] == "" {
			return nil, "", fmt.Errorf("nvidia-smi: unreadable line %q", terminal.Clip(oneLine(line), 128))
		}
		g := GPU{Name: f[0], UUID: f[1], Memory: mib << 20}
		if _, err := strconv.ParseFloat(f[3], 64); err == nil {
			g.ComputeCapability = f[3]
		}
		gpus, driver = append(gpus, g), f[4]
	}
	if len(gpus) == 0 {
		return nil, "", errors.New("nvidia-smi: no GPU")
	}
	return gpus, driver, nil
}

// smiMemory is the GPU memory that the given processes hold, in bytes.
func smiMemory(ctx context.Context, member func(pid int) bool) (int64, bool) {
	out, err := smi(ctx, "--query-compute-apps=pid,used_memory")
	if err != nil {
		return 0, false
	}
	return parseSMIMemory(out, member), true
}

// parseSMIMemory reads lines of "pid, MiB"; a process whose memory the driver
// does not tell counts as none.
func parseSMIMemory(out []byte, member func(pid int) bool) int64 {
	var sum int64
	for line := range strings.Lines(string(out)) {
		p, m, _ := strings.Cut(strings.TrimSpace(line), ",")
		pid, err := strconv.Atoi(strings.TrimSpace(p))
		mib, merr := strconv.ParseInt(strings.TrimSpace(m), 10, 64)
		if err == nil && merr == nil && mib > 0 && mib < 1<<30 && sum < 1<<60 && member(pid) {
			sum += mib << 20
		}
	}
	return sum
}
