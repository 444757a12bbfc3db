// Mutants proves that the tests of the store bite. It breaks the store in one
// place at a time, by an overlay that leaves the sources alone, and runs the
// tests that ought to notice. A mutant that survives, or that no longer applies
// because the code moved on, is a failure.
//
//	go run ./cas/mutants [-list] [-run REGEXP]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	list := flag.Bool("list", false, "list the mutants")
	only := flag.String("run", "", "only mutants whose name matches")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed, ran := 0, 0
	for _, m := range mutants {
		if !pattern.MatchString(m.name) {
			continue
		}
		if *list {
			fmt.Printf("%-32s %s\n", m.name, m.breaks)
			continue
		}
		ran++
		began := time.Now()
		verdict, err := m.run()
		if err != nil {
			failed++
			verdict = "ERROR: " + err.Error()
		}
		fmt.Printf("%-32s %5.1fs  %s\n", m.name, time.Since(began).Seconds(), verdict)
	}
	if failed > 0 {
		fmt.Printf("%d of %d mutants were not killed\n", failed, ran)
		os.Exit(1)
	}
	if !*list {
		fmt.Printf("all %d mutants were killed\n", ran)
	}
}

// mutant is one way to break the store.
type mutant struct {
	name   string
	breaks string // what rule, in words
	file   string // in the module
	old    string // exactly once in the file
	new    string
	tests  string // -run pattern of tests, any of which has to fail
}

func (m mutant) run() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, m.file)
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("the place to break is %d times in %s", n, m.file)
	}
	dir, err := os.MkdirTemp("", "mutant-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	broken := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(broken, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "test", "-vet=off", "-count=1", "-failfast", "-timeout=3m", "-overlay="+overlayFile, "-run", m.tests, "./cas")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err == nil {
		return "", fmt.Errorf("survived %s", m.tests)
	}
	test := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`).FindAllStringSubmatch(string(out), -1)
	if len(test) == 0 {
		return "", fmt.Errorf("no test failed: %s", tail(out))
	}
	return "killed by " + test[len(test)-1][1], nil
}

func tail(b []byte) string { return string(b[max(0, len(b)-600):]) }

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", err
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
