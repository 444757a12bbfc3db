package main

import (
	"github.com/spf13/cobra"
)

// modelNames completes the models that this node knows. It stays silent when
// the configuration cannot be read: a shell is no place for errors.
func (a *app) modelNames(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	a.quiet = true
	n, _, err := a.node("completion")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	recs, _ := n.Records()
	var names []string
	for _, r := range recs {
		names = append(names, r.ID()+"\t"+string(r.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
