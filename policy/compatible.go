package policy

import "github.com/resultity/rmodels/snapshot"

// GPU is one device as the node reports it.
type GPU struct {
	Name              string `json:"name"`
	UUID              string `json:"uuid"`
	Memory            int64  `json:"memory"`            // bytes
	ComputeCapability string `json:"computeCapability"` // "8.0"
}

// Facts is what a node is.
type Facts struct {
	GPUs     []GPU    `json:"gpus"`
	Driver   string   `json:"driver"`
	Memory   int64    `json:"memory"`   // bytes of host memory
	DiskFree int64    `json:"diskFree"` // bytes that the store may still take; 0: unknown, not checked
	CPUs     int      `json:"cpus"`
	Engine   string   `json:"engine"` // container engine and version; "" when there is none
	Tasks    []string `json:"tasks"`  // tasks this node serves; empty: all
}

// Compatible decides whether the node can run the model, and says everything
// that it lacks.
func Compatible(doc *snapshot.Snapshot, m snapshot.Model, facts Facts) Decision {
	return Decision{Rule: "default", Reason: "nothing is admitted", Class: ClassCompatibility}
}
