package snapshot

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/go-json-experiment/json"
)

// MaxBundle bounds a push file.
const MaxBundle = 8 << 20

const (
	bundleKind     = "rmodels-push"
	bundleVersion  = 1
	maxBundleFiles = 1024
)

// pushFile carries the files of a TUF repository that one acceptance needs,
// byte for byte (base64 in JSON). It is an untrusted carrier: what it holds is
// believed for its signatures alone, so it can only withhold.
type pushFile struct {
	Kind    string            `json:"kind"`
	Version int               `json:"version"`
	Files   map[string][]byte `json:"files"`
}

// EncodeBundle writes a set as one push file.
func EncodeBundle(files map[string][]byte) ([]byte, error) {
	b, err := json.Marshal(pushFile{bundleKind, bundleVersion, files}, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("write push file: %w", err)
	}
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("%w: push file of %d bytes, at most %d", ErrTooLarge, len(b), MaxBundle)
	}
	return b, nil
}

// ParseBundle reads a push file strictly.
func ParseBundle(b []byte) (Files, error) {
	if len(b) > MaxBundle {
		return nil, fmt.Errorf("%w: push file of %d bytes, at most %d", ErrTooLarge, len(b), MaxBundle)
	}
	var p pushFile
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: push file: %w", ErrInvalid, err)
	}
	if p.Kind != bundleKind || p.Version != bundleVersion {
		return nil, fmt.Errorf("%w: push file is %q version %d, this program reads %q version %d", ErrInvalid, clip(p.Kind), p.Version, bundleKind, bundleVersion)
	}
	if len(p.Files) > maxBundleFiles {
		return nil, fmt.Errorf("%w: push file holds %d files, at most %d", ErrInvalid, len(p.Files), maxBundleFiles)
	}
	for name := range p.Files {
		if err := checkFileName(name); err != nil {
			return nil, fmt.Errorf("%w: push file: %w", ErrInvalid, err)
		}
	}
	return p.Files, nil
}

// Files are the files of a repository by name, as a [Source].
type Files map[string][]byte

func (s Files) Fetch(_ context.Context, name string, max int64) ([]byte, error) {
	b, ok := s[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrTooLarge, name, max)
	}
	return b, nil
}

// checkFileName accepts the names of a consistent TUF repository, which are
// at most two folders deep, and nothing that leaves its directory.
func checkFileName(name string) error {
	rest, _ := strings.CutPrefix(name, targetsFolder)
	if base, ok := strings.CutPrefix(rest, bundlesFolder); ok && rest != name {
		rest = base
	}
	if err := checkWord(rest, 255); err != nil {
		return fmt.Errorf("file name %w", err)
	}
	return nil
}

// ReadBundle reads a push file that another user or program left: links are
// not followed, only regular files are read, and no more than [MaxBundle].
func ReadBundle(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read push file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read push file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: push file %s is not a regular file", ErrInvalid, path)
	}
	return readCapped(f, path, MaxBundle)
}
