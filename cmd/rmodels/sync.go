package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/version"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

func (a *app) syncCommand() *cobra.Command {
	var o lifecycle.SyncOptions
	var offline bool
	c := &cobra.Command{
		Use:   "sync [NAME...]",
		Short: "Make this node equal to the network's snapshot",
		Long: `sync looks for a newer snapshot, plans, and executes: it installs, verifies,
validates, disables and removes models until the node equals the snapshot. A
model that fails does not stop the others. When the snapshot's source does
not answer or does not verify, the last good snapshot stays in force.

With names it does so for these models alone, and at once: one that failed is
tried again without waiting for its time.`,
		Example: `  rmodels sync --dry-run
  rmodels sync
  rmodels sync mistral-7b-instruct       # what failed is tried again now
  rmodels sync --quiet --wait 10m        # from cron`,
		Args:              args(cobra.ArbitraryArgs),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, cfg, err := a.node("sync", func(no *lifecycle.Options) { no.OCI.Offline = offline })
			if err != nil {
				return err
			}
			o.Retest = o.Force
			o.Only, o.Force = as, o.Force || len(as) > 0
			if !offline {
				if o.Source, err = snapshotSource(cfg); err != nil {
					return err
				}
				o.SourceName = cfg.Snapshot.Source
			}
			res, err := n.Sync(cmd.Context(), o)
			if errors.Is(err, snapshot.ErrNone) && o.Source == nil && !offline {
				return &lifecycle.Failure{
					Cause: lifecycle.CauseSnapshot, Reason: "no snapshot was accepted yet, and no snapshot.source is configured", Err: err,
					Hint: "hand one over with: rmodels snapshot apply FILE, or set snapshot.source",
				}
			}
			if err != nil {
				return a.stopped(res, err)
			}
			return a.pass(res, o, len(as) > 0)
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print the plan and change nothing")
	c.Flags().BoolVar(&o.Force, "force", false, "try failed models now, and test active ones again")
	c.Flags().BoolVar(&offline, "offline", false, "ask no source and no registry: act on the stored snapshot with what is on this node")
	c.Flags().DurationVar(&o.Wait, "wait", 0, "how long to wait for another sync to end")
	return c
}

func (a *app) pullCommand() *cobra.Command {
	o := lifecycle.SyncOptions{Install: true}
	c := &cobra.Command{
		Use:   "pull NAME...",
		Short: "Fetch and verify listed models without a test inference",
		Long: `pull brings models of the accepted snapshot onto this node: signatures are
verified before a layer is fetched, contents are checked, and the read-only
tree is built. The model is Pending afterwards; validate or sync makes it
Active. A broken transfer goes on where it stopped.`,
		Example: `  rmodels pull mistral-7b-instruct
  rmodels pull mistral-7b-instruct@v2 --dry-run`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			n, cfg, err := a.node("pull")
			if err != nil {
				return err
			}
			o.Only = as
			o.Force = true
			if _, err := n.Current(); errors.Is(err, snapshot.ErrNone) { // a fresh node
				if o.Source, err = snapshotSource(cfg); err != nil {
					return err
				}
				o.SourceName = cfg.Snapshot.Source
			}
			res, err := n.Sync(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.pass(res, o, true)
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print what would be fetched and change nothing")
	return c
}

func (a *app) validateCommand() *cobra.Command {
	var keep time.Duration
	c := &cobra.Command{
		Use:   "validate NAME...",
		Short: "Run the test inference of installed models in the sealed container",
		Long: `validate starts the model's runtime in a container without a network, checks
from outside that the container is closed, asks the snapshot's test question
and judges the answer. A model that passes is Active; one that fails is
quarantined.`,
		Example: `  rmodels validate mistral-7b-instruct
  rmodels validate mistral-7b-instruct@v2 --output json
  rmodels validate mistral-7b-instruct --keep 10m`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: a.modelNames,
		RunE: func(cmd *cobra.Command, as []string) error {
			if keep < 0 {
				return usageError{errors.New("--keep: write a positive time, like 10m")}
			}
			if keep > runner.MaxKeep {
				return usageError{fmt.Errorf("--keep: at most %s", runner.MaxKeep)}
			}
			if keep > 0 {
				if len(as) != 1 {
					return usageError{errors.New("--keep takes one model")}
				}
				return a.keepEngine(cmd, as[0], keep)
			}
			n, _, err := a.node("validate")
			if err != nil {
				return err
			}
			o := lifecycle.SyncOptions{Only: as, Force: true, Retest: true, Test: true}
			res, err := n.Sync(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.pass(res, o, true)
		},
	}
	c.Flags().DurationVar(&keep, "keep", 0, "leave the sealed engine running so long for a look; the verdict is not kept")
	return c
}

// pass prints the result of a pass and turns it into an exit code.
func (a *app) pass(res *lifecycle.SyncResult, o lifecycle.SyncOptions, named bool) error {
	err := a.result(res, func(w io.Writer) {
		if f := res.SnapshotFailure; f != nil {
			line(w, "snapshot: %s", f.Reason)
			if f.Hint != "" {
				line(w, "  next: %s", f.Hint)
			}
		}
		if o.DryRun {
			printPlan(w, res.Plan)
			printPreflight(w, res.Preflight, named)
			return
		}
		printOutcomes(w, res, a.quiet)
	})
	if err != nil {
		return err
	}
	if code := passCode(res, named); code != exitOK {
		return exitError{code, passFailure(res)}
	}
	return nil
}

// stopped prints what a pass did before the error that stopped it: what it
// withdrew stays so.
func (a *app) stopped(res *lifecycle.SyncResult, err error) error {
	if res != nil && res.SnapshotFailure != nil && a.output != "json" {
		line(plain{a.stdout}, "snapshot: %s", res.SnapshotFailure.Reason)
	}
	if res != nil && len(res.Outcomes) > 0 && a.output != "json" {
		outcomeTable(plain{a.stdout}, res, a.quiet)
	}
	return err
}

// passFailure sums up what failed in a pass.
func passFailure(res *lifecycle.SyncResult) lifecycle.Failure {
	if res.SnapshotFailure != nil {
		return *res.SnapshotFailure
	}
	var first lifecycle.Failure
	n := 0
	for _, o := range res.Outcomes {
		if o.Failure == nil {
			continue
		}
		if n++; n == 1 {
			first = *o.Failure
			first.Reason = o.ID() + ": " + first.Reason
		}
	}
	if n > 1 {
		first.Reason = fmt.Sprintf("%d of %d models failed; the first is %s", n, len(res.Outcomes), first.Reason)
	}
	return first
}

func printPlan(w io.Writer, p lifecycle.Plan) {
	rows := [][]string{{"MODEL", "DO", "STATE", "FETCH AT MOST", "WHY"}}
	for _, x := range p.Actions {
		fetch := "-"
		if x.Bytes > 0 {
			fetch = amount.Bytes(x.Bytes)
		}
		state := string(x.State)
		if x.Next != x.State {
			state += " > " + string(x.Next)
		}
		rows = append(rows, []string{x.ID(), string(x.Verb), state, fetch, x.Reason})
	}
	table(w, rows)
	line(w, "network %s, snapshot %d (%s, %s): %s of models to fetch at most, %s free",
		p.Network, p.Sequence, short(p.Snapshot.String()), p.Freshness, amount.Bytes(p.FetchBytes), amount.Bytes(max(0, p.FreeBytes)))
}

// printPreflight says what each install would take; of models that were asked
// for by name also file by file.
func printPreflight(w io.Writer, all []lifecycle.Preflight, files bool) {
	for _, f := range all {
		verdict := "would be installed"
		if len(f.Signers) > 0 {
			verdict += ", signed by " + strings.Join(f.Signers, ", ")
		}
		if f.Failure != nil {
			verdict = "would fail (" + string(f.Failure.Cause) + "): " + f.Failure.Reason
		}
		fmt.Fprintln(w)
		line(w, "%s@%s: %s", f.Name, f.Version, verdict)
		if f.Source == "" {
			continue
		}
		disk := amount.Bytes(f.Disk) + " of disk"
		if f.Packed {
			disk = "at least " + disk + ": layers are packed, and their files are larger"
		}
		line(w, "  %s to fetch from %s, %s here already, %s", amount.Bytes(f.Fetch), f.Source, amount.Bytes(f.Here), disk)
		if !files {
			continue
		}
		for _, b := range f.Blobs {
			what := strings.Join(b.Files, ", ")
			if what == "" {
				what = "(configuration)"
			}
			do := "fetch"
			if b.Here {
				do = "here "
			} else if b.Part > 0 {
				what += " (" + amount.Bytes(b.Part) + " here)"
			}
			line(w, "  %s %10s  %s  %s", do, amount.Bytes(b.Size), short(b.Digest.String()), what)
		}
	}
}

// outcomeTable prints a row for each action that is worth one, and reports
// whether there was any.
func outcomeTable(w io.Writer, res *lifecycle.SyncResult, quiet bool) bool {
	rows := [][]string{{"MODEL", "DID", "STATE", "TOOK", "WHY"}}
	for _, x := range res.Outcomes {
		why := x.Result
		if why == "" {
			why = x.Reason
		}
		if x.Failure != nil {
			why = x.Failure.Reason
		}
		if quiet && x.After == x.State && (x.Failure == nil || notForThisNode(x)) {
			continue
		}
		state := string(x.After)
		if x.After != x.State {
			state = string(x.State) + " > " + state
		}
		rows = append(rows, []string{x.ID(), string(x.Verb), state, secondsText(x.Seconds), why})
	}
	if len(rows) > 1 {
		table(w, rows)
	}
	return len(rows) > 1
}

func printOutcomes(w io.Writer, res *lifecycle.SyncResult, quiet bool) {
	if !outcomeTable(w, res, quiet) && quiet && res.SnapshotFailure == nil {
		return // cron mails whatever is printed
	}
	last := map[string]lifecycle.State{} // a model may have had several things done
	for _, x := range res.Outcomes {
		last[x.ID()] = x.After
	}
	count := map[lifecycle.State]int{}
	for _, s := range last {
		count[s]++
	}
	var counts []string
	for _, s := range []lifecycle.State{lifecycle.Active, lifecycle.Pending, lifecycle.Inactive, lifecycle.Failed, lifecycle.Archived, lifecycle.Absent} {
		if count[s] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	if counts == nil {
		counts = []string{"no models"}
	}
	line(w, "network %s, snapshot %d (%s): %s; %s fetched in %s", res.Plan.Network, res.Plan.Sequence,
		res.Plan.Freshness, strings.Join(counts, ", "), amount.Bytes(res.Fetched), secondsText(res.Seconds))
	for _, x := range res.Outcomes {
		if x.Failure != nil && x.Failure.Hint != "" && x.Verb != lifecycle.Refuse {
			line(w, "next for %s: %s", x.ID(), x.Failure.Hint)
		}
	}
}

// snapshotSource is where the configuration says that snapshots come from.
func snapshotSource(c *config) (snapshot.Source, error) {
	s := c.Snapshot.Source
	switch {
	case s == "":
		return nil, nil
	case strings.HasPrefix(s, "https://"), strings.HasPrefix(s, "http://"):
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return nil, usageError{fmt.Errorf("snapshot.source %q is not an address", s)}
		}
		if h := c.Hosts[u.Host]; u.Scheme == "http" && !h.PlainHTTP {
			return nil, usageError{fmt.Errorf("snapshot.source %s is plain HTTP: use https, or allow it with [hosts.%q] plain-http = true", s, u.Host)}
		}
		client, err := httpClient(c.Hosts[u.Host])
		if err != nil {
			return nil, err
		}
		return snapshot.HTTPSource(client, s), nil
	case strings.HasPrefix(s, "oci://"):
		o, err := c.registry()
		if err != nil {
			return nil, err
		}
		client, err := oci.New(o)
		if err != nil {
			return nil, err
		}
		src, err := client.TUF(strings.TrimPrefix(s, "oci://"))
		if err != nil {
			return nil, usageError{fmt.Errorf("snapshot.source: %w", err)}
		}
		return src, nil
	case strings.HasPrefix(s, "/"):
		return snapshot.DirSource(s), nil
	}
	return nil, usageError{fmt.Errorf("snapshot.source %q: write an https:// address, oci://registry/repository[:tag] or an absolute directory", s)}
}

// agent adds our name to requests.
type agent struct{ http.RoundTripper }

func (t agent) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", version.UserAgent())
	return t.RoundTripper.RoundTrip(r)
}
