// Package progress carries what a long step is doing to whoever shows it: a
// terminal, a log in cron, or a stream of JSON. Steps emit events; they never
// print.
package progress

import "time"

// Kind says what an [Event] means.
type Kind string

const (
	StepStart Kind = "start"   // a step of a model began
	StepEnd   Kind = "end"     // a step ended; Message is its result
	Planned   Kind = "planned" // the model is to be fetched in this run, about Total bytes
	Total     Kind = "total"   // the step is going to handle Total bytes, some of which may be here
	Bytes     Kind = "bytes"   // Done of Total bytes of Digest are on disk
	Waiting   Kind = "waiting" // another process does the work; Done and Total are its progress
	Note      Kind = "note"    // something a reader should know
)

// Event is one observation. Done and Total are absolute byte counts, never
// deltas: after a resume Done starts at what was already there.
type Event struct {
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"event"`
	Model   string    `json:"model,omitempty"`
	Step    string    `json:"step,omitempty"`
	Digest  string    `json:"digest,omitempty"`
	Source  string    `json:"source,omitempty"`
	Message string    `json:"message,omitempty"`
	Failed  bool      `json:"failed,omitempty"` // of an end: Message says why
	Done    int64     `json:"done,omitempty"`
	Total   int64     `json:"total,omitempty"`
}

// Sink receives events, possibly from several goroutines at once. A nil Sink
// discards them.
type Sink func(Event)

// Emit hands e to the sink and stamps it when the sender did not.
func (s Sink) Emit(e Event) {
	if s == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s(e)
}
