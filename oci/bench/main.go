// Bench measures pulls against the other OCI clients in the same run, over a
// loopback registry, and prints one JSON object a line. A pull of ours is
// durable, verified and ends with a tree; those of the others end with files
// or a layout that nobody has synced.
//
//	make tools && go build -o bin/ocibench ./oci/bench && bin/ocibench [-peers bin] [-dir DIR] [-size BYTES] [-times N] [-run REGEXP]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
)

// figure is one line of output.
type figure struct {
	Bench string  `json:"bench"`
	VS    string  `json:"vs,omitempty"`
	Ratio float64 `json:"ratio,omitempty"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Want  string  `json:"want,omitempty"`
}

func report(f figure) {
	b, _ := json.Marshal(f)
	fmt.Println(string(b))
}

var (
	peers = flag.String("peers", "bin", "directory with oras, crane and registry")
	dir   = flag.String("dir", "", "where to work; default: a temporary directory")
	size  = flag.Int64("size", 1<<30, "bytes of a large blob")
	small = flag.Int("small", 1000, "number of small files")
	times = flag.Int("times", 3, "how often each client pulls; the best time counts")
	only  = flag.String("run", "", "only benchmarks whose name matches")
	child = flag.Bool("child", false, "pull once, as the options after it say")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := benchmarks
	if *child {
		run = func(ctx context.Context) error { return pull(ctx, flag.Args()) }
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func benchmarks(ctx context.Context) (err error) {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(*dir, "oci-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b := &bench{work: work}
	for name, to := range map[string]*string{"oras": &b.oras, "crane": &b.crane, "registry": &b.registry} {
		if *to, err = filepath.Abs(filepath.Join(*peers, name)); err != nil {
			return err
		}
		if _, err := os.Stat(*to); err != nil {
			return fmt.Errorf("%w; build it with make tools", err)
		}
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	defer b.stop()
	for _, x := range []struct {
		name string
		run  func(context.Context) error
	}{{"raw-4", b.four}, {"capped", b.capped}, {"latency", b.latency}, {"template", b.template}, {"tensors", b.tensors}, {"resume", b.resume}, {"zstd", b.zstd}} {
		if !pattern.MatchString(x.name) {
			continue
		}
		if err := x.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	report(figure{Bench: "peak-rss", Value: float64(b.rss) / (1 << 20), Unit: "MiB", Want: "at most 64"})
	return nil
}
