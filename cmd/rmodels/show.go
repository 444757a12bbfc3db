package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

func (a *app) showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show all that this node knows of a model: receipt, verdict, history",
		Example: `  rmodels show mistral-7b-instruct
  rmodels show mistral-7b-instruct@v1 --output json`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("show")
			if err != nil {
				return err
			}
			r, err := n.Record(as[0])
			if err != nil {
				return err
			}
			return a.result(r, func(w io.Writer) { printRecord(w, r, time.Now()) })
		},
	}
}

// field prints one line of a description.
func field(w io.Writer, name, format string, v ...any) {
	line(w, "%-12s %s", name, fmt.Sprintf(format, v...))
}

func printRecord(w io.Writer, r *lifecycle.Record, now time.Time) {
	field(w, "model", "%s", r.ID())
	field(w, "state", "%s, %s: %s", r.State, ago(r.Updated, now), r.Reason)
	if !r.RetryAfter.IsZero() && r.State == lifecycle.Failed {
		field(w, "retry", "%s (%s in a row)", ago(r.RetryAfter, now), amount.Count(r.Failures, "failure"))
	}
	if r.Reference != "" {
		field(w, "reference", "%s", r.Reference)
	}
	if r.Tree != "" {
		field(w, "tree", "%s", r.Tree)
		field(w, "content", "%s, %s", r.Format, amount.Bytes(r.Size))
	}
	if rc := r.Receipt; rc != nil {
		field(w, "admitted", "%s by policy %s under snapshot %s", ago(rc.At, now), rc.Policy, short(rc.Snapshot.String()))
		printSigners(w, rc.Decision)
		field(w, "source", "%s, %s fetched", rc.Source, amount.Bytes(rc.Fetched))
	}
	if v := r.Verdict; v != nil {
		printVerdict(w, v, now)
	}
	for i := len(r.History) - 1; i >= 0; i-- {
		t := r.History[i]
		name := ""
		if i == len(r.History)-1 {
			name = "history"
		}
		field(w, name, "%s  %s > %s  by %s: %s", t.At.Format(time.RFC3339), t.From, t.To, t.By, t.Why)
	}
}

func printSigners(w io.Writer, d policy.Decision) {
	for _, s := range d.Signers {
		who := "key " + s.Key.String()
		if s.Identity != nil {
			who = s.Identity.Subject + " by " + s.Identity.Issuer
		}
		what := "signed by"
		if s.PredicateType != "" && s.PredicateType != snapshot.SignaturePredicate {
			what, who = "attested", s.PredicateType+", "+who
		}
		field(w, what, "%s (%s, %s), evidence %s", s.Authority, s.Format, who, short(s.Evidence.String()))
	}
	if d.Rule != "" {
		field(w, "rule", "%s: %s", d.Rule, d.Reason)
	}
	for _, x := range d.Rejected {
		field(w, "not counted", "%s from %s: %s", short(x.Evidence.String()), x.Source, x.Reason)
	}
}

func printVerdict(w io.Writer, v *runner.Verdict, now time.Time) {
	word := "passed"
	if !v.Passed {
		word = "failed"
	}
	field(w, "verdict", "%s %s: %s", word, ago(cmp.Or(v.Ended, now), now), v.Reason)
	field(w, "runtime", "%s on %s %s", v.Runtime, v.Engine, v.EngineVersion)
	if v.Expected != "" && !v.Passed {
		field(w, "expected", "%s", v.Expected)
		field(w, "found", "%s", v.Found)
	}
	if v.Answer != "" {
		field(w, "answer", "%q", v.Answer)
	}
	var figures []string
	if v.LoadTime > 0 {
		figures = append(figures, "loaded in "+v.LoadTime.Std().Round(time.Millisecond).String())
	}
	if v.TimeToFirstToken > 0 {
		figures = append(figures, "first token after "+v.TimeToFirstToken.Std().Round(time.Millisecond).String())
	}
	if v.TokensPerSecond > 0 && v.AnswerTime.Std() >= runner.MeasurableSpan {
		figures = append(figures, fmt.Sprintf("%.0f tokens/s", v.TokensPerSecond))
	}
	if v.PeakMemory > 0 {
		figures = append(figures, amount.Bytes(v.PeakMemory)+" of memory")
	}
	if figures != nil {
		field(w, "figures", "%s", strings.Join(figures, ", "))
	}
	bad := 0
	for _, c := range v.Isolation {
		if !c.Passed {
			bad++
			field(w, "box open", "%s (%s): %s", c.Name, c.Where, c.Found)
		}
	}
	if len(v.Isolation) > 0 {
		field(w, "box", "%d of %d checks of the sealed container held", len(v.Isolation)-bad, len(v.Isolation))
	}
	if !v.Passed && v.LogTail != "" {
		name := "engine log"
		for l := range strings.SplitSeq(strings.TrimRight(v.LogTail, "\n"), "\n") {
			field(w, name, "%s", l)
			name = ""
		}
	}
}
