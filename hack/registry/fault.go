package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is one entry of faults.json:
//
//	{"faults": [
//	  {"name": "rot", "kind": "blob", "digest": "sha256:…", "flip": 100},
//	  {"name": "busy", "kind": "manifest", "status": 429, "retryAfter": "1", "times": 2}
//	]}
//
// A fault applies to the requests that every matching field which is set
// names; all faults that apply are combined. The zero value of an action does
// nothing.
type Fault struct {
	Name string `json:"name"` // stands in the request log

	// Which requests.
	Method     string `json:"method,omitempty"`     // GET, HEAD, …; empty: all
	Kind       string `json:"kind,omitempty"`       // base, manifest, blob, upload, tags, referrers
	Repository string `json:"repository,omitempty"` // path.Match pattern over the repository's name
	Digest     string `json:"digest,omitempty"`     // or tag, of the manifest or blob
	Skip       int    `json:"skip,omitempty"`       // so many requests pass first
	Times      int    `json:"times,omitempty"`      // then so many are hit; 0: all

	// Instead of an answer.
	Status     int    `json:"status,omitempty"`
	RetryAfter string `json:"retryAfter,omitempty"`
	Redirect   string `json:"redirect,omitempty"` // 307 to this URL; {path} is the request's path and query
	Hang       bool   `json:"hang,omitempty"`     // no answer until the client gives up
	Refuse     bool   `json:"refuse,omitempty"`   // reset the connection without an answer

	// To the answer. Offsets of flip count in the whole blob, so that every
	// range which covers the byte is wrong; the others count bytes of this
	// answer's body. Pointers, because byte 0 is a place too.
	Latency     Duration `json:"latency,omitempty"`     // before the first byte
	Rate        int64    `json:"rate,omitempty"`        // bytes per second and connection
	Flip        *int64   `json:"flip,omitempty"`        // invert the byte there
	Truncate    *int64   `json:"truncate,omitempty"`    // end the connection in an orderly way there
	Reset       *int64   `json:"reset,omitempty"`       // reset the connection there
	Stall       *int64   `json:"stall,omitempty"`       // send no more from there on until the client gives up
	Endless     bool     `json:"endless,omitempty"`     // never end the body
	IgnoreRange bool     `json:"ignoreRange,omitempty"` // 200 and everything instead of 206
	WrongRange  int64    `json:"wrongRange,omitempty"`  // shift Content-Range by so many bytes
	// Headers replace those of the answer; an empty value removes one.
	Headers map[string]string `json:"headers,omitempty"`
}

// Duration reads what Go's time.ParseDuration reads.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// target is what a request asks for.
type target struct {
	Kind, Repository, Reference string
}

// parseTarget reads a distribution path: /v2/<name>/<kind>/<reference>.
func parseTarget(urlPath string) target {
	p, ok := strings.CutPrefix(urlPath, "/v2/")
	if !ok || p == "" {
		return target{Kind: "base"}
	}
	for _, k := range []struct{ mark, kind string }{
		{"/blobs/uploads", "upload"},
		{"/blobs/", "blob"},
		{"/manifests/", "manifest"},
		{"/referrers/", "referrers"},
		{"/tags/list", "tags"},
	} {
		if i := strings.LastIndex(p, k.mark); i > 0 {
			return target{Kind: k.kind, Repository: p[:i], Reference: strings.TrimPrefix(p[i+len(k.mark):], "/")}
		}
	}
	return target{Kind: "base"}
}

func (f *Fault) matches(method string, t target) bool {
	if f.Method != "" && f.Method != method || f.Kind != "" && f.Kind != t.Kind || f.Digest != "" && f.Digest != t.Reference {
		return false
	}
	if f.Repository == "" {
		return true
	}
	ok, _ := path.Match(f.Repository, t.Repository) // the pattern was checked when it was read
	return ok
}

func (f *Fault) check() error {
	if _, err := path.Match(f.Repository, ""); err != nil {
		return fmt.Errorf("fault %q: repository %q: %w", f.Name, f.Repository, err)
	}
	switch f.Kind {
	case "", "base", "manifest", "blob", "upload", "tags", "referrers":
	default:
		return fmt.Errorf("fault %q: kind %q: use base, manifest, blob, upload, tags or referrers", f.Name, f.Kind)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
		return fmt.Errorf("fault %q: status %s", f.Name, strconv.Itoa(f.Status))
	}
	return nil
}

// faultFile is faults.json with the counters of Skip and Times, which start
// anew when the file's content changes.
type faultFile struct {
	path string

	mu     sync.Mutex
	text   []byte
	faults []*Fault
	seen   []int
}

// apply returns the faults that hit this request, and counts them.
func (f *faultFile) apply(method string, t target) ([]*Fault, error) {
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !bytes.Equal(text, f.text) {
		faults, err := parseFaults(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
		f.text, f.faults, f.seen = text, faults, make([]int, len(faults))
	}
	var hit []*Fault
	for i, x := range f.faults {
		if !x.matches(method, t) {
			continue
		}
		f.seen[i]++
		if n := f.seen[i] - x.Skip; n > 0 && (x.Times == 0 || n <= x.Times) {
			hit = append(hit, x)
		}
	}
	return hit, nil
}

func parseFaults(text []byte) ([]*Fault, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	var doc struct {
		Faults []*Fault `json:"faults"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("data after the document")
	}
	for i, f := range doc.Faults {
		if f == nil {
			return nil, fmt.Errorf("fault %d is null", i)
		}
		if err := f.check(); err != nil {
			return nil, err
		}
	}
	return doc.Faults, nil
}
