package policy

import (
	"slices"
	"strings"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/snapshot"
)

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
	DiskFree int64    `json:"diskFree"` // bytes that the store may still take; 0: not stated, not asked
	CPUs     int      `json:"cpus"`
	Engine   string   `json:"engine"` // container engine and version, for the record
	Tasks    []string `json:"tasks"`  // tasks that this node serves; empty: all
}

// Compatible decides whether the node can run the model, and says everything
// that it lacks, not only the first thing. A fact that is not known counts as
// lacking when the model asks for it.
func Compatible(doc *snapshot.Snapshot, m snapshot.Model, facts Facts) Decision {
	if doc == nil {
		return refuse(ClassCompatibility, "models", "there is no accepted snapshot", "", "")
	}
	rule := "models[" + m.ID() + "].compat"
	rt, ok := doc.Runtime(m.Compat.Runtime)
	if !ok {
		return refuse(ClassCompatibility, rule+".runtime", "the runtime is not listed", m.Compat.Runtime, "none")
	}
	var short, needs, has []string
	lack := func(need, instead string) {
		short, needs, has = append(short, need+", "+instead), append(needs, need), append(has, instead)
	}

	if c := m.Compat.RuntimeVersion; c != "" {
		if ok, why := snapshot.InRange(c, rt.Version); !ok {
			lack("needs runtime "+rt.Name+" "+c, "the snapshot has "+rt.Version+why)
		}
	}
	gpuShortfalls(m, rt, facts, lack)
	if c := m.Compat.Driver; c != "" {
		if facts.Driver == "" {
			lack("needs GPU driver "+c, "this node reports none")
		} else if ok, why := snapshot.InRange(c, facts.Driver); !ok {
			lack("needs GPU driver "+c, "this node has "+facts.Driver+why)
		}
	}
	if need := int64(m.Compat.Memory); need > facts.Memory {
		lack("needs "+amount.Bytes(need)+" memory", "this node has "+amount.Bytes(facts.Memory))
	}
	if facts.DiskFree > 0 && m.Size > facts.DiskFree {
		lack("needs "+amount.Bytes(m.Size)+" of disk", "this node has "+amount.Bytes(facts.DiskFree)+" free")
	}
	if len(facts.Tasks) > 0 && len(m.Compat.Tasks) > 0 &&
		!slices.ContainsFunc(m.Compat.Tasks, func(t string) bool { return slices.Contains(facts.Tasks, t) }) {
		lack("is for "+strings.Join(m.Compat.Tasks, ", "), "this node serves "+strings.Join(facts.Tasks, ", "))
	}
	if len(short) > 0 {
		d := refuse(ClassCompatibility, rule, strings.Join(short, "; "), strings.Join(needs, "; "), strings.Join(has, "; "))
		d.Shortfalls = short
		return d
	}
	return Decision{Allowed: true, Rule: rule, Reason: "this node meets every requirement"}
}

// gpuShortfalls looks for one GPU that has both the memory and the compute
// capability; two that have one each do not help.
func gpuShortfalls(m snapshot.Model, rt snapshot.Runtime, facts Facts, lack func(need, instead string)) {
	memory, capability := int64(m.Compat.GPUMemory), m.Compat.ComputeCapability
	if len(facts.GPUs) == 0 {
		if memory > 0 {
			lack("needs "+amount.Bytes(memory)+" GPU memory", "this node has no GPU")
		}
		if capability != "" {
			lack("needs a GPU with compute capability "+capability, "this node has no GPU")
		}
		if rt.GPU == "required" && memory == 0 && capability == "" {
			lack("runtime "+rt.Name+" needs a GPU", "this node has none")
		}
		return
	}
	var largest int64
	var capabilities []string
	both, roomy, able := false, false, false
	for _, g := range facts.GPUs {
		room := g.Memory >= memory
		fits := capability == ""
		if !fits && g.ComputeCapability != "" {
			fits, _ = snapshot.InRange(capability, g.ComputeCapability)
		}
		roomy, able, both = roomy || room, able || fits, both || room && fits
		largest = max(largest, g.Memory)
		capabilities = append(capabilities, g.ComputeCapability)
	}
	if !roomy {
		lack("needs "+amount.Bytes(memory)+" GPU memory", "this node's largest GPU has "+amount.Bytes(largest))
	}
	if !able {
		lack("needs compute capability "+capability, "this node has "+strings.Join(capabilities, ", "))
	}
	if roomy && able && !both {
		lack("needs one GPU with "+amount.Bytes(memory)+" memory and compute capability "+capability, "this node's GPUs have only one of the two")
	}
}
