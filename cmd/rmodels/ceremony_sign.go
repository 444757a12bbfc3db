package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

func (a *app) snapshotSignCommand() *cobra.Command {
	var keys []string
	var o ceremony.SignOptions
	var yes string
	var s secrets
	c := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign the draft; each key holder may do it on a machine of their own",
		Long: `sign shows what differs from what was published and adds the signatures of the
given keys. With fewer keys than the threshold the result says who is missing;
carry the directory (without keys) to the next holder and sign there.

A root that waits is signed with --root alone, for it hands the network over:
root keys sign nothing else. On a terminal sign asks first. Without one, root and
targets keys sign nothing until --yes names the digest that status, diff and the
refusal itself print; the online key signs alone what has no risks, of a network that
it has signed for before.

A risk is what nodes could not take back or tired hands would overlook: a
published revocation that would disappear, a longer validity than before, a draft
begun from an older snapshot, signatures of others that would be dropped.

Beside each key FILE sign keeps FILE.seen: what its holder has seen published and,
before it signs, what the key signs.
A directory that is older than that, or another network's, is refused.`,
		Example: `  rmodels snapshot sign ./ceremony                       # with every key in DIR/keys
  rmodels snapshot sign ./ceremony --key alice.pem       # one holder at a time
  rmodels snapshot sign ./ceremony --key alice-root.pem --root --yes sha256:...`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			if o.Keys, err = r.LoadKeys(s.passphrase, keys...); err != nil {
				return ceremonyError(err)
			}
			o.Confirmed = digest.Digest(yes)
			o.Confirm = a.confirmation(as[0])
			res, err := r.Sign(o)
			if u, ok := errors.AsType[*ceremony.UnconfirmedError](err); ok {
				printPending(plain{a.stderr}, u.Pending, as[0])
			}
			if err != nil {
				return ceremonyError(err)
			}
			return a.result(res, func(w io.Writer) { printSigned(w, res, as[0]) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&keys, "key", nil, "private key file; may be repeated")
	f.BoolVar(&o.Root, "root", false, "sign the root that waits, too")
	f.StringVar(&yes, "yes", "", "digest of what was looked at: sign that and nothing else, without asking")
	s.flags(f)
	return c
}

func (a *app) snapshotStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status DIR",
		Short: "Say what waits, who has signed, who is missing, and what expires when",
		Example: `  rmodels snapshot status ./ceremony
  rmodels snapshot status ./ceremony --output json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			return a.ceremonyStatus(r)
		},
	}
}

func (a *app) ceremonyStatus(r *ceremony.Repository) error {
	res, err := r.Status()
	if err != nil {
		return ceremonyError(err)
	}
	return a.result(res, func(w io.Writer) { printSigned(w, res, r.Dir()) })
}

func (a *app) snapshotDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff DIR",
		Short: "Show what the next signatures would be for: the change against what was published",
		Example: `  rmodels snapshot diff ./ceremony
  rmodels snapshot diff ./ceremony --output json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			res, err := r.Status()
			if err != nil {
				return ceremonyError(err)
			}
			return a.result(res.Pending, func(w io.Writer) { printPending(w, res.Pending, as[0]) })
		},
	}
}

// printPending shows the difference that signatures are for.
func printPending(w io.Writer, p *ceremony.Pending, dir string) {
	if p.Root == nil && p.Document == nil {
		line(w, "nothing differs from what was published")
	}
	line(w, "network %s", p.Network)
	line(w, "valid for: document %s, targets %s, snapshot and timestamp %s, a new root %s; offline grace %s",
		p.Terms.Document, p.Terms.Targets, p.Terms.Online, p.Terms.Root, p.Terms.OfflineGrace)
	if c := p.Root; c != nil {
		against := "the first root"
		if c.Against > 0 {
			against = fmt.Sprintf("against root %d", c.Against)
		}
		line(w, "root %d, %s, expires %s", c.Version, against, c.Expires.Format(time.RFC3339))
		for _, r := range c.Roles {
			threshold := fmt.Sprint(r.Threshold)
			if r.Was != r.Threshold && c.Against > 0 {
				threshold = fmt.Sprintf("%d (was %d)", r.Threshold, r.Was)
			}
			line(w, "  %-10s %s needed, keys: %d", r.Role, threshold, len(r.Added)+len(r.Kept))
			for _, id := range r.Added {
				line(w, "    added    key ID %s, digest %s", id, p.Keys[id])
			}
			for _, id := range r.Removed {
				line(w, "    removed  key ID %s, digest %s", id, p.Keys[id])
			}
		}
	}
	if c := p.Document; c != nil {
		against := "the first"
		if c.Against > 0 {
			against = fmt.Sprintf("against snapshot %d", c.Against)
		}
		line(w, "snapshot %d, %s", c.Sequence, against)
		if !c.Expires.IsZero() {
			line(w, "  dated %s, expires %s", c.Dated.Format(time.RFC3339), c.Expires.Format(time.RFC3339))
		}
		for _, x := range c.Changes {
			line(w, "  %-8s %s", x.Verb, strings.TrimSpace(x.Kind+" "+x.Name))
			for _, hit := range x.Hits {
				line(w, "    hits %s", hit)
			}
			for _, v := range x.Values {
				what := strings.TrimSpace(v.Member)
				if v.Was != "" {
					whole(w, "    - ", strings.TrimSpace(what+" "+v.Was))
				}
				if v.Is != "" {
					whole(w, "    + ", strings.TrimSpace(what+" "+v.Is))
				}
			}
		}
		for _, x := range c.Files {
			line(w, "  %s", x)
		}
	}
	for _, d := range p.Dropped {
		line(w, "dropped: %s of role %s by %s: %s", amount.Count(len(d.Keys), "signature"), d.Role, shortAll(d.Keys), d.Why)
	}
	for _, x := range p.Risks {
		line(w, "risk: %s", x)
	}
	for _, x := range p.Warnings {
		line(w, "warning: %s", x)
	}
	line(w, "digest %s", p.Digest)
	if len(p.Signs) > 0 {
		line(w, "to be signed: %s", strings.Join(p.Signs, ", "))
	}
}

// whole prints a text of any length: what is confirmed is never cut off, and
// wrapped so that no terminal does.
func whole(w io.Writer, mark, text string) {
	const width = 110
	further := strings.Repeat(" ", len(mark)+2)
	for part := range slices.Chunk([]rune(text), width) {
		line(w, "%s%s", mark, string(part))
		mark = further
	}
}

func shortAll(ids []string) string {
	all := make([]string, 0, len(ids))
	for _, id := range ids {
		all = append(all, short(id))
	}
	return strings.Join(all, ", ")
}

// keyNames are both names of a key, as keygen prints them.
func keyNames(p *ceremony.Pending, id string) string {
	return fmt.Sprintf("key ID %s (digest %s)", short(id), short(p.Keys[id].Encoded()))
}

func printSigned(w io.Writer, res *ceremony.Status, dir string) {
	p := *res.Pending
	if len(res.Signed) > 0 { // it has been: the end says what
		p.Signs = nil
	}
	printPending(w, &p, dir)
	for _, x := range res.Roles {
		expires := "not signed yet"
		if !x.Expires.IsZero() {
			expires = "expires " + x.Expires.Format(time.RFC3339)
		}
		if x.Version == 0 {
			line(w, "%-10s %s, %s needed", x.Role, expires, amount.Count(x.Threshold, "signature"))
		} else {
			line(w, "%-10s version %d: %s, %d needed, %s", x.Role, x.Version, amount.Count(len(x.Signed), "signature"), x.Threshold, expires)
		}
		for _, id := range x.Signed {
			line(w, "             %s signed", keyNames(res.Pending, id))
		}
		for _, id := range x.Missing {
			line(w, "             %s has not signed", keyNames(res.Pending, id))
		}
	}
	if len(res.Signed) > 0 {
		line(w, "signed now: %s", strings.Join(res.Signed, ", "))
	}
	root := res.Roles[0]
	switch {
	case !root.Complete:
		line(w, "root %d waits: its holders run: rmodels snapshot sign %s --root --key FILE", root.Version, dir)
	case res.Draft:
		line(w, "the draft holds changes that nobody has signed: who holds a key of targets runs: rmodels snapshot sign %s --key FILE", dir)
	}
	switch {
	case res.Published:
		line(w, "snapshot %d is published; nothing waits", res.Sequence)
	case res.Complete:
		line(w, "snapshot %d is signed; hand it out with: rmodels snapshot publish %s --to DIRECTORY", res.Sequence, dir)
	case !res.Draft:
		line(w, "more signatures are needed: the next holder runs: rmodels snapshot sign %s --key FILE", dir)
	}
}

// places are where a snapshot goes.
type places struct {
	to, bundle string
	pending    *ceremony.Pending // what was new
	expires    time.Time         // of a renewed timestamp
	warnings   []string
}

func (a *app) sites(p places) ([]ceremony.Site, error) {
	var sites []ceremony.Site
	if p.to != "" {
		s, err := a.site(p.to)
		if err != nil {
			return nil, err
		}
		sites = append(sites, s)
	}
	if p.bundle != "" {
		sites = append(sites, ceremony.BundleSite(p.bundle))
	}
	return sites, nil
}

func (a *app) placed(p places) error {
	return a.result(struct {
		To       string            `json:"to"`
		Bundle   string            `json:"bundle"`
		Pending  *ceremony.Pending `json:"pending,omitzero"` // what was new
		Expires  time.Time         `json:"expires,omitzero"` // of a renewed timestamp
		Warnings []string          `json:"warnings,omitzero"`
	}{p.to, p.bundle, p.pending, p.expires, p.warnings}, func(w io.Writer) {
		for _, x := range p.warnings {
			line(w, "warning: %s", x)
		}
		if !p.expires.IsZero() {
			line(w, "the timestamp is valid until %s", p.expires.Format(time.RFC3339))
		}
		if p.pending != nil {
			printPending(w, p.pending, "")
		}
		if p.to != "" {
			line(w, "published to %s", p.to)
		}
		if p.bundle != "" {
			line(w, "wrote %s", p.bundle)
		}
	})
}

func placeFlags(c *cobra.Command, p *places, o *ceremony.PublishOptions) {
	f := c.Flags()
	f.StringVar(&p.to, "to", "", "where nodes pull from: a directory (over HTTPS or as it is) or oci://registry/repository[:tag]")
	f.StringVar(&p.bundle, "bundle", "", "push file for: rmodels snapshot apply")
	f.BoolVar(&o.NewSite, "new-site", false, "publish where nothing was published before; the network's first snapshot needs no word for it")
	f.BoolVar(&o.Replace, "replace", false, "overwrite what is there though it does not verify or is newer: after a damage or a theft")
}

func (a *app) snapshotPublishCommand() *cobra.Command {
	var p places
	var o ceremony.PublishOptions
	c := &cobra.Command{
		Use:   "publish DIR",
		Short: "Write the signed snapshot where nodes pull it, or as one push file",
		Long: `publish reads what is there first. It never takes a network back: what is older
than the site has, what another ceremony published under the same numbers, and
what lacks a revocation that the site has are refused.`,
		Example: `  rmodels snapshot publish ./ceremony --to /srv/www/testnet
  rmodels snapshot publish ./ceremony --to oci://registry.example/net/snapshots:testnet
  rmodels snapshot publish ./ceremony --bundle snapshot.bundle.json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			if p.to == "" && p.bundle == "" {
				return usageError{errors.New("snapshot publish needs --to DIRECTORY or oci://REPOSITORY, --bundle FILE, or both")}
			}
			return a.toSites(as[0], &p, func(r *ceremony.Repository, sites []ceremony.Site) error {
				st, err := r.Status()
				if err != nil {
					return err
				}
				p.pending = st.Pending
				return r.Publish(cmd.Context(), o, sites...)
			})
		},
	}
	placeFlags(c, &p, &o)
	c.Flags().BoolVar(&o.Unrevoke, "unrevoke", false, "let a revocation disappear that was published")
	return c
}

func (a *app) toSites(dir string, p *places, do func(*ceremony.Repository, []ceremony.Site) error) error {
	r, err := openCeremony(dir)
	if err != nil {
		return err
	}
	sites, err := a.sites(*p)
	if err != nil {
		return err
	}
	if err := do(r, sites); err != nil {
		return ceremonyError(err)
	}
	return a.placed(*p)
}

func (a *app) snapshotRenewCommand() *cobra.Command {
	var p places
	var o ceremony.PublishOptions
	var keys []string
	var s secrets
	c := &cobra.Command{
		Use:   "renew DIR",
		Short: "Keep the published snapshot fresh with the online key alone, whatever waits meanwhile",
		Long: `renew signs a new timestamp over what was published last and publishes it: what
cron runs once a day on the machine of the online key. Edits and roots that
wait for signatures are left alone. It ends where the targets' term does: then
their holders sign.`,
		Example: `  rmodels snapshot renew ./ceremony --key online.pem --to /srv/www/testnet`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			o.Warn = func(why string) { p.warnings = append(p.warnings, why) }
			return a.toSites(as[0], &p, func(r *ceremony.Repository, sites []ceremony.Site) error {
				own, err := r.LoadKeys(s.passphrase, keys...)
				if err != nil {
					return err
				}
				if err := r.Renew(cmd.Context(), own, o, sites...); err != nil {
					return err
				}
				st, err := r.Status()
				if err != nil {
					return err
				}
				for _, t := range st.Terms {
					if t.What == "timestamp" {
						p.expires = t.Expires
					}
				}
				return nil
			})
		},
	}
	placeFlags(c, &p, &o)
	c.Flags().StringArrayVar(&keys, "key", nil, "private key file of the online role; default: DIR/keys")
	s.flags(c.Flags())
	return c
}

func (a *app) snapshotUpdateCommand() *cobra.Command {
	var from elsewhere
	c := &cobra.Command{
		Use:   "update DIR --from SITE",
		Short: "Take over what was published: after a restore from a backup, or on a second machine",
		Example: `  rmodels snapshot update ./ceremony --from /srv/www/testnet
  rmodels snapshot update ./ceremony --from https://models.example/testnet --pinned root.json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			if from.from == "" {
				return usageError{errors.New("snapshot update needs --from SITE")}
			}
			r, err := a.openLost(cmd.Context(), as[0], from)
			if err != nil {
				return err
			}
			if err := a.update(cmd.Context(), r, from); err != nil {
				return err
			}
			return a.ceremonyStatus(r)
		},
	}
	from.flags(c.Flags())
	return c
}

func (a *app) snapshotResetCommand() *cobra.Command {
	var root bool
	c := &cobra.Command{
		Use:   "reset DIR",
		Short: "Drop the draft's edits and what waits for signatures: begin again from what was published",
		Example: `  rmodels snapshot reset ./ceremony
  rmodels snapshot reset ./ceremony --root     # a root that waits, too`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			if err := r.Reset(root); err != nil {
				return ceremonyError(err)
			}
			return a.ceremonyStatus(r)
		},
	}
	c.Flags().BoolVar(&root, "root", false, "drop a root that waits, too")
	return c
}

func (a *app) snapshotResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "resume DIR",
		Short:   "Take up the edits that an emergency (--only) set aside",
		Example: `  rmodels snapshot resume ./ceremony`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			r, err := openCeremony(as[0])
			if err != nil {
				return err
			}
			if err := r.Resume(); err != nil {
				return edited(err)
			}
			return a.drafted(r, "the edits that were set aside are the draft again")
		},
	}
}
