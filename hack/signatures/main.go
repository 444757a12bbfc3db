// Signatures makes the fixtures that other tools' signatures are tested with:
// an OCI image layout for each release of cosign, holding a small artifact and
// what that release writes beside it, with the public key. It needs the cosign
// programs; generate.sh builds them and runs this.
//
//	signatures -cosign PATH -out policy/testdata/cosign-2.6.5
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	orasoci "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/resultity/rmodels/oci"
)

func main() {
	cosign := flag.String("cosign", "", "`path` of a cosign program")
	out := flag.String("out", "", "`directory` to write")
	flag.Parse()
	if *cosign == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := generate(context.Background(), *cosign, *out); err != nil {
		fmt.Fprintln(os.Stderr, "signatures:", err)
		os.Exit(1)
	}
}

func generate(ctx context.Context, cosign, out string) error {
	work, err := os.MkdirTemp("", "signatures-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ref, err := pushTiny(ctx, host, filepath.Join(work, "tiny"))
	if err != nil {
		return err
	}
	if err := sign(ctx, cosign, work, ref.String()); err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := keep(ctx, ref, out); err != nil {
		return err
	}
	public, err := os.ReadFile(filepath.Join(work, "cosign.pub"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "cosign.pub"), public, 0o644)
}

// pushTiny puts an artifact of one file on the registry.
func pushTiny(ctx context.Context, host, dir string) (oci.Reference, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return oci.Reference{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}\n"), 0o600); err != nil {
		return oci.Reference{}, err
	}
	p, err := oci.Pack(ctx, dir, oci.PackOptions{Name: "tiny"})
	if err != nil {
		return oci.Reference{}, err
	}
	c, err := oci.New(oci.Options{Hosts: map[string]oci.Host{host: {PlainHTTP: true}}})
	if err != nil {
		return oci.Reference{}, err
	}
	return c.Push(ctx, p, host+"/acme/tiny")
}

// sign makes a key, a signature and a provenance attestation, all without a
// transparency log: the fixtures are verified offline.
func sign(ctx context.Context, cosign, work, ref string) error {
	predicate := `{"buildDefinition":{"buildType":"https://example.org/build","externalParameters":{},"internalParameters":{},"resolvedDependencies":[]},` +
		`"runDetails":{"builder":{"id":"https://example.org/builder"},"metadata":{}}}`
	if err := os.WriteFile(filepath.Join(work, "provenance.json"), []byte(predicate), 0o600); err != nil {
		return err
	}
	// cosign 3 asks a signing config which services to use; this one names none.
	services := `{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}`
	if err := os.WriteFile(filepath.Join(work, "services.json"), []byte(services), 0o600); err != nil {
		return err
	}
	offline := []string{"--tlog-upload=false"}
	if help, err := exec.CommandContext(ctx, cosign, "version").CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w", cosign, err)
	} else if bytes.Contains(help, []byte("v3.")) {
		offline = []string{"--signing-config", "services.json"}
	}
	for _, args := range [][]string{
		{"generate-key-pair"},
		append(append([]string{"sign", "--yes", "--key", "cosign.key"}, offline...), ref),
		append(append([]string{"attest", "--yes", "--key", "cosign.key", "--type", "slsaprovenance1", "--predicate", "provenance.json"}, offline...), ref),
	} {
		cmd := exec.CommandContext(ctx, cosign, args...)
		cmd.Dir, cmd.Env = work, append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+work)
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cosign %s: %w: %s", strings.Join(args, " "), err, b)
		}
	}
	return nil
}

// keep copies the artifact with its referrers, and what cosign 2 keeps under
// tags, into a layout.
func keep(ctx context.Context, ref oci.Reference, out string) error {
	from, err := remote.NewRepository(ref.Name())
	if err != nil {
		return err
	}
	from.PlainHTTP = true
	to, err := orasoci.New(out)
	if err != nil {
		return err
	}
	desc, err := oras.ExtendedCopy(ctx, from, ref.Digest.String(), to, "", oras.DefaultExtendedCopyOptions)
	if err != nil {
		return err
	}
	if err := index(ctx, from, to, desc); err != nil {
		return err
	}
	tag := strings.Replace(ref.Digest.String(), ":", "-", 1)
	for _, suffix := range []string{".sig", ".att"} {
		if _, err := from.Resolve(ctx, tag+suffix); err != nil {
			continue // this release keeps nothing there
		}
		if _, err := oras.Copy(ctx, from, tag+suffix, to, tag+suffix, oras.DefaultCopyOptions); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(out, "ingest"))
}

// index lists the artifact, as tiny, and each of its referrers in index.json.
func index(ctx context.Context, from *remote.Repository, to *orasoci.Store, subject ocispec.Descriptor) error {
	all := []digest.Digest{subject.Digest}
	err := from.Referrers(ctx, subject, "", func(page []ocispec.Descriptor) error {
		for _, d := range page {
			all = append(all, d.Digest)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range all {
		desc, err := from.Resolve(ctx, d.String())
		if err != nil {
			return err
		}
		if err := to.Tag(ctx, desc, d.String()); err != nil {
			return err
		}
	}
	return to.Tag(ctx, subject, "tiny")
}
