package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

func (a *app) snapshotRotateCommand() *cobra.Command {
	var role, old, file string
	var threshold int
	var renew bool
	c := &cobra.Command{
		Use:   "rotate DIR",
		Short: "Replace a key, change a threshold, or renew the root's term",
		Long: `rotate stages a new root: with --old a key loses its role, with --new one gains
it, with --threshold the number of signatures changes, with --renew the term
begins anew. It takes effect once enough holders of the old and of the new
root have signed it and it is published.`,
		Example: `  rmodels snapshot rotate ./ceremony --role targets --old 3f2a --new carol.pub
  rmodels snapshot rotate ./ceremony --role root --threshold 3
  rmodels snapshot rotate ./ceremony --renew`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			if old == "" && file == "" && threshold == 0 && !renew {
				return usageError{errors.New("snapshot rotate needs --old, --new, --threshold or --renew")}
			}
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			public := ""
			if file != "" {
				b, err := readCapped(file, keyMax)
				if err != nil {
					return err
				}
				public = string(b)
			}
			if old != "" || public != "" {
				if err := r.RotateKey(role, old, public); err != nil {
					return usageError{err}
				}
			}
			if threshold != 0 {
				if err := r.SetThreshold(role, threshold); err != nil {
					return usageError{err}
				}
			}
			if renew {
				if err := r.RenewRoot(); err != nil {
					return err
				}
			}
			res, err := r.Status()
			if err != nil {
				return err
			}
			return a.result(res, func(w io.Writer) { printSigned(w, res, as[0]) })
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "targets", "root, targets or online")
	f.StringVar(&old, "old", "", "ID of the key that loses the role, or the beginning of it")
	f.StringVar(&file, "new", "", "public key file (PEM) that gains the role")
	f.IntVar(&threshold, "threshold", 0, "signatures that the role needs")
	f.BoolVar(&renew, "renew", false, "begin the root's term anew")
	return c
}

func (a *app) snapshotRevokeCommand() *cobra.Command {
	var rev snapshot.Revocation
	var dg, key, issuer, subject string
	c := &cobra.Command{
		Use:   "revoke DIR",
		Short: "Withdraw an artifact, a signer's key or an identity in the draft",
		Long: `revoke adds a revocation to the draft. A digest is that of an artifact's
manifest, of its config, of a layer or of a file: nodes take every model that is
it or holds it out of use when they accept the snapshot; signatures by a revoked key or identity no
longer count, also for what is installed.`,
		Example: `  rmodels snapshot revoke ./ceremony --digest sha256:... --reason "found harmful"
  rmodels snapshot revoke ./ceremony --key sha256:... --reason "stolen"
  rmodels snapshot revoke ./ceremony --issuer https://accounts.example --subject ci@example.org`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			rev.Digest, rev.Key = digest.Digest(dg), digest.Digest(key)
			if issuer != "" || subject != "" {
				rev.Identity = &snapshot.Identity{Issuer: issuer, Subject: subject}
			}
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			if err := r.Revoke(rev); err != nil {
				return usageError{err}
			}
			return a.drafted(r, "the revocation is in the draft")
		},
	}
	f := c.Flags()
	f.StringVar(&dg, "digest", "", "digest of a manifest, config, layer or file")
	f.StringVar(&key, "key", "", "sha256 of the public key (SubjectPublicKeyInfo); rmodels show prints it")
	f.StringVar(&issuer, "issuer", "", "issuer of a keyless identity")
	f.StringVar(&subject, "subject", "", "subject of a keyless identity")
	f.StringVar(&rev.Reason, "reason", "", "why, for the nodes' incidents")
	return c
}

func (a *app) snapshotSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [model|runtime|policy]",
		Short: "Print the JSON Schema of the snapshot document or of one entry, for editors",
		Example: `  rmodels snapshot schema > snapshot.v1.schema.json
  rmodels snapshot schema model > model.v1.schema.json`,
		Args:      args(cobra.MaximumNArgs(1)),
		ValidArgs: []string{"model", "runtime", "policy"},
		RunE: func(cmd *cobra.Command, as []string) error {
			schema := snapshot.Schema
			if len(as) == 1 {
				var err error
				if schema, err = snapshot.EntrySchema(as[0]); err != nil {
					return usageError{err}
				}
			}
			_, err := fmt.Fprintf(a.stdout, "%s", schema)
			return err
		},
	}
}
