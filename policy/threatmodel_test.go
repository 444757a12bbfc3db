package policy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModel: every test that docs/threat-model.md names exists.
func TestThreatModel(t *testing.T) {
	doc := string(must(os.ReadFile("../docs/threat-model.md"))(t))
	var sources strings.Builder
	check(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		sources.Write(b)
		return err
	}))
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)").FindAllStringSubmatch(doc, -1)
	if len(names) < 50 {
		t.Errorf("%d tests are named", len(names))
	}
	for _, n := range names {
		if !strings.Contains(sources.String(), "\nfunc "+n[1]+"(") {
			t.Errorf("%s does not exist", n[1])
		}
	}
}
