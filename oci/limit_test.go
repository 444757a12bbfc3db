package oci_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
)

// hours reads one entry of a schedule.
func hours(t *testing.T, s string, rate int64) oci.Hours {
	t.Helper()
	from, to, err := oci.ParseHours(s)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Hours{From: from, To: to, Rate: rate}
}

func TestParseHours(t *testing.T) {
	for _, s := range []string{"", "8-18", "08:00", "08:00-", "08:00-18:00 ", " 08:00-18:00", "08:00-08:00", "24:00-08:00", "08:00-24:01", "08:60-09:00", "+8:00-09:00", "08:00-00:00", "08:00–18:00", "08:00-18:00-19:00"} {
		if from, to, err := oci.ParseHours(s); err == nil {
			t.Errorf("%q: %s to %s", s, from, to)
		}
	}
	if h := hours(t, "22:30-24:00", 0); h.From != 22*time.Hour+30*time.Minute || h.To != 24*time.Hour {
		t.Errorf("22:30-24:00 is %s to %s", h.From, h.To)
	}
}

func TestSchedule(t *testing.T) {
	const mib = 1 << 20
	var clock time.Time
	c := newClient(t, oci.Options{
		LimitRate: 50 * mib, Now: func() time.Time { return clock },
		Schedule: []oci.Hours{hours(t, "08:00-18:00", 20*mib), hours(t, "12:00-22:00", 30*mib), hours(t, "23:30-05:00", 0)},
	})
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("east", 9*3600)} {
		for at, want := range map[string]int64{
			"00:00": 0, "04:59": 0, "05:00": 50 * mib, "07:59": 50 * mib, "08:00": 20 * mib, "12:30": 20 * mib,
			"17:59": 20 * mib, "18:00": 30 * mib, "22:00": 50 * mib, "23:29": 50 * mib, "23:30": 0,
		} {
			at, err := time.ParseInLocation("15:04", at, zone)
			if err != nil {
				t.Fatal(err)
			}
			if clock = at; oci.RateOf(c) != want {
				t.Errorf("%s: %d bytes a second, want %d", at, oci.RateOf(c), want)
			}
		}
	}
}

func TestScheduleRefuses(t *testing.T) {
	for name, o := range map[string]oci.Options{
		"negative":     {LimitRate: -1},
		"too slow":     {LimitRate: 100},
		"slow hours":   {Schedule: []oci.Hours{{From: 0, To: time.Hour, Rate: 1}}},
		"no hours":     {Schedule: []oci.Hours{{Rate: 1 << 20}}},
		"a longer day": {Schedule: []oci.Hours{{To: 25 * time.Hour}}},
	} {
		if _, err := oci.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The hour changes while a pull runs: what was slow becomes fast.
func TestScheduleChangesARunningPull(t *testing.T) {
	const size = 24 << 20
	r := newRegistry(t)
	ref := r.model("m", file{"a.gguf", noise(9, size)})
	var evening atomic.Bool
	var sleepy, fast atomic.Int64 // when the first bytes came, and when the hour changed
	c := newClient(t, oci.Options{
		Schedule: []oci.Hours{hours(t, "08:00-18:00", 2<<20)},
		Now: func() time.Time {
			if evening.Load() {
				return time.Date(2026, 1, 1, 18, 0, 0, 0, time.Local)
			}
			return time.Date(2026, 1, 1, 17, 59, 0, 0, time.Local)
		},
	}, r)
	a := resolve(t, c, ref)
	st, l := newStore(t)
	begin := time.Now()
	_, err := c.Fetch(background(t), st, l, a, oci.FetchOptions{Progress: func(e progress.Event) {
		if e.Kind == progress.Bytes && e.Total == size && e.Done >= 2<<20 && evening.CompareAndSwap(false, true) {
			sleepy.Store(int64(time.Since(begin)))
			fast.Store(e.Done)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	complete(t, st, a)
	if d := time.Duration(sleepy.Load()); d < 700*time.Millisecond {
		t.Errorf("by day %d bytes took %s", fast.Load(), d)
	}
	// At 2 MiB/s the whole would take twelve seconds.
	if d := time.Since(begin); d > 9*time.Second {
		t.Errorf("the pull went on at the rate of the day: %s in all", d)
	}
}
