// Command rmodels keeps a GPU node's AI models equal to what its network has
// approved. See package lifecycle for the states and docs/ for the manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/internal/version"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/runner"
)

func main() {
	runner.Main() // a static rmodels is its own probe
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	a := &app{stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	log.SetOutput(io.Discard) // libraries write there as they please; see [app.log]
	err := validText(args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	a.closeProgress()
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = &lifecycle.Failure{
			Cause: lifecycle.CauseUnexpected, Err: err, Reason: "interrupted",
			Hint: "what was fetched is kept; the same command goes on from there",
		}
	}
	if namesMissing(args, err) {
		err = usageError{err}
	}
	code := exitCode(err)
	a.printError(args, err, code)
	return code
}

// validText refuses arguments that are not UTF-8: no name, no key and no result
// could hold them.
func validText(args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return usageError{fmt.Errorf("argument %d, %q, is not UTF-8", i+1, arg)}
		}
	}
	return nil
}

// namesMissing reports whether err is about a file that is not there and that
// the command line names, or that belongs into a directory that it names.
func namesMissing(args []string, err error) bool {
	p, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(p, fs.ErrNotExist) {
		return false
	}
	missing, aerr := filepath.Abs(p.Path)
	return aerr == nil && slices.ContainsFunc(args, func(arg string) bool {
		if _, value, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(arg, "--") {
			arg = value
		}
		named, aerr := filepath.Abs(arg)
		return aerr == nil && arg != "" && (missing == named || strings.HasPrefix(missing, named+"/")) && !exists(named)
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// app is what the commands share: where they print, and their configuration.
type app struct {
	stdout, stderr io.Writer
	output         string // text or json
	quiet          bool
	verbose        bool
	configFile     string
	root           *cobra.Command
	show           *display
}

func (a *app) rootCommand() *cobra.Command {
	c := group(&cobra.Command{
		Use:   "rmodels",
		Short: "Keep a GPU node's AI models equal to what its network has approved",
		Long: `rmodels keeps a GPU node's AI models exactly equal to what a network has
approved in a signed snapshot: it fetches each listed model by digest,
verifies who signed it, checks what it contains, runs a test inference in a
container without a network, and only then calls it Active.

` + exitHelp,
		Version:           version.String(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.output != "text" && a.output != "json" {
				return usageError{fmt.Errorf("--output %q: write text or json", a.output)}
			}
			slog.SetDefault(a.log()) // also of package log: net/http has words of its own
			return nil
		},
	})
	a.root = c
	pf := c.PersistentFlags()
	pf.StringVarP(&a.output, "output", "o", "text", "how to print results: text or json")
	pf.BoolVarP(&a.quiet, "quiet", "q", false, "print changes and errors alone")
	pf.BoolVarP(&a.verbose, "verbose", "v", false, "print a structured log to standard error")
	pf.StringVar(&a.configFile, "config", "", "configuration file (TOML)")
	addSettings(pf)
	c.SetUsageTemplate(strings.Replace(c.UsageTemplate(), "{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}", globalUsage, 1))
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	c.AddGroup(
		&cobra.Group{ID: "node", Title: "Commands for node operators:"},
		&cobra.Group{ID: "publish", Title: "Commands for publishers:"},
	)
	for _, sub := range []*cobra.Command{
		a.initCommand(), a.syncCommand(), a.pullCommand(), a.validateCommand(), a.verifyCommand(),
		a.listCommand(), a.showCommand(), a.explainCommand(), a.incidentsCommand(), a.auditCommand(), a.runCommand(), a.gcCommand(), a.scrubCommand(), a.fsckCommand(), a.duCommand(),
		a.archiveCommand(), a.restoreCommand(), a.exportCommand(), a.importCommand(), a.snapshotCommand(),
	} {
		sub.GroupID = "node"
		c.AddCommand(sub)
	}
	for _, sub := range []*cobra.Command{a.packCommand(), a.signCommand(), a.keygenCommand()} {
		sub.GroupID = "publish"
		c.AddCommand(sub)
	}
	return c
}

// globalUsage stands for the flags that every command has: the settings of the
// node are many, and seldom what somebody looks for.
const globalUsage = `  -o, --output string   how to print results: text or json (default "text")
  -q, --quiet           print changes and errors alone
  -v, --verbose         print a structured log to standard error
      --config string   configuration file (TOML)

Each key of the configuration is a flag, too: see rmodels --help`

// args turns cobra's argument errors into usage errors.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, as []string) error {
		if err := check(cmd, as); err != nil {
			return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// group makes a command that only has subcommands refuse anything else.
func group(c *cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(cmd *cobra.Command, as []string) error {
		if len(as) == 0 {
			return cmd.Help()
		}
		near := ""
		if s := cmd.SuggestionsFor(as[0]); len(s) > 0 {
			near = "; did you mean " + strings.Join(s, " or ") + "?"
		}
		return usageError{fmt.Errorf("%q is no command of %s%s; see: %s --help", as[0], cmd.CommandPath(), near, cmd.CommandPath())}
	}
	return c
}

// config reads the configuration.
func (a *app) config() (*config, string, error) {
	return loadConfig(a.root.PersistentFlags(), a.configFile, false)
}

// node opens the network's node; by is the command, kept in transitions.
func (a *app) node(by string, changes ...func(*lifecycle.Options)) (*lifecycle.Node, *config, error) {
	c, _, err := a.config()
	if err != nil {
		return nil, nil, err
	}
	if c.Network, err = c.onlyNetwork(); err != nil {
		return nil, nil, err
	}
	o, err := c.node()
	if err != nil {
		return nil, nil, err
	}
	o.By, o.Log, o.Progress = by, a.log(), a.progress()
	for _, change := range changes {
		change(&o)
	}
	n, err := lifecycle.Open(o)
	return n, c, err
}

// asksJSON looks for the flag --output in a command line that could not be
// parsed, in all spellings of package pflag.
func asksJSON(args []string) bool {
	output := ""
	for i, arg := range args {
		next := ""
		if i+1 < len(args) {
			next = args[i+1]
		}
		if arg == "--" {
			break
		}
		if arg == "--output" {
			output = next
		} else if value, ok := strings.CutPrefix(arg, "--output="); ok {
			output = value
		} else if letters, ok := strings.CutPrefix(arg, "-"); ok {
			letters = strings.TrimLeft(letters, "qvh") // those without a value
			if value, ok := strings.CutPrefix(letters, "o="); ok {
				output = value
			} else if letters == "o" {
				output = next
			} else if value, ok := strings.CutPrefix(letters, "o"); ok {
				output = value
			}
		}
	}
	return output == "json"
}

// messageMax bounds an error as it is printed, in bytes: it may quote strangers
// and name every source that was asked.
const messageMax = 8 << 10

// printError says what went wrong and what to do next, once.
func (a *app) printError(args []string, err error, code int) {
	if asksJSON(args) { // also where the flags were not read to their end
		a.output = "json"
	}
	f := *lifecycle.AsFailure(err)
	if e, ok := errors.AsType[exitError](err); ok {
		if a.output != "json" { // the result has said it
			return
		}
		f = e.failure
	}
	if e, ok := errors.AsType[publisherError](err); ok {
		f = e.failure
	}
	if _, ok := errors.AsType[usageError](err); ok {
		f.Cause, f.Hint = "usage", "" // what a class of errors asks of a node is no advice here
	}
	// The whole chain says more than the class that was found inside it.
	if full := err.Error(); strings.Contains(full, f.Reason) {
		f.Reason = terminal.Clip(terminal.Clean(full), messageMax)
	}
	if a.output == "json" {
		b, merr := terminal.MarshalJSON(struct {
			Event    string             `json:"event"`
			ExitCode int                `json:"exitCode"`
			Error    *lifecycle.Failure `json:"error"`
		}{"error", code, &f})
		if merr == nil {
			fmt.Fprintf(a.stderr, "%s\n", b)
			return
		}
	}
	w := plain{a.stderr}
	line(w, "rmodels: %s", f.Reason)
	if f.Expected != "" && !strings.Contains(f.Reason, f.Expected) {
		line(w, "  expected: %s", f.Expected)
	}
	if f.Found != "" && !strings.Contains(f.Reason, f.Found) {
		line(w, "  found:    %s", f.Found)
	}
	if f.Source != "" && !strings.Contains(f.Reason, f.Source) {
		line(w, "  source:   %s", f.Source)
	}
	if f.Hint != "" {
		line(w, "  next:     %s", f.Hint)
	}
}
