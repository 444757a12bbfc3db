package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// manifestLimit is distribution's own.
const manifestLimit = 4 << 20

var sha256Digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// referrers adds the OCI 1.1 referrers API to a registry that lacks it: it
// notes the subject of each manifest that is pushed.
type referrers struct {
	dir  string
	next http.Handler
	mu   sync.Mutex
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

func (s *referrers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := parseTarget(r.URL.Path)
	switch {
	case t.Kind == "referrers" && r.Method == http.MethodGet:
		s.list(w, r, t)
	case t.Kind == "manifest" && r.Method == http.MethodPut:
		s.put(w, r, t)
	default:
		s.next.ServeHTTP(w, r)
	}
}

func (s *referrers) file(repository, subject string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(repository, "/", "!"), strings.TrimPrefix(subject, "sha256:")+".json")
}

func (s *referrers) list(w http.ResponseWriter, r *http.Request, t target) {
	// The registry itself decides whether this caller may read.
	probe := &status{header: http.Header{}}
	base := r.Clone(r.Context())
	base.Method, base.URL.Path, base.RequestURI = http.MethodHead, "/v2/"+t.Repository+"/manifests/"+t.Reference, ""
	s.next.ServeHTTP(probe, base)
	if probe.code == http.StatusUnauthorized || probe.code == http.StatusForbidden {
		s.next.ServeHTTP(w, r)
		return
	}
	if !sha256Digest.MatchString(t.Reference) {
		http.Error(w, `{"errors":[{"code":"DIGEST_INVALID"}]}`, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	ix, err := s.read(t.Repository, t.Reference)
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if want := r.URL.Query().Get("artifactType"); want != "" {
		kept := []descriptor{}
		for _, d := range ix.Manifests {
			if d.ArtifactType == want {
				kept = append(kept, d)
			}
		}
		ix.Manifests = kept
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ix.MediaType)
	_ = json.NewEncoder(w).Encode(ix)
}

func (s *referrers) read(repository, subject string) (*index, error) {
	ix := &index{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json", Manifests: []descriptor{}}
	b, err := os.ReadFile(s.file(repository, subject))
	if errors.Is(err, fs.ErrNotExist) {
		return ix, nil
	}
	if err != nil {
		return nil, err
	}
	return ix, json.Unmarshal(b, ix)
}

func (s *referrers) put(w http.ResponseWriter, r *http.Request, t target) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, manifestLimit))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	var m struct {
		MediaType    string `json:"mediaType"`
		ArtifactType string `json:"artifactType"`
		Config       struct {
			MediaType string `json:"mediaType"`
		} `json:"config"`
		Subject     *descriptor       `json:"subject"`
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(b, &m) != nil || m.Subject == nil || !sha256Digest.MatchString(m.Subject.Digest) {
		s.next.ServeHTTP(w, r)
		return
	}
	w.Header().Set("OCI-Subject", m.Subject.Digest)
	seen := &status{ResponseWriter: w}
	s.next.ServeHTTP(seen, r)
	if seen.code != http.StatusCreated {
		return
	}
	if m.ArtifactType == "" {
		m.ArtifactType = m.Config.MediaType
	}
	sum := sha256.Sum256(b)
	d := descriptor{
		MediaType: m.MediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(b)),
		ArtifactType: m.ArtifactType, Annotations: m.Annotations,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ix, err := s.read(t.Repository, m.Subject.Digest)
	if err != nil {
		return
	}
	for _, have := range ix.Manifests {
		if have.Digest == d.Digest {
			return
		}
	}
	ix.Manifests = append(ix.Manifests, d)
	file := s.file(t.Repository, m.Subject.Digest)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return
	}
	if b, err = json.Marshal(ix); err == nil {
		_ = writeFile(file, b, 0o644)
	}
}

// status remembers the code of an answer; without a ResponseWriter it
// swallows the answer.
type status struct {
	http.ResponseWriter
	header http.Header
	code   int
}

func (s *status) Header() http.Header {
	if s.ResponseWriter != nil {
		return s.ResponseWriter.Header()
	}
	return s.header
}

func (s *status) WriteHeader(code int) {
	s.code = code
	if s.ResponseWriter != nil {
		s.ResponseWriter.WriteHeader(code)
	}
}

func (s *status) Write(p []byte) (int, error) {
	if s.code == 0 {
		s.code = http.StatusOK
	}
	if s.ResponseWriter != nil {
		return s.ResponseWriter.Write(p)
	}
	return len(p), nil
}
