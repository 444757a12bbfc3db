package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/internal/terminal"
)

// plain is a writer for a terminal that may show text from registries,
// models and engines: control characters become visible and harmless.
type plain struct{ w io.Writer }

func (p plain) Write(b []byte) (int, error) {
	_, err := io.WriteString(p.w, terminal.Clean(string(b)))
	return len(b), err
}

// line prints one line, whatever its values hold: none can forge another.
func line(w io.Writer, format string, v ...any) {
	fmt.Fprintln(w, terminal.OneLine(fmt.Sprintf(format, v...)))
}

// escaped is a writer of JSON, whole texts at a time. What a terminal would
// obey stands there only within strings: it is written as \u00XX.
type escaped struct{ w io.Writer }

func (e escaped) Write(b []byte) (int, error) {
	_, err := e.w.Write(terminal.EscapeJSON(b))
	return len(b), err
}

// result prints what a command found: JSON, or text for a person.
func (a *app) result(v any, text func(w io.Writer)) error {
	a.closeProgress()
	if a.output == "json" {
		b, err := terminal.MarshalJSON(v, jsontext.WithIndent("  "), json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", b)
		return err
	}
	text(plain{a.stdout})
	return nil
}

// table prints rows in columns; the first is the heading.
func table(w io.Writer, rows [][]string) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = terminal.OneLine(r[i])
		}
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	tw.Flush()
}

// log is the structured log, on only when asked for.
func (a *app) log() *slog.Logger {
	if !a.verbose {
		return slog.New(slog.DiscardHandler)
	}
	if a.output == "json" {
		return slog.New(slog.NewJSONHandler(escaped{a.stderr}, nil))
	}
	return slog.New(slog.NewTextHandler(plain{a.stderr}, nil))
}

// secondsText rounds a duration for a person.
func secondsText(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Millisecond).String()
}

// ago is how long since t, for a person.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	switch {
	case d < 0:
		return "in " + span(-d)
	case d < time.Second:
		return "just now"
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// short is a digest as a person compares it.
func short(d string) string {
	_, hex, ok := strings.Cut(d, ":")
	if !ok {
		hex = d
	}
	return hex[:min(12, len(hex))]
}
