package lifecycle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/durable"
)

// Incident is one failed check with its evidence. Incidents are appended to a
// file of JSON lines and never changed.
type Incident struct {
	Time     time.Time     `json:"time"`
	Kind     Cause         `json:"kind"` // which check failed
	Model    string        `json:"model,omitzero"`
	Version  string        `json:"version,omitzero"`
	Digest   digest.Digest `json:"digest,omitzero"` // the artifact or blob that was checked
	Expected string        `json:"expected,omitzero"`
	Found    string        `json:"found,omitzero"`
	Source   string        `json:"source,omitzero"` // where the bytes came from
	Reason   string        `json:"reason"`
	Action   string        `json:"action,omitzero"` // what the node did about it
	Snapshot digest.Digest `json:"snapshot,omitzero"`
}

// incidentMax bounds one line: a single O_APPEND write of this size is not
// torn by another writer on a local file system.
const incidentMax = 4 << 10

// encode shortens the texts of an incident until it fits on one line.
func (in Incident) encode() ([]byte, error) {
	for limit := 1024; ; limit /= 2 {
		for _, s := range []*string{&in.Expected, &in.Found, &in.Source, &in.Reason, &in.Action} {
			*s = shorten(*s, limit)
		}
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		if len(b) < incidentMax || limit < 16 {
			return b, nil
		}
	}
}

// shorten cuts s to at most n bytes at a rune boundary and makes it valid
// UTF-8: found values come from hostile sources.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// appendIncident makes in durable before it returns.
func appendIncident(path string, in Incident) error {
	b, err := in.encode()
	if err != nil {
		return err
	}
	if err := durable.AppendLine(path, b, 0o644); err != nil {
		return fmt.Errorf("record incident: %w", err)
	}
	return nil
}

// readIncidents returns the newest limit incidents that keep accepts, oldest first; limit 0
// means all. A line that a crash tore is skipped.
func readIncidents(path string, keep func(Incident) bool, limit int) ([]Incident, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Incident
	for r := bufio.NewReaderSize(f, 2*incidentMax); ; {
		line, err := r.ReadSlice('\n')
		var in Incident
		if len(line) > 1 && json.Unmarshal(line, &in) == nil && (keep == nil || keep(in)) {
			all = append(all, in)
			if limit > 0 && len(all) > 2*limit {
				all = append(all[:0], all[len(all)-limit:]...)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	return all, nil
}
