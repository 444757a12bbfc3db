package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkStart is rmodels list on a node without models against a Go program
// that does nothing and links nothing: the shortest of many runs of each, one
// after the other, since any other load only adds.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	program := func(name string, args ...string) string {
		path := filepath.Join(dir, name)
		if out, err := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", path}, args...)...).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return path
	}
	source := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	empty, full := program("empty", source), program("rmodels", ".")
	config := filepath.Join(dir, "config.toml")
	rmodels := func(args ...string) *exec.Cmd {
		return exec.Command(full, append(args, "--config", config, "--state-dir", filepath.Join(dir, "state"))...)
	}
	for _, c := range []*exec.Cmd{
		rmodels("snapshot", "init", filepath.Join(dir, "ceremony"), "--network", "lab"),
		rmodels("init", "--network", "lab", "--root", filepath.Join(dir, "ceremony", "root.json")),
	} {
		if err := os.WriteFile(config, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		if out, err := c.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	shortest := func(c *exec.Cmd, so time.Duration) time.Duration {
		start := time.Now()
		if err := c.Run(); err != nil {
			b.Fatal(err)
		}
		return min(so, time.Since(start))
	}
	one, all := time.Hour, time.Hour
	for b.Loop() {
		one, all = shortest(exec.Command(empty), one), shortest(rmodels("list"), all)
	}
	fmt.Printf("\n"+`{"bench":"start: rmodels list","vs":"an empty Go program","ratio":%.2f,"value":%.1f,"unit":"ms"}`+"\n",
		float64(all)/float64(one), all.Seconds()*1000)
}
