package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// entryMax bounds a model, runtime or policy file in bytes.
const entryMax = 1 << 20

func (a *app) publishCommands() []*cobra.Command {
	return []*cobra.Command{
		a.snapshotInitCommand(), a.snapshotAddCommand(), a.snapshotEnableCommand("enable", true), a.snapshotEnableCommand("disable", false),
		a.snapshotRemoveCommand(), a.snapshotRevokeCommand(), a.snapshotRotateCommand(), a.snapshotSignCommand(), a.snapshotStatusCommand(),
		a.snapshotPublishCommand(), a.snapshotSchemaCommand(),
	}
}

func (a *app) snapshotInitCommand() *cobra.Command {
	var o ceremony.InitOptions
	var rootPublic, targetsPublic []string
	c := &cobra.Command{
		Use:   "init DIR --network NAME",
		Short: "Start a network: keys, root of trust, empty draft",
		Long: `init creates a ceremony directory: root and targets keys (one file each, in
DIR/keys), an online key, the first root and an empty draft. Move each key to
its holder's machine and keep DIR without them; sign adds signatures until
the thresholds hold. With the public keys of holders who made their own, no
secret of theirs is ever here, and root.json, which nodes pin, is written once
enough of them have signed it.`,
		Example: `  rmodels snapshot init ./ceremony --network testnet
  rmodels snapshot init ./ceremony --network mainnet --root-keys 5 --root-threshold 3
  rmodels snapshot init ./ceremony --network mainnet --root-threshold 1 --root-public-key alice.pub --targets-threshold 1 --targets-public-key bob.pub`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			cfg, _, err := a.config()
			if err != nil {
				return err
			}
			if cfg.Network == "" {
				return usageError{errors.New("snapshot init needs --network NAME")}
			}
			if err := snapshot.CheckName(cfg.Network); err != nil {
				return usageError{fmt.Errorf("--network: %w", err)}
			}
			o.Network = cfg.Network
			for _, k := range []struct {
				files []string
				into  *[]string
			}{{rootPublic, &o.RootPublicKeys}, {targetsPublic, &o.TargetsPublicKeys}} {
				for _, f := range k.files {
					b, err := readCapped(f, keyMax)
					if err != nil {
						return err
					}
					*k.into = append(*k.into, string(b))
				}
			}
			r, err := ceremony.Init(as[0], o)
			if err != nil {
				return err
			}
			rootFile, err := keepRoot(r, as[0])
			if err != nil {
				return err
			}
			return a.result(map[string]string{"directory": as[0], "network": o.Network, "root": rootFile}, func(w io.Writer) {
				line(w, "network %s is set up in %s", o.Network, as[0])
				if rootFile == "" {
					line(w, "the root waits for its holders; each signs with: rmodels snapshot sign %s --key FILE", as[0])
					return
				}
				line(w, "nodes pin %s; the keys in %s belong to different people", rootFile, filepath.Join(as[0], "keys"))
			})
		},
	}
	f := c.Flags()
	f.IntVar(&o.RootKeys, "root-keys", 0, "root keys to make (default 3)")
	f.IntVar(&o.RootThreshold, "root-threshold", 0, "root signatures needed (default 2)")
	f.IntVar(&o.TargetsKeys, "targets-keys", 0, "keys to make that sign snapshots (default 3)")
	f.IntVar(&o.TargetsThreshold, "targets-threshold", 0, "snapshot signatures needed (default 2)")
	f.StringArrayVar(&rootPublic, "root-public-key", nil, "public key (PEM) of a root key holder, in place of making one; may be repeated")
	f.StringArrayVar(&targetsPublic, "targets-public-key", nil, "public key (PEM) of a snapshot signer, in place of making one; may be repeated")
	f.DurationVar((*time.Duration)(&o.Terms.Document), "term", 0, "how long a signed snapshot is fresh (default 720h)")
	f.DurationVar((*time.Duration)(&o.Terms.Online), "online-term", 0, "how long the timestamp is fresh (default 168h)")
	f.DurationVar((*time.Duration)(&o.Terms.OfflineGrace), "offline-grace", 0, "how long a node without a newer snapshot keeps what is active (default 336h)")
	return c
}

// keepRoot writes root.json, which nodes pin: the newest root that enough
// holders have signed. It returns the file's path, or "" while there is none.
func keepRoot(r *ceremony.Repository, dir string) (string, error) {
	root, err := r.RootJSON()
	if errors.Is(err, ceremony.ErrIncomplete) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "root.json")
	return file, durable.WriteFile(file, root, 0o644)
}

func (a *app) snapshotAddCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "add",
		Short: "Add or replace a model, a runtime or a policy in the draft",
		Example: `  rmodels snapshot add policy ./ceremony policy.json
  rmodels snapshot add runtime ./ceremony llama.json --reference registry.example/rt/llama@sha256:...
  rmodels snapshot add model ./ceremony model.json --reference registry.example/acme/tiny@sha256:...`,
	})
	var reference string
	var size int64
	var version string
	model := &cobra.Command{
		Use:   "model DIR FILE",
		Short: "Add or replace a model (same name and version)",
		Long: `add model reads a model's entry as JSON; - is standard input. Flags replace
fields of the entry. Without a size the registry is asked for it.`,
		Example: `  rmodels snapshot add model ./ceremony model.json --version v2 --reference registry.example/acme/tiny@sha256:...`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			var m snapshot.Model
			if err := readEntry(as[1], &m); err != nil {
				return err
			}
			if reference != "" {
				m.Reference = reference
			}
			if version != "" {
				m.Version = version
			}
			if size > 0 {
				m.Size = size
			}
			if m.Size == 0 {
				if m.Size, err = a.remoteSize(cmd, m); err != nil {
					return err
				}
			}
			if err := r.AddModel(m); err != nil {
				return usageError{err}
			}
			return a.drafted(r, m.ID()+" is in the draft")
		},
	}
	model.Flags().StringVar(&reference, "reference", "", "registry/repository@sha256:... of the artifact")
	model.Flags().StringVar(&version, "version", "", "version of the model")
	model.Flags().Int64Var(&size, "size", 0, "bytes of the artifact; default: as the registry says")
	rt := &cobra.Command{
		Use:   "runtime DIR FILE",
		Short: "Add or replace a runtime (same name)",
		Long: `add runtime reads a runtime's entry as JSON, or a file of runner/examples; - is
standard input. --reference replaces its image.`,
		Example: `  rmodels snapshot add runtime ./ceremony llama.json --reference registry.example/rt/llama@sha256:...`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			var x snapshot.Runtime
			if err := readEntry(as[1], &x, "runtime"); err != nil {
				return err
			}
			if reference != "" {
				x.Reference = reference
			}
			if err := r.AddRuntime(x); err != nil {
				return usageError{err}
			}
			return a.drafted(r, "runtime "+x.Name+" is in the draft")
		},
	}
	rt.Flags().StringVar(&reference, "reference", "", "registry/repository@sha256:... of the image")
	pol := &cobra.Command{
		Use:     "policy DIR FILE",
		Short:   "Add or replace a policy (same name)",
		Example: `  rmodels snapshot add policy ./ceremony policy.json`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			var p snapshot.Policy
			if err := readEntry(as[1], &p); err != nil {
				return err
			}
			if err := r.AddPolicy(p); err != nil {
				return usageError{err}
			}
			return a.drafted(r, "policy "+p.Name+" is in the draft")
		},
	}
	c.AddCommand(model, rt, pol)
	return c
}

// readEntry decodes one entry of the document strictly. Where the file has one
// of the members, as the examples of runtimes do, that is the entry.
func readEntry(path string, v any, members ...string) error {
	var b []byte
	var err error
	if path == "-" {
		b, err = io.ReadAll(io.LimitReader(os.Stdin, entryMax))
	} else {
		b, err = readCapped(path, entryMax)
	}
	if err != nil {
		return err
	}
	var outer map[string]jsontext.Value
	if json.Unmarshal(b, &outer) == nil {
		for _, m := range members {
			if inner, ok := outer[m]; ok {
				b = inner
			}
		}
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return nil
}

// remoteSize asks the registry how large an artifact is.
func (a *app) remoteSize(cmd *cobra.Command, m snapshot.Model) (int64, error) {
	ref, err := oci.ParseReference(m.Reference)
	if err != nil {
		return 0, err
	}
	c, err := a.client()
	if err != nil {
		return 0, err
	}
	art, err := c.Resolve(cmd.Context(), ref, m.Mirrors)
	if err != nil {
		return 0, fmt.Errorf("ask for the size of %s: %w", m.Reference, err)
	}
	return art.Size(), nil
}

// client reaches registries without a node.
func (a *app) client() (*oci.Client, error) { return a.clientShowing(nil) }

// clientShowing is client, and tells show of what it pushes.
func (a *app) clientShowing(show progress.Sink) (*oci.Client, error) {
	cfg, _, err := a.config()
	if err != nil {
		return nil, err
	}
	o, err := cfg.registry()
	if err != nil {
		return nil, err
	}
	o.Progress = show
	return oci.New(o)
}

func (a *app) snapshotEnableCommand(verb string, enabled bool) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " DIR NAME@VERSION",
		Short:   strings.ToUpper(verb[:1]) + verb[1:] + " a model in the draft",
		Example: "  rmodels snapshot " + verb + " ./ceremony tiny@v1",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			name, version := splitID(as[1])
			if version == "" {
				return usageError{fmt.Errorf("%s: write NAME@VERSION", as[1])}
			}
			if err := r.SetEnabled(name, version, enabled); err != nil {
				return usageError{err}
			}
			return a.drafted(r, as[1]+" is "+verb+"d in the draft")
		},
	}
}

func (a *app) snapshotRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove DIR NAME[@VERSION]",
		Short:   "Drop a model from the draft; without a version, every version",
		Example: `  rmodels snapshot remove ./ceremony tiny@v1`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			name, version := splitID(as[1])
			if err := r.RemoveModel(name, version); err != nil {
				return usageError{err}
			}
			return a.drafted(r, as[1]+" is out of the draft")
		},
	}
}

func (a *app) snapshotSignCommand() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign the draft; each key holder may do it on a machine of their own",
		Long: `sign adds the signatures of the given keys to the draft. With fewer keys than
the threshold the result says who is missing; carry the directory (without
keys) to the next holder and sign there.`,
		Example: `  rmodels snapshot sign ./ceremony                       # with every key in DIR/keys
  rmodels snapshot sign ./ceremony --key alice.pem       # one holder at a time`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			res, err := r.Sign(keys...)
			if err != nil {
				return err
			}
			if _, err := keepRoot(r, as[0]); err != nil {
				return err
			}
			return a.result(res, func(w io.Writer) { printSigned(w, res, as[0]) })
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "private key file; may be repeated")
	return c
}

func printSigned(w io.Writer, res *ceremony.SignResult, dir string) {
	for _, x := range res.Roles {
		expires := "not signed yet"
		if !x.Expires.IsZero() {
			expires = "expires " + x.Expires.Format(time.RFC3339)
		}
		line(w, "%-10s version %d: %s, %d needed, %s", x.Role, x.Version, amount.Count(len(x.Signed), "signature"), x.Threshold, expires)
		for _, id := range x.Signed {
			line(w, "             %s signed", short(id))
		}
		for _, id := range x.Missing {
			line(w, "             %s has not signed", short(id))
		}
	}
	switch {
	case res.Draft:
		line(w, "the draft holds changes that nobody has signed: who holds a key of targets runs: rmodels snapshot sign %s --key FILE", dir)
	case res.Complete:
		line(w, "snapshot %d is signed; hand it out with: rmodels snapshot publish %s --to DIRECTORY", res.Sequence, dir)
	default:
		line(w, "more signatures are needed: the next holder runs: rmodels snapshot sign %s --key FILE", dir)
	}
}

func (a *app) snapshotStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status DIR",
		Short: "Say who has signed, who is missing, and what expires when",
		Example: `  rmodels snapshot status ./ceremony
  rmodels snapshot status ./ceremony --output json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			res, err := r.Status()
			if err != nil {
				return err
			}
			return a.result(res, func(w io.Writer) { printSigned(w, res, as[0]) })
		},
	}
}

func (a *app) snapshotPublishCommand() *cobra.Command {
	var to, bundle string
	c := &cobra.Command{
		Use:   "publish DIR",
		Short: "Write the signed snapshot where nodes pull it, or as one push file",
		Example: `  rmodels snapshot publish ./ceremony --to /srv/www/testnet
  rmodels snapshot publish ./ceremony --to oci://registry.example/net/snapshots:testnet
  rmodels snapshot publish ./ceremony --bundle snapshot.bundle.json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			if to == "" && bundle == "" {
				return usageError{errors.New("snapshot publish needs --to DIRECTORY or oci://REPOSITORY, --bundle FILE, or both")}
			}
			r, err := ceremony.Open(as[0])
			if err != nil {
				return err
			}
			changed, err := r.Changed()
			if err != nil {
				return err
			}
			if changed {
				return usageError{fmt.Errorf("the draft differs from what is signed: sign it first with: rmodels snapshot sign %s", as[0])}
			}
			if to != "" {
				if err := a.publish(cmd.Context(), r, to); err != nil {
					return err
				}
			}
			if bundle != "" {
				b, err := r.BundleFile()
				if err != nil {
					return err
				}
				if err := durable.WriteFile(bundle, b, 0o644); err != nil {
					return err
				}
			}
			return a.result(map[string]string{"to": to, "bundle": bundle}, func(w io.Writer) {
				if to != "" {
					line(w, "published to %s", to)
				}
				if bundle != "" {
					line(w, "wrote %s", bundle)
				}
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "where nodes pull from: a directory (over HTTPS or as it is) or oci://registry/repository[:tag]")
	c.Flags().StringVar(&bundle, "bundle", "", "push file for: rmodels snapshot apply")
	return c
}

// publish writes the newest set where nodes pull it.
func (a *app) publish(ctx context.Context, r *ceremony.Repository, to string) error {
	name, isRegistry := strings.CutPrefix(to, "oci://")
	if !isRegistry {
		return r.Publish(to)
	}
	files, err := r.Files()
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	if _, err = c.PushTUF(ctx, files, name); errors.Is(err, oci.ErrReference) {
		return usageError{err}
	}
	return err
}
