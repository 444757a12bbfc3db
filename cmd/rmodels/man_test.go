package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

// manDir is where make man wants the pages. Writing them from a test keeps
// the page writer and what it imports out of the product.
var manDir = flag.String("man", "", "write the man pages to this directory")

func TestManPages(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	epoch := time.Unix(0, 0) // the same source gives the same pages
	if err := doc.GenManTree(a.rootCommand(), &doc.GenManHeader{Title: "RMODELS", Section: "1", Source: "rmodels", Date: &epoch}, dir); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "rmodels-sync.1"))
	if err != nil || !strings.Contains(string(b), "dry-run") || !strings.Contains(string(b), ".SH EXAMPLE") {
		t.Errorf("the page of sync: %v\n%s", err, b)
	}
}

// TestCompletions asks for the script of each shell, and for what it offers.
func TestCompletions(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		var out, errs bytes.Buffer
		if code := run([]string{"completion", shell}, &out, &errs); code != exitOK || !strings.Contains(out.String(), "rmodels") {
			t.Errorf("%s: exit code %d, %s", shell, code, &errs)
		}
	}
	var out, errs bytes.Buffer
	if code := run([]string{"__complete", "sn"}, &out, &errs); code != exitOK || !strings.Contains(out.String(), "snapshot\t") {
		t.Errorf("completing sn: %d, %s", code, &out)
	}
}
