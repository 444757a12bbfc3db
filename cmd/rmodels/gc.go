package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) gcCommand() *cobra.Command {
	var dryRun, all bool
	var o cas.GCOptions
	c := &cobra.Command{
		Use:   "gc",
		Short: "Free what no model needs any more",
		Long: `gc deletes blobs, trees and partial transfers that nothing refers to. What a
running pull, a lease or a mounted container uses is kept; every item has a
reason. It is safe beside running commands and meant for cron.

While more of the disk is in use than --high-percent, or less is free than
min-free, it also frees partial transfers and Inactive models, the least
recently used first; they are fetched again when they are wanted again.`,
		Example: `  rmodels gc --dry-run
  rmodels gc --quiet                     # from cron`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("low-percent") {
				o.LowPercent = min(o.LowPercent, o.HighPercent)
			}
			if o.LowPercent < 0 || o.LowPercent > o.HighPercent || o.HighPercent > 100 {
				return usageError{fmt.Errorf("--high-percent %d, --low-percent %d: write 0 to 100, the low one not above the high one", o.HighPercent, o.LowPercent)}
			}
			n, c, err := a.node("gc")
			if err != nil {
				return err
			}
			o.MinFree = int64(c.MinFree)
			if dryRun {
				p, err := n.PlanGC(cmd.Context(), o)
				if err != nil {
					return err
				}
				err = a.result(p, func(w io.Writer) {
					printItems(w, p.Items, all)
					printFindings(w, p.Damaged)
					line(w, "would free %s", amount.Bytes(p.FreeBytes))
				})
				return cmp.Or(err, keptByDamage(p.Damaged))
			}
			r, err := n.GC(cmd.Context(), o)
			if err != nil {
				return err
			}
			err = a.result(r, func(w io.Writer) {
				printFindings(w, r.Damaged)
				for _, name := range r.Unpinned {
					line(w, "%s was not pinned although its model needs it: kept and pinned; see: rmodels incidents", name)
				}
				if !a.quiet {
					printItems(w, r.Items, all)
				} else if r.Dropped == 0 {
					return // cron mails whatever is printed
				}
				line(w, "freed %s", amount.Bytes(r.Freed))
			})
			return cmp.Or(err, keptByDamage(r.Damaged))
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be freed and change nothing")
	c.Flags().IntVar(&o.HighPercent, "high-percent", 80, "share of the disk in use that lets what is merely kept for later go; 0: never by share")
	c.Flags().IntVar(&o.LowPercent, "low-percent", 70, "share at which that stops; at most --high-percent")
	c.Flags().BoolVar(&all, "all", false, "also list what is kept, with the reason")
	return c
}

// keptByDamage is the exit of a collection that went on beside damage.
func keptByDamage(damaged []cas.Finding) error {
	if len(damaged) == 0 {
		return nil
	}
	return exitError{exitCheckFailed, lifecycle.Failure{
		Cause: lifecycle.CauseStore, Reason: fmt.Sprintf("no blob was freed: %s of trees or layers in use cannot be read", amount.Count(len(damaged), "record")),
		Hint: damaged[0].Remedy,
	}}
}

func printItems(w io.Writer, items []cas.GCItem, all bool) {
	rows := [][]string{{"ACTION", "KIND", "NAME", "SIZE", "WHY"}}
	for _, i := range items {
		if all || i.Action != "keep" {
			name := i.Name
			if strings.HasPrefix(name, "sha256:") {
				name = short(name)
			}
			size := ""
			if i.Bytes > 0 || i.Action != "keep" {
				size = amount.Bytes(i.Bytes)
			}
			rows = append(rows, []string{i.Action, i.Kind, name, size, i.Reason})
		}
	}
	if len(rows) > 1 {
		table(w, rows)
	}
}
