package policy

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	Resources     []omsResource    `json:"resources"`
	Serialization omsSerialization `json:"serialization"`
}

type omsSerialization struct {
	Method        string   `json:"method"`
	HashType      string   `json:"hash_type,omitzero"`
	AllowSymlinks bool     `json:"allow_symlinks"`
	IgnorePaths   []string `json:"ignore_paths,omitzero"`
}

// omsSignatureFile is where model_signing puts a signature inside a model.
const omsSignatureFile = "model.sig"

// checkOMS holds the files that an OMS statement lists against those of the
// artifact, which must be the same set, and returns the digest that is the
// statement's subject: the SHA-256 over the files' digests. The signature file
// inside the model is the one thing that a statement cannot list, and is
// returned as outside of it; a file that the signer's ignore_paths left out
// makes the model another one.
func checkOMS(s *statement, files []FileDigest) (subject digest.Digest, outside []string, err error) {
	if len(files) == 0 {
		return "", nil, fmt.Errorf("an OMS statement is about files, and the artifact's files are not known")
	}
	var p omsPredicate
	if err := json.Unmarshal(s.Predicate, &p); err != nil {
		return "", nil, fmt.Errorf("OMS predicate: %w", err)
	}
	if m := p.Serialization.Method; m != "files" {
		return "", nil, fmt.Errorf("OMS serialization %q: only files are held against files", brief(m))
	}
	listed := map[string]string{}
	for _, r := range p.Resources {
		if r.Algorithm != "sha256" {
			return "", nil, fmt.Errorf("OMS statement hashes %q with %q, only sha256 is accepted", brief(r.Name), brief(r.Algorithm))
		}
		if _, twice := listed[r.Name]; twice {
			return "", nil, fmt.Errorf("OMS statement lists %q twice", brief(r.Name))
		}
		listed[r.Name] = r.Digest
	}
	for _, f := range files {
		want, ok := listed[f.Path]
		if !ok {
			outside = append(outside, f.Path)
			continue
		}
		if want != f.Digest.Encoded() {
			return "", nil, fmt.Errorf("file %q: the OMS statement says %s, it is %s", brief(f.Path), brief(want), f.Digest.Encoded())
		}
		delete(listed, f.Path)
	}
	if len(listed) > 0 {
		return "", nil, fmt.Errorf("the OMS statement lists what the artifact lacks: %s", quoteFiles(slices.Sorted(maps.Keys(listed))))
	}
	if slices.ContainsFunc(outside, func(path string) bool { return path != omsSignatureFile }) {
		return "", nil, fmt.Errorf("files outside the OMS statement: %s", quoteFiles(outside))
	}
	subject, err = omsSubject(p.Resources)
	return subject, outside, err
}

// quoteFiles names some files, and says how many more there are.
func quoteFiles(paths []string) string {
	var all []string
	for i, p := range paths {
		if i == 8 {
			all = append(all, fmt.Sprintf("and %d more", len(paths)-i))
			break
		}
		all = append(all, strconv.Quote(brief(p)))
	}
	return strings.Join(all, ", ")
}

// omsSubject is the SHA-256 over the files' digests in the order in which the
// statement lists them, which is that of model_signing's verifier.
func omsSubject(resources []omsResource) (digest.Digest, error) {
	h := sha256.New()
	for _, r := range resources {
		sum, err := hex.DecodeString(r.Digest)
		if err != nil {
			return "", fmt.Errorf("OMS statement: digest of %q is not hex", brief(r.Name))
		}
		h.Write(sum)
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// SignOMS signs a model's files as OpenSSF Model Signing does.
func SignOMS(key crypto.Signer, files []FileDigest) ([]byte, error) {
	var p omsPredicate
	p.Serialization = omsSerialization{Method: "files", HashType: "sha256", IgnorePaths: []string{omsSignatureFile}}
	for _, f := range files {
		p.Resources = append(p.Resources, omsResource{f.Path, "sha256", f.Digest.Encoded()})
	}
	slices.SortFunc(p.Resources, func(a, b omsResource) int { return strings.Compare(a.Name, b.Name) })
	subject, err := omsSubject(p.Resources)
	if err != nil {
		return nil, err
	}
	predicate, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	hint := digest.FromBytes(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})).Encoded()
	return signStatement(key, hint, []statementSubject{{Name: "model", Digest: map[string]string{"sha256": subject.Encoded()}}}, OMSPredicate, predicate)
}
