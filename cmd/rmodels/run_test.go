package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestRunUsage: what is missing or too much is said before anything is opened.
func TestRunUsage(t *testing.T) {
	t.Setenv("RMODELS_STATE_DIR", "/nonexistent")
	for _, c := range []struct{ line, want string }{
		{"run", "which model"},
		{"run tiny", `what is the question? rmodels run tiny -- "QUESTION"`},
		{"run tiny -- ", "what is the question?"},
		{"validate", "see: rmodels validate --help"},
		{"validate --keep 1m", "see: rmodels validate --help"},
		{"validate a b --keep 1m", "--keep takes one model"},
		{"validate tiny --keep -1m", "a positive time, like 10m"},
		{"validate tiny --keep soon", `"soon"`},
		{"validate tiny --keep 25h", "--keep: at most 24h"},
	} {
		var out, errs bytes.Buffer
		if code := run(strings.Split(c.line, " "), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), c.want) || out.Len() > 0 {
			t.Errorf("%s: exit code %d, %q; want %d, …%s…", c.line, code, errs.String(), exitUsage, c.want)
		}
	}
}
