package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/internal/terminal"
)

const (
	// lineEvery is how often a running fetch says where it is when nobody
	// watches a terminal.
	lineEvery = 10 * time.Second
	// drawEvery is how often the status line of a terminal changes, and
	// drawAfter how long a fetch must run to be worth one.
	drawEvery = 150 * time.Millisecond
	drawAfter = 300 * time.Millisecond
	// rateOver is the time that a rate is taken over.
	rateOver = 5 * time.Second
)

// display shows progress events: a status line on a terminal, lines elsewhere,
// one JSON object a line with --output json. It writes to standard error only.
type display struct {
	w    io.Writer
	mode string // terminal, lines, json, none

	mu       sync.Mutex
	terminal *os.File
	drawn    bool // the status line is on the screen
	now      *fetching
	stop     chan struct{} // ends the redrawing; nil while nothing is drawn
	steps    map[string]time.Time
	all      overall
}

// overall adds up the models that a run fetches.
type overall struct {
	size map[string]int64 // by model: as planned, exact once it is known
	here map[string]int64 // of models whose fetch ended
}

// ended books the end of a step: a fetched model has its size, and one that
// failed counts no more.
func (a *overall) ended(e progress.Event, now *fetching) {
	if _, planned := a.size[e.Model]; !planned {
		return
	}
	if _, fetched := a.here[e.Model]; fetched {
		return
	}
	switch {
	case e.Failed:
		delete(a.size, e.Model)
	case e.Step == "fetch":
		if now != nil && now.model == e.Model {
			_, a.size[e.Model] = now.sum()
		}
		a.here[e.Model] = a.size[e.Model]
	}
}

// status is what all models together have, while one of several is fetched.
func (a *overall) status(now *fetching, rate float64) string {
	if len(a.size) < 2 {
		return ""
	}
	var done, total int64
	for model, size := range a.size {
		part, over := a.here[model]
		if !over && now.model == model {
			part, size = now.sum()
		}
		done, total = done+part, total+size
	}
	s := fmt.Sprintf("all: %d of %d models, %s of %s", len(a.here), len(a.size), amount.Bytes(done), amount.Bytes(total))
	if rate > 0 && total > done {
		s += ", " + leftText(total-done, rate)
	}
	return s
}

func leftText(bytes int64, rate float64) string {
	return time.Duration(float64(bytes)/rate*1e9).Round(time.Second).String() + " left"
}

// fetching adds up the blobs of one model.
type fetching struct {
	model, step string
	blobs       map[string][2]int64 // done, total
	announced   int64
	started     time.Time
	line        time.Time
	source      string
	before      int64    // done when a blob's first event came: not ours to count as speed
	samples     []sample // oldest first, of the last rateOver
}

type sample struct {
	at   time.Time
	done int64
}

func (f *fetching) sum() (done, total int64) {
	for _, b := range f.blobs {
		done, total = done+b[0], total+b[1]
	}
	return done, max(total, f.announced)
}

// rate is bytes per second of what this process moved lately.
func (f *fetching) rate(now time.Time) float64 {
	done, _ := f.sum()
	done -= f.before
	for len(f.samples) > 1 && now.Sub(f.samples[1].at) > rateOver {
		f.samples = f.samples[1:]
	}
	if n := len(f.samples); n == 0 || now.Sub(f.samples[n-1].at) >= drawEvery {
		f.samples = append(f.samples, sample{now, done})
	}
	first := f.samples[0]
	s := now.Sub(first.at).Seconds()
	if s < drawEvery.Seconds() {
		return 0
	}
	return max(0, float64(done-first.done)/s)
}

// progress is where events of this command go.
func (a *app) progress() progress.Sink {
	if a.show == nil {
		a.show = &display{w: plain{a.stderr}, steps: map[string]time.Time{}, mode: "lines"}
		f, isFile := a.stderr.(*os.File)
		switch {
		case a.output == "json":
			a.show.w, a.show.mode = escaped{a.stderr}, "json"
		case a.quiet:
			a.show.mode = "none"
		case isFile && term.IsTerminal(int(f.Fd())):
			a.show.mode, a.show.terminal = "terminal", f
		}
	}
	return a.show.event
}

// closeProgress takes the status line away, so that results print in its place.
func (a *app) closeProgress() {
	if a.show == nil {
		return
	}
	a.show.mu.Lock()
	defer a.show.mu.Unlock()
	a.show.finish()
}

// finish ends what is shown of a step.
func (d *display) finish() {
	d.now = nil
	d.clear()
	if d.stop != nil {
		close(d.stop)
		d.stop = nil
	}
}

func (d *display) event(e progress.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.mode {
	case "none":
		return
	case "json":
		if b, err := terminal.MarshalJSON(e); err == nil {
			fmt.Fprintf(d.w, "%s\n", b)
		}
		return
	}
	switch e.Kind {
	case progress.StepStart:
		d.steps[e.Model+"\x00"+e.Step] = e.Time
	case progress.Planned:
		if d.all.size == nil {
			d.all = overall{map[string]int64{}, map[string]int64{}}
		}
		d.all.size[e.Model] = e.Total
	case progress.StepEnd:
		d.all.ended(e, d.now)
		d.finish()
		took := ""
		if t, ok := d.steps[e.Model+"\x00"+e.Step]; ok && e.Time.Sub(t) >= time.Second {
			took = " (" + e.Time.Sub(t).Round(100*time.Millisecond).String() + ")"
		}
		d.line(fmt.Sprintf("%s  %-18s %s%s", e.Model, e.Step, e.Message, took))
	case progress.Note:
		d.line(fmt.Sprintf("%s  %s", cmp.Or(e.Model, e.Source), e.Message))
	case progress.Total, progress.Bytes, progress.Waiting:
		d.bytes(e)
	}
}

// line prints above the status line.
func (d *display) line(s string) {
	d.clear()
	line(d.w, "%s", s)
}

func (d *display) bytes(e progress.Event) {
	if d.now == nil || d.now.model != e.Model {
		d.finish()
		step := e.Step
		if step == "" {
			step = "fetch"
		}
		d.now = &fetching{model: e.Model, step: step, blobs: map[string][2]int64{}, started: e.Time, line: e.Time}
	}
	f := d.now
	if e.Kind == progress.Total {
		f.announced += e.Total
		return
	}
	if _, ok := f.blobs[e.Digest]; !ok {
		f.before += e.Done
	}
	f.blobs[e.Digest] = [2]int64{e.Done, e.Total}
	if e.Source != "" {
		f.source = e.Source
	}
	if e.Kind == progress.Waiting {
		f.source = "another rmodels"
	}
	if d.mode == "terminal" {
		if d.stop == nil {
			d.stop = make(chan struct{})
			go d.redraw(d.stop)
		}
		return
	}
	rate := f.rate(e.Time)
	if e.Time.Sub(f.line) >= lineEvery {
		f.line = e.Time
		done, total := f.sum()
		all := d.all.status(f, rate)
		if all != "" {
			all = "; " + all
		}
		left := ""
		if rate > 0 && total > done {
			left = ", " + leftText(total-done, rate)
		}
		from := ""
		if f.source != "" {
			from = ", from " + f.source
		}
		d.line(fmt.Sprintf("%s  %-18s %s of %s, %s/s%s%s%s", f.model, f.step, amount.Bytes(done), amount.Bytes(total), amount.Bytes(int64(rate)), left, from, all))
	}
}

// redraw keeps the status line true also while nothing arrives.
func (d *display) redraw(stop chan struct{}) {
	t := time.NewTicker(drawEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-t.C:
			d.mu.Lock()
			if d.stop == stop {
				d.draw(now)
			}
			d.mu.Unlock()
		}
	}
}

func (d *display) draw(now time.Time) {
	rate := d.now.rate(now)
	if now.Sub(d.now.started) < drawAfter {
		return
	}
	width, _, err := term.GetSize(int(d.terminal.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	// Not through plain: the carriage return is ours.
	_, _ = io.WriteString(d.terminal, "\r"+terminal.OneLine(d.now.status(rate, d.all.status(d.now, rate), width-1))+"\x1b[K")
	d.drawn = true
}

func (d *display) clear() {
	if d.drawn {
		_, _ = io.WriteString(d.terminal, "\r\x1b[K")
		d.drawn = false
	}
}

// status is one line of at most width columns: what, how much of it, how fast,
// how long still, and from where.
func (f *fetching) status(rate float64, all string, width int) string {
	done, total := f.sum()
	part := 0.0
	if total > 0 {
		part = min(1, float64(done)/float64(total))
	}
	left := ""
	if rate > 0 && total > done {
		left = "  " + leftText(total-done, rate)
	}
	cells := 24
	if all != "" {
		cells = 10
		left += "  " + all
	}
	full := int(part * float64(cells))
	s := []rune(fmt.Sprintf("%s  %-8s [%s%s] %3.0f%%  %s of %s  %s/s%s  %s", f.model, f.step,
		strings.Repeat("#", full), strings.Repeat(".", cells-full), part*100, amount.Bytes(done), amount.Bytes(total), amount.Bytes(int64(rate)), left, f.source))
	return string(s[:min(len(s), width)])
}
