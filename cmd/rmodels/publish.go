package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

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
		a.snapshotDiffCommand(), a.snapshotPublishCommand(), a.snapshotRenewCommand(), a.snapshotUpdateCommand(), a.snapshotResetCommand(),
		a.snapshotResumeCommand(), a.snapshotSchemaCommand(),
	}
}

func (a *app) snapshotInitCommand() *cobra.Command {
	var o ceremony.InitOptions
	var rootPublic, targetsPublic []string
	var onlinePublic string
	var encrypt bool
	var sec secrets
	c := &cobra.Command{
		Use:   "init DIR --network NAME",
		Short: "Start a network: keys, root of trust, empty draft",
		Long: `init creates a ceremony directory: root and targets keys (one file each, in
DIR/keys), an online key, the first root and an empty draft. Move each key to
its holder's machine and keep DIR without them; sign adds signatures until
the thresholds hold. With the public keys of holders who made their own, no
secret of theirs is ever here, and root.json, which nodes pin, is written once
enough of them have signed it. With --holder each holder's keys are made in a
directory of its own, with --encrypt under a passphrase.`,
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
			if onlinePublic != "" {
				b, err := readCapped(onlinePublic, keyMax)
				if err != nil {
					return err
				}
				o.OnlinePublicKey = string(b)
			}
			if encrypt {
				o.Passphrase = sec.newPassphrase
			}
			r, err := ceremony.Init(as[0], o)
			if err != nil {
				return err
			}
			rootFile := filepath.Join(as[0], "root.json")
			if _, err := r.RootJSON(); errors.Is(err, ceremony.ErrIncomplete) {
				rootFile = ""
			} else if err != nil {
				return err
			}
			st, err := r.Status()
			if err != nil {
				return err
			}
			return a.result(struct {
				Directory string   `json:"directory"`
				Network   string   `json:"network"`
				Root      string   `json:"root"`
				Warnings  []string `json:"warnings"`
			}{as[0], o.Network, rootFile, append([]string{}, st.Pending.Warnings...)}, func(w io.Writer) {
				line(w, "network %s is set up in %s", o.Network, as[0])
				for _, x := range st.Pending.Warnings {
					line(w, "warning: %s", x)
				}
				if rootFile == "" {
					line(w, "the root waits for its holders; each signs with: rmodels snapshot sign %s --root --key FILE", as[0])
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
	f.StringVar(&onlinePublic, "online-public-key", "", "public key (PEM) for snapshot and timestamp, in place of making one in DIR/keys, which travels with the directory")
	f.StringArrayVar(&o.Holders, "holder", nil, "directory of one holder, such as a memory stick, for one root key and one targets key; may be repeated; default DIR/keys for all")
	f.BoolVar(&encrypt, "encrypt", false, "encrypt the root and targets keys that are made with passphrases")
	sec.flags(f)
	f.DurationVar((*time.Duration)(&o.Terms.Document), "term", 0, "how long a signed snapshot is fresh (default 720h)")
	f.DurationVar((*time.Duration)(&o.Terms.Online), "online-term", 0, "how long the timestamp is fresh (default 168h)")
	f.DurationVar((*time.Duration)(&o.Terms.OfflineGrace), "offline-grace", 0, "how long a node without a newer snapshot keeps what is active (default 336h)")
	return c
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
			r, err := openCeremony(as[0])
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
				return edited(err)
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
			r, err := openCeremony(as[0])
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
				return edited(err)
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
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			var p snapshot.Policy
			if err := readEntry(as[1], &p); err != nil {
				return err
			}
			if err := r.AddPolicy(p); err != nil {
				return edited(err)
			}
			return a.drafted(r, "policy "+p.Name+" is in the draft")
		},
	}
	c.AddCommand(model, rt, pol, a.snapshotAddTrustRootCommand(), a.snapshotAddBundleCommand())
	return c
}

func (a *app) snapshotAddTrustRootCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "trust-root DIR NAME FILE",
		Short:   "Add or replace a Sigstore trusted_root.json, for policies to name",
		Example: `  rmodels snapshot add trust-root ./ceremony net trusted_root.json`,
		Args:    args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, as []string) error {
			return a.addFile(as[0], as[2], "trust root "+as[1], func(r *ceremony.Repository, b []byte) error { return r.AddTrustRoot(as[1], b) })
		},
	}
}

func (a *app) snapshotAddBundleCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "bundle DIR DIGEST FILE",
		Short:   "Send a signature bundle of an artifact along, for nodes whose mirrors drop it",
		Example: `  rmodels snapshot add bundle ./ceremony sha256:... bundle.sigstore.json`,
		Args:    args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, as []string) error {
			return a.addFile(as[0], as[2], "a bundle of "+as[1], func(r *ceremony.Repository, b []byte) error { return r.AddBundle(digest.Digest(as[1]), b) })
		},
	}
}

// addFile puts a file beside the draft.
func (a *app) addFile(dir, file, what string, add func(*ceremony.Repository, []byte) error) error {
	r, err := openCeremony(dir)
	if err != nil {
		return err
	}
	b, err := readCapped(file, snapshot.MaxExtra)
	if err != nil {
		return err
	}
	if err := add(r, b); err != nil {
		return edited(err)
	}
	return a.drafted(r, what+" is beside the draft")
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
	var only bool
	var from elsewhere
	c := &cobra.Command{
		Use:     verb + " DIR NAME@VERSION",
		Short:   strings.ToUpper(verb[:1]) + verb[1:] + " a model in the draft",
		Example: "  rmodels snapshot " + verb + " ./ceremony tiny@v1",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			name, version := splitID(as[1])
			if version == "" {
				return usageError{fmt.Errorf("%s: write NAME@VERSION", as[1])}
			}
			if err := a.update(cmd.Context(), r, from); err != nil {
				return err
			}
			if err := r.SetEnabled(name, version, enabled, flagsOf(only)...); err != nil {
				return edited(err)
			}
			var warnings []string
			if d, err := r.Draft(); err == nil && enabled {
				if m, ok := d.Model(name, version); ok && slices.ContainsFunc(d.Revocations, func(r snapshot.Revocation) bool { return r.Digest == m.Digest() }) {
					warnings = append(warnings, as[1]+" is revoked: nodes go on refusing it")
				}
			}
			return a.drafted(r, as[1]+" is "+verb+"d in the draft", warnings...)
		},
	}
	c.Flags().BoolVar(&only, "only", false, onlyHelp)
	from.flags(c.Flags())
	return c
}

func (a *app) snapshotRemoveCommand() *cobra.Command {
	var only bool
	var from elsewhere
	c := &cobra.Command{
		Use:     "remove DIR NAME[@VERSION]",
		Short:   "Drop a model from the draft; without a version, every version",
		Example: `  rmodels snapshot remove ./ceremony tiny@v1`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			name, version := splitID(as[1])
			if err := a.update(cmd.Context(), r, from); err != nil {
				return err
			}
			if err := r.RemoveModel(name, version, flagsOf(only)...); err != nil {
				return edited(err)
			}
			return a.drafted(r, as[1]+" is out of the draft")
		},
	}
	c.Flags().BoolVar(&only, "only", false, onlyHelp)
	from.flags(c.Flags())
	return c
}
