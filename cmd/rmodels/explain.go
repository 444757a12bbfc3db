package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain NAME",
		Short: "Say why a model is in its state, and what happens next",
		Example: `  rmodels explain mistral-7b-instruct
  rmodels explain mistral-7b-instruct@v2 --output json`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("explain")
			if err != nil {
				return err
			}
			es, err := n.Explain(cmd.Context(), as[0])
			if err != nil {
				return err
			}
			return a.result(es, func(w io.Writer) {
				for i, e := range es {
					if i > 0 {
						fmt.Fprintln(w)
					}
					printExplanation(w, e, time.Now())
				}
			})
		},
	}
}

func printExplanation(w io.Writer, e lifecycle.Explanation, now time.Time) {
	field(w, "model", "%s@%s", e.Name, e.Version)
	field(w, "state", "%s: %s", e.State, e.Reason)
	switch {
	case e.Listed && e.Enabled:
		field(w, "snapshot", "lists and enables it")
	case e.Listed:
		field(w, "snapshot", "lists it, disabled")
	default:
		field(w, "snapshot", "does not list it")
	}
	if e.Admission != nil {
		printSigners(w, *e.Admission)
	}
	if e.Record != nil && e.Record.Verdict != nil {
		printVerdict(w, e.Record.Verdict, now)
	}
	for i, in := range e.Incidents {
		name := ""
		if i == 0 {
			name = "incidents"
		}
		field(w, name, "%s  %s: %s", in.Time.Format(time.RFC3339), in.Kind, in.Reason)
	}
	next := string(e.Next.Verb)
	if e.Next.Next != e.Next.State {
		next += ", to become " + string(e.Next.Next)
	}
	field(w, "next sync", "%s: %s", next, e.Next.Reason)
	if !e.Next.After.IsZero() {
		field(w, "", "not before %s (%s); at once with: rmodels sync %s", e.Next.After.Format(time.RFC3339), ago(e.Next.After, now), e.Next.ID())
	}
}
