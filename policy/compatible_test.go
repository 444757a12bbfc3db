package policy_test

import (
	"strings"
	"testing"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

func TestCompatible(t *testing.T) {
	const gib = 1 << 30
	doc := &snapshot.Snapshot{Runtimes: []snapshot.Runtime{
		{Name: "vllm", Version: "0.11.2", GPU: "required"}, {Name: "cpu", Version: "1.0.0-rc1", GPU: "none"},
	}}
	a100 := policy.GPU{Name: "A100", Memory: 80 * gib, ComputeCapability: "8.0"}
	t4 := policy.GPU{Name: "T4", Memory: 16 * gib, ComputeCapability: "7.5"}
	small := policy.GPU{Name: "RTX", Memory: 8 * gib, ComputeCapability: "8.9"}
	for _, c := range []struct {
		name   string
		compat snapshot.Compat
		size   int64
		facts  policy.Facts
		want   []string // words of each shortfall in order; nil: compatible
	}{
		{"nothing asked", snapshot.Compat{Runtime: "cpu"}, 1, policy.Facts{}, nil},
		{"no runtime", snapshot.Compat{Runtime: "none"}, 1, policy.Facts{}, []string{}},
		{"gpu required", snapshot.Compat{Runtime: "vllm"}, 1, policy.Facts{}, []string{"vllm needs a GPU, this node has none"}},
		{"memory without gpu", snapshot.Compat{Runtime: "vllm", GPUMemory: 80 * gib}, 1, policy.Facts{}, []string{"needs 80 GiB GPU memory, this node has no GPU"}},
		{"memory", snapshot.Compat{Runtime: "vllm", GPUMemory: 16 * gib}, 1, policy.Facts{GPUs: []policy.GPU{small}}, []string{"needs 16 GiB GPU memory, this node's largest GPU has 8 GiB"}},
		{"memory met", snapshot.Compat{Runtime: "vllm", GPUMemory: 16 * gib}, 1, policy.Facts{GPUs: []policy.GPU{t4}}, nil},
		{"capability", snapshot.Compat{Runtime: "vllm", ComputeCapability: ">=8.0"}, 1, policy.Facts{GPUs: []policy.GPU{t4}}, []string{"compute capability >=8.0, this node has 7.5"}},
		{"capability met", snapshot.Compat{Runtime: "vllm", ComputeCapability: ">=8.0"}, 1, policy.Facts{GPUs: []policy.GPU{t4, a100}}, nil},
		{"capability unknown", snapshot.Compat{Runtime: "vllm", ComputeCapability: ">=8.0"}, 1, policy.Facts{GPUs: []policy.GPU{{Memory: gib}}}, []string{"compute capability"}},
		{"no single gpu", snapshot.Compat{Runtime: "vllm", GPUMemory: 16 * gib, ComputeCapability: ">=8.0"}, 1, policy.Facts{GPUs: []policy.GPU{t4, small}}, []string{"one GPU with 16 GiB"}},
		{"runtime version", snapshot.Compat{Runtime: "vllm", RuntimeVersion: ">=0.10 <0.11"}, 1, policy.Facts{GPUs: []policy.GPU{t4}}, []string{"needs runtime vllm >=0.10 <0.11, the snapshot has 0.11.2"}},
		{"runtime version met", snapshot.Compat{Runtime: "vllm", RuntimeVersion: ">=0.10 <0.13"}, 1, policy.Facts{GPUs: []policy.GPU{t4}}, nil},
		{"pre-release", snapshot.Compat{Runtime: "cpu", RuntimeVersion: ">=0.9"}, 1, policy.Facts{}, []string{"pre-release"}},
		{"driver", snapshot.Compat{Runtime: "cpu", Driver: ">=550"}, 1, policy.Facts{Driver: "535.104.05"}, []string{"needs GPU driver >=550, this node has 535.104.05"}},
		{"driver met", snapshot.Compat{Runtime: "cpu", Driver: ">=550"}, 1, policy.Facts{Driver: "550.54.15"}, nil},
		{"driver of four parts", snapshot.Compat{Runtime: "cpu", Driver: ">=30"}, 1, policy.Facts{Driver: "31.0.15.3623"}, nil},
		{"no driver", snapshot.Compat{Runtime: "cpu", Driver: ">=550"}, 1, policy.Facts{}, []string{"reports none"}},
		{"host memory", snapshot.Compat{Runtime: "cpu", Memory: 64 * gib}, 1, policy.Facts{Memory: 32*gib + gib/2}, []string{"needs 64 GiB memory, this node has 32.5 GiB"}},
		{"disk", snapshot.Compat{Runtime: "cpu"}, 100 * gib, policy.Facts{DiskFree: gib}, []string{"needs 100 GiB of disk, this node has 1 GiB free"}},
		{"disk not stated", snapshot.Compat{Runtime: "cpu"}, 100 * gib, policy.Facts{}, nil},
		{"tasks", snapshot.Compat{Runtime: "cpu", Tasks: []string{"embedding"}}, 1, policy.Facts{Tasks: []string{"chat"}}, []string{"is for embedding, this node serves chat"}},
		{"tasks met", snapshot.Compat{Runtime: "cpu", Tasks: []string{"embedding", "chat"}}, 1, policy.Facts{Tasks: []string{"chat"}}, nil},
		{"all at once", snapshot.Compat{Runtime: "vllm", GPUMemory: gib, Memory: gib, Driver: ">=1"}, 1, policy.Facts{}, []string{"GPU memory", "driver", "memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.Compatible(doc, snapshot.Model{Name: "m", Version: "v1", Size: c.size, Compat: c.compat}, c.facts)
			if d.Allowed != (c.want == nil) || !d.Allowed && d.Class != policy.ClassCompatibility {
				t.Fatalf("%+v", d)
			}
			if len(d.Shortfalls) != len(c.want) {
				t.Fatalf("%q", d.Shortfalls)
			}
			for i, w := range c.want {
				if !strings.Contains(d.Shortfalls[i], w) {
					t.Errorf("%q does not say %q", d.Shortfalls[i], w)
				}
			}
		})
	}
}

func TestListed(t *testing.T) {
	m := snapshot.Model{Name: "tiny", Version: "v1", Reference: repository + "@" + manifest.String()}
	doc := &snapshot.Snapshot{Sequence: 7, Models: []snapshot.Model{m}}
	if d := policy.Listed(doc, "tiny", "v1"); !d.Allowed || d.Rule != "models[tiny@v1]" {
		t.Errorf("%+v", d)
	}
	wantRefused(t, policy.Listed(doc, "tiny", "v2"), policy.ClassListing, "models", "version v1")
	wantRefused(t, policy.Listed(doc, "other", "v1"), policy.ClassListing, "models", "no model of that name")
	doc.Revocations = []snapshot.Revocation{{Digest: manifest}}
	wantRefused(t, policy.Listed(doc, "tiny", "v1"), policy.ClassRevoked, "revocations")
}
