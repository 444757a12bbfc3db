package cas

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// sealed is the envelope of every JSON record in the store. The sum finds a
// flipped bit that would still parse: one in a digest would otherwise turn a
// live blob into garbage.
type sealed struct {
	Version int            `json:"version"`
	Sum     string         `json:"sum"` // XXH3-64 of the bytes of Body
	Body    jsontext.Value `json:"body"`
}

const recordVersion = 1

// seal is [ErrInvalid] for what no reader would take: more than maxRecord bytes.
func seal(body any) ([]byte, error) {
	raw, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	b, err := json.Marshal(sealed{Version: recordVersion, Sum: sum(raw), Body: raw})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	if len(b) >= maxRecord {
		return nil, fmt.Errorf("%w: a record of %d bytes, at most %d are kept", ErrInvalid, len(b), maxRecord)
	}
	return append(b, '\n'), nil
}

func unseal(b []byte, body any) error {
	e, cut := cutSealed(b)
	if !cut {
		if err := json.Unmarshal(b, &e, json.RejectUnknownMembers(true)); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	if e.Version != recordVersion {
		return fmt.Errorf("%w: record of version %d, this program knows %d", ErrCorrupt, e.Version, recordVersion)
	}
	if got := sum(e.Body); got != e.Sum {
		return fmt.Errorf("%w: record has the sum %s and says %s", ErrCorrupt, got, e.Sum)
	}
	if err := json.Unmarshal(e.Body, body, json.RejectUnknownMembers(true), digestLists); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// cutSealed opens an envelope that looks as seal writes it without reading the
// body, which would be read a second time. The sum says whether it is that body.
func cutSealed(b []byte) (sealed, bool) {
	rest, ok := bytes.CutPrefix(b, []byte(`{"version":1,"sum":"`))
	s, rest, ok2 := bytes.Cut(rest, []byte(`","body":`))
	body, ok3 := bytes.CutSuffix(rest, []byte("}\n"))
	if !ok || !ok2 || !ok3 {
		return sealed{}, false
	}
	return sealed{recordVersion, string(s), body}, true
}

// digestLists takes lists of digests, the bulk of what records hold, in one
// piece: the digests are parts of one string.
var digestLists = json.WithUnmarshalers(json.UnmarshalFromFunc(func(dec *jsontext.Decoder, list *[]digest.Digest) error {
	v, err := dec.ReadValue()
	if err != nil {
		return err
	}
	if ds, ok := cutDigests(string(v)); ok {
		*list = ds
		return nil
	}
	return json.Unmarshal(v, list)
}))

// cutDigests takes a list apart that looks as this package writes it: nothing
// but sha256 digests, and no space between them.
func cutDigests(list string) ([]digest.Digest, bool) {
	const one = len(`"sha256:`) + 64 + len(`",`)
	n := len(list) / one
	if n == 0 || len(list) != 1+n*one || list[0] != '[' || list[len(list)-1] != ']' {
		return nil, false
	}
	ds := make([]digest.Digest, n)
	for i := range ds {
		part := list[1+i*one:][:one]
		d := digest.Digest(part[1 : one-2])
		if _, err := keyOf(d); err != nil || part[0] != '"' || part[one-2] != '"' || part[one-1] != ',' && i < n-1 {
			return nil, false
		}
		ds[i] = d
	}
	return ds, true
}

func sum(b []byte) string { return strconv.FormatUint(xxh3.Hash(b), 16) }

// maxRecord bounds a record; the largest is the index of a tree of 100,000
// files.
const maxRecord = 64 << 20

// readNames lists a directory of the store without looking at its files.
func (s *Store) readNames(dir string) ([]string, error) { return s.fs.ReadNames(dir) }

// readFile reads a regular file of the store, never through a link.
func (s *Store) readFile(path string, limit int64) ([]byte, error) {
	f, err := s.fs.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrCorrupt, path)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are expected", ErrCorrupt, path, st.Size(), limit)
	}
	// A lease may grow while it is read; what it had when it was opened counts.
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b[:n], nil
}

// readRecord reads one sealed record; a missing file is fs.ErrNotExist.
func (s *Store) readRecord(path string, body any) error {
	b, err := s.readFile(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		err = unseal(b, body)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
