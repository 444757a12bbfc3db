package runner_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkRun is a whole run of an engine that loads and answers at once, so
// that nearly all of it is overhead. "proved" has the proof for identical
// flags, engine and boot; "probed" makes it anew each time. median-ms is what
// the design's figures speak of.
func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name  string
		fresh bool
	}{{"proved", false}, {"probed", true}} {
		b.Run(c.name, func(b *testing.B) {
			e := testEngine(b)
			j := fixtureJob(b, "serve", "the right words")
			if v, err := e.Validate(b.Context(), j); err != nil || !v.Passed {
				b.Fatalf("%v, %+v", err, v)
			}
			var took []time.Duration
			for b.Loop() {
				if c.fresh {
					j.StateDir = filepath.Join(b.TempDir(), "runs")
				}
				began := time.Now()
				v, err := e.Validate(b.Context(), j)
				if err != nil || !v.Passed {
					b.Fatalf("%v, %+v", err, v)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
		})
	}
}
