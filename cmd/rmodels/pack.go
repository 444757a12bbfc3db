package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// filepathAnnotation is where ModelPack puts a layer's path (model-spec, annotations).
const filepathAnnotation = "org.cncf.model.filepath"

// keyMax bounds a key file in bytes.
const keyMax = 64 << 10

// packed is what pack prints.
type packed struct {
	Reference string `json:"reference"`
	Size      int64  `json:"size"`
	Layers    int    `json:"layers"`
	Signed    bool   `json:"signed"`
	Pushed    bool   `json:"pushed"`
}

func (a *app) packCommand() *cobra.Command {
	var (
		po     oci.PackOptions
		im     oci.ImageOptions
		image  bool
		check  bool
		dryRun bool
		key    string
		mount  []string
	)
	c := &cobra.Command{
		Use:   "pack DIR REGISTRY/REPOSITORY",
		Short: "Pack a model directory as an OCI artifact, push it and sign it",
		Long: `pack writes a directory as a ModelPack artifact with one raw layer a file,
pushes it and prints its reference by digest. The same files give the same
digest on every machine. With --image the directory is the root file system
of a runtime, packed as a container image. Large layers get chunk maps, by
which nodes that hold another version fetch only what changed.

--check runs the gate that nodes run, before anything is pushed.`,
		Example: `  rmodels pack ./tiny registry.example/acme/tiny --sign-key publisher.key
  rmodels pack ./rootfs registry.example/rt/llama --image --entrypoint /usr/bin/llama-server --sign-key publisher.key
  rmodels pack ./tiny registry.example/acme/tiny --check --dry-run
  rmodels pack ./tiny-chat registry.example/acme/tiny-chat --mount acme/tiny`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, as []string) error {
			ctx := cmd.Context()
			if !image && (len(im.Entrypoint)+len(im.Cmd)+len(im.Env) > 0 || im.User != "") {
				return usageError{errors.New("--entrypoint, --cmd, --env and --user belong to --image")}
			}
			if err := packable(as[0], as[1]); err != nil {
				return err
			}
			var signer crypto.Signer
			if key != "" {
				var err error
				if signer, err = loadKey(key); err != nil {
					return err
				}
			}
			var p *oci.Packed
			var err error
			if image {
				p, err = oci.PackImage(ctx, as[0], im)
			} else {
				p, err = oci.Pack(ctx, as[0], po)
			}
			if err != nil {
				return refusedDir(ctx, err)
			}
			if check && !image {
				if err := checkPacked(as[0], p); err != nil {
					return err
				}
			}
			res := packed{Reference: as[1] + "@" + p.Digest.String(), Size: p.Size(), Layers: len(p.Manifest.Layers)}
			if !dryRun {
				if err := a.push(ctx, p, as[1], mount, image, signer, &res); err != nil {
					return err
				}
			}
			return a.result(res, func(w io.Writer) {
				line(w, "%s", res.Reference)
				if !a.quiet {
					word := "packed, not pushed"
					switch {
					case res.Signed:
						word = "pushed and signed"
					case res.Pushed:
						word = "pushed, not signed"
					}
					line(w, "%s: %s, %s", word, amount.Count(res.Layers, "layer"), amount.Bytes(res.Size))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&po.Name, "name", "", "name in the artifact's configuration")
	f.StringVar(&po.Version, "model-version", "", "version in the artifact's configuration")
	f.StringVar(&key, "sign-key", "", "private key (PEM) that signs the artifact")
	f.StringArrayVar(&mount, "mount", nil, "repository of the same registry, like acme/tiny-v1, whose blobs are mounted instead of sent; may be repeated")
	f.BoolVar(&check, "check", false, "run the node's content gate first")
	f.BoolVar(&dryRun, "dry-run", false, "print the reference and push nothing")
	f.BoolVar(&image, "image", false, "DIR is a root file system: pack a runtime's container image")
	f.StringArrayVar(&im.Entrypoint, "entrypoint", nil, "program of the image; repeat for its arguments")
	f.StringArrayVar(&im.Cmd, "cmd", nil, "default argument of the image; may be repeated")
	f.StringArrayVar(&im.Env, "env", nil, "NAME=VALUE in the image; may be repeated")
	f.StringVar(&im.User, "user", "", "user of the image, uid[:gid]")
	return c
}

// packable looks at the arguments of pack before a large directory is hashed.
func packable(dir, to string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return usageError{fmt.Errorf("%s is not a directory: pack takes the directory that holds the model's files", dir)}
	}
	anyDigest := digest.FromString("") // where it goes is named without one
	if _, err := oci.ParseReference(to + "@" + anyDigest.String()); err != nil {
		return usageError{fmt.Errorf("%q: write REGISTRY/REPOSITORY: %w", to, err)}
	}
	return nil
}

// refusedDir is the error of packing a directory. What is neither of a class,
// nor the disk's, nor an interruption is about what the directory holds.
func refusedDir(ctx context.Context, err error) error {
	_, disk := errors.AsType[*fs.PathError](err)
	if disk || ctx.Err() != nil || lifecycle.AsFailure(err).Cause != lifecycle.CauseUnexpected {
		return err
	}
	return usageError{err}
}

func (a *app) push(ctx context.Context, p *oci.Packed, to string, mount []string, image bool, signer crypto.Signer, res *packed) error {
	show := a.progress()
	c, err := a.clientShowing(func(e progress.Event) {
		e.Model, e.Source = to, "" // where it goes is its name
		show.Emit(e)
	})
	if err != nil {
		return err
	}
	show.Emit(progress.Event{Kind: progress.Total, Model: to, Step: "push", Total: p.Size()})
	ref, err := c.Push(ctx, p, to, mount...)
	if err != nil {
		return err
	}
	res.Reference, res.Pushed = ref.String(), true
	if !image {
		if err := c.AttachChunkMaps(ctx, ref, p); err != nil {
			return fmt.Errorf("attach chunk maps to %s: %w", ref, err)
		}
	}
	if signer == nil {
		return nil
	}
	if err := attach(ctx, c, ref, signer); err != nil {
		return err
	}
	res.Signed = true
	return nil
}

func attach(ctx context.Context, c *oci.Client, ref oci.Reference, signer crypto.Signer) error {
	b, err := policy.SignBundle(signer, ref.Digest)
	if err != nil {
		return fmt.Errorf("sign %s: %w", ref, err)
	}
	if err := c.AttachBundle(ctx, ref, b); err != nil {
		return fmt.Errorf("attach the signature to %s: %w", ref, err)
	}
	return nil
}

func loadKey(path string) (crypto.Signer, error) {
	b, err := durable.ReadSecret(path, keyMax)
	if err != nil {
		return nil, usageError{err}
	}
	k, err := policy.LoadKey(b, []byte(os.Getenv("COSIGN_PASSWORD")))
	if err != nil {
		return nil, usageError{fmt.Errorf("key %s: %w", path, err)}
	}
	return k, nil
}

// checkPacked runs the node's gate with its defaults on what was packed from
// dir, before a byte of it is pushed.
func checkPacked(dir string, p *oci.Packed) error {
	var paths []string
	var files []policy.ArtifactFile
	for _, l := range p.Manifest.Layers {
		path := l.Annotations[filepathAnnotation]
		paths = append(paths, path)
		files = append(files, policy.ArtifactFile{
			Path: path, Size: l.Size, MediaType: l.MediaType,
			Open: func() (policy.ReaderAtCloser, error) {
				return durable.OpenLink(filepath.Join(dir, filepath.FromSlash(path)))
			},
		})
	}
	d := policy.Decision{Allowed: true}
	if err := policy.SafePaths(paths); err != nil {
		d = policy.Decision{Class: policy.ClassContent, Rule: "paths", Reason: err.Error()}
	} else {
		// Templates are pinned by the snapshot's entry, which is written after packing.
		d = policy.AdmitContent(snapshot.Policy{Content: snapshot.Content{ChatTemplates: "any"}}, snapshot.Model{}, files)
	}
	if d.Allowed {
		return nil
	}
	return &lifecycle.Failure{
		Cause: lifecycle.Cause(d.Class), Reason: d.Reason + " (rule " + d.Rule + ")", Expected: d.Expected, Found: d.Found, Source: dir,
		Hint: "nodes would refuse this model: mend or remove the file, or list its format in the policy",
	}
}

func (a *app) signCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "sign REGISTRY/REPOSITORY@DIGEST --key FILE",
		Short: "Sign an artifact or image that is on a registry",
		Long: `sign attaches a Sigstore bundle (v0.3) to a manifest as an OCI referrer, the
shape that cosign 3 writes; cosign verifies it with --new-bundle-format.`,
		Example: `  rmodels sign registry.example/acme/tiny@sha256:... --key publisher.key`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			ref, err := oci.ParseReference(as[0])
			if err != nil {
				return usageError{err}
			}
			if key == "" {
				return usageError{errors.New("sign needs --key FILE")}
			}
			signer, err := loadKey(key)
			if err != nil {
				return err
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			if err := attach(cmd.Context(), cl, ref, signer); err != nil {
				return err
			}
			return a.result(map[string]string{"reference": ref.String()}, func(w io.Writer) { line(w, "signed %s", ref) })
		},
	}
	c.Flags().StringVar(&key, "key", "", "private key (PEM)")
	return c
}

func (a *app) keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "keygen PREFIX",
		Short:   "Make a key that signs artifacts, or for a role of a network: PREFIX.key and PREFIX.pub",
		Example: `  rmodels keygen publisher`,
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, as []string) error {
			k, err := policy.GenerateKey()
			if err != nil {
				return err
			}
			private, public, err := policy.MarshalKey(k)
			if err != nil {
				return err
			}
			for _, f := range []string{as[0] + ".key", as[0] + ".pub"} {
				if _, err := os.Lstat(f); err == nil {
					return usageError{fmt.Errorf("%s exists: keys are not overwritten", f)}
				}
			}
			if dir := filepath.Dir(as[0]); dir != "." {
				if _, err := os.Stat(dir); err != nil {
					return usageError{fmt.Errorf("keys go into a directory that exists: %w", err)}
				}
			}
			if err := durable.WriteFile(as[0]+".key", private, 0o600); err != nil {
				return err
			}
			if err := durable.WriteFile(as[0]+".pub", public, 0o644); err != nil {
				return err
			}
			name, err := policy.KeyDigest(k.Public())
			if err != nil {
				return err
			}
			id, err := ceremony.KeyID(string(public))
			if err != nil {
				return err
			}
			return a.result(map[string]string{"private": as[0] + ".key", "public": as[0] + ".pub", "digest": name.String(), "keyID": id}, func(w io.Writer) {
				line(w, "%s.key is secret; %s.pub is handed out: into a policy for a signer of artifacts, to snapshot init or rotate for a key of a role", as[0], as[0])
				line(w, "digest %s (of a signer: snapshot revoke --key)", name)
				line(w, "key ID %s (of a role: status, diff, rotate --old)", id)
			})
		},
	}
}
