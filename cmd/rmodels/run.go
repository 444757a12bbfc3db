package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/runner"
)

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run NAME -- PROMPT",
		Short: "Ask an Active model one question in the sealed container",
		Long: `run starts the model's runtime in the container that validated it, without a
network, asks one question, streams the answer and removes the container: the
quickest way to see that a model works. It changes no state.`,
		Example:           `  rmodels run mistral-7b-instruct -- "Write one line about rain."`,
		Args:              args(question),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("run")
			if err != nil {
				return err
			}
			var out io.Writer = plain{a.stdout}
			if a.output == "json" {
				out = io.Discard // the verdict carries the answer
			}
			v, err := n.Ask(cmd.Context(), as[0], strings.Join(as[1:], " "), out)
			if err != nil {
				return err
			}
			if a.output != "json" {
				fmt.Fprintln(a.stdout)
				a.closeProgress()
				switch {
				case a.quiet || !v.Passed:
				case v.Tokens == 0:
					line(plain{a.stderr}, "the model ended without a word; %d checks of the container held", held(v))
				default:
					speed := ""
					if v.AnswerTime.Std() >= runner.MeasurableSpan {
						speed = fmt.Sprintf("%.1f a second, ", v.TokensPerSecond)
					}
					fmt.Fprintf(plain{a.stderr}, "%s, %sfirst after %s; %d checks of the container held\n",
						amount.Count(v.Tokens, "token"), speed, v.TimeToFirstToken.Std().Round(time.Millisecond), held(v))
				}
			} else if err := a.result(v, nil); err != nil {
				return err
			}
			return a.judged(v)
		},
	}
}

// question wants a model and what it is asked.
func question(_ *cobra.Command, as []string) error {
	switch {
	case len(as) == 0:
		return errors.New(`which model, and what is the question? rmodels run NAME -- "QUESTION"`)
	case strings.TrimSpace(strings.Join(as[1:], " ")) == "":
		return fmt.Errorf(`what is the question? rmodels run %s -- "QUESTION"`, as[0])
	}
	return nil
}

func held(v *runner.Verdict) int {
	n := 0
	for _, c := range v.Isolation {
		if c.Passed {
			n++
		}
	}
	return n
}

// keepEngine is validate --keep: the sealed engine stays for a look.
func (a *app) keepEngine(cmd *cobra.Command, name string, limit time.Duration) error {
	n, _, err := a.node("validate")
	if err != nil {
		return err
	}
	v, err := n.KeepRunning(cmd.Context(), name, limit, func(k runner.Kept) {
		_ = a.result(k, func(w io.Writer) {
			printVerdict(w, k.Verdict, time.Now())
			field(w, "container", "%s, process %d", k.Container, k.Pid)
			field(w, "until", "%s; sooner with Ctrl-C", k.Until.Format(time.RFC3339))
			if k.Port > 0 {
				field(w, "look", "nsenter --net --target %d curl http://127.0.0.1:%d/", k.Pid, k.Port)
			}
		})
	})
	if err != nil {
		return err
	}
	return a.judged(v)
}

// judged is the exit code of a single run.
func (a *app) judged(v *runner.Verdict) error {
	if v.Passed {
		return nil
	}
	if a.output != "json" {
		printVerdict(plain{a.stderr}, v, time.Now())
	}
	return exitError{exitValidation, lifecycle.Failure{
		Cause: lifecycle.CauseValidation, Reason: v.Reason, Expected: v.Expected, Found: v.Found, Hint: "see what it printed with: --output json",
	}}
}
