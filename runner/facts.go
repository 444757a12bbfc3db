package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/terminal"
)

// GPU is one graphics processor as the driver describes it.
type GPU struct {
	Name              string `json:"name"`
	UUID              string `json:"uuid"`
	Memory            int64  `json:"memory"`            // bytes
	ComputeCapability string `json:"computeCapability"` // "9.0"; empty where the driver does not tell
}

// Facts is what the host offers to a run.
type Facts struct {
	GPUs       []GPU    `json:"gpus"`
	GPUsKnown  bool     `json:"gpusKnown"` // false: no NVIDIA driver could be asked, so GPUs says nothing
	Driver     string   `json:"driver,omitzero"`
	Memory     int64    `json:"memory"` // bytes
	CPUs       int      `json:"cpus"`
	CDIDevices []string `json:"cdiDevices,omitzero"` // vendor/class=name
}

// HostFacts asks the host what it has: its GPUs by NVML, or by nvidia-smi in
// a binary without cgo; its devices by the CDI specifications in /etc/cdi and
// /var/run/cdi. A host without a GPU is no error.
func HostFacts(ctx context.Context) (Facts, error) {
	f := Facts{CPUs: runtime.NumCPU()}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return f, err
	}
	if f.Memory = parseMemTotal(b); f.Memory <= 0 {
		return f, errors.New("/proc/meminfo: no MemTotal")
	}
	f.GPUs, f.Driver, f.GPUsKnown = queryGPUs(ctx)
	f.CDIDevices, err = cdiDevices(nil)
	return f, errors.Join(err, ctx.Err())
}

func parseMemTotal(b []byte) int64 {
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil || n > 1<<50 {
				return 0
			}
			return n << 10
		}
	}
	return 0
}

// openCDI reads the CDI specifications in dirs, or in the standard places. A
// specification that cannot be read counts as absent, as it does for the
// container engine.
func openCDI(dirs []string) (*cdi.Cache, error) {
	options := []cdi.Option{cdi.WithAutoRefresh(false)}
	if len(dirs) > 0 {
		options = append(options, cdi.WithSpecDirs(dirs...))
	} else {
		dirs = cdi.DefaultSpecDirs
	}
	for _, dir := range dirs {
		if err := checkCDI(dir); err != nil {
			return nil, fmt.Errorf("CDI specifications: %w", err)
		}
	}
	cache, err := cdi.NewCache(options...)
	if err != nil {
		return nil, fmt.Errorf("CDI specifications: %w", err)
	}
	return cache, nil
}

// maxCDI bounds one specification in bytes; one of eight GPUs has some 20 KB.
const maxCDI = 16 << 20

// checkCDI refuses specifications that other users can write, which name
// programs that the engine runs on the host, and files that cannot be read in
// bounds.
func checkCDI(dir string) error {
	isSpec := func(name string) bool { return slices.Contains([]string{".json", ".yaml"}, filepath.Ext(name)) }
	err := durable.CheckEntries(dir, isSpec)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isSpec(e.Name()) {
			continue
		}
		if _, err := durable.ReadOwn(filepath.Join(dir, e.Name()), maxCDI); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func cdiDevices(dirs []string) ([]string, error) {
	cache, err := openCDI(dirs)
	if err != nil {
		return nil, err
	}
	devices := cache.ListDevices()
	slices.Sort(devices)
	return devices, nil
}

// cdiVariables names the variables that the devices' specifications set in
// the box.
func (e *Engine) cdiVariables(devices []string) ([]string, error) {
	if len(devices) == 0 {
		return nil, nil
	}
	cache, err := openCDI(e.cdiDirs())
	if err != nil {
		return nil, err
	}
	var names []string
	add := func(env []string) {
		for _, kv := range env {
			name, _, _ := strings.Cut(kv, "=")
			names = append(names, name)
		}
	}
	for _, d := range devices {
		if dev := cache.GetDevice(d); dev != nil {
			add(dev.ContainerEdits.Env)
			add(dev.GetSpec().ContainerEdits.Env)
		}
	}
	return names, nil
}

// cdiDirs are the directories that the engine's own flags name.
func (e *Engine) cdiDirs() []string {
	var dirs []string
	for i, a := range e.args {
		v, ok := strings.CutPrefix(a, "--cdi-spec-dirs=")
		if !ok && a == "--cdi-spec-dirs" && i+1 < len(e.args) {
			v, ok = e.args[i+1], true
		}
		if ok {
			dirs = append(dirs, strings.Split(v, ",")...)
		}
	}
	return dirs
}

// checkDevices refuses a device that no specification describes, before the
// engine's own, less helpful, error.
func (e *Engine) checkDevices(want []string) error {
	if len(want) == 0 {
		return nil
	}
	have, err := cdiDevices(e.cdiDirs())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDevice, err)
	}
	for _, d := range want {
		if !slices.Contains(have, d) {
			return fmt.Errorf("%w: no CDI specification describes %s (there is: %s); write one with: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
				ErrDevice, d, terminal.Clip(strings.Join(have, ", "), 512))
		}
	}
	return nil
}
