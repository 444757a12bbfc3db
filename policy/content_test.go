package policy_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// source is a file in memory, or one that fails.
type source struct {
	io.ReaderAt
	closed *int
}

func (s source) Close() error {
	if s.closed != nil {
		*s.closed++
	}
	return nil
}

func file(path string, b []byte) policy.ArtifactFile {
	return policy.ArtifactFile{Path: path, Size: int64(len(b)), Open: func() (policy.ReaderAtCloser, error) {
		return source{ReaderAt: bytes.NewReader(b)}, nil
	}}
}

func text(path, s string) policy.ArtifactFile { return file(path, []byte(s)) }

// tiny is the model of the demo and the template that its entry pins.
func tiny(t testing.TB, o tinygguf.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tinygguf.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pins(templates ...string) snapshot.Model {
	m := snapshot.Model{Name: "m", Version: "v1", Size: 1 << 40}
	for _, t := range templates {
		m.ChatTemplateDigests = append(m.ChatTemplateDigests, digest.FromString(t))
	}
	return m
}

func TestTheDemosModelIsAdmitted(t *testing.T) {
	m := pins(tinygguf.ChatTemplate)
	claims := []policy.FileClaim{
		{Path: "model.gguf", Size: 5 << 20, MediaType: "application/vnd.cncf.model.weight.v1.raw"},
		{Path: "README.md", Size: 60, MediaType: "application/vnd.cncf.model.doc.v1.raw"},
	}
	if d := policy.AdmitLayout(snapshot.Policy{}, m, "modelpack", claims); !d.Allowed || d.Rule == "" || d.Class != "" {
		t.Errorf("layout: %+v", d)
	}
	for name, o := range map[string]tinygguf.Options{
		"chain":  {},
		"random": {Mode: tinygguf.Random},
		"padded": {MinSize: 8 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{}, m, []policy.ArtifactFile{
				file("model.gguf", tiny(t, o)), text("README.md", "# tiny\n\nSays \"ping\".\n"),
			})
			if !d.Allowed || d.Rule != "content.formats" || d.Class != "" || !strings.Contains(d.Reason, "1 gguf, 1 text; 1 chat template, pinned") {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestUnpinnedTemplateIsRefused(t *testing.T) {
	model := file("model.gguf", tiny(t, tinygguf.Options{}))
	for name, m := range map[string]snapshot.Model{"none pinned": pins(), "another pinned": pins("other")} {
		t.Run(name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{}, m, []policy.ArtifactFile{model})
			if d.Allowed || d.Rule != "content.chatTemplates" || d.Class != policy.ClassContent ||
				!strings.Contains(d.Found, digest.FromString(tinygguf.ChatTemplate).String()) {
				t.Errorf("%+v", d)
			}
		})
	}
	any := snapshot.Policy{Content: snapshot.Content{ChatTemplates: "any"}}
	if d := policy.AdmitContent(any, snapshot.Model{}, []policy.ArtifactFile{model}); !d.Allowed {
		t.Errorf("policy that admits any: %+v", d)
	}
}

func TestUnreadableFileIsRefused(t *testing.T) {
	gone := policy.ArtifactFile{Path: "a.md", Open: func() (policy.ReaderAtCloser, error) { return nil, errors.New("bad disk") }}
	short := policy.ArtifactFile{Path: "a.md", Size: 9, Open: func() (policy.ReaderAtCloser, error) {
		return source{ReaderAt: strings.NewReader("1234")}, nil
	}}
	for name, f := range map[string]policy.ArtifactFile{"open fails": gone, "shorter than stated": short, "nothing to open": {Path: "a.md"}} {
		t.Run(name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{}, pins(), []policy.ArtifactFile{f})
			if d.Allowed || d.Rule != "content.read" || d.Class != policy.ClassContent || d.Reason == "" {
				t.Errorf("%+v", d)
			}
		})
	}
}
