package runner_test

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

func TestCompare(t *testing.T) {
	base := runner.Verdict{
		Passed: true, Key: "k", AnswerDigest: digest.FromString("a"), Tokens: 100, TokensPerSecond: 40,
		LoadTime: snapshot.Duration(10 * time.Second), PeakMemory: 1 << 30,
	}
	for name, c := range map[string]struct {
		change        func(before, now *runner.Verdict)
		deterministic bool
		kinds         []string
	}{
		"nothing":                     {func(_, _ *runner.Verdict) {}, true, nil},
		"another answer":              {func(_, n *runner.Verdict) { n.AnswerDigest = digest.FromString("b") }, true, []string{"answer"}},
		"another answer, as it may":   {func(_, n *runner.Verdict) { n.AnswerDigest = digest.FromString("b") }, false, nil},
		"slower, but not by half":     {func(_, n *runner.Verdict) { n.TokensPerSecond = 21 }, true, nil},
		"slower by half":              {func(_, n *runner.Verdict) { n.TokensPerSecond = 19 }, true, []string{"speed"}},
		"slower, too short to tell":   {func(b, n *runner.Verdict) { b.Tokens, n.TokensPerSecond = 3, 1 }, true, nil},
		"slower, too fast to tell":    {func(b, _ *runner.Verdict) { b.TokensPerSecond = 350_000 }, true, nil},
		"loads and fills":             {func(_, n *runner.Verdict) { n.LoadTime, n.PeakMemory = n.LoadTime*3, 3<<30 }, true, []string{"load", "memory"}},
		"another key":                 {func(_, n *runner.Verdict) { n.Key, n.TokensPerSecond = "other", 1 }, true, nil},
		"failed before, nothing told": {func(b, n *runner.Verdict) { b.Passed, n.TokensPerSecond = false, 1 }, true, nil},
	} {
		before, now := base, base
		c.change(&before, &now)
		got := runner.Compare(&before, &now, c.deterministic)
		if len(got) != len(c.kinds) {
			t.Errorf("%s: %+v", name, got)
			continue
		}
		for i := range got {
			if got[i].Kind != c.kinds[i] || got[i].Expected == "" || got[i].Found == "" {
				t.Errorf("%s: %+v", name, got[i])
			}
		}
	}
	if got := runner.Compare(nil, &base, true); got != nil {
		t.Errorf("no earlier verdict: %+v", got)
	}
}
