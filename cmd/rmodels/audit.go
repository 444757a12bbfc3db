package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
)

func (a *app) auditCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "audit",
		Short: "Export every admission, refusal and snapshot, and check that none was changed",
		Long: `audit prints the append-only log, oldest first, one JSON object a line: which
snapshots came into force, what was admitted, by whose signatures and which
rule, and every failed check; each with its time and its snapshot. Each line
holds the SHA-256 of the line before it. Keep the head that audit prints at
the end somewhere else: nothing up to it can be changed unseen.`,
		Example: `  rmodels audit > audit.jsonl
  rmodels audit --quiet > audit-2026-11.jsonl`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("audit")
			if err != nil {
				return err
			}
			res, err := n.Audit(func(line []byte) error {
				_, err := fmt.Fprintf(a.stdout, "%s\n", line)
				return err
			})
			if err != nil {
				return err
			}
			if res.Broken > 0 {
				return &lifecycle.Failure{
					Cause: lifecycle.CauseHash, Reason: fmt.Sprintf("line %d of the audit log does not follow from the one before it", res.Broken),
					Expected: "a log that was only appended to", Found: "one that was changed",
					Hint: "compare it with an export made before; who can write the state directory?",
				}
			}
			if res.Cut {
				return &lifecycle.Failure{
					Cause: lifecycle.CauseHash, Reason: fmt.Sprintf("the audit log ends after %s, before one that this node has written", amount.Count(res.Entries+res.Torn, "line")),
					Expected: "a log that was only appended to", Found: "one that was cut off",
					Hint: "compare it with an export made before; who can write the state directory?",
				}
			}
			switch {
			case a.output == "json":
				_, err = fmt.Fprintf(a.stderr, `{"event":"audit","entries":%d,"torn":%d,"head":%q}`+"\n", res.Entries, res.Torn, res.Head)
			case !a.quiet:
				_, err = fmt.Fprintf(a.stderr, "%s, unbroken; head %s\n", amount.Count(res.Entries, "entry"), res.Head)
			}
			return err
		},
	}
}
