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
		out = append(out, d.now.status(d.now.rate(e.Time), 200))
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
	if n := len([]rune(f.status(0, 79))); n != 79 {
		t.Errorf("%d columns, want 79", n)
	}
}
