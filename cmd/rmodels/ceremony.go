package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// passphraseEnv holds the passphrase of key files, for machines.
const passphraseEnv = "RMODELS_PASSPHRASE"

// ceremonyError gives a refusal of package ceremony its exit code.
func ceremonyError(err error) error {
	if err == nil {
		return nil
	}
	for _, wrong := range []error{ceremony.ErrUnconfirmed, ceremony.ErrUnlisted, ceremony.ErrUnsigned, ceremony.ErrIncomplete, ceremony.ErrNoneAside, ceremony.ErrNoSite, snapshot.ErrKey} {
		if errors.Is(err, wrong) {
			return usageError{err}
		}
	}
	f := *lifecycle.AsFailure(err)
	f.Hint = "" // what a class of errors asks of a node is no advice to a publisher
	for _, x := range []struct {
		refused error
		hint    string
	}{
		{ceremony.ErrBehind, "bring the folder up to date with: rmodels snapshot update DIR --from SITE"},
		{ceremony.ErrOtherLine, "find out which of the two is meant: update --from SITE --replace gives up this folder's, publish --replace the other"},
		{ceremony.ErrForeign, "find out which network is meant: a root.json that was kept elsewhere says it (update --from SITE --pinned FILE)"},
		{ceremony.ErrUnrevoked, "add it again with: rmodels snapshot revoke; if it is to disappear: publish --unrevoke"},
	} {
		if errors.Is(err, x.refused) {
			f.Cause, f.Hint = lifecycle.CauseSnapshot, x.hint
			break
		}
	}
	return publisherError{err, f}
}

// publisherError is a failure of the publisher's side, with a publisher's hint.
type publisherError struct {
	error
	failure lifecycle.Failure
}

func (e publisherError) Unwrap() error { return e.error }

func openCeremony(dir string) (*ceremony.Repository, error) {
	r, err := ceremony.Open(dir)
	return r, ceremonyError(err)
}

// edited is what an edit that the document does not bear means: wrong usage.
func edited(err error) error {
	if errors.Is(err, snapshot.ErrRejected) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, snapshot.ErrKey) {
		return usageError{err}
	}
	return ceremonyError(err)
}

// secrets are the flags that say how keys are opened.
type secrets struct{ file string }

func (s *secrets) flags(f *pflag.FlagSet) {
	f.StringVar(&s.file, "passphrase-file", "", "file with the passphrase of encrypted keys (also "+passphraseEnv+"); default: asked on the terminal")
}

// passphrase answers with that of a key file: from the file, the environment
// or the terminal, in that order.
func (s *secrets) passphrase(file string) ([]byte, error) {
	if s.file != "" {
		b, err := readCapped(s.file, 4<<10)
		return []byte(strings.TrimRight(string(b), "\r\n")), err
	}
	if v, ok := os.LookupEnv(passphraseEnv); ok {
		return []byte(v), nil
	}
	return ask("Passphrase of " + file + ": ")
}

// newPassphrase asks twice for what nobody could ask for again.
func (s *secrets) newPassphrase(file string) ([]byte, error) {
	first, err := s.passphrase(file)
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, usageError{errors.New("an empty passphrase protects nothing")}
	}
	if _, env := os.LookupEnv(passphraseEnv); s.file != "" || env {
		return first, nil
	}
	again, err := ask("Again: ")
	if err == nil && string(again) != string(first) {
		err = usageError{errors.New("the passphrases differ")}
	}
	return first, err
}

// ask reads a secret from the terminal without showing it.
func ask(prompt string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, usageError{fmt.Errorf("a passphrase is needed: no terminal to ask on; give --passphrase-file or set %s", passphraseEnv)}
	}
	defer tty.Close()
	fmt.Fprint(tty, prompt)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return b, err
}

// elsewhere are the flags of commands that take over what a site has first.
type elsewhere struct {
	from, root string
	replace    bool
}

func (e *elsewhere) flags(f *pflag.FlagSet) {
	f.StringVar(&e.from, "from", "", "take over what was published there first: a directory, a URL or oci://registry/repository[:tag]")
	f.StringVar(&e.root, "pinned", "", "with --from: a copy of the network's root.json that was kept elsewhere; another network is refused")
	f.BoolVar(&e.replace, "replace", false, "with --from: give up what this ceremony published under the same numbers, or the network that it was")
}

// update brings the ceremony up to date where --from says so.
func (a *app) update(ctx context.Context, r *ceremony.Repository, e elsewhere) error {
	if e.from == "" {
		return nil
	}
	var pinned []byte
	if e.root != "" {
		var err error
		if pinned, err = readCapped(e.root, snapshot.MaxMetadata("root")); err != nil {
			return err
		}
	}
	src, err := a.publishedAt(e.from)
	if err != nil {
		return err
	}
	return ceremonyError(r.Update(ctx, src, ceremony.UpdateOptions{Pinned: pinned, Replace: e.replace}))
}

// openLost is openCeremony for a folder that may be gone: with a root that was
// kept elsewhere it is rebuilt from what was published.
func (a *app) openLost(ctx context.Context, dir string, e elsewhere) (*ceremony.Repository, error) {
	if e.from == "" || e.root == "" {
		return openCeremony(dir)
	}
	src, err := a.publishedAt(e.from)
	if err != nil {
		return nil, err
	}
	r, err := ceremony.Rebuild(ctx, dir, src)
	return r, ceremonyError(err)
}

// publishedAt reads a place that nodes pull from.
func (a *app) publishedAt(at string) (snapshot.Source, error) {
	if strings.HasPrefix(at, "https://") || strings.HasPrefix(at, "http://") {
		return snapshot.HTTPSource(nil, at), nil
	}
	return a.site(at)
}

// site is a place that can be published to.
func (a *app) site(to string) (ceremony.Site, error) {
	name, isRegistry := strings.CutPrefix(to, "oci://")
	if !isRegistry {
		return ceremony.DirSite(to), nil
	}
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	if _, err := c.TUF(name); err != nil {
		return nil, usageError{err}
	}
	return &registrySite{client: c, name: name}, nil
}

// registrySite is a tag in a registry. It has no lock: of two publishers at
// one moment the last is what nodes see, and the other's next run says so.
type registrySite struct {
	client *oci.Client
	name   string
	read   *oci.TUF
	none   bool
}

func (s *registrySite) String() string { return "oci://" + s.name }

func (s *registrySite) Lock(context.Context) (func(), error) { return func() {}, nil }

func (s *registrySite) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if s.read == nil {
		t, err := s.client.TUF(s.name)
		if err != nil {
			return nil, err
		}
		ok, err := t.Exists(ctx)
		if err != nil {
			return nil, err
		}
		s.read, s.none = t, !ok
	}
	if s.none {
		return nil, fmt.Errorf("%s in %s: %w", name, s, fs.ErrNotExist)
	}
	return s.read.Fetch(ctx, name, max)
}

func (s *registrySite) Put(ctx context.Context, files map[string][]byte) error {
	s.read = nil
	_, err := s.client.PushTUF(ctx, files, s.name)
	return err
}

// confirmation asks on the terminal whether what is shown is to be signed.
// Without one it says nothing: what needs a confirmation is then refused, and
// --yes names what was looked at.
func (a *app) confirmation(dir string) func(*ceremony.Pending) error {
	in, ok := a.stdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	return func(p *ceremony.Pending) error {
		printPending(plain{os.Stderr}, p, dir)
		fmt.Fprint(os.Stderr, "Sign this? Write yes: ")
		answer, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if strings.TrimSpace(answer) != "yes" {
			return fmt.Errorf("%w: nothing was signed", ceremony.ErrUnconfirmed)
		}
		return nil
	}
}

func (a *app) stdin() io.Reader { return os.Stdin }

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
root have signed it (sign --root) and it is published; until then documents go
on under the root before.`,
		Example: `  rmodels snapshot rotate ./ceremony --role targets --old 3f2a --new carol.pub
  rmodels snapshot rotate ./ceremony --role root --threshold 3
  rmodels snapshot rotate ./ceremony --renew`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			if old == "" && file == "" && threshold == 0 && !renew {
				return usageError{errors.New("snapshot rotate needs --old, --new, --threshold or --renew")}
			}
			r, err := openCeremony(as[0])
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
			if strings.HasSuffix(old, ".pub") || strings.ContainsRune(old, os.PathSeparator) {
				b, err := readCapped(old, keyMax)
				if err != nil {
					return err
				}
				if old, err = ceremony.KeyID(string(b)); err != nil {
					return usageError{err}
				}
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
			return a.ceremonyStatus(r)
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "targets", "root, targets or online")
	f.StringVar(&old, "old", "", "key that loses the role: its .pub file, its key ID or digest, or the beginning of one")
	f.StringVar(&file, "new", "", "public key file (PEM) that gains the role")
	f.IntVar(&threshold, "threshold", 0, "signatures that the role needs")
	f.BoolVar(&renew, "renew", false, "begin the root's term anew")
	return c
}

const onlyHelp = "change what was published last alone; the draft's other edits are set aside for: snapshot resume"

func (a *app) snapshotRevokeCommand() *cobra.Command {
	var rev snapshot.Revocation
	var dg, key, issuer, subject string
	var only, unlisted bool
	var from elsewhere
	c := &cobra.Command{
		Use:   "revoke DIR",
		Short: "Withdraw an artifact, a signer's key or an identity in the draft",
		Long: `revoke adds a revocation to the draft. A digest is that of an artifact's
manifest, of its config, of a layer or of a file: nodes take every model that is
it or holds it out of use when they accept the snapshot; signatures by a revoked key or identity no
longer count, also for what is installed.

What matches nothing that the draft or the published snapshot lists is refused
as a typing error; --unlisted is for layers, files and what is yet to come.
In an emergency --only leaves every other edit out.`,
		Example: `  rmodels snapshot revoke ./ceremony --digest sha256:... --reason "found harmful"
  rmodels snapshot revoke ./ceremony --key sha256:... --reason "stolen" --only
  rmodels snapshot revoke ./ceremony --issuer https://accounts.example --subject ci@example.org`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			rev.Digest, rev.Key = digest.Digest(dg), digest.Digest(key)
			if issuer != "" || subject != "" {
				rev.Identity = &snapshot.Identity{Issuer: issuer, Subject: subject}
			}
			r, err := a.openLost(cmd.Context(), as[0], from)
			if err != nil {
				return err
			}
			if err := a.update(cmd.Context(), r, from); err != nil {
				return err
			}
			how := flagsOf(only)
			if unlisted {
				how = append(how, ceremony.Unlisted)
			}
			if err := r.Revoke(rev, how...); err != nil {
				return edited(err)
			}
			return a.drafted(r, "the revocation is in the draft")
		},
	}
	f := c.Flags()
	f.StringVar(&dg, "digest", "", "digest of a manifest, config, layer or file")
	f.StringVar(&key, "key", "", "sha256 of the public key (SubjectPublicKeyInfo); keygen and snapshot show print it")
	f.StringVar(&issuer, "issuer", "", "issuer of a keyless identity")
	f.StringVar(&subject, "subject", "", "subject of a keyless identity")
	f.StringVar(&rev.Reason, "reason", "", "why, for the nodes' incidents")
	f.BoolVar(&only, "only", false, onlyHelp)
	f.BoolVar(&unlisted, "unlisted", false, "revoke what neither the draft nor the published snapshot lists")
	from.flags(f)
	return c
}

func flagsOf(only bool) []ceremony.Flag {
	if only {
		return []ceremony.Flag{ceremony.Only}
	}
	return nil
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
