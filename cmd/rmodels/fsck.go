package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
)

// foundBad is the exit of a command that looked through the store.
func foundBad(n int) error {
	return exitError{exitCheckFailed, lifecycle.Failure{
		Cause: lifecycle.CauseHash, Reason: amount.Count(n, "finding") + " in the store", Hint: "mend what models use with: rmodels verify --repair",
	}}
}

func (a *app) fsckCommand() *cobra.Command {
	var o cas.FsckOptions
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Check every invariant of the store and of the records, offline",
		Long: `fsck checks what the store promises: blobs, chunk maps, trees, refs, leases,
partial transfers; with --hash every blob against its digest too. It compares
the records of models with the roots and trees that keep their bytes. Each
finding says how it is repaired. The exit code is 4 when there is any. Commands
that run beside it may make it report what is only under way.`,
		Example: `  rmodels fsck
  rmodels fsck --hash --output json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("fsck")
			if err != nil {
				return err
			}
			st, err := n.Store()
			if err != nil {
				return err
			}
			fs, err := n.Fsck(cmd.Context(), o)
			if err != nil {
				return err
			}
			err = a.result(struct {
				Findings []cas.Finding `json:"findings"`
			}{append([]cas.Finding{}, fs...)}, func(w io.Writer) {
				printFindings(w, fs)
				line(w, "%s in %s", amount.Count(len(fs), "finding"), st.Root())
			})
			if err == nil && len(fs) > 0 {
				err = foundBad(len(fs))
			}
			return err
		},
	}
	c.Flags().BoolVar(&o.Hash, "hash", false, "also hash every blob")
	return c
}

func printFindings(w io.Writer, fs []cas.Finding) {
	for _, f := range fs {
		field(w, "finding", "%s %s: %s", f.Kind, f.Name, f.Problem)
		if f.Expected != "" {
			field(w, "", "expected %s, found %s", f.Expected, f.Found)
		}
		field(w, "", "next: %s", f.Remedy)
	}
}
