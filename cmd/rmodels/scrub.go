package main

import (
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/snapshot"
)

func (a *app) scrubCommand() *cobra.Command {
	var budget string
	c := &cobra.Command{
		Use:   "scrub",
		Short: "Look for rot on the disk, oldest first, within a budget",
		Long: `scrub reads blobs from the disk past the page cache and compares each chunk
with its checksum: much cheaper than hashing. With a budget it goes on where
the last run stopped; it is rounded up to whole chunks of 4 MiB, and a blob
counts as read with its last chunk. What is bad is not handed out any more, and not read
again; verify --repair mends it, or the sync after the one that meets it.`,
		Example: `  rmodels scrub
  rmodels scrub --budget 100GiB          # from cron`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var b snapshot.Bytes
			if budget != "" {
				if err := b.UnmarshalText([]byte(budget)); err != nil {
					return usageError{fmt.Errorf("--budget: %w", err)}
				}
			}
			n, _, err := a.node("scrub")
			if err != nil {
				return err
			}
			st, err := n.Store()
			if err != nil {
				return err
			}
			show := a.progress()
			res, err := st.Scrub(cmd.Context(), cas.ScrubOptions{Budget: int64(b), OnProgress: func(done, total int64) {
				show.Emit(progress.Event{Kind: progress.Bytes, Model: "store", Step: "scrub", Digest: string(digest.SHA256), Source: "disk", Done: done, Total: total})
			}})
			if err != nil {
				return err
			}
			if err := n.ScrubFindings(cmd.Context(), res.Findings); err != nil {
				return err
			}
			err = a.result(res, func(w io.Writer) {
				for _, f := range res.Findings {
					field(w, "finding", "%s %s: %s", f.Kind, f.Name, f.Problem)
					field(w, "", "next: %s", f.Remedy)
				}
				word := "a part of the store; the next run goes on from there"
				if res.Whole {
					word = "the whole store"
				}
				line(w, "%s, %s read, %s: %s", amount.Count(res.Blobs, "blob"), amount.Bytes(res.Bytes), amount.Count(len(res.Findings), "finding"), word)
			})
			if err == nil && len(res.Findings) > 0 {
				err = foundBad(len(res.Findings))
			}
			return err
		},
	}
	c.Flags().StringVar(&budget, "budget", "", "read at most so much, like 100GiB; default: everything")
	return c
}
