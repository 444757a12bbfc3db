//go:build cgo

package runner

import (
	"context"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// queryGPUs asks NVML, the driver's own library, and nvidia-smi where the
// library cannot be loaded. known is false when neither answers.
func queryGPUs(ctx context.Context) (gpus []GPU, driver string, known bool) {
	if nvml.Init() != nvml.SUCCESS {
		return smiGPUs(ctx)
	}
	defer nvml.Shutdown()
	driver, ret := nvml.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		return smiGPUs(ctx)
	}
	n, ret := nvml.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return smiGPUs(ctx)
	}
	for i := range n {
		d, ret := nvml.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		var g GPU
		memory, ret := d.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			continue
		}
		g.Memory = int64(memory.Total)
		if g.Name, ret = d.GetName(); ret != nvml.SUCCESS {
			continue
		}
		if g.UUID, ret = d.GetUUID(); ret != nvml.SUCCESS {
			continue
		}
		if major, minor, ret := d.GetCudaComputeCapability(); ret == nvml.SUCCESS {
			g.ComputeCapability = fmt.Sprintf("%d.%d", major, minor)
		}
		gpus = append(gpus, g)
	}
	return gpus, driver, true
}

// gpuMemory is the GPU memory that the given processes hold now, in bytes.
func gpuMemory(ctx context.Context, member func(pid int) bool) (int64, bool) {
	if nvml.Init() != nvml.SUCCESS {
		return smiMemory(ctx, member)
	}
	defer nvml.Shutdown()
	n, ret := nvml.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return 0, false
	}
	var sum int64
	for i := range n {
		d, ret := nvml.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		processes, ret := d.GetComputeRunningProcesses()
		if ret != nvml.SUCCESS {
			continue
		}
		for _, p := range processes {
			// All ones: the driver does not tell.
			if p.UsedGpuMemory != ^uint64(0) && member(int(p.Pid)) {
				sum += int64(p.UsedGpuMemory)
			}
		}
	}
	return sum, true
}
