package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) listCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the models of this node with their states",
		Example: `  rmodels list
  rmodels list --output json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("list")
			if err != nil {
				return err
			}
			recs, bad := n.Records()
			shown := make([]*lifecycle.Record, 0, len(recs))
			for _, r := range recs {
				if all || r.Unlisted.IsZero() || r.State != lifecycle.Absent {
					shown = append(shown, r)
				}
			}
			err = a.result(struct {
				Network string              `json:"network"`
				Models  []*lifecycle.Record `json:"models"`
			}{n.Network(), shown}, func(w io.Writer) {
				rows := [][]string{{"MODEL", "VERSION", "STATE", "SIZE", "DIGEST", "CHANGED", "WHY"}}
				now := time.Now()
				for _, r := range shown {
					size := "-"
					if r.Size > 0 && r.Tree != "" {
						size = amount.Bytes(r.Size)
					}
					dg := "-"
					if r.Manifest != "" {
						dg = short(r.Manifest.String())
					}
					rows = append(rows, []string{r.Name, r.Version, string(r.State), size, dg, ago(r.Updated, now), r.Reason})
				}
				if len(rows) == 1 {
					fmt.Fprintln(w, "no models yet; bring the listed ones here with: rmodels sync")
					return
				}
				table(w, rows)
			})
			if err == nil && bad != nil {
				err = bad
			}
			return err
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also what was removed because no snapshot lists it")
	return c
}
