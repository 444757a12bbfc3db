package runner

import (
	"fmt"

	"github.com/resultity/rmodels/snapshot"
)

// Change is something that a later verdict of the same model says
// differently. Each one is worth an incident: the model still passed its
// test, yet it is not what it was.
type Change struct {
	Kind     string `json:"kind"` // answer, speed, load, memory
	Reason   string `json:"reason"`
	Expected string `json:"expected"` // what the earlier verdict found
	Found    string `json:"found"`
}

// Figures are compared only when the earlier run gave enough to compare with.
const (
	comparedTokens = 8             // below, the speed of one answer is noise
	comparedSpan   = 0.5           // seconds; nor does an answer that came at once measure anything
	comparedLoad   = 5_000_000_000 // ns; a shorter load is within a busy host's noise
	comparedMemory = 256 << 20     // bytes
	muchSlower     = 0.5           // of the earlier speed
	muchMore       = 2.0           // of the earlier load time or memory
)

// Compare says what changed from an earlier passed verdict to a later one of
// the same key; verdicts of different keys are of different things, and
// nothing is said of them. deterministic is the model's own promise that its
// answer does not change.
func Compare(before, now *Verdict, deterministic bool) []Change {
	if before == nil || now == nil || before.Key != now.Key || !before.Passed || !now.Passed {
		return nil
	}
	var cs []Change
	if deterministic && before.AnswerDigest != "" && before.AnswerDigest != now.AnswerDigest {
		cs = append(cs, Change{"answer", "a deterministic model gave another answer", before.AnswerDigest.String(), now.AnswerDigest.String()})
	}
	if before.Tokens >= comparedTokens && float64(before.Tokens) >= before.TokensPerSecond*comparedSpan && now.TokensPerSecond < before.TokensPerSecond*muchSlower {
		cs = append(cs, Change{
			"speed", "the speed fell to less than half",
			fmt.Sprintf("%.2f tokens per second", before.TokensPerSecond), fmt.Sprintf("%.2f tokens per second", now.TokensPerSecond),
		})
	}
	if before.LoadTime >= comparedLoad && float64(now.LoadTime) > float64(before.LoadTime)*muchMore {
		cs = append(cs, Change{"load", "loading takes more than twice as long", before.LoadTime.String(), now.LoadTime.String()})
	}
	if before.PeakMemory >= comparedMemory && float64(now.PeakMemory) > float64(before.PeakMemory)*muchMore {
		cs = append(cs, Change{
			"memory", "the engine uses more than twice the memory",
			snapshot.Bytes(before.PeakMemory).String(), snapshot.Bytes(now.PeakMemory).String(),
		})
	}
	return cs
}
