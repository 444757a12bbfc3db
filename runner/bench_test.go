package runner_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/snapshot"
)

// benchRuns is what the design's medians are of.
const benchRuns = 10

// load is this machine's run queue over the last minute: a figure of a busy
// machine says little.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// BenchmarkRun prints the overhead of a whole run beyond the engine's own load
// and answer: "proved" has the proof for identical flags, engine and boot,
// "probed" makes it anew each time. The ratio is to the design's bound.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name  string
		fresh bool
		bound time.Duration
	}{{"proved", false, 1200 * time.Millisecond}, {"probed", true, 2500 * time.Millisecond}} {
		b.Run(c.name, func(b *testing.B) {
			e := testEngine(b)
			j := fixtureJob(b, "serve", "the right words")
			if v, err := e.Validate(b.Context(), j); err != nil || !v.Passed {
				b.Fatalf("%v, %+v", err, v)
			}
			for b.Loop() {
				var took []time.Duration
				for range benchRuns {
					if c.fresh {
						j.StateDir = filepath.Join(b.TempDir(), "runs")
					}
					v, err := e.Validate(b.Context(), j)
					if err != nil || !v.Passed {
						b.Fatalf("%v, %+v", err, v)
					}
					took = append(took, v.Overhead.Std())
				}
				slices.Sort(took)
				median := took[benchRuns/2]
				fmt.Printf("{\"bench\":\"runner overhead, %s, median of %d\",\"vs\":\"%s\",\"ratio\":%.2f,\"value\":%.3f,\"unit\":\"s\",\"min\":%.3f,\"max\":%.3f,\"load\":%s}\n",
					c.name, benchRuns, c.bound, median.Seconds()/c.bound.Seconds(), median.Seconds(), took[0].Seconds(), took[benchRuns-1].Seconds(), load())
			}
		})
	}
}

// BenchmarkRealEngine prints what the first validation of a model on a new
// runtime takes, and what one takes when image and proof are there.
func BenchmarkRealEngine(b *testing.B) {
	e := testEngine(b)
	chain := tinygguf.Options{Mode: tinygguf.Chain, Words: strings.Fields("the model files answer from a sealed box")}
	want, err := tinygguf.Answer(chain)
	if err != nil {
		b.Fatal(err)
	}
	j := realJob(b, chain)
	j.Validation.Expect = snapshot.Expect{Exact: want}
	for b.Loop() {
		j.StateDir = filepath.Join(b.TempDir(), "runs")
		if err := exec.Command(engineOptions(b).Path, append(engineOptions(b).Args, "rmi", j.Image.Name)...).Run(); err != nil {
			b.Logf("no image to remove: %v", err)
		}
		for _, state := range []string{"cold", "warm"} {
			began := time.Now()
			v, err := e.Validate(b.Context(), j)
			if err != nil || !v.Passed {
				b.Fatalf("%v, %+v", err, v)
			}
			fmt.Printf("{\"bench\":\"llama-server, %s\",\"value\":%.3f,\"unit\":\"s\",\"engineLoad\":%.3f,\"firstToken\":%.3f,\"overhead\":%.3f,\"load\":%s}\n",
				state, time.Since(began).Seconds(), v.LoadTime.Std().Seconds(), v.TimeToFirstToken.Std().Seconds(), v.Overhead.Std().Seconds(), load())
		}
	}
}
