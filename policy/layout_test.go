package policy_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

const rawWeights = "application/vnd.cncf.model.weight.v1.raw"

func claim(path string, size int64) policy.FileClaim {
	return policy.FileClaim{Path: path, Size: size, MediaType: rawWeights}
}

// same is a file of one and the same layer.
func same(path string, size int64) policy.FileClaim {
	c := claim(path, size)
	c.Digest = digest.FromString("same")
	return c
}

func TestLayout(t *testing.T) {
	full := make([]policy.FileClaim, policy.DefaultFiles)
	for i := range full {
		full[i] = claim(fmt.Sprintf("model-%05d.gguf", i), 1)
	}
	for _, c := range []struct {
		name  string
		c     snapshot.Content
		size  int64
		files []policy.FileClaim
	}{
		{"one file", snapshot.Content{}, 10, []policy.FileClaim{claim("m.gguf", 10)}},
		{"empty file", snapshot.Content{}, 10, []policy.FileClaim{claim("m.gguf", 10), claim("README.md", 0)}},
		{"archive", snapshot.Content{}, 10, []policy.FileClaim{{Path: ".", Size: 10, MediaType: "x/y", Archive: true}}},
		{"unnamed archive", snapshot.Content{}, 10, []policy.FileClaim{{Size: 10, MediaType: "x/y", Archive: true}}},
		{"two archives into one directory", snapshot.Content{}, 10, []policy.FileClaim{{Path: "kit", Size: 1, MediaType: "x/y", Archive: true}, {Path: "kit", Size: 1, MediaType: "x/y", Archive: true}}},
		{"as many files as may be", snapshot.Content{}, 1 << 20, full},
		{"listed media type", snapshot.Content{MediaTypes: []string{"x/y", rawWeights}}, 10, []policy.FileClaim{claim("m.gguf", 1)}},
		{"one layer under two names", snapshot.Content{}, 10, []policy.FileClaim{same("a.gguf", 10), same("b/a.gguf", 10)}},
		{"at every limit", snapshot.Content{Limits: snapshot.Limits{Files: 2, FileBytes: 5, TotalBytes: 10}}, 10, []policy.FileClaim{claim("a.gguf", 5), claim("b.gguf", 5)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitLayout(snapshot.Policy{Content: c.c}, snapshot.Model{Size: c.size}, "modelpack", c.files)
			if !d.Allowed || d.Rule == "" || d.Reason == "" || d.Class != "" {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestLayoutRefuses(t *testing.T) {
	crowd := make([]policy.FileClaim, policy.DefaultFiles+1)
	for i := range crowd {
		crowd[i] = claim(fmt.Sprintf("model-%05d.gguf", i), 1)
	}
	limits := func(l snapshot.Limits) snapshot.Content { return snapshot.Content{Limits: l} }
	archive := policy.FileClaim{Path: ".", Size: 1, MediaType: "x/y", Archive: true}
	at := func(path string) policy.FileClaim { a := archive; a.Path = path; return a }
	for _, c := range []struct {
		name       string
		c          snapshot.Content
		size       int64
		files      []policy.FileClaim
		rule, says string
	}{
		{"no files", snapshot.Content{}, 10, nil, "content.limits.files", "no files"},
		{"too many files", snapshot.Content{}, 1 << 40, crowd, "content.limits.files", "4097 files"},
		{"more files than the policy's", limits(snapshot.Limits{Files: 1}), 10, []policy.FileClaim{claim("a.gguf", 1), claim("b.gguf", 1)}, "content.limits.files", "at most 1"},
		{"negative size", snapshot.Content{}, 10, []policy.FileClaim{claim("a.gguf", -1)}, "content.limits.fileBytes", "negative"},
		{"least size", snapshot.Content{}, 10, []policy.FileClaim{claim("a.gguf", math.MinInt64)}, "content.limits.fileBytes", "negative"},
		{"negative size of an archive", snapshot.Content{}, 10, []policy.FileClaim{{Path: ".", Size: -1, MediaType: "x/y", Archive: true}}, "content.limits.fileBytes", "negative"},
		{"too large", limits(snapshot.Limits{FileBytes: 9}), 100, []policy.FileClaim{claim("a.gguf", 10)}, "content.limits.fileBytes", "at most 9"},
		{"too large by default", snapshot.Content{}, math.MaxInt64, []policy.FileClaim{claim("a.gguf", policy.DefaultFileBytes+1)}, "content.limits.fileBytes", "at most"},
		{"too large together", limits(snapshot.Limits{TotalBytes: 9}), 100, []policy.FileClaim{claim("a.gguf", 5), claim("b.gguf", 5)}, "content.limits.totalBytes", "at most 9"},
		{
			"sum overflows", limits(snapshot.Limits{FileBytes: math.MaxInt64, TotalBytes: math.MaxInt64}), math.MaxInt64,
			[]policy.FileClaim{claim("a.gguf", math.MaxInt64), claim("b.gguf", math.MaxInt64), claim("c.gguf", 2)},
			"content.limits.totalBytes", "at most",
		},
		{"larger than listed", snapshot.Content{}, 9, []policy.FileClaim{claim("a.gguf", 5), claim("b.gguf", 5)}, "size", "at most 9 bytes"},
		{"one digest of two sizes", snapshot.Content{}, 10, []policy.FileClaim{same("a.gguf", 5), same("b.gguf", 4)}, "content.limits.fileBytes", "same digest"},
		{"one layer under two names, larger than listed", snapshot.Content{}, 9, []policy.FileClaim{same("a.gguf", 10), same("b.gguf", 10)}, "size", "at most 9 bytes"},
		{"no size listed", snapshot.Content{}, 0, []policy.FileClaim{claim("a.gguf", 5)}, "size", "at most 0 bytes"},
		{"media type not listed", snapshot.Content{MediaTypes: []string{"x/y"}}, 10, []policy.FileClaim{claim("a.gguf", 5)}, "content.mediaTypes", "x/y"},
		{"media type of an archive not listed", snapshot.Content{MediaTypes: []string{"x/z"}}, 10, []policy.FileClaim{archive}, "content.mediaTypes", "x/z"},
		{"media type in other case", snapshot.Content{MediaTypes: []string{strings.ToUpper(rawWeights)}}, 10, []policy.FileClaim{claim("a.gguf", 5)}, "content.mediaTypes", "admit"},
		{"no media type", snapshot.Content{}, 10, []policy.FileClaim{{Path: "a.gguf", Size: 1}}, "content.mediaTypes", "usable"},
		{"endless media type", snapshot.Content{}, 10, []policy.FileClaim{{Path: "a.gguf", Size: 1, MediaType: strings.Repeat("x", 1<<20)}}, "content.mediaTypes", "usable"},
		{"path outside", snapshot.Content{}, 10, []policy.FileClaim{claim("../a.gguf", 1)}, "paths", "unsafe path"},
		{"path of NUL", snapshot.Content{}, 10, []policy.FileClaim{claim("a\x00.gguf", 1)}, "paths", "control character"},
		{"no path", snapshot.Content{}, 10, []policy.FileClaim{claim("", 1)}, "paths", "empty"},
		{"dot for a file", snapshot.Content{}, 10, []policy.FileClaim{claim(".", 1)}, "paths", `part "."`},
		{"archive into the parent", snapshot.Content{}, 10, []policy.FileClaim{at("..")}, "paths", `part ".."`},
		{"archive into the root", snapshot.Content{}, 10, []policy.FileClaim{at("/")}, "paths", "absolute"},
		{"same path twice", snapshot.Content{}, 10, []policy.FileClaim{claim("a.gguf", 1), claim("a.gguf", 1)}, "paths", "same path"},
		{"paths that differ in case", snapshot.Content{}, 10, []policy.FileClaim{claim("a.gguf", 1), claim("A.gguf", 1)}, "paths", "case"},
		{"file and directory", snapshot.Content{}, 10, []policy.FileClaim{claim("license", 1), claim("license/a.md", 1)}, "paths", "directory"},
		{"pickle by its name", snapshot.Content{}, 10, []policy.FileClaim{claim("pytorch_model.bin", 1)}, "content.formats", "pytorch_model.bin"},
		{"Python by its name", snapshot.Content{}, 10, []policy.FileClaim{claim("a.gguf", 1), claim("modeling.py", 1)}, "content.formats", "modeling.py"},
		{"format that the policy does not name", snapshot.Content{Formats: []string{"gguf"}}, 10, []policy.FileClaim{claim("a.safetensors", 1)}, "content.formats", "safetensors"},
		{"unknown setting", snapshot.Content{ChatTemplates: "none"}, 10, []policy.FileClaim{claim("a.gguf", 1)}, "content.chatTemplates", "does not know"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitLayout(snapshot.Policy{Content: c.c}, snapshot.Model{Size: c.size}, "modelpack", c.files)
			if d.Allowed || d.Class != policy.ClassLayout || d.Rule != c.rule || !strings.Contains(d.Reason+d.Expected+d.Found, c.says) {
				t.Errorf("want %s that says %q: %+v", c.rule, c.says, d)
			}
			if d.Reason == "" || d.Expected == "" || d.Found == "" || len(d.Reason)+len(d.Found) > 2000 {
				t.Errorf("refusal is not told well: %+v", d)
			}
		})
	}
}

// What unpacking yields is measured again: an archive's claims are those of
// its packed bytes.
func TestUnpackedSizes(t *testing.T) {
	a, b := text("a.md", "0123456789"), text("b.md", "0123456789")
	for _, c := range []struct {
		name   string
		limits snapshot.Limits
		size   int64
		files  []policy.ArtifactFile
		rule   string // "" is allowed
	}{
		{"within", snapshot.Limits{}, 5, []policy.ArtifactFile{a, b}, ""},
		{"publisher's check, no size yet", snapshot.Limits{}, 0, []policy.ArtifactFile{a, b}, ""},
		{"at the ratio", snapshot.Limits{ExpandRatio: 4}, 5, []policy.ArtifactFile{a, b}, ""},
		{"over the ratio", snapshot.Limits{ExpandRatio: 3}, 5, []policy.ArtifactFile{a, b}, "content.limits.expandRatio"},
		{"over the default ratio", snapshot.Limits{}, 1, []policy.ArtifactFile{a, b}, "content.limits.expandRatio"},
		{"over the files", snapshot.Limits{Files: 1}, 5, []policy.ArtifactFile{a, b}, "content.limits.files"},
		{"over a file's bytes", snapshot.Limits{FileBytes: 9}, 5, []policy.ArtifactFile{a}, "content.limits.fileBytes"},
		{"over the total", snapshot.Limits{TotalBytes: 19}, 5, []policy.ArtifactFile{a, b}, "content.limits.totalBytes"},
		{"negative", snapshot.Limits{}, 5, []policy.ArtifactFile{{Path: "a.md", Size: -1, Open: a.Open}}, "content.limits.fileBytes"},
		{"collision", snapshot.Limits{}, 5, []policy.ArtifactFile{a, text("A.MD", "x")}, "paths"},
		{"nothing", snapshot.Limits{}, 5, nil, "content.limits.files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := policy.AdmitContent(snapshot.Policy{Content: snapshot.Content{Limits: c.limits}}, snapshot.Model{Size: c.size}, c.files)
			if d.Allowed != (c.rule == "") || c.rule != "" && (d.Rule != c.rule || d.Class != policy.ClassContent) {
				t.Errorf("want %q: %+v", c.rule, d)
			}
		})
	}
}
