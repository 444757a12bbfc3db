package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
)

func (a *app) archiveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "archive NAME",
		Short: "Move a version that is not in use to cold storage",
		Long: `archive copies a model with its signatures and its record to the configured
archive, compares every byte of the copy, and frees the hot one. The snapshot's
retention does it by itself for versions that a newer one replaced. Layers that
are tar, gzip or zstd archives are fetched again from the model's sources: the
node keeps only their files.`,
		Example:           `  rmodels archive mistral-7b-instruct@v1`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("archive")
			if err != nil {
				return err
			}
			r, err := n.Archive(cmd.Context(), as[0])
			if err != nil {
				return err
			}
			return a.result(r, func(w io.Writer) {
				line(w, "%s is %s; its hot copy goes with the next: rmodels gc", r.ID(), r.State)
			})
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore NAME",
		Short: "Bring an archived version back, through admission and validation",
		Long: `restore fetches an archived version by its digest, from the archive or from
any source of the snapshot, and admits it as if it were new: signatures,
contents, test inference. A version that the snapshot no longer lists is
refused.`,
		Example:           `  rmodels restore mistral-7b-instruct@v1`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("restore")
			if err != nil {
				return err
			}
			r, err := n.Record(as[0])
			if err != nil {
				return err
			}
			acc, err := n.Current()
			if err != nil {
				return err
			}
			m, listed := acc.Document.Model(r.Name, r.Version)
			switch {
			case r.State != lifecycle.Archived:
				return &lifecycle.Failure{Cause: lifecycle.CauseListing, Reason: fmt.Sprintf("%s is %s, not Archived", r.ID(), r.State), Hint: "see the archived ones with: rmodels list"}
			case !listed || !m.Enabled:
				return &lifecycle.Failure{
					Cause: lifecycle.CauseListing, Reason: fmt.Sprintf("%s: snapshot %d does not list and enable it", r.ID(), acc.Document.Sequence),
					Hint: "the network has to list it again",
				}
			}
			o := lifecycle.SyncOptions{Only: []string{r.ID()}, Force: true}
			res, err := n.Sync(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.pass(res, o, true)
		},
	}
}

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "export NAME... DIR",
		Short: "Copy installed models with their signatures into an OCI image layout",
		Long: `export writes models, the runtime images that they are tested on, and the
signatures of both into a directory that oras, crane and skopeo read, and that
import takes on a node without a network. Exporting again writes only what is
missing. Layers that are tar, gzip or zstd archives are fetched again from the
model's sources: the node keeps only their files.`,
		Example: `  rmodels export mistral-7b-instruct /mnt/usb/models`,
		Args:    args(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("export")
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(as[len(as)-1])
			if err != nil {
				return err
			}
			out, err := n.Export(cmd.Context(), as[:len(as)-1], dir)
			if err != nil {
				return err
			}
			return a.result(out, func(w io.Writer) {
				for _, x := range out {
					what := x.Name + "@" + x.Version
					if x.Runtime {
						what = "runtime " + what
					}
					if x.Missing {
						line(w, "%s: not on this node, so not exported; it comes with the first: rmodels validate", what)
						continue
					}
					line(w, "%s: %s written and compared, %s there already", what, amount.Bytes(x.Bytes), amount.Bytes(x.Present))
				}
				line(w, "take it to the other node and run: rmodels import %s", dir)
			})
		},
	}
}

func (a *app) importCommand() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "import DIR",
		Short: "Install the listed models that an OCI image layout holds",
		Long: `import looks through an OCI image layout for the models that the accepted
snapshot lists, and does with them what sync does, without asking any
registry: digests, signatures and contents are checked, and the test inference
is run. What the snapshot does not list is left alone.`,
		Example: `  rmodels snapshot apply /mnt/usb/snapshot.bundle.json && rmodels import /mnt/usb/models`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			dir, err := filepath.Abs(as[0])
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(dir, "oci-layout")); errors.Is(err, fs.ErrNotExist) {
				return usageError{fmt.Errorf("%s is no OCI image layout: it has no file oci-layout", dir)}
			}
			n, _, err := a.node("import", func(o *lifecycle.Options) {
				o.OCI.Offline, o.From = true, []string{"oci-layout://" + dir}
			})
			if err != nil {
				return err
			}
			acc, err := n.Current()
			if err != nil {
				return err
			}
			there, err := oci.InLayout(cmd.Context(), dir)
			if err != nil {
				return err
			}
			o := lifecycle.SyncOptions{Force: true, DryRun: dryRun}
			for _, m := range acc.Document.Models {
				if _, ok := there[m.Digest()]; ok && m.Enabled && !slices.Contains(o.Only, m.ID()) {
					o.Only = append(o.Only, m.ID())
				}
			}
			if len(o.Only) == 0 {
				return &lifecycle.Failure{
					Cause: lifecycle.CauseListing, Reason: fmt.Sprintf("%s holds no model that snapshot %d lists", dir, acc.Document.Sequence),
					Hint: "see what it lists with: rmodels snapshot show",
				}
			}
			res, err := n.Sync(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.pass(res, o, true)
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be installed and change nothing")
	return c
}
