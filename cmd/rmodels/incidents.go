package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) incidentsCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "incidents [NAME]",
		Short: "List failed checks: what was expected, what was found, from where",
		Example: `  rmodels incidents
  rmodels incidents mistral-7b-instruct --limit 5 --output json`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("incidents")
			if err != nil {
				return err
			}
			model := ""
			if len(as) == 1 {
				model = as[0]
			}
			ins, err := n.Incidents(model, limit)
			if err != nil {
				return err
			}
			return a.result(struct {
				Incidents []lifecycle.Incident `json:"incidents"`
			}{append([]lifecycle.Incident{}, ins...)}, func(w io.Writer) {
				if len(ins) == 0 {
					fmt.Fprintln(w, "no incidents")
					return
				}
				for _, in := range ins {
					subject := "node"
					if in.Model != "" {
						subject = in.Model + "@" + in.Version
					}
					line(w, "%s  %s  %s", in.Time.Format(time.RFC3339), subject, in.Kind)
					line(w, "  %s", in.Reason)
					for _, l := range [][2]string{{"expected", in.Expected}, {"found", in.Found}, {"source", in.Source}, {"action", in.Action}} {
						if l[1] != "" {
							line(w, "  %-9s %s", l[0], l[1])
						}
					}
				}
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 100, "the newest so many; 0 for all")
	return c
}
