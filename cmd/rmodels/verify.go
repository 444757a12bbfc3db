package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) verifyCommand() *cobra.Command {
	var o lifecycle.VerifyOptions
	c := &cobra.Command{
		Use:   "verify [NAME...]",
		Short: "Check every byte and every signature of installed models again",
		Long: `verify hashes every blob of the installed models, compares trees with blobs,
and makes the admission decision again from the stored signatures, without a
network. It prints a receipt: who signed, and by which rule it was admitted.
A model that fails is Failed from then on; with --repair what is bad is
fetched again and the model validated again. Without names the images of the
runtimes that models need are hashed, too; one that is bad is printed.`,
		Example: `  rmodels verify
  rmodels verify mistral-7b-instruct --repair`,
		Args:              args(cobra.ArbitraryArgs),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("verify")
			if err != nil {
				return err
			}
			o.Only = as
			vs, err := n.Verify(cmd.Context(), o)
			if err != nil {
				return err
			}
			err = a.result(struct {
				Models []lifecycle.Verification `json:"models"`
			}{append([]lifecycle.Verification{}, vs...)}, func(w io.Writer) {
				if len(vs) == 0 {
					fmt.Fprintln(w, "nothing is installed")
				}
				for _, v := range vs {
					word := "ok"
					switch {
					case v.Repaired:
						word = "repaired"
					case !v.OK:
						word = "FAILED"
					}
					if v.Runtime {
						field(w, "runtime", "%s@%s  %s, %s hashed", v.Name, v.Version, word, amount.Bytes(v.Bytes))
					} else {
						field(w, "model", "%s@%s  %s, %s, %s hashed", v.Name, v.Version, word, v.State, amount.Bytes(v.Bytes))
						printSigners(w, v.Decision)
					}
					for _, f := range v.Findings {
						field(w, "finding", "%s %s: %s", f.Kind, f.Name, f.Problem)
					}
					if v.Failure != nil {
						field(w, "failure", "%s", v.Failure.Reason)
						field(w, "next", "%s", v.Failure.Hint)
					}
				}
			})
			if err != nil {
				return err
			}
			what := "models"
			if slices.ContainsFunc(vs, func(v lifecycle.Verification) bool { return v.Runtime }) {
				what = "models and runtime images"
			}
			bad, good, code, first := 0, 0, exitOK, lifecycle.Failure{Cause: lifecycle.CauseHash}
			for _, v := range vs {
				if v.OK {
					good++
					continue
				}
				bad++
				code = exitCheckFailed
				if v.Failure != nil {
					code = codeOf(v.Failure.Cause)
					if first.Reason == "" {
						first = *v.Failure
					}
				}
			}
			first.Reason = fmt.Sprintf("%d of %d %s failed: %s", bad, bad+good, what, first.Reason)
			if bad > 0 && good > 0 {
				code = exitPartial
			}
			if code != exitOK {
				return exitError{code, first}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.Repair, "repair", false, "fetch again what is bad, and validate again")
	return c
}
