package main

import (
	"strings"
	"testing"
	"time"

	"github.com/resultity/rmodels/internal/progress"
)

// watch feeds a terminal display and returns its status line after each event.
func watch(t *testing.T, events ...progress.Event) []string {
	t.Helper()
	d := &display{mode: "lines", w: &strings.Builder{}, steps: map[string]time.Time{}}
	start := time.Unix(1e9, 0)
	var out []string
	for i, e := range events {
		e.Time = start.Add(time.Duration(i) * time.Second)
		d.event(e)
		if d.now == nil {
			out = append(out, "")
			continue
		}
		out = append(out, d.now.status(d.now.rate(e.Time), d.all.status(d.now, d.now.rate(e.Time)), 200))
	}
	return out
}

func TestStatusIsTrueAfterAResume(t *testing.T) {
	blob := func(name string, done, total int64) progress.Event {
		return progress.Event{Kind: progress.Bytes, Model: "m@v1", Digest: name, Source: "registry.example/m", Done: done, Total: total}
	}
	const mib = 1 << 20
	got := watch(t,
		progress.Event{Kind: progress.Total, Model: "m@v1", Total: 100 * mib},
		blob("a", 40*mib, 90*mib), // 40 MiB were here before
		blob("a", 41*mib, 90*mib),
		blob("a", 42*mib, 90*mib),
		progress.Event{Kind: progress.StepEnd, Model: "m@v1", Step: "fetch"},
	)
	for i, want := range []string{
		"0%  0 B of 100 MiB",
		"40%  40 MiB of 100 MiB  0 B/s",
		"41%  41 MiB of 100 MiB  512 KiB/s",
		"42%  42 MiB of 100 MiB  682.7 KiB/s  1m27s left  registry.example/m",
		"",
	} {
		if !strings.Contains(got[i], want) {
			t.Errorf("event %d: %q, want %q in it", i, got[i], want)
		}
	}
}

func TestStatusFitsTheTerminal(t *testing.T) {
	f := &fetching{model: strings.Repeat("m", 128), step: "fetch", blobs: map[string][2]int64{"a": {1, 3}}}
	if n := len([]rune(f.status(0, "", 79))); n != 79 {
		t.Errorf("%d columns, want 79", n)
	}
}

func TestStatusOfAllModels(t *testing.T) {
	const mib = 1 << 20
	plan := func(model string, n int64) progress.Event {
		return progress.Event{Kind: progress.Planned, Model: model, Total: n}
	}
	blob := func(model string, done, total int64) progress.Event {
		return progress.Event{Kind: progress.Bytes, Model: model, Digest: model, Source: "registry.example/m", Done: done, Total: total}
	}
	got := watch(t,
		plan("a@v1", 64*mib), plan("b@v1", 100*mib), plan("c@v1", 50*mib),
		progress.Event{Kind: progress.StepEnd, Model: "c@v1", Step: "verify signatures", Failed: true}, // it counts no more
		progress.Event{Kind: progress.Total, Model: "a@v1", Total: 60 * mib},                           // exactly
		blob("a@v1", 0, 60*mib),
		blob("a@v1", 30*mib, 60*mib),
		blob("a@v1", 60*mib, 60*mib),
		progress.Event{Kind: progress.StepEnd, Model: "a@v1", Step: "fetch"},
		blob("b@v1", 20*mib, 100*mib),
		blob("b@v1", 30*mib, 100*mib),
	)
	for i, want := range map[int]string{
		6:  "all: 0 of 2 models, 30 MiB of 160 MiB, 9s left",
		8:  "",
		10: "all: 1 of 2 models, 90 MiB of 160 MiB, 7s left",
	} {
		if !strings.Contains(got[i], want) {
			t.Errorf("event %d: %q, want %q in it", i, got[i], want)
		}
	}
}
