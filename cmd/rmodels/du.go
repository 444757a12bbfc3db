package main

import (
	"io"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/spf13/cobra"
)

func (a *app) duCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "du",
		Short: "Say what the store takes up on disk, each file counted once",
		Long: `du measures the store. A file in a model's tree is a hard link to a blob and
costs nothing; what trees show of blobs is listed as shared.`,
		Example: `  rmodels du
  rmodels du --output json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("du")
			if err != nil {
				return err
			}
			st, err := n.Store()
			if err != nil {
				return err
			}
			u, err := st.Usage(cmd.Context())
			if err != nil {
				return err
			}
			return a.result(u, func(w io.Writer) {
				field(w, "blobs", "%10s  in %d", amount.Bytes(u.BlobBytes), u.Blobs)
				field(w, "trees", "%10s  in %d, which share %s with blobs", amount.Bytes(u.TreeBytes), u.Trees, amount.Bytes(u.SharedBytes))
				field(w, "partial", "%10s  in %s to be resumed", amount.Bytes(u.PartialBytes), amount.Count(u.Partials, "transfer"))
				field(w, "trash", "%10s  until the next gc", amount.Bytes(u.TrashBytes))
				field(w, "other", "%10s  maps, refs, leases, directories", amount.Bytes(u.OtherBytes))
				field(w, "total", "%10s", amount.Bytes(u.Total))
				field(w, "disk", "%10s  free of %s", amount.Bytes(u.DiskFree), amount.Bytes(u.DiskTotal))
			})
		},
	}
}
