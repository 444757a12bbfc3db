package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
)

// OMSPredicate is the predicate type of OpenSSF Model Signing: a statement
// about the files of a model by digest.
const OMSPredicate = "https://model_signing/signature/v1.0"

// FileDigest is one file of an artifact. With raw layers the digests are those
// of the manifest, so that checking them costs no second hash.
type FileDigest struct {
	Path   string
	Digest digest.Digest
}

type omsResource struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Digest    string `json:"digest"`
}

type omsPredicate struct {
	Resources     []omsResource `json:"resources"`
	Serialization struct {
		Method      string   `json:"method"`
		IgnorePaths []string `json:"ignore_paths"`
	} `json:"serialization"`
}

// checkOMS holds the files that an OMS statement lists against those of the
// artifact, which must be the same set, and returns the digest that is the
// statement's subject: the SHA-256 over the files' digests in the order of
// their names. A signature file inside the model is the one thing that a
// statement cannot list.
func checkOMS(s *statement, files []FileDigest) (digest.Digest, error) {
	if len(files) == 0 {
		return "", fmt.Errorf("an OMS statement is about files, and the artifact's files are not known")
	}
	var p omsPredicate
	if err := json.Unmarshal(s.Predicate, &p); err != nil {
		return "", fmt.Errorf("OMS predicate: %w", err)
	}
	if m := p.Serialization.Method; m != "files" {
		return "", fmt.Errorf("OMS serialization %q: only files are held against files", clip(m))
	}
	listed := map[string]string{}
	for _, r := range p.Resources {
		if r.Algorithm != "sha256" {
			return "", fmt.Errorf("OMS statement hashes %q with %q, only sha256 is accepted", clip(r.Name), clip(r.Algorithm))
		}
		if _, twice := listed[r.Name]; twice {
			return "", fmt.Errorf("OMS statement lists %q twice", clip(r.Name))
		}
		listed[r.Name] = r.Digest
	}
	for _, f := range files {
		want, ok := listed[f.Path]
		if !ok {
			if f.Path == "model.sig" || strings.HasSuffix(f.Path, ".sig") && !strings.Contains(f.Path, "/") {
				continue
			}
			return "", fmt.Errorf("file %q is not in the OMS statement", clip(f.Path))
		}
		if want != f.Digest.Encoded() {
			return "", fmt.Errorf("file %q: the OMS statement says %s, it is %s", clip(f.Path), clip(want), f.Digest.Encoded())
		}
		delete(listed, f.Path)
	}
	for name := range listed {
		return "", fmt.Errorf("the OMS statement lists %q, which the artifact lacks", clip(name))
	}
	names := slices.Clone(p.Resources)
	slices.SortFunc(names, func(a, b omsResource) int { return strings.Compare(a.Name, b.Name) })
	h := sha256.New()
	for _, r := range names {
		sum, err := hex.DecodeString(r.Digest)
		if err != nil {
			return "", fmt.Errorf("OMS statement: digest of %q is not hex", clip(r.Name))
		}
		h.Write(sum)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}
