package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

func (a *app) snapshotCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "snapshot",
		Short: "Look at, hand over or publish the network's signed snapshot",
		Example: `  rmodels snapshot show
  rmodels snapshot apply snapshot.bundle.json
  rmodels snapshot init ./ceremony --network testnet`,
	})
	c.AddGroup(
		&cobra.Group{ID: "node", Title: "For node operators:"},
		&cobra.Group{ID: "publish", Title: "For publishers:"},
	)
	for _, sub := range []*cobra.Command{a.snapshotShowCommand(), a.snapshotRefreshCommand(), a.snapshotApplyCommand(), a.snapshotForgetTimeCommand()} {
		sub.GroupID = "node"
		c.AddCommand(sub)
	}
	for _, sub := range a.publishCommands() {
		sub.GroupID = "publish"
		c.AddCommand(sub)
	}
	return c
}

func (a *app) snapshotShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the accepted snapshot: age, signers, what it lists, what changed",
		Example: `  rmodels snapshot show
  rmodels snapshot show --output json`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("snapshot show")
			if err != nil {
				return err
			}
			acc, err := n.Current()
			if err != nil {
				return err
			}
			changes, err := acc.Changes()
			if err != nil {
				a.log().Warn("what changed cannot be told", "error", err)
			}
			return a.result(struct {
				*snapshot.Accepted
				Changes []snapshot.Change    `json:"changes"` // against the snapshot accepted before
				Keys    []snapshot.PolicyKey `json:"keys"`    // by the digests that revoke takes
			}{acc, append([]snapshot.Change{}, changes...), append([]snapshot.PolicyKey{}, acc.Document.PolicyKeys()...)}, func(w io.Writer) { printAccepted(w, acc, changes, time.Now()) })
		},
	}
}

func printAccepted(w io.Writer, acc *snapshot.Accepted, changes []snapshot.Change, now time.Time) {
	d := acc.Document
	field(w, "network", "%s", d.Network)
	field(w, "snapshot", "%d (%s)", d.Sequence, acc.Digest)
	fresh := string(acc.Freshness)
	if acc.Reason != "" {
		fresh += ": " + acc.Reason
	}
	field(w, "state", "%s", fresh)
	field(w, "created", "%s", ago(d.Created, now))
	field(w, "accepted", "%s", ago(acc.AcceptedAt, now))
	field(w, "stale", "%s, expired %s", ago(acc.StaleAt, now), ago(acc.ExpiredAt, now))
	for i, s := range acc.Signers {
		name := ""
		if i == 0 {
			name = "signers"
		}
		field(w, name, "%s", s)
	}
	field(w, "versions", "root %d, targets %d, snapshot %d, timestamp %d", acc.RootVersion, acc.TargetsVersion, acc.SnapshotVersion, acc.TimestampVersion)
	if acc.Previous != "" {
		field(w, "before", "%s; since then:", short(acc.Previous.String()))
	}
	for _, c := range changes {
		field(w, "", "%s %s", c.Verb, strings.TrimSpace(c.Kind+" "+c.Name+" "+memberText(c.Members)))
	}
	for _, r := range d.Revocations {
		field(w, "revoked", "%s", revokedText(r))
	}
	for _, k := range d.PolicyKeys() {
		field(w, "key", "%s of %s in policy %s", k.Digest, k.Authority, k.Policy)
	}
	fmt.Fprintln(w)
	models := [][]string{{"MODEL", "VERSION", "ENABLED", "SIZE", "RUNTIME", "POLICY", "DIGEST"}}
	for _, m := range d.Models {
		models = append(models, []string{
			m.Name, m.Version, fmt.Sprint(m.Enabled), amount.Bytes(m.Size), m.Compat.Runtime, m.Policy, short(m.Digest().String()),
		})
	}
	table(w, models)
	fmt.Fprintln(w)
	runtimes := [][]string{{"RUNTIME", "VERSION", "PROTOCOL", "GPU", "POLICY", "DIGEST"}}
	for _, r := range d.Runtimes {
		runtimes = append(runtimes, []string{r.Name, r.Version, r.Protocol, r.GPU, r.Policy, short(r.Digest().String())})
	}
	table(w, runtimes)
	fmt.Fprintln(w)
	policies := [][]string{{"POLICY", "NEEDS", "OF", "ATTESTATIONS", "FOR"}}
	for _, p := range d.Policies {
		var of, about, images []string
		for _, x := range p.Authorities {
			if x.AttestsOnly {
				of = append(of, x.Name+" (attests only)")
			} else {
				of = append(of, x.Name)
			}
		}
		for _, x := range p.Attestations {
			about = append(about, x.PredicateType)
		}
		for _, x := range p.Images {
			images = append(images, x.Glob)
		}
		policies = append(policies, []string{p.Name, fmt.Sprint(p.Threshold), listText(of), listText(about), listText(images)})
	}
	table(w, policies)
}

func memberText(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "(" + strings.Join(names, ", ") + ")"
}

func listText(all []string) string {
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, ", ")
}

// revokedText says what is withdrawn and why.
func revokedText(r snapshot.Revocation) string {
	var what string
	switch {
	case r.Digest != "":
		what = "artifact " + short(r.Digest.String())
	case r.Key != "":
		what = "key " + short(r.Key.String())
	case r.Identity != nil:
		what = "identity " + r.Identity.Subject + " of " + r.Identity.Issuer
	}
	if r.Reason != "" {
		what += ": " + r.Reason
	}
	return what
}

func (a *app) snapshotForgetTimeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget-time",
		Short: "Forget the time of a clock that was ahead and is right now",
		Long: `A node remembers the latest time that it has seen, so that a clock that goes
back revives no snapshot that has expired here. Where the clock had been ahead
by mistake, the snapshot stays stale or expired until the network renews it;
forget-time takes the clock's time for the latest instead. Run it when the clock
is right: nothing else tells an old snapshot from a new one.`,
		Example: `  timedatectl && rmodels snapshot forget-time`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, _, err := a.node("snapshot forget-time")
			if err != nil {
				return err
			}
			was, now, err := n.ForgetTime(cmd.Context())
			if err != nil {
				return err
			}
			return a.result(struct {
				Was time.Time `json:"was"` // the latest time seen until now
				Now time.Time `json:"now"`
			}{was, now}, func(w io.Writer) {
				if was.IsZero() {
					line(w, "no time was remembered")
					return
				}
				line(w, "the latest time seen was %s, and is %s now", was.Format(time.RFC3339), now.Format(time.RFC3339))
			})
		},
	}
}

func (a *app) snapshotRefreshCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Look for a newer snapshot and withdraw what it withdraws",
		Long: `refresh asks the snapshot's source, accepts a newer snapshot and takes out of
use what that revokes, disables or no longer lists. It fetches and tests no
model, waits for no sync and takes a moment, so that cron may run it every
minute: a revocation does not wait for a sync that takes hours.`,
		Example: `  rmodels snapshot refresh
  rmodels snapshot refresh --quiet       # from cron`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, cfg, err := a.node("snapshot refresh")
			if err != nil {
				return err
			}
			o := lifecycle.SyncOptions{SourceName: cfg.Snapshot.Source}
			if o.Source, err = snapshotSource(cfg); err != nil {
				return err
			}
			acc, res, err := n.Refresh(cmd.Context(), o)
			if err != nil {
				return a.stopped(res, err)
			}
			err = a.result(struct {
				Sequence  int64               `json:"sequence"`
				Snapshot  string              `json:"snapshot"`
				Freshness snapshot.Freshness  `json:"freshness"`
				Changed   bool                `json:"changed"` // a newer one was accepted
				Outcomes  []lifecycle.Outcome `json:"outcomes"`
				Failure   *lifecycle.Failure  `json:"snapshotFailure,omitzero"`
			}{acc.Document.Sequence, acc.Digest.String(), acc.Freshness, res.Changed, append([]lifecycle.Outcome{}, res.Outcomes...), res.SnapshotFailure}, func(w io.Writer) {
				if f := res.SnapshotFailure; f != nil {
					line(w, "snapshot: %s", f.Reason)
				}
				word := "unchanged"
				if res.Changed {
					word = "new"
				}
				if outcomeTable(w, res, a.quiet) || !a.quiet || res.Changed {
					line(w, "network %s, snapshot %d (%s, %s): %s withdrawn", n.Network(), acc.Document.Sequence, acc.Freshness, word, amount.Count(len(res.Outcomes), "model"))
				}
			})
			if err != nil {
				return err
			}
			if code := passCode(res, false); code != exitOK {
				return exitError{code, passFailure(res)}
			}
			return nil
		},
	}
}

func (a *app) snapshotApplyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "apply FILE",
		Short: "Accept a snapshot from a push file",
		Long: `apply verifies a push file and makes its snapshot the one in force. The
carrier need not be trusted: it can only withhold. An older snapshot, one of
another network or one without enough signatures is refused and changes
nothing. What an accepted one revokes, disables or no longer lists is out of
use at once; sync brings in the rest. A newer one whose term is over is an error
that withdraws all the same, and activates nothing.`,
		Example: `  rmodels snapshot apply snapshot.bundle.json && rmodels sync`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			n, _, err := a.node("snapshot apply")
			if err != nil {
				return err
			}
			b, err := snapshot.ReadBundle(as[0])
			if err != nil {
				return usageError{err}
			}
			acc, outs, aerr := n.Apply(cmd.Context(), b, as[0])
			if acc == nil {
				return aerr
			}
			err = a.result(struct {
				*snapshot.Accepted
				Outcomes []lifecycle.Outcome `json:"outcomes"` // what went out of use at once
			}{acc, append([]lifecycle.Outcome{}, outs...)}, func(w io.Writer) {
				for _, o := range outs {
					why := o.Reason
					if o.Failure != nil && o.Failure.Cause == lifecycle.CauseBusy {
						why = o.Failure.Reason + "; it goes out of use when that ends: " + o.Reason
					}
					line(w, "%s is %s: %s", o.ID(), o.After, why)
				}
				if !acc.Changed {
					line(w, "snapshot %d of %s was in force already", acc.Document.Sequence, acc.Document.Network)
					return
				}
				if acc.Freshness != snapshot.Fresh {
					line(w, "snapshot %d of %s is in force for what it withdraws (%s, %s)", acc.Document.Sequence, acc.Document.Network, short(acc.Digest.String()), acc.Freshness)
					return
				}
				line(w, "snapshot %d of %s is in force (%s, %s); make it so with: rmodels sync",
					acc.Document.Sequence, acc.Document.Network, short(acc.Digest.String()), acc.Freshness)
			})
			if err = cmp.Or(err, aerr); err != nil {
				return err
			}
			for _, o := range outs {
				if o.Failure != nil && o.Failure.Cause == lifecycle.CauseBusy {
					return exitError{exitBusy, *o.Failure} // whoever holds the model takes it out of use when it is done
				}
			}
			return nil
		},
	}
}

// splitID takes NAME[@VERSION] apart.
func splitID(s string) (name, version string) {
	name, version, _ = strings.Cut(s, "@")
	return name, version
}

// draftResult is what the editing commands print.
type draftResult struct {
	Network  string   `json:"network"`
	Sequence int64    `json:"sequence"`
	Models   []string `json:"models"`
	Runtimes []string `json:"runtimes"`
	Policies []string `json:"policies"`
	Warnings []string `json:"warnings,omitzero"`
}

// drafted prints where the draft stands after a change.
func (a *app) drafted(r *ceremony.Repository, did string, warnings ...string) error {
	d, err := r.Draft()
	if err != nil {
		return err
	}
	res := draftResult{Network: d.Network, Sequence: d.Sequence, Models: []string{}, Runtimes: []string{}, Policies: []string{}, Warnings: warnings}
	for _, m := range d.Models {
		id := m.ID()
		if !m.Enabled {
			id += " (disabled)"
		}
		res.Models = append(res.Models, id)
	}
	for _, x := range d.Runtimes {
		res.Runtimes = append(res.Runtimes, x.Name+"@"+x.Version)
	}
	for _, p := range d.Policies {
		res.Policies = append(res.Policies, p.Name)
	}
	slices.Sort(res.Models)
	return a.result(res, func(w io.Writer) {
		line(w, "%s; the draft lists %s, %s, %s", did, amount.Count(len(res.Models), "model"), amount.Count(len(res.Runtimes), "runtime"), amount.Count(len(res.Policies), "policy"))
		for _, x := range warnings {
			line(w, "warning: %s", x)
		}
	})
}
