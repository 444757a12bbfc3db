package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/snapshot"
)

// rootMax bounds a TUF root file in bytes.
const rootMax = 1 << 20

func (a *app) initCommand() *cobra.Command {
	var rootFile string
	c := &cobra.Command{
		Use:   "init --network NAME --root ROOT.json",
		Short: "Set this node up for a network: store, pinned root, configuration",
		Long: `init creates the content store, pins the network's first root of trust and,
where there is no configuration file yet, writes one from the flags given.
It may be repeated; another root than the pinned one is refused.`,
		Example: `  rmodels init --network testnet --root root.json --snapshot-source https://snapshots.example/testnet
  rmodels init --network lab --root root.json --state-dir /data/rmodels --snapshot-source /mnt/usb/snapshots`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, file, err := loadConfig(a.root.PersistentFlags(), a.configFile, true)
			if err != nil {
				return err
			}
			if cfg.Network == "" || rootFile == "" {
				return usageError{errors.New("init needs --network NAME and --root ROOT.json")}
			}
			if err := snapshot.CheckName(cfg.Network); err != nil {
				return usageError{fmt.Errorf("--network: %w", err)}
			}
			if _, err := snapshotSource(cfg); err != nil {
				return err
			}
			root, err := readCapped(rootFile, rootMax)
			if err != nil {
				return err
			}
			o, err := cfg.node()
			if err != nil {
				return err
			}
			if err := lifecycle.Init(o, root); err != nil {
				return err
			}
			wrote, err := writeConfig(file, cfg)
			if err != nil {
				return err
			}
			kept := cfg.Network // what the next commands will follow
			if c, _, err := loadConfig(pflag.NewFlagSet("", pflag.ContinueOnError), a.configFile, true); err == nil {
				kept = cmp.Or(c.Network, kept)
			}
			store := cfg.StoreDir
			if store == "" {
				store = filepath.Join(cfg.StateDir, "store")
			}
			return a.result(struct {
				Network       string `json:"network"`
				StateDir      string `json:"stateDir"`
				StoreDir      string `json:"storeDir"`
				Configuration string `json:"configuration"`
				Written       bool   `json:"configurationWritten"`
				Source        string `json:"snapshotSource"`
			}{cfg.Network, cfg.StateDir, store, file, wrote, cfg.Snapshot.Source}, func(w io.Writer) {
				fmt.Fprintf(w, "network        %s (root pinned)\nstate          %s\nstore          %s\n", cfg.Network, cfg.StateDir, store)
				if wrote {
					fmt.Fprintf(w, "configuration  %s (written)\n", file)
				} else {
					fmt.Fprintf(w, "configuration  %s (kept as it is)\n", file)
					if kept != cfg.Network {
						fmt.Fprintf(w, "               it follows %s: other commands need --network %s, or change it\n", kept, cfg.Network)
					}
				}
				if cfg.Snapshot.Source == "" {
					fmt.Fprintln(w, "next           hand over a snapshot: rmodels snapshot apply FILE")
				} else {
					fmt.Fprintln(w, "next           see what would happen: rmodels sync --dry-run")
				}
			})
		},
	}
	c.Flags().StringVar(&rootFile, "root", "", "the network's first TUF root, from a source you trust")
	return c
}

// readCapped reads a small file that a person named. It waits for no FIFO.
func readCapped(path string, limit int64) ([]byte, error) {
	b, err := durable.ReadLink(path, limit)
	if errors.Is(err, durable.ErrTooLong) {
		err = fmt.Errorf("%s is larger than %s", path, amount.Bytes(limit))
	}
	if err != nil {
		return nil, usageError{err}
	}
	return b, nil
}

// writeConfig writes the effective configuration where there is none.
func writeConfig(file string, cfg *config) (bool, error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	b, err := toml.Marshal(cfg)
	if err != nil {
		return false, err
	}
	if err := durable.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, err
	}
	// 0600: it may name files with passwords, or hold one.
	return true, durable.WriteFile(file, b, 0o600)
}
