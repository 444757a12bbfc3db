package runner

import "context"

// GPU is one graphics processor as NVML describes it.
type GPU struct {
	Name              string `json:"name"`
	UUID              string `json:"uuid"`
	Memory            int64  `json:"memory"` // bytes
	ComputeCapability string `json:"computeCapability"`
}

// Facts is what the host offers to a run.
type Facts struct {
	GPUs       []GPU    `json:"gpus"`
	GPUsKnown  bool     `json:"gpusKnown"` // false: NVML could not be asked, so GPUs says nothing
	Driver     string   `json:"driver,omitzero"`
	Memory     int64    `json:"memory"` // bytes
	CPUs       int      `json:"cpus"`
	CDIDevices []string `json:"cdiDevices,omitzero"` // vendor/class=name
}

// HostFacts asks the host what it has.
func HostFacts(ctx context.Context) (Facts, error) { return Facts{}, ctx.Err() }
