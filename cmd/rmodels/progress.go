package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/resultity/rmodels/internal/progress"
)

// lineEvery is how often a running fetch says where it is when nobody watches
// a terminal.
const lineEvery = 10 * time.Second

// display shows progress events: bars on a terminal, lines elsewhere, one
// JSON object a line with --output json. It writes to standard error only.
type display struct {
	w    io.Writer
	mode string // bars, lines, json

	mu       sync.Mutex
	terminal *os.File
	bars     *mpb.Progress // while a bar is shown
	models   map[string]*fetching
	steps    map[string]time.Time // start of model+step
}

// fetching adds up the blobs of one model.
type fetching struct {
	blobs   map[string][2]int64 // done, total
	first   int64               // done when the first event came: not ours to count as speed
	started time.Time
	line    time.Time
	source  string
	bar     *mpb.Bar
	tail    atomic.Pointer[string] // right end of the bar; the bars read it from a goroutine of their own
}

func (f *fetching) sum() (done, total int64) {
	for _, b := range f.blobs {
		done, total = done+b[0], total+b[1]
	}
	return done, total
}

// rate is bytes per second of what this process fetched.
func (f *fetching) rate(now time.Time) float64 {
	done, _ := f.sum()
	s := now.Sub(f.started).Seconds()
	if s < 0.2 {
		return 0
	}
	return float64(done-f.first) / s
}

// progress is where events of this command go.
func (a *app) progress() progress.Sink {
	if a.show == nil {
		a.show = &display{w: plain{a.stderr}, models: map[string]*fetching{}, steps: map[string]time.Time{}, mode: "lines"}
		f, isFile := a.stderr.(*os.File)
		switch {
		case a.output == "json":
			a.show.w, a.show.mode = a.stderr, "json"
		case a.quiet:
			a.show.mode = "none"
		case isFile && term.IsTerminal(int(f.Fd())):
			a.show.mode, a.show.terminal = "bars", f
		}
	}
	return a.show.event
}

// closeProgress ends the bars, so that results print below them.
func (a *app) closeProgress() {
	if a.show == nil {
		return
	}
	a.show.mu.Lock()
	defer a.show.mu.Unlock()
	a.show.endBars()
}

// endBars takes all bars away. What is printed next needs none to be drawn
// beside it, so nothing that was written before can be lost.
func (d *display) endBars() {
	if d.bars == nil {
		return
	}
	for _, f := range d.models {
		if f.bar != nil {
			f.bar.Abort(true)
			f.bar = nil
		}
	}
	d.bars.Wait()
	d.bars = nil
}

func (d *display) event(e progress.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.mode {
	case "none":
		return
	case "json":
		if b, err := json.Marshal(e); err == nil {
			fmt.Fprintf(d.w, "%s\n", b)
		}
		return
	}
	switch e.Kind {
	case progress.StepStart:
		d.steps[e.Model+"\x00"+e.Step] = e.Time
	case progress.StepEnd:
		delete(d.models, e.Model)
		d.endBars()
		took := ""
		if t, ok := d.steps[e.Model+"\x00"+e.Step]; ok && e.Time.Sub(t) >= time.Second {
			took = " (" + e.Time.Sub(t).Round(100*time.Millisecond).String() + ")"
		}
		d.line(fmt.Sprintf("%s  %-18s %s%s", e.Model, e.Step, e.Message, took))
	case progress.Note:
		d.line(fmt.Sprintf("%s  %s", e.Model, e.Message))
	case progress.Bytes, progress.Waiting:
		d.bytes(e)
	}
}

// line prints above the bars, or plainly where there are none.
func (d *display) line(s string) {
	s = clean(s) + "\n"
	if d.bars != nil {
		_, _ = d.bars.Write([]byte(s))
		return
	}
	_, _ = io.WriteString(d.w, s)
}

func (d *display) bytes(e progress.Event) {
	f := d.models[e.Model]
	if f == nil {
		f = &fetching{blobs: map[string][2]int64{}, started: e.Time, line: e.Time}
		d.models[e.Model] = f
	}
	if _, ok := f.blobs[e.Digest]; !ok {
		f.first += e.Done // what a blob begins with was fetched earlier, or by another process
	}
	f.blobs[e.Digest] = [2]int64{e.Done, e.Total}
	if e.Source != "" {
		f.source = e.Source
	}
	if e.Kind == progress.Waiting {
		f.source = "another rmodels"
	}
	done, total := f.sum()
	if d.mode != "bars" {
		if e.Time.Sub(f.line) >= lineEvery {
			f.line = e.Time
			d.line(fmt.Sprintf("%s  %-18s %s of %s, %s/s, from %s", e.Model, "fetch", bytesText(done), bytesText(total), bytesText(int64(f.rate(e.Time))), f.source))
		}
		return
	}
	text := f.describe(e.Time)
	f.tail.Store(&text)
	if d.bars == nil {
		d.bars = mpb.New(mpb.WithOutput(d.terminal), mpb.WithWidth(36), mpb.WithRefreshRate(120*time.Millisecond))
	}
	if f.bar == nil {
		f.bar = d.bars.AddBar(max(total, done+1),
			mpb.PrependDecorators(decor.Name(clean(e.Model), decor.WCSyncSpaceR), decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *f.tail.Load() })))
	}
	// A bar that is full ends for good; the next blob may only be announced yet.
	f.bar.SetTotal(max(total, done+1), false)
	f.bar.SetCurrent(done)
}

// describe is the right end of a bar: rate, time left, source.
func (f *fetching) describe(now time.Time) string {
	r := f.rate(now)
	done, total := f.sum()
	left := ""
	if r > 0 && total > done {
		left = " " + time.Duration(float64(total-done)/r*1e9).Round(time.Second).String() + " left"
	}
	return fmt.Sprintf(" %s/s%s  %s", bytesText(int64(r)), left, clean(f.source))
}
