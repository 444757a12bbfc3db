package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each mutant has a place to break, still: one that went stale is found here
// and not only by the long run of them all.
func TestMutantsApply(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join(root, m.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), m.old); n != 1 {
			t.Errorf("%s: the place to break is %d times in %s", m.name, n, m.file)
		}
	}
}
